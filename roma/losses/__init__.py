"""The losses of training: pure functions from tokens or logits to one float32 scalar."""

from roma.losses.adversarial import discriminator_loss, generator_loss
from roma.losses.colourise import colourise_loss
from roma.losses.details import anchor_loss, luma_details
from roma.losses.edges import edge_loss
from roma.losses.similarity import cross_similarity, self_similarity, structure_distances, structure_loss
from roma.losses.temporal import temporal_loss

__all__ = [
    "anchor_loss",
    "colourise_loss",
    "cross_similarity",
    "discriminator_loss",
    "edge_loss",
    "generator_loss",
    "luma_details",
    "self_similarity",
    "structure_distances",
    "structure_loss",
    "temporal_loss",
]
