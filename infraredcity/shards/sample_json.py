"""The json member of a sample: which facts it holds, of which type, how it is written and how it is checked.

A new fact is a line in `SampleJson` and one in `facts_of`; extraction, import, verify and the dataset card follow.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import TypedDict

from infraredcity.clips import WORDS, ClipDescription
from infraredcity.files.records import parse_json


class SampleJson(TypedDict):
    """The facts of one sample, in the order in which they are written."""

    clip: str
    """Id of the clip that the frame is from."""
    scene: str
    """What is filmed."""
    weather: str
    """clear, overcast, or any where the data set does not tell them apart."""
    modality: str
    """What the camera saw: infrared or visible."""
    time_of_day: str
    """night or day."""
    frame_index: int
    """0-based index of the frame in its clip."""
    pts: int
    """Presentation time in units of time_base."""
    time_base: str
    """Seconds per unit of pts, as "1/15360"."""
    time_s: float
    """Presentation time in seconds, to the microsecond."""
    width: int
    """Pixels of a row of the picture."""
    height: int
    """Rows of the picture."""


FIELDS: dict[str, type] = dict(SampleJson.__annotations__)
CLIP_FIELDS = (*WORDS, "time_base")
"""Facts that all samples of a clip share, as clips.json has them; without its id, which each of them holds too."""


def facts_of(clip: ClipDescription, time_base: str, frame_index: int, pts: int, size_px: tuple[int, int]) -> SampleJson:
    """Collect the facts of a sample.

    Args:
        clip: The clip that it is from.
        time_base: Seconds per unit of pts, as "1/15360".
        frame_index: Index of the frame in its clip.
        pts: Presentation time in units of `time_base`.
        size_px: Width and height of the picture.
    """
    numerator, denominator = _ratio(time_base)
    return {
        "clip": clip.clip_id,
        "scene": clip.scene,
        "weather": clip.weather,
        "modality": clip.modality,
        "time_of_day": clip.time_of_day,
        "frame_index": frame_index,
        "pts": pts,
        "time_base": time_base,
        "time_s": round(pts * numerator / denominator, 6),
        "width": size_px[0],
        "height": size_px[1],
    }


@lru_cache(64)
def _ratio(time_base: str) -> tuple[int, int]:
    return Fraction(time_base).as_integer_ratio()


_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_bytes(facts: SampleJson) -> bytes:
    """Write the facts as the bytes of the json member."""
    return _encode(facts).encode("ascii")


def differences(data: bytes, expected: SampleJson) -> Iterator[str]:
    """Say where a json member is not what is expected: phrases such as "says pts 3, expected 4"; none where it is the same."""
    try:
        found = parse_json(data)
    except ValueError:
        yield "cannot be read"
        return
    if not isinstance(found, dict):
        yield "is not an object"
        return
    for name, value in expected.items():
        if type(found.get(name)) is not type(value) or found[name] != value:
            yield f"says {name} {ascii(found.get(name))[:80]}, expected {value!r}"
    for name in found:
        if name not in expected:
            yield f"says {ascii(name)[:80]}, which is no fact of a sample"
