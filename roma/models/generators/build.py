"""The translator by the name of its architecture: what a config and a snapshot say."""

from typing import Literal

from roma.models.generators.resnet import Generator
from roma.models.generators.unet import UNetGenerator

Architecture = Literal["resnet", "unet"]
"""`resnet`: the paper's. `unet`: that of the preset `tiny`; not in the paper."""
AnyGenerator = Generator | UNetGenerator


def build_generator(
    architecture: Architecture,
    *,
    width: int,
    num_blocks: int,
    init_gain: float = 0.02,
    last_init_gain: float | None = None,
) -> AnyGenerator:
    """A generator with its initial weights; the sizes mean what its class says.

    Raises:
        ValueError: No architecture has that name, or a size or a gain is not positive.
    """
    if architecture == "resnet":
        return Generator(width=width, num_blocks=num_blocks, init_gain=init_gain, last_init_gain=last_init_gain)
    if architecture == "unet":
        return UNetGenerator(width=width, num_blocks=num_blocks, init_gain=init_gain, last_init_gain=last_init_gain)
    raise ValueError(f'architecture must be "resnet" or "unet", got {architecture!r}')
