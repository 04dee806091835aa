"""The table of discriminators: a new one is its file and a line here."""

from collections.abc import Callable

from torch import nn

from roma.config.schema import TrainConfig
from roma.models.critics.patch import PatchDiscriminator
from roma.models.critics.region import RegionDiscriminator

DISCRIMINATORS: dict[str, Callable[[TrainConfig], nn.Module]] = {
    "region_discriminator": lambda config: RegionDiscriminator(width=config.vit.width),
    "patch_discriminator": lambda config: PatchDiscriminator(width=config.loss.patch_gan_width),
    "detail_discriminator": lambda config: PatchDiscriminator(width=config.loss.patch_gan_width),
}
"""Each with its initial weights, by the name that checkpoints have for it; objectives of `roma.losses` say which they need."""
