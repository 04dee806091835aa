"""Pixel operations that losses, data and measures share: BT.601 luma and the Gaussian blur."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green, blue."""


def luma(frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1 H W"]:
    """Weigh red, green and blue by ITU-R BT.601."""
    return (frames * frames.new_tensor(LUMA_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)


def gaussian_blur(
    planes: Float[Tensor, "N 1 H W"],
    *,
    sigma_px: float,
    radius_px: int,
    border: Literal["reflect", "replicate", "valid"],
) -> Float[Tensor, "N 1 _ _"]:
    """Convolve planes with a Gaussian, along the rows and then along the columns, in the dtype of the planes.

    Args:
        planes: One channel each.
        sigma_px: Standard deviation of the Gaussian.
        radius_px: The Gaussian is cut off beyond this distance; its 2 * radius_px + 1 taps are scaled to sum to 1.
        border: Values outside the planes: their reflection, or their edge pixels repeated. "valid" leaves out places that need
            pixels from outside, so the result is 2 * radius_px smaller.
    """
    distance = torch.arange(-radius_px, radius_px + 1, device=planes.device, dtype=planes.dtype)
    taps = torch.exp(-0.5 * (distance / sigma_px) ** 2)
    taps = taps / taps.sum()
    if border != "valid":
        planes = F.pad(planes, (radius_px,) * 4, mode=border)
    return F.conv2d(F.conv2d(planes, taps[None, None, None, :]), taps[None, None, :, None])
