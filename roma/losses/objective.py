"""Define what an objective of training is: its name, its weight among the settings, its inputs, and how it is computed.

An objective is defined in the file of its loss, and `roma.losses.OBJECTIVES` lists them all. Its inputs are computed when the first
objective reads them, so none has to declare what it needs, and unused inputs cost nothing. There are three kinds, since the step
computes their gradients differently: `FrameObjective`, `WindowObjective` (one chunk of windows after another) and
`AdversarialObjective` (its discriminator takes a step first).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from roma.config.schema import LossConfig, TrainConfig


class Frames(ABC):
    """Frames of one kind, and their tokens from the frozen ViT."""

    pixels: Float[Tensor, "M 3 H W"]
    """Values in [-1, 1]; frames of one window are consecutive."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[Float[Tensor, "M P D"], ...]:
        """Tokens that attended to the whole frame; one tensor per layer."""

    @property
    @abstractmethod
    def regions(self) -> Float[Tensor, "M R D"]:
        """Tokens of the last layer, and the means of their blocks."""


class Views(ABC):
    """The inputs of objectives; gradients of `fake` and `recoloured` reach the generator."""

    source: Frames
    """Infrared frames."""
    fake: Frames
    """Translations of them."""
    true_colours: Float[Tensor, "N 3 H W"]
    """Day frames, one per window."""
    recoloured: Float[Tensor, "N 3 H W"]
    """Translations of the day frames after these were made infrared-like gray."""

    @property
    @abstractmethod
    def anchored(self) -> Float[Tensor, "M 3 H W"]:
        """Translations by the generator of the end of the warm-up, without gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowChunk:
    """Tokens of some of the step's windows; window k of image b is at k * B + b on the first axis."""

    source_layers: tuple[Float[Tensor, "KB A D"], ...]
    """Tokens of the infrared; one tensor per layer."""
    fake_layers: tuple[Float[Tensor, "KB A D"], ...]
    """Tokens of the translations."""
    counts: Float[Tensor, " K"]
    """How often each window was drawn."""
    num_drawn: Float[Tensor, ""]
    """Number of windows of all chunks, repeated draws included."""

    def share_of_mean(self, losses: Float[Tensor, " KB"]) -> Float[Tensor, ""]:
        """Return the share of this chunk's losses in the mean over all windows that were drawn."""
        means = losses.reshape(len(self.counts), -1).mean(dim=1)
        return (means * self.counts).sum() / self.num_drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A term of the generator's loss."""

    name: str
    """Name of the objective."""
    weight: Callable[[TrainConfig], float]
    """Return its weight in a run; 0 leaves it out."""

    @property
    def loss_name(self) -> str:
        """Return the name of its loss in metrics and messages."""
        return self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameObjective(Objective):
    """A term on all frames of a part of the batch at once."""

    compute: Callable[[Views, LossConfig], Float[Tensor, ""]]
    """Compute the loss, not multiplied by its weight."""
    is_in_warmup: bool = False
    """Whether it also trains the generator in the warm-up, in which no infrared is translated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowObjective(Objective):
    """A term on local windows."""

    compute: Callable[[WindowChunk, LossConfig], Float[Tensor, ""]]
    """Compute what a chunk adds to the loss, not multiplied by its weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialObjective(Objective):
    """A term from a discriminator's logits; the discriminator takes its own step first. The loss is least squares."""

    discriminator: str
    """The name of its network in `roma.models.critics.build.DISCRIMINATORS`."""
    view: Callable[[Frames], Tensor]
    """Return the discriminator's inputs from real and from translated frames."""

    @property
    def loss_name(self) -> str:
        """Return the name of the generator's loss in metrics and messages."""
        return f"{self.name}_generator"
