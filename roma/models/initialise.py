"""Random starting weights of the networks that are trained."""

from typing import Literal

from torch import nn

Scheme = Literal["xavier", "normal"]
"""`xavier`: Glorot normal times the gain, the paper's choice. `normal`: N(0, gain^2), as in pix2pix and CycleGAN."""


def initialise(module: nn.Module, *, scheme: Scheme, gain: float) -> None:
    """Draw every convolution and linear weight inside `module` from the global random state and set biases to zero.

    Args:
        module: Network, or one layer of it; changed in place.
        scheme: Which distribution, see `Scheme`.
        gain: Scale of the distribution; positive.

    Raises:
        ValueError: The gain is not positive.
    """
    if gain <= 0:
        raise ValueError(f"the gain of the initial weights must be positive, got {gain}")
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if scheme == "xavier":
            nn.init.xavier_normal_(layer.weight, gain=gain)
        else:
            nn.init.normal_(layer.weight, std=gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
