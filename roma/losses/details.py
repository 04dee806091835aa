"""A frame in two parts: luma details, which a critic sharpens, and all the rest, which the anchor holds. Not in the paper."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""BT.601 weights of red, green, blue."""
SIGMA_PX = 4.0
"""Deviation of the Gaussian that tells what is smooth from details."""
_RADIUS_PX = 9


def luma_details(frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Luma minus its own Gaussian blur, repeated to three channels: lines, borders and texture without colour or light.

    A critic of whole translations decides their colours too, and drives them from the true ones within hundreds of steps, since
    nothing else holds them; one of details cannot. Frames are at least 10 pixels high and wide.
    """
    luma = (frames * frames.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    place = torch.arange(-_RADIUS_PX, _RADIUS_PX + 1, device=frames.device, dtype=frames.dtype)
    taps = torch.exp(-0.5 * (place / SIGMA_PX) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(luma, (_RADIUS_PX,) * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(padded, taps[None, None, None, :]), taps[None, None, :, None])
    return (luma - smooth).expand(-1, 3, -1, -1)


def anchor_loss(fake: Float[Tensor, "N 3 H W"], before: Float[Tensor, "N 3 H W"]) -> Float[Tensor, ""]:
    """Mean |d - luma_details(d)| of the difference d = fake - before: all but luma details stays as it was.

    Where the colours of details were free too, lines turned green and gaps purple: the cheapest way to luma.

    Args:
        fake: Translations.
        before: What the generator made of the same frames at the end of its warm-up, without gradient.
    """
    difference = fake.float() - before.float()
    return (difference - luma_details(difference)).abs().mean()
