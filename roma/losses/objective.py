"""What an objective of training is: its name, its weight among the settings, what it looks at, and how it is computed.

An objective stands beside the formula of its loss, and `roma.losses.OBJECTIVES` lists them all. What they look at is computed when
the first of them asks for it, so none declares what it needs, and what none asks for costs nothing. There are three kinds, since
the step takes their gradients differently: `FrameObjective`, `WindowObjective` (one chunk of windows after the other) and
`AdversarialObjective` (its discriminator takes a step before).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from roma.config.schema import LossConfig, TrainConfig


class Frames(ABC):
    """Frames of one kind, and the frozen ViT's tokens of them."""

    pixels: Float[Tensor, "M 3 H W"]
    """Values in [-1, 1]; the frames of a window follow each other."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[Float[Tensor, "M P D"], ...]:
        """Tokens that attended to the whole frame; one tensor per layer."""

    @property
    @abstractmethod
    def regions(self) -> Float[Tensor, "M R D"]:
        """Tokens of the last layer, and the means of their blocks."""


class Views(ABC):
    """What objectives may look at; gradients of `fake` and `recoloured` reach the generator."""

    source: Frames
    """Infrared."""
    fake: Frames
    """Its translations."""
    true_colours: Float[Tensor, "N 3 H W"]
    """Day frames, one of each window."""
    recoloured: Float[Tensor, "N 3 H W"]
    """What the generator made of them after they were turned into infrared-like gray."""

    @property
    @abstractmethod
    def anchored(self) -> Float[Tensor, "M 3 H W"]:
        """Translations by the generator as it was at the end of the warm-up, without gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowChunk:
    """Tokens of some of the step's windows; window k of image b is at k * B + b on the first axis."""

    source_layers: tuple[Float[Tensor, "KB A D"], ...]
    """Of the infrared; one tensor per layer."""
    fake_layers: tuple[Float[Tensor, "KB A D"], ...]
    """Of the translations."""
    counts: Float[Tensor, " K"]
    """How often each window was drawn."""
    num_drawn: Float[Tensor, ""]
    """Windows of all chunks, as often as they were drawn."""

    def share_of_mean(self, losses: Float[Tensor, " KB"]) -> Float[Tensor, ""]:
        """What the losses of this chunk's windows add to the mean over all windows that were drawn."""
        means = losses.reshape(len(self.counts), -1).mean(dim=1)
        return (means * self.counts).sum() / self.num_drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """A term of the generator's loss."""

    name: str
    """What it is called."""
    weight: Callable[[TrainConfig], float]
    """Its weight in a run; 0 leaves it out."""

    @property
    def loss_name(self) -> str:
        """What metrics and messages call its loss."""
        return self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameObjective(Objective):
    """A term that sees all frames of a part of the batch at once."""

    compute: Callable[[Views, LossConfig], Float[Tensor, ""]]
    """The loss, not multiplied by its weight."""
    is_in_warmup: bool = False
    """Whether it trains the generator in the warm-up too, which translates no infrared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowObjective(Objective):
    """A term on local windows."""

    compute: Callable[[WindowChunk, LossConfig], Float[Tensor, ""]]
    """What a chunk adds to the loss, not multiplied by its weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialObjective(Objective):
    """A term by the judgement of a discriminator, which takes a step of its own before. Its loss is least squares."""

    discriminator: str
    """The name of its network in `roma.models.critics.build.DISCRIMINATORS`."""
    view: Callable[[Frames], Tensor]
    """What the discriminator sees of real and of translated frames."""

    @property
    def loss_name(self) -> str:
        """What metrics and messages call the generator's loss."""
        return f"{self.name}_generator"
