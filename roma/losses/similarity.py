"""The structure losses: a translated frame keeps the layout of its source, measured by similarities between ViT tokens.

Source: arXiv 2204.12367. With S a frame's tokens and F those of its translation, both [P, D], the paper compares the
cross-similarity S F^T with F S^T. Its distance between two maps, here d, is

    d(P, Q) = mean over rows i and the batch of |1 - cos(P_i, Q_i)|.

Everything is computed in float32, also inside an autocast region, since bfloat16 cannot resolve a cosine near 1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from roma.losses.objective import FrameObjective, WindowObjective

COSINE_EPS = 1e-8


def row_distances(first_bpq: Float[Tensor, "B P Q"], second_bpq: Float[Tensor, "B P Q"]) -> Float[Tensor, " B"]:
    """Compute the mean of |1 - cosine| between rows i of two maps, per item of the batch; 0 when they agree, at most 2."""
    with torch.autocast(first_bpq.device.type, enabled=False):
        cosine = F.cosine_similarity(first_bpq.float(), second_bpq.float(), dim=-1, eps=COSINE_EPS)
        return (1 - cosine).abs().mean(dim=-1)


def token_products(first_bpd: Float[Tensor, "B P D"], second_bqd: Float[Tensor, "B Q D"]) -> Float[Tensor, "B P Q"]:
    """Compute the inner products of all tokens of one frame with all of another, in float32."""
    with torch.autocast(first_bpd.device.type, enabled=False):
        return first_bpd.float() @ second_bqd.float().mT


def centred(tokens_bpd: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
    """Subtract from tokens their mean over the frame, in float32.

    Not in the paper. Tokens of some backbones are mostly one common vector (81 to 84 % for a masked autoencoder on
    normalised pixels), which hides all layout from a cosine.
    """
    tokens = tokens_bpd.float()
    return tokens - tokens.mean(dim=1, keepdim=True)


def cross_similarity(
    source_bpd: Float[Tensor, "B P D"], fake_bpd: Float[Tensor, "B P D"], *, centre: bool = False
) -> Float[Tensor, " B"]:
    """Compute d(S F^T, F S^T) per item: mean of 1 - cosine between rows of S F^T and of its transpose; 0 when S equals F.

    Source: arXiv 2204.12367, the summand of the global and local structure losses. F S^T is the transpose of S F^T, so
    one product serves both.

    Args:
        source_bpd: Tokens of the infrared frames, or of their windows.
        fake_bpd: Tokens of the translations at the same places.
        centre: Subtract each frame's mean token first (`centred`).
    """
    if centre:
        source_bpd, fake_bpd = centred(source_bpd), centred(fake_bpd)
    similarity = token_products(source_bpd, fake_bpd)
    return row_distances(similarity, similarity.mT)


def self_similarity(
    source_bpd: Float[Tensor, "B P D"], fake_bpd: Float[Tensor, "B P D"], *, centre: bool = False
) -> Float[Tensor, " B"]:
    """Compute d(S S^T, F F^T) per item: each frame's tokens are compared with each other, so layout counts, not appearance.

    Not in the paper, whose loss has its optimum at the infrared frame itself. Source of the idea: Zheng et al. 2021
    (F/LSeSim), arXiv 2104.00854; here with d and the tokens above. Arguments are those of `cross_similarity`.
    """
    if centre:
        source_bpd, fake_bpd = centred(source_bpd), centred(fake_bpd)
    return row_distances(token_products(source_bpd, source_bpd), token_products(fake_bpd, fake_bpd))


def structure_loss(
    source_layers: Sequence[Float[Tensor, "B P D"]],
    fake_layers: Sequence[Float[Tensor, "B P D"]],
    *,
    kind: Literal["cross", "self"] = "cross",
    centre: bool = False,
) -> Float[Tensor, ""]:
    """Average `cross_similarity` or `self_similarity` over ViT layers; the caller multiplies by lambda.

    Source: arXiv 2204.12367: L_global on the tokens of whole frames, L_local on those of windows. Frames t = 0, 1 of a
    pair stacked on the batch axis give the paper's mean over t.

    Args:
        source_layers: Tokens of the infrared, one tensor per layer.
        fake_layers: Tokens of the translation, the same layers.
        kind: Which comparison.
        centre: Subtract each frame's mean token first.

    Raises:
        ValueError: The numbers of layers differ or are zero.
    """
    return structure_distances(source_layers, fake_layers, kind=kind, centre=centre).mean()


def structure_distances(
    source_layers: Sequence[Float[Tensor, "B P D"]],
    fake_layers: Sequence[Float[Tensor, "B P D"]],
    *,
    kind: Literal["cross", "self"] = "cross",
    centre: bool = False,
) -> Float[Tensor, " B"]:
    """Compute `structure_loss` per item of the batch, for windows that count more than once.

    Args and errors are those of `structure_loss`.
    """
    if not source_layers or len(source_layers) != len(fake_layers):
        raise ValueError(f"expected equally many layers, at least one, got {len(source_layers)} and {len(fake_layers)}")
    compare = cross_similarity if kind == "cross" else self_similarity
    items = [compare(source, fake, centre=centre) for source, fake in zip(source_layers, fake_layers, strict=True)]
    return torch.stack(items).mean(dim=0)


GLOBAL_STRUCTURE = FrameObjective(
    name="structure_global",
    weight=lambda config: config.loss.global_structure,
    compute=lambda views, loss: structure_loss(
        views.source.tokens, views.fake.tokens, kind=loss.similarity, centre=loss.centre_tokens
    ),
)
LOCAL_STRUCTURE = WindowObjective(
    name="structure_local",
    weight=lambda config: config.loss.local_structure,
    compute=lambda chunk, loss: chunk.share_of_mean(
        structure_distances(chunk.source_layers, chunk.fake_layers, kind=loss.similarity, centre=loss.centre_tokens)
    ),
)
