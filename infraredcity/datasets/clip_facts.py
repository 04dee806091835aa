"""The facts of the clips of a shard folder, as clips.json holds them; written last, that file marks the folder as complete."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from typing import Any

from infraredcity.clips import ClipDescription
from infraredcity.errors import ManifestError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.records import read_json
from infraredcity.shards.sample_json import CLIP_FIELDS

CLIPS_NAME = "clips.json"
FORMAT = "infraredcity-clips-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts(ClipDescription):
    """What is known of a clip's samples as a whole."""

    time_base: str
    """Seconds per unit of pts, as "1/15360"."""
    nominal_fps: float
    """Frames per second that the container states."""
    frame_step: int
    """Clip frames from one sample to the next."""
    clip_frames: int
    """Frames of the whole clip."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """For each file: name, size_bytes, packets_sha256, num_frames, codec, pixel_format, streams, rotation_deg, pixel_aspect, hdr
    (`extraction.spec.sources_of`); of an import that counts anew also first_number, number_step and files."""
    extraction: dict[str, Any] = field(default_factory=dict)
    """The ExtractConfig as plain values."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version of each library that shaped the bytes."""
    suspect: list[str] = field(default_factory=list)
    """What makes the clip less than trustworthy."""
    notes: list[str] = field(default_factory=list)
    """What else is good to know of its files: other streams, rotation, pixel aspect, joined recordings."""
    num_suspect: int = 0
    """Samples that follow damage."""
    num_repeats: int = 0
    """Samples that show the same picture as the one before."""
    num_frozen: int = 0
    """Samples that hardly differ from the one before, as a thermal camera's shutter makes them."""
    tone: dict[str, int] | None = None
    """Counts that become black ("low") and white ("high"), for clips of more than 8 bits; None for others."""
    is_inverted: bool = False
    """Whether levels were turned around, so that hot is where cold was."""
    polarity: str = ""
    """How the stills of an infrared clip show heat, "white-hot" or "black-hot"; "" where that is not known."""


def write_clips(folder: AnyPath, clips: Sequence[ClipFacts], *, split: str = "all") -> None:
    """Write `folder`/clips.json. Written last, it marks a folder as complete."""
    payload = {"format": FORMAT, "split": split, "clips": {facts.clip_id: asdict(facts) for facts in clips}}
    write_atomic(folder / CLIPS_NAME, (json.dumps(payload, indent=1) + "\n").encode())


def read_clips(folder: AnyPath) -> dict[str, ClipFacts]:
    """Read the clips of `folder`/clips.json by id.

    Raises:
        ManifestError: The file is missing, damaged or of another format.
    """
    return read_folder(folder)[0]


def read_folder(folder: AnyPath) -> tuple[dict[str, ClipFacts], str]:
    """Read the clips of `folder`/clips.json by id, and the split that its samples belong to: "all", "train" or "test".

    Raises:
        ManifestError: The file is missing, damaged or of another format, or a fact is nothing it can be.
    """
    clips, split = read_unchecked(folder)
    for clip_id, facts in clips.items():
        flaw = flaw_of(clip_id, facts)
        if flaw is not None:
            raise ManifestError(
                f'{folder / CLIPS_NAME}: {flaw} of {clip_id!a} is nothing it can be; run "infraredcity repair"'
            )
    return clips, split


def flaw_of(clip_id: str, facts: ClipFacts) -> str | None:
    """Name a fact that cannot be what clips.json says of this clip; None where all can be worked with."""
    kinds = {
        str: CLIP_FIELDS,
        int: ("frame_step", "clip_frames", "num_suspect", "num_repeats", "num_frozen"),
        dict: ("extraction",),
        list: ("sources",),
    }
    for kind, names in kinds.items():
        for name in names:
            if type(getattr(facts, name)) is not kind:
                return name
    try:
        Fraction(facts.time_base)
    except (ValueError, ZeroDivisionError):
        return "time_base"
    try:
        range(0)[facts.extraction.get("start_frame", 0) : facts.extraction.get("stop_frame")]
    except TypeError:
        return "extraction"
    if not all(isinstance(source, dict) and isinstance(source.get("num_frames"), int) for source in facts.sources):
        return "sources"
    return None if facts.clip_id == clip_id and facts.frame_step > 0 else "clip_id or frame_step"


def read_unchecked(folder: AnyPath) -> tuple[dict[str, ClipFacts], str]:
    """Read as `read_folder`, but take facts as they are, to put them right; see `flaw_of`.

    Raises:
        ManifestError: The file is missing, damaged or of another format.
    """
    path = folder / CLIPS_NAME
    try:
        payload = read_json(path)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; finish extraction there first") from error
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: damaged ({error}); build it again") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ManifestError(f"{path}: not of format {FORMAT!r}; build it again with this version")
    known = {item.name for item in fields(ClipFacts)}
    try:
        clips = {
            clip_id: ClipFacts(**{name: value for name, value in facts.items() if name in known})
            for clip_id, facts in payload["clips"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: lacks a fact ({error}); build it again") from error
    return clips, str(payload.get("split", "all"))
