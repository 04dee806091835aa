"""The losses of training: pure functions from tokens or logits to one float32 scalar."""

from roma.losses.adversarial import discriminator_loss, generator_loss
from roma.losses.similarity import cross_similarity, self_similarity, structure_loss
from roma.losses.temporal import temporal_loss

__all__ = [
    "cross_similarity",
    "discriminator_loss",
    "generator_loss",
    "self_similarity",
    "structure_loss",
    "temporal_loss",
]
