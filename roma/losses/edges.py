"""The edge loss: a translation has edges where its infrared frame has them. Not in the paper."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from roma.losses.objective import FrameObjective
from roma.pixels import gaussian_blur, luma

_SIGMA_PX = 0.7


def edge_loss(fake: Float[Tensor, "N 3 H W"], source: Float[Tensor, "N 3 H W"]) -> Float[Tensor, ""]:
    """Compute 1 - Pearson correlation of the two frames' gradient magnitudes, the mean over frames; 0 when they agree, at most 2.

    It uses magnitudes, since what is warmer by night may be darker by day, and a correlation, since contrast is free. Source of
    the idea: the structured gradient alignment of Luo et al. 2022 (PearlGAN), arXiv 2104.14374; here over the whole frame. BT.601
    luma, a Gaussian of 0.7 pixels against sensor noise, central differences.

    Args:
        fake: Translations.
        source: The infrared frames they were made from.
    """
    first, second = (_magnitudes(frames.float()) for frames in (fake, source))
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (first, second))
    return 1 - F.cosine_similarity(first, second, dim=1).mean()


def _magnitudes(frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P"]:
    soft = gaussian_blur(luma(frames), sigma_px=_SIGMA_PX, radius_px=2, border="valid")
    across = soft[..., 1:-1, 2:] - soft[..., 1:-1, :-2]
    down = soft[..., 2:, 1:-1] - soft[..., :-2, 1:-1]
    # The root's gradient is infinite at 0; adding a thousandth of the range keeps it finite, without a visible effect.
    return (across.square() + down.square() + 1e-6).sqrt().flatten(1)


EDGES = FrameObjective(
    name="edges",
    weight=lambda config: config.loss.edges,
    compute=lambda views, loss: edge_loss(views.fake.pixels, views.source.pixels),
)
