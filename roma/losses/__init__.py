"""The losses of training, one file per equation: pure functions that return one float32 scalar, and the list of objectives."""

from roma.losses import adversarial, colourise, details, edges, objective, similarity, temporal

__all__ = ["OBJECTIVES"]

OBJECTIVES: tuple[objective.Objective, ...] = (
    colourise.COLOURISE,
    similarity.GLOBAL_STRUCTURE,
    temporal.MOTION,
    details.ANCHOR,
    edges.EDGES,
    adversarial.REGION_GAN,
    adversarial.PATCH_GAN,
    details.DETAIL_GAN,
    similarity.LOCAL_STRUCTURE,
)
"""All objectives; a run uses those whose weight is not 0. The order changes the rounding of the sum."""
