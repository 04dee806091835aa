"""The translator of the preset `tiny`: a small U-Net, for minutes of training on a CPU. Not in the paper."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from roma.models.generators.generator import Generator
from roma.models.initialise import initialise


class UNetGenerator(Generator):
    """Four halvings, four doublings, and at each size the features of the way down beside those of the way up.

    Fine detail passes beside the deep layers instead of through them, so that edges are sharp after hundreds of steps
    where the residual network of the paper needs thousands; and most of the work is done at small sizes. Source:
    Ronneberger et al. 2015, arXiv 1505.04597, with strided convolutions, instance norm and bilinear upsampling.

    Args:
        width: Channels at the full size; 2, 4, 8 and 8 times as many below.
        num_blocks: Further convolutions at the smallest size.
        init_gain: Scale of the xavier-normal initial weights.
        last_init_gain: Scale for the last convolution, `init_gain` when None.

    Raises:
        ValueError: A size or a gain is not positive.
    """

    SIDE_MULTIPLE = 16
    MIN_SIDE_PX = 32
    """Instance norm needs more than one value at a sixteenth of the size."""

    def __init__(
        self, *, width: int = 16, num_blocks: int = 2, init_gain: float = 1.0, last_init_gain: float | None = None
    ) -> None:
        super().__init__()
        if width < 1 or num_blocks < 0:
            raise ValueError(f"a generator needs width >= 1 and num_blocks >= 0, got {width} and {num_blocks}")
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = _stage(3, width, kernel=5)
        self.down = nn.ModuleList(_stage(widths[i], widths[i + 1], stride=2) for i in range(4))
        self.middle = nn.Sequential(*(_stage(widths[-1], widths[-1]) for _ in range(num_blocks)))
        self.up = nn.ModuleList(_stage(widths[i + 1] + widths[i], widths[i]) for i in (3, 2, 1, 0))
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        initialise(self, scheme="xavier", gain=init_gain)
        if last_init_gain is not None:
            initialise(self.last, scheme="xavier", gain=last_init_gain)

    def forward(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
        """Translate frames.

        Args:
            frames: Infrared repeated to three channels, values in [-1, 1]; height and width are multiples of 16 and at
                least 32 pixels.

        Returns:
            Day visible frames (RGB) of the same size, values in [-1, 1].

        Raises:
            ValueError: A side is not a multiple of 16 or is shorter than 32 pixels.
        """
        self.check_size(frames)
        features: Tensor = self.first(frames)
        passed = [features]
        for stage in self.down:
            features = stage(features)
            passed.append(features)
        features = self.middle(passed.pop())
        for stage in self.up:
            raised = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = stage(torch.cat([raised, passed.pop()], dim=1))
        return torch.tanh(self.last(features))


def _stage(channels: int, wider: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, wider, kernel, stride=stride, padding=kernel // 2),
        nn.InstanceNorm2d(wider, affine=True),
        nn.LeakyReLU(0.1, inplace=True),
    )
