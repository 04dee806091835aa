"""The pictures of a pretraining step: which of their patches the encoder sees, and which of them are toned; by seed and position.

With `tone_jitter` a share of the pictures is first turned into infrared-like gray with random tones; the toned picture is then the
picture: patches are kept from it, and the masked ones are painted as they are in it. Painting the true tones was measured worse:
nobody can know them from a toned picture, so the loss asks for the mean of day and night, and tokens hold which of the two a
picture is rather than what is in it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from roma.data.thermal import degrade
from roma.models.vit.masked_autoencoder import draw_masks
from roma.pretrain.config import PretrainConfig

STEP, SAMPLES = 11, 12
"""What a draw is for; roma.data.batches and roma.data.thermal have 1, 2, 3."""
_MASK, _TONE = 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPictures:
    """Pictures of both domains, infrared first, and which patches of them are to be painted."""

    images: Float[Tensor, "N 3 H W"]
    """In [-1, 1], some of them toned."""
    kept_index: Int64[Tensor, "N K"]
    """Patches that the encoder sees."""
    masked_index: Int64[Tensor, "N M"]
    """Patches that the decoder paints."""


def masked_pictures(
    infrared: Float[Tensor, "B 3 H W"],
    visible: Float[Tensor, "B 3 H W"],
    positions: tuple[int, ...],
    *,
    config: PretrainConfig,
    purpose: int = STEP,
) -> MaskedPictures:
    """Draw masks and tones for pictures at some stream positions of both domains; they depend only on those and the seed."""
    num_patches = (config.vit.image_size // config.vit.patch_size) ** 2
    toned, kept, masked = [], [], []
    for domain, images in enumerate((infrared, visible)):
        draw = [config.seed, purpose, domain]
        toned.append(_toned(images, positions, draw=draw, share=config.tone_jitter))
        indices = draw_masks(positions, draw=[*draw, _MASK], num_patches=num_patches, mask_share=config.mask_share)
        kept.append(indices[0])
        masked.append(indices[1])
    device = infrared.device
    return MaskedPictures(
        images=torch.cat(toned),
        kept_index=torch.cat(kept).to(device),
        masked_index=torch.cat(masked).to(device),
    )


def _toned(
    images: Float[Tensor, "B 3 H W"], positions: tuple[int, ...], *, draw: list[int], share: float
) -> Float[Tensor, "B 3 H W"]:
    """Turn a share of the pictures into infrared-like gray with random tones, by a coin for each position."""
    toned = []
    for image, position in zip(images[:, None], positions, strict=True):
        # The tones are those of the position, the same in both domains: day and night should differ by their shapes.
        is_toned = np.random.default_rng([*draw, _TONE, position]).random() < share
        toned.append(degrade(image, (position,), seed=draw[0]) if is_toned else image)
    return torch.cat(toned)
