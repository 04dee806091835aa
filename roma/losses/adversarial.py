"""Least-squares adversarial losses. Source: Mao et al. 2017 (LSGAN), arXiv 1611.04076, as used by arXiv 2204.12367.

Logits of any shape: the 768-vectors of `RegionDiscriminator` and the maps of `PatchDiscriminator` are averaged in the same way.
The two frames of a pair, stacked on the batch axis, give the paper's mean over t.
"""

from jaxtyping import Float
from torch import Tensor

from roma.losses.objective import AdversarialObjective


def generator_loss(fake_logits: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Compute mean((D(fake) - 1)^2): 0 when the discriminator classifies every fake as real.

    Args:
        fake_logits: Logits of translated frames, with gradients to the generator.
    """
    return (fake_logits.float() - 1).square().mean()


def discriminator_loss(
    fake_logits: Float[Tensor, "*fake_shape"], real_logits: Float[Tensor, "*real_shape"]
) -> Float[Tensor, ""]:
    """Compute (mean D(fake)^2 + mean (D(real) - 1)^2) / 2: 0 when every frame is classified right, 1/4 when all logits are 1/2.

    Args:
        fake_logits: Logits of translated frames, from detached tokens or frames.
        real_logits: Logits of true day frames; their number may differ.
    """
    return (fake_logits.float().square().mean() + (real_logits.float() - 1).square().mean()) / 2


REGION_GAN = AdversarialObjective(
    name="gan",
    weight=lambda config: config.loss.gan,
    discriminator="region_discriminator",
    view=lambda frames: frames.regions,
)
PATCH_GAN = AdversarialObjective(
    name="patch",
    weight=lambda config: config.loss.patch_gan,
    discriminator="patch_discriminator",
    view=lambda frames: frames.pixels,
)
"""Not in the paper."""
