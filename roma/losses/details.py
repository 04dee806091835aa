"""Split a frame into luma details, which a discriminator sharpens, and the rest, which the anchor keeps. Not in the paper."""

from jaxtyping import Float
from torch import Tensor

from roma.losses.objective import AdversarialObjective, FrameObjective
from roma.pixels import gaussian_blur, luma

SIGMA_PX = 4.0
"""Standard deviation of the Gaussian that separates details from the smooth rest."""
_RADIUS_PX = 9


def luma_details(frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Subtract its Gaussian blur from the luma, repeated to three channels: lines, edges and texture without colour or light.

    A discriminator of whole translations also decides their colours, and drives them away from the true ones within hundreds of
    steps, since no other loss keeps them; a discriminator of details cannot. Frames are at least 10 pixels high and wide.
    """
    gray = luma(frames)
    smooth = gaussian_blur(gray, sigma_px=SIGMA_PX, radius_px=_RADIUS_PX, border="reflect")
    return (gray - smooth).expand(-1, 3, -1, -1)


def anchor_loss(fake: Float[Tensor, "N 3 H W"], before: Float[Tensor, "N 3 H W"]) -> Float[Tensor, ""]:
    """Compute mean |d - luma_details(d)| for d = fake - before: everything but luma details stays unchanged.

    When the colours of details were free too, lines turned green and gaps purple, since those colours have extreme luma.

    Args:
        fake: Translations.
        before: Translations of the same frames by the generator at the end of its warm-up, without gradient.
    """
    difference = fake.float() - before.float()
    return (difference - luma_details(difference)).abs().mean()


ANCHOR = FrameObjective(
    name="anchor",
    weight=lambda config: config.loss.anchor,
    compute=lambda views, loss: anchor_loss(views.fake.pixels, views.anchored),
)
DETAIL_GAN = AdversarialObjective(
    name="detail",
    weight=lambda config: config.loss.detail_gan,
    discriminator="detail_discriminator",
    view=lambda frames: luma_details(frames.pixels),
)
