"""The losses of training, one file an equation: pure functions to one float32 scalar, and the list of a step's objectives."""

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
"""All that a step can have; a run has those whose weight is not 0. Another order is another rounding of the same sum."""
