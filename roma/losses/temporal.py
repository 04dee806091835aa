"""The temporal loss: motion between two infrared frames equals the motion between their translations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from roma.config.schema import LossConfig, TrainConfig
from roma.losses.objective import FrameObjective, Views
from roma.losses.similarity import centred, row_distances, token_products


def temporal_loss(
    source_0_layers: Sequence[Float[Tensor, "B P D"]],
    source_1_layers: Sequence[Float[Tensor, "B P D"]],
    fake_0_layers: Sequence[Float[Tensor, "B P D"]],
    fake_1_layers: Sequence[Float[Tensor, "B P D"]],
    *,
    centre: bool = False,
    reference_temporal: bool = False,
) -> Float[Tensor, ""]:
    """Average d(S_0 F_1^T, F_0 S_1^T) over ViT layers; 0 when the translations equal their sources.

    Source: arXiv 2204.12367, L_tem, with d of `roma.losses.similarity`. The frame at time 0 is compared with the
    translation at time 1, and the translation at time 0 with the frame at time 1.

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
        terms.append(row_distances(token_products(source_0, fake_1), token_products(fake_0, source_1)).mean())
    stacked = torch.stack(terms)
    return stacked.sum() if reference_temporal else stacked.mean()


def _weight(config: TrainConfig) -> float:
    if not config.has_motion:
        return 0.0
    return 1.0 if config.loss.reference_temporal else config.loss.motion


def _of_pairs(views: Views, loss: LossConfig) -> Tensor:
    by_time = [
        [tokens[time::2] for tokens in frames.tokens] for frames in (views.source, views.fake) for time in (0, 1)
    ]
    return temporal_loss(*by_time, centre=loss.centre_tokens, reference_temporal=loss.reference_temporal)


MOTION = FrameObjective(name="motion", weight=_weight, compute=_of_pairs)
