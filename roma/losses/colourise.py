"""The colourising loss: restore the colours of a day frame that was made to look like infrared. Not in the paper."""

from jaxtyping import Float
from torch import Tensor

from roma.losses.objective import FrameObjective


def colourise_loss(
    recoloured: Float[Tensor, "N 3 H W"], truth: Float[Tensor, "N 3 H W"], *, edges: float = 0.0
) -> Float[Tensor, ""]:
    """Compute mean |recoloured - truth|, plus `edges` times the same for differences of neighbouring pixels; 0 when they agree.

    L1 alone prefers soft edges, since a sharp edge that is one pixel off costs twice. The second term rewards edges as strong as
    the true ones. Source: the gradient difference loss of Mathieu et al. 2016, arXiv 1511.05440, with signed differences.

    Args:
        recoloured: What the generator made of the degraded frames, values in [-1, 1].
        truth: The day frames before they were degraded.
        edges: Weight of the differences, the mean over those to the right and those downwards, summed.
    """
    error = recoloured.float() - truth.float()
    loss = error.abs().mean()
    if edges:
        right, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
        loss = loss + edges * (right.abs().mean() + down.abs().mean())
    return loss


COLOURISE = FrameObjective(
    name="colourise",
    weight=lambda config: config.loss.colourise,
    compute=lambda views, loss: colourise_loss(views.recoloured, views.true_colours, edges=loss.colourise_edges),
    is_in_warmup=True,
)
