"""The temporal loss: what moved between two infrared frames moves alike between their translations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from roma.losses.similarity import centred, row_distance, token_products


def temporal_loss(
    source_0_layers: Sequence[Float[Tensor, "B P D"]],
    source_1_layers: Sequence[Float[Tensor, "B P D"]],
    fake_0_layers: Sequence[Float[Tensor, "B P D"]],
    fake_1_layers: Sequence[Float[Tensor, "B P D"]],
    *,
    centre: bool = False,
    reference_temporal: bool = False,
) -> Float[Tensor, ""]:
    """Mean over ViT layers of d(S_0 F_1^T, F_0 S_1^T); 0 when the translations equal their sources.

    Source: arXiv 2204.12367, L_tem, with d of `roma.losses.similarity`. The frame at time 0 meets the translation at
    time 1, and the translation at time 0 meets the frame at time 1.

    The caller multiplies by lambda_motion. The authors' code sums over layers and never applies lambda_motion: to
    repeat it, set `reference_temporal` here and leave the factor out there.

    Args:
        source_0_layers: Tokens of the earlier infrared frames, one tensor per layer.
        source_1_layers: Tokens of the later infrared frames.
        fake_0_layers: Tokens of the translations of the earlier frames.
        fake_1_layers: Tokens of the translations of the later frames.
        centre: Subtract each frame's mean token first; not in the paper.
        reference_temporal: Sum over layers instead of averaging.

    Raises:
        ValueError: The numbers of layers differ or are zero.
    """
    counts = [len(layers) for layers in (source_0_layers, source_1_layers, fake_0_layers, fake_1_layers)]
    if counts[0] == 0 or len(set(counts)) != 1:
        raise ValueError(f"expected equally many layers, at least one, got {counts}")
    terms: list[Tensor] = []
    for tokens in zip(source_0_layers, source_1_layers, fake_0_layers, fake_1_layers, strict=True):
        source_0, source_1, fake_0, fake_1 = map(centred, tokens) if centre else tokens
        terms.append(row_distance(token_products(source_0, fake_1), token_products(fake_0, source_1)))
    stacked = torch.stack(terms)
    return stacked.sum() if reference_temporal else stacked.mean()
