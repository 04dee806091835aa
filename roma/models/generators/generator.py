"""What every translator is: a network from infrared frames to day frames of the same size, in steps of its smallest features."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class Generator(nn.Module):
    """A translator; frames are infrared repeated to three channels, or RGB, with values in [-1, 1].

    The arguments of its constructor are named as settings of `generator`, which `build_generator` gives to it.
    """

    SIDE_MULTIPLE: ClassVar[int]
    """Height and width of frames are multiples of this."""
    MIN_SIDE_PX: ClassVar[int]
    """And at least this."""

    @classmethod
    def takes(cls, side_px: int) -> bool:
        """Whether frames may have sides of this length."""
        return side_px % cls.SIDE_MULTIPLE == 0 and side_px >= cls.MIN_SIDE_PX

    def check_size(self, frames: Float[Tensor, "N C H W"]) -> None:
        """Refuse frames of another size.

        Raises:
            ValueError: A side is not a multiple of `SIDE_MULTIPLE`, or shorter than `MIN_SIDE_PX`.
        """
        height_px, width_px = frames.shape[-2:]
        if not (self.takes(height_px) and self.takes(width_px)):
            raise ValueError(
                f"{type(self).__name__} takes frames whose height and width are multiples of {self.SIDE_MULTIPLE} and at least "
                f"{self.MIN_SIDE_PX} pixels, got {height_px}x{width_px} (height x width); resize, crop or pad them"
            )
