"""Validation: how good the translator is in the middle of a run, on fixed infrared frames: three numbers and a grid of pictures.

The frames are those of `data.held_out`, evenly spaced, at most 16, whole and at `data.crop_size_px`: the scale at which pictures
are translated. Without it they are evenly spaced frames of the training infrared, and then the numbers say how far training came,
not how good it is on other frames. Nothing here draws random numbers from torch or numpy's shared state, so that looking at a
run does not change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from infraredcity.loader import WindowReader
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, to_bytes, to_unit_range
from roma.errors import ConfigError
from roma.losses.edges import edge_loss
from roma.losses.similarity import structure_loss
from roma.models.vit.vit import VisionTransformer

NUM_FRAMES = 16
NUM_SHOWN = 4
EDGES, STRUCTURE, DISTANCE = "held_out_edges", "held_out_structure", "held_out_distance"
_NUM_FEATURES = 1024
"""Tokens or patches of each side that are compared; of more, a fixed draw."""
_PATCH_PX = 8
_AT_ONCE = 4
"""Frames in one pass through a network."""


@runtime_checkable
class Translator(Protocol):
    """Infrared frames in [-1, 1] to day frames."""

    def __call__(self, frames: Float[Tensor, "N 3 H W"], /) -> Tensor:
        """Translate frames; the shape is the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Pictures of a grid, u8 [N, 3, H, W] each: some of the fixed frames, their translations, day frames that are unrelated."""

    infrared: UInt8[Tensor, "N 3 H W"]
    translated: UInt8[Tensor, "N 3 H W"]
    day: UInt8[Tensor, "N 3 H W"]


class HeldOut:
    """The fixed frames of a run, and what is asked of their translations.

    Args:
        config: The whole run.
        domains: Its readers; day frames to compare with come from the visible one.
        vit: The ViT of its losses, if it has one.
        device: Where to compute.

    Raises:
        infraredcity.errors.InfraredCityError: The held-out shards are missing or damaged.
    """

    def __init__(
        self, config: TrainConfig, domains: Domains, vit: VisionTransformer | None, device: torch.device
    ) -> None:
        self.config = config
        self.is_held_out = bool(config.data.held_out)
        """Whether training never reads the frames."""
        self._vit = vit
        self._device = device
        side = config.data.crop_size_px
        is_square = config.data.fit == "square"
        readers = domains.at_side(side) if is_square else domains
        if self.is_held_out:
            size = (side, side) if is_square else None
            reader = WindowReader(config.data.held_out, window_frames=1, color="gray", size=size, tone=config.data.tone)
            try:
                infrared = _evenly_spaced(reader, side)
            finally:
                reader.close()
        else:
            infrared = _evenly_spaced(readers.infrared, side)
        self._infrared: UInt8[Tensor, "N 3 H W"] = infrared.expand(-1, 3, -1, -1)
        self._day: UInt8[Tensor, "M 3 H W"] = _evenly_spaced(readers.visible, side)
        self._day_features: Float64[Tensor, "K D"] | None = None
        self._source_tokens: tuple[Tensor, ...] | None = None

    def measure(self, generator: Translator) -> dict[str, float]:
        """Compute numbers of the fixed frames' translations, smaller being better, in fp32.

        held_out_edges: `edge_loss` against the infrared.
        held_out_structure: `structure_loss` of whole frames, as `loss.similarity` has it; only of runs with a ViT.
        held_out_distance: An unbiased squared maximum mean discrepancy between translations and day frames, with the cubic
            polynomial kernel of KID (Binkowski et al. 2018, arXiv 1801.01401). It is no KID: the features are not Inception's but
            tokens of the ViT's last compared layer, or, in runs without one, plain 8x8 patches of RGB pixels; there are 1,024 of a
            side at most, many of one frame, and so not independent. It compares checkpoints of one run, nothing else. Below 0 where
            the two sides are nearer to each other than their own halves are by chance.
        """
        source = to_unit_range(self._infrared).to(self._device)
        fake = self._translated(generator)
        numbers = {EDGES: float(edge_loss(fake, source))}
        if self._vit is None:
            features = _patches(fake)
            if self._day_features is None:
                self._day_features = _some(_patches(to_unit_range(self._day)))
        else:
            of_fake = self._tokens(fake)
            if self._source_tokens is None or self._day_features is None:
                self._source_tokens = self._tokens(source)
                self._day_features = _some(self._tokens(to_unit_range(self._day).to(self._device))[-1].flatten(0, 1))
            numbers[STRUCTURE] = float(
                structure_loss(
                    self._source_tokens,
                    of_fake,
                    kind=self.config.loss.similarity,
                    centre=self.config.loss.centre_tokens,
                )
            )
            features = of_fake[-1].flatten(0, 1)
        numbers[DISTANCE] = polynomial_mmd(_some(features), self._day_features)
        return numbers

    def show(self, generator: Translator) -> Shown:
        """Translate some of the frames, for the eye to compare."""
        rows = _places(len(self._infrared), NUM_SHOWN)
        day = self._day[_places(len(self._day), len(rows))]
        infrared = self._infrared[rows]
        return Shown(infrared=infrared, translated=to_bytes(self._translated(generator, rows)).cpu(), day=day)

    def _translated(self, generator: Translator, rows: Sequence[int] | None = None) -> Float[Tensor, "N 3 H W"]:
        infrared = self._infrared if rows is None else self._infrared[list(rows)]
        with torch.no_grad():
            parts = [generator(to_unit_range(part).to(self._device)).float() for part in _in_parts(infrared)]
        return torch.cat(parts)

    def _tokens(self, images: Float[Tensor, "N 3 H W"]) -> tuple[Tensor, ...]:
        assert self._vit is not None
        with torch.no_grad():
            parts = [self._vit.tokens(part) for part in _in_parts(images)]
        return tuple(torch.cat(layers) for layers in zip(*parts, strict=True))


def check_best_by(config: TrainConfig) -> None:
    """Raise a ConfigError where `output.best_by` is not among the numbers that the run has."""
    names = (EDGES, STRUCTURE, DISTANCE) if config.needs_vit else (EDGES, DISTANCE)
    by = config.output.best_by
    if by and by not in names:
        raise ConfigError(
            f"output.best_by is {by!r}; this run has {', '.join(names)}, or set it to nothing for no best checkpoint"
        )


def polynomial_mmd(first: Float64[Tensor, "M D"], second: Float64[Tensor, "N D"]) -> float:
    """Estimate, without bias, the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.

    Source: Gretton et al. 2012, lemma 6 (two sums without the diagonal); the kernel is that of Binkowski et al. 2018, arXiv
    1801.01401, section 4.
    """
    across = _kernel(first, second).mean()
    return _mean_within(first) + _mean_within(second) - 2 * float(across)


def _mean_within(features: Float64[Tensor, "N D"]) -> float:
    """Average the kernel over all pairs of different features."""
    kernel, count = _kernel(features, features), len(features)
    return float(kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))


def _kernel(x: Float64[Tensor, "M D"], y: Float64[Tensor, "N D"]) -> Float64[Tensor, "M N"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _some(features: Float[Tensor, "N D"]) -> Float64[Tensor, "K D"]:
    """Pick at most `_NUM_FEATURES` of them, the same ones each time and in every run, on the host."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(features))[:_NUM_FEATURES])
    return features[torch.from_numpy(chosen).to(features.device)].double().cpu()


