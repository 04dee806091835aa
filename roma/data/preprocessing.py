"""What infrared goes through before the network: masks, crop, tone, polarity, as in the training; it travels with a snapshot."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

import numpy as np

from infraredcity.clips import POLARITIES, Polarity
from infraredcity.datasets.clip_facts import CLIPS_NAME, ClipFacts, read_clips
from infraredcity.files.path import AnyPath
from infraredcity.files.records import converted
from infraredcity.stills.framing import Box, Fit, Framing, invert
from infraredcity.stills.tone import NUM_COUNTS, FittedTone, LevelCounts, ToneMap, ToneName, fit_tone
from roma.errors import EvaluationError

_PERCENTILES = (0.5, 99.5)
"""As extraction fits them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How the infrared clips of a training became its pictures; unknown where it was pictures of other makers."""

    is_known: bool = False
    """Whether every source of the training says how it was made (clips.json)."""
    tone: ToneName | None = None
    """How counts of more than 8 bits became levels; None where the clips held levels, or several tones."""
    tone_range: tuple[int, int] | None = None
    """For "fixed": the count that became black and the one that became white."""
    polarity: Polarity | None = None
    """How the pictures show heat; None where that is not known, or differs."""
    masks: tuple[Box, ...] = ()
    """Boxes of display text that were filled, in pixels of a clip of `clip_size`."""
    crop: Box | None = None
    """What was cut out, in pixels of a clip of `clip_size`."""
    clip_size: tuple[int, int] | None = None
    """Width and height of the clips that `masks` and `crop` are for."""
    fit: Fit = "squash"
    """How the clips' shape became that of the pictures."""
    picture_size: tuple[int, int] | None = None
    """Width and height of the pictures; None where they differ."""
    differs: tuple[str, ...] = ()
    """Fields in which the clips differ, which are left at their defaults."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they come back from JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Read what `to_json` wrote.

        Raises:
            ValueError: A name is unknown, or a value is of another kind.
        """
        made = converted(values, cls)
        boxes = [*made.masks, *([] if made.crop is None else [made.crop])]
        if any(min(box) < 0 for box in boxes) or any(
            min(size) < 1 for size in (made.clip_size, made.picture_size) if size
        ):
            raise ValueError("a mask, a crop or a size has a negative side or none")
        if (made.tone == "fixed") != (made.tone_range is not None):
            raise ValueError("tone_range goes with tone fixed, and only with it")
        Framing(masks=made.masks, crop=made.crop)
        if made.tone_range is not None:
            ToneMap(low=made.tone_range[0], high=made.tone_range[1])
        return made


def preprocessing_of(clips: Iterable[ClipFacts]) -> Preprocessing:
    """What some infrared clips went through, as their facts say; a field in which they differ is named and left at its default."""
    each = [_of_clip(facts) for facts in clips]
    if not each:
        return Preprocessing()
    names = [field.name for field in fields(Preprocessing) if field.name not in ("is_known", "differs")]
    differing = tuple(name for name in names if len({getattr(one, name) for one in each}) > 1)
    if "tone" in differing or "tone_range" in differing:
        differing = tuple(dict.fromkeys((*differing, "tone", "tone_range")))
    common = {name: getattr(each[0], name) for name in names if name not in differing}
    return Preprocessing(is_known=True, differs=differing, **common)


def preprocessing_in(
    folders: Iterable[AnyPath], clips: Collection[str], *, loader_tone: FittedTone | None = None
) -> Preprocessing:
    """Say what the infrared clips in some folders of shards went through; not known where a folder has no clips.json.

    Args:
        folders: Folders of shards, or of plain pictures.
        clips: The clips that are trained on.
        loader_tone: How the loader makes levels of their counts; None where they are levels already.

    Raises:
        ManifestError: A clips.json is damaged.
        RemoteError: A folder on another machine cannot be reached.
    """
    facts: list[ClipFacts] = []
    for folder in folders:
        if not (folder / CLIPS_NAME).exists():
            return Preprocessing(tone=loader_tone)
        facts += [each for clip_id, each in read_clips(folder).items() if clip_id in clips]
    found = preprocessing_of(facts)
    return found if loader_tone is None else replace(found, tone=loader_tone, tone_range=None)


