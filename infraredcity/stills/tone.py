"""Map counts of 16 bits to levels of 8: one linear map for a whole clip, so that a level means the same in every frame."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any, Literal

import numpy as np

ToneName = Literal["minmax", "percentile", "fixed"]
FittedTone = Literal["minmax", "percentile"]
"""Those that are fitted to pictures."""
TONES: tuple[ToneName, ...] = ("minmax", "percentile", "fixed")
NUM_COUNTS = 65_536
"""Number of different counts of 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToneMap:
    """A linear map from counts to levels: `low` and less become 0, `high` and more become 255.

    Attributes:
        low: The count that becomes black.
        high: The count that becomes white; above `low`.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ValueError(f"tone: high must be above low {self.low}, got {self.high}")

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Map counts to levels: clip(floor(255 (count - low) / (high - low) + 1/2), 0, 255); halves are rounded up.

        Args:
            picture: u16 counts of any shape; [H, W, 1] for one still.

        Returns:
            u8, of the same shape; the caller's own array.

        Raises:
            ValueError: The picture is not u16.
        """
        return np.take(_table(self), _counts(picture))

    def to_json(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ToneMap":
        """Read the map that `to_json` wrote; ValueError on a missing or unknown name or a value that is not an integer."""
        if set(values) != {"low", "high"} or any(type(value) is not int for value in values.values()):
            raise ValueError(f"a tone is two whole numbers, low and high, got {dict(values)}")
        return cls(low=values["low"], high=values["high"])


class LevelCounts:
    """Count how often each count occurs in pictures; a clip's ToneMap is fitted to that.

    Attributes:
        histogram: i64 [65536], the number of pixels with each count. The histograms of a clip's parts add up to the clip's.
    """

    __slots__ = ("histogram",)

    def __init__(self) -> None:
        self.histogram: np.ndarray = np.zeros(NUM_COUNTS, np.int64)

    def add(self, picture: np.ndarray) -> None:
        """Count every pixel of a picture.

        Args:
            picture: u16 counts of any shape; [H, W, 1] for one still.

        Raises:
            ValueError: The picture is not u16.
        """
        self.histogram += np.bincount(_counts(picture).ravel(), minlength=NUM_COUNTS)


def fit_tone(histogram: np.ndarray, tone: ToneName, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> ToneMap:
    """Fit the tone map of a clip to the histogram of its pixels.

    "minmax" runs from the lowest to the highest count that occurs. "percentile" runs between two percentiles: with N pixels in
    all, the p-th is the lowest count c that occurs and has histogram[0] + ... + histogram[c] >= N p / 100, in exact arithmetic.
    That is numpy's method "inverted_cdf"; p = 0 gives the lowest count and p = 100 the highest. Where both ends fall on one
    count c, as in a clip of one single count, the map is (c, c + 1): c turns black and all above it white.

    Args:
        histogram: i64 [65536], as LevelCounts has it.
        tone: "minmax" or "percentile"; a "fixed" map is the caller's own ToneMap.
        percentiles: The lower and the upper p, 0..100; only "percentile" reads them.

    Raises:
        ValueError: An argument is out of its range, or no pixel was counted.
    """
    if histogram.shape != (NUM_COUNTS,) or not np.issubdtype(histogram.dtype, np.integer):
        raise ValueError(f"histogram must be i64 [{NUM_COUNTS}], got {histogram.dtype} {list(histogram.shape)}")
    if tone not in ("minmax", "percentile"):
        raise ValueError(f'tone must be minmax or percentile to be fitted, got {tone!r}; "fixed" is ToneMap(low, high)')
    if tone == "minmax":
        percentiles = (0.0, 100.0)
    lower, upper = percentiles
    if not 0 <= lower < upper <= 100:
        raise ValueError(f"percentiles must rise within 0..100, got {lower:g} and {upper:g}")
    up_to = np.cumsum(histogram, dtype=np.int64)
    num_pixels = int(up_to[-1])
    if num_pixels == 0:
        raise ValueError("histogram is empty; add the clip's pictures first")
    low, high = (int(np.searchsorted(up_to, _rank(p, num_pixels))) for p in (lower, upper))
    return ToneMap(low=low, high=max(high, low + 1))


def _rank(percent: float, num_pixels: int) -> int:
    """Return the rank, from 1 on, of the pixel that is the percentile, in the order of their counts."""
    # As a decimal, since 0.3 as binary, times 1000, is a hair off 300 and would move the rank by one.
    return max(1, ceil(Fraction(str(percent)) * num_pixels / 100))


def _counts(picture: np.ndarray) -> np.ndarray:
    if picture.dtype != np.uint16:
        raise ValueError(f"a tone is for u16 counts, got {picture.dtype} {list(picture.shape)}")
    return picture


@lru_cache(maxsize=16)
def _table(tone_map: ToneMap) -> np.ndarray:
    """Return u8 [65536], the level of each count; in integers, so that all machines round alike."""
    span = tone_map.high - tone_map.low
    above = np.clip(np.arange(NUM_COUNTS, dtype=np.int64) - tone_map.low, 0, span)
    table = ((2 * 255 * above + span) // (2 * span)).astype(np.uint8)
    table.flags.writeable = False
    return table