def _patches(frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "P D"]:
    """Cut squares of 8x8 pixels without overlap, with their colours."""
    squares = torch.nn.functional.unfold(frames, _PATCH_PX, stride=_PATCH_PX)
    return squares.transpose(1, 2).flatten(0, 1)


def _places(count: int, most: int) -> list[int]:
    """Choose at most `most` numbers below `count`, evenly spaced, both ends among them."""
    return [int(place) for place in np.linspace(0, count - 1, min(most, count))]


def _in_parts(frames: Tensor) -> list[Tensor]:
    return [frames[first : first + _AT_ONCE] for first in range(0, len(frames), _AT_ONCE)]


def _evenly_spaced(reader: WindowReader, side_px: int) -> UInt8[Tensor, "N C H W"]:
    """Read frames that are evenly spread; of those that are larger than the square the middle, of smaller ones an enlarged one."""
    frames = reader.read_rows(_places(len(reader.index), NUM_FRAMES))
    height, width = frames.shape[-2:]
    if (height, width) == (side_px, side_px):
        return frames
    scale = max(1.0, side_px / min(height, width))
    if scale > 1:
        size = (max(side_px, round(height * scale)), max(side_px, round(width * scale)))
        frames = F.interpolate(frames, size=size, mode="bicubic", antialias=True)
    top, left = (frames.shape[-2] - side_px) // 2, (frames.shape[-1] - side_px) // 2
    return frames[..., top : top + side_px, left : left + side_px].contiguous()