def _of_clip(facts: ClipFacts) -> Preprocessing:
    values = facts.extraction
    polarity = facts.polarity if facts.polarity in POLARITIES else None
    masks = tuple(tuple(mask) for mask in values.get("masks") or ())
    crop, size, tone_range = values.get("crop"), values.get("size"), values.get("tone_range")
    source = facts.sources[0] if facts.sources else {}
    clip_size = (source["width"], source["height"]) if {"width", "height"} <= source.keys() else None
    is_toned = facts.tone is not None
    return Preprocessing(
        is_known=True,
        tone=(values.get("tone") or "percentile") if is_toned else None,
        tone_range=tuple(tone_range) if is_toned and tone_range else None,
        polarity=polarity,
        masks=cast(tuple[Box, ...], masks),
        crop=None if crop is None else cast(Box, tuple(crop)),
        clip_size=clip_size if masks or crop is not None else None,
        fit=values.get("fit", "squash") if size is not None else "squash",
        picture_size=None if size is None else (size[0], size[1]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is done to each frame of one input; from `prepare`."""

    masks: tuple[Box, ...] = ()
    crop: Box | None = None
    is_inverted: bool = False

    def region(self, frame: np.ndarray) -> np.ndarray:
        """Fill the masks and cut the crop out: u8 or u16 [H, W, 1] -> [H', W', 1]."""
        return Framing(masks=self.masks, crop=self.crop).apply(frame) if self.masks or self.crop else frame

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """Cut the crop out of a picture of the same pixels, u8 [H, W, C] -> [H', W', C]; masks stay."""
        return Framing(crop=self.crop).apply(picture) if self.crop else picture

    def levels(self, region: np.ndarray, tone: ToneMap | None) -> np.ndarray:
        """Turn counts into levels and heat around: u8 or u16 [H, W, 1] -> u8 [H, W, 1]."""
        levels = region if tone is None else tone.apply(region)
        return invert(levels) if self.is_inverted else levels


class RunningTone:
    """The percentile tone of a stream whose frames to come are not known: fitted to the last seconds, moving slowly.

    Each frame's counts are added to a histogram whose older counts fade, so that one frame weighs little; and the line's ends move
    by at most `most_step` of the line's length from one frame to the next. So a hot thing that comes into view darkens the rest
    over seconds, and no frame jumps, as it does with the automatic gain of a camera.

    Args:
        memory_frames: After how many frames a count weighs half.
        most_step: The most that an end moves from one frame to the next, as a share of the line's length.
    """

    def __init__(self, *, memory_frames: float = 125.0, most_step: float = 0.01) -> None:
        self._kept = 0.5 ** (1 / memory_frames)
        self._most_step = most_step
        self._histogram = np.zeros(NUM_COUNTS, np.float64)
        self._ends: tuple[float, float] | None = None

    def of(self, picture: np.ndarray) -> ToneMap:
        """Return the line for the next picture, u16 [H, W, 1], which counts for it."""
        counts = LevelCounts()
        counts.add(picture)
        self._histogram *= self._kept
        self._histogram += counts.histogram
        up_to = np.cumsum(self._histogram)
        low, high = (float(np.searchsorted(up_to, up_to[-1] * share / 100)) for share in _PERCENTILES)
        high = max(high, low + 1)
        if self._ends is not None:
            most = max(1.0, self._most_step * (self._ends[1] - self._ends[0]))
            low, high = (
                before + min(most, max(-most, wanted - before))
                for before, wanted in zip(self._ends, (low, high), strict=True)
            )
            high = max(high, low + 1)
        self._ends = low, high
        return ToneMap(low=round(low), high=max(round(high), round(low) + 1))


def fitted(pictures: Iterable[np.ndarray], tone: ToneName) -> ToneMap:
    """Fit one line to all pictures of an input, u16 [H, W, 1], as extraction does for a clip.

    Raises:
        EvaluationError: There is no picture.
    """
    counts = LevelCounts()
    for picture in pictures:
        counts.add(picture)
    if not counts.histogram.any():
        raise EvaluationError("no picture of the input could be read, so there is nothing to fit a tone to")
    return fit_tone(counts.histogram, tone)
