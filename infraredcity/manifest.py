"""The manifest of a folder of samples: one row per frame for people and tools, facts per clip, index files of other readers."""

import csv
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from infraredcity.errors import ManifestError, MissingExtraError
from infraredcity.index import BLOCK_BYTES, FROZEN, REPEAT, SUSPECT, SampleIndex
from infraredcity.storage import write_atomic

if TYPE_CHECKING:
    import pandas as pd

CLIPS_NAME = "clips.json"
CSV_NAME = "manifest.csv"
PARQUET_NAME = "manifest.parquet"
WIDS_NAME = "index.json"
FORMAT = "infraredcity-clips-1"
_MARK_WORDS = tuple(
    "+".join(word for bit, word in ((SUSPECT, "suspect"), (REPEAT, "repeat"), (FROZEN, "frozen")) if mark & bit)
    for mark in range(SUSPECT + REPEAT + FROZEN + 1)
)


Columns = dict[str, list[Any]]
"""The manifest's columns by name, all of one length."""
_WHOLE = ("frame_index", "pts", "run_id", "offset", "size", "width", "height")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What is known of a clip's samples as a whole.

    Attributes:
        clip_id: The clip.
        scene: What is filmed.
        weather: "clear", "overcast" or "any".
        modality: "infrared" or "visible".
        time_of_day: "night" or "day".
        time_base: Seconds per unit of pts, as "1/15360".
        nominal_fps: Frames per second that the container states.
        width_px: Width of the stills.
        height_px: Height of the stills.
        frame_step: Clip frames from one sample to the next.
        clip_frames: Frames of the whole clip.
        sources: For each file: name, size_bytes, packets_sha256, num_frames, codec, pixel_format.
        extraction: The ExtractConfig as plain values.
        versions: Version of each library that shaped the bytes.
        suspect: What makes the clip less than trustworthy.
        num_suspect: Samples that follow damage.
        num_repeats: Samples that show the same picture as the one before.
        num_frozen: Samples that hardly differ from the one before, as a thermal camera's shutter makes them.
        tone: Counts that become black ("low") and white ("high"), for clips of more than 8 bits; None for others.
        is_inverted: Whether levels were turned around, so that hot is where cold was.
    """

    clip_id: str
    scene: str
    weather: str
    modality: str
    time_of_day: str
    time_base: str
    nominal_fps: float
    width_px: int
    height_px: int
    frame_step: int
    clip_frames: int
    sources: list[dict[str, Any]] = field(default_factory=list)
    extraction: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    suspect: list[str] = field(default_factory=list)
    num_suspect: int = 0
    num_repeats: int = 0
    num_frozen: int = 0
    tone: dict[str, int] | None = None
    is_inverted: bool = False


def write_clips(folder: Path, clips: Sequence[ClipFacts]) -> None:
    """Write `folder`/clips.json. Written last, it marks a folder as complete."""
    payload = {"format": FORMAT, "clips": {facts.clip_id: asdict(facts) for facts in clips}}
    write_atomic(folder / CLIPS_NAME, (json.dumps(payload, indent=1) + "\n").encode())


def read_clips(folder: Path) -> dict[str, ClipFacts]:
    """The clips of `folder`/clips.json by id.

    Raises:
        ManifestError: The file is missing, damaged or of another format.
    """
    path = folder / CLIPS_NAME
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file; finish extraction there first") from error
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: damaged ({error}); build it again") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ManifestError(f"{path}: not of format {FORMAT!r}; build it again with this version")
    known = {item.name for item in fields(ClipFacts)}
    try:
        return {
            clip_id: ClipFacts(**{name: value for name, value in facts.items() if name in known})
            for clip_id, facts in payload["clips"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: lacks a fact ({error}); build it again") from error


def columns(index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> Columns:
    """One row per sample, in the order of the index.

    Columns: key, clip, modality, time_of_day, scene, weather, split, frame_index, pts, time_s, run_id, mark ("suspect", "repeat",
    "frozen", joined by "+", or empty), shard, offset (bytes), size (bytes), sha256 (of the image's bytes), width, height (pixels).
    """
    of_row = [clips[index.clips[number]] for number in index.clip.tolist()]
    time_bases = {clip_id: float(Fraction(facts.time_base)) for clip_id, facts in clips.items()}
    seconds = index.pts * np.array([time_bases[facts.clip_id] for facts in of_row], np.float64)
    shard_names = [info.name for info in index.shards]
    return {
        "key": index.keys(),
        "clip": [facts.clip_id for facts in of_row],
        "modality": [facts.modality for facts in of_row],
        "time_of_day": [facts.time_of_day for facts in of_row],
        "scene": [facts.scene for facts in of_row],
        "weather": [facts.weather for facts in of_row],
        "split": [split] * len(index),
        "frame_index": index.frame_index.tolist(),
        "pts": index.pts.tolist(),
        "time_s": np.round(seconds, 6).tolist(),
        "run_id": index.run_id.tolist(),
        "mark": [_MARK_WORDS[mark] for mark in index.mark.tolist()],
        "shard": [shard_names[number] for number in index.shard.tolist()],
        "offset": index.offset.tolist(),
        "size": index.size.tolist(),
        "sha256": [row.tobytes().hex() for row in index.sha256],
        "width": [facts.width_px for facts in of_row],
        "height": [facts.height_px for facts in of_row],
    }


def table(index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> "pd.DataFrame":
    """The columns as a pandas table, to look at and to select from."""
    frame: pd.DataFrame = _pandas().DataFrame(columns(index, clips, split=split))
    return frame


def write_columns(folder: Path, rows: Columns) -> None:
    """Write `folder`/manifest.csv and manifest.parquet. Without pandas, which takes longer to load than a short clip to extract."""
    pyarrow, parquet = _pyarrow()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows)
    writer.writerows(zip(*rows.values(), strict=True))
    write_atomic(folder / CSV_NAME, text.getvalue().encode())
    data = pyarrow.table({name: _arrow_array(pyarrow, name, values) for name, values in rows.items()})
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(data, buffer)
    write_atomic(folder / PARQUET_NAME, buffer.getvalue().to_pybytes())


def _arrow_array(pyarrow: Any, name: str, values: list[Any]) -> Any:
    """A column for parquet, made from its bytes: `pyarrow.array` would load pandas, to see whether it is given a series."""
    if name in _WHOLE or name == "time_s":
        kind, dtype = (pyarrow.float64(), np.float64) if name == "time_s" else (pyarrow.int64(), np.int64)
        return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(np.array(values, dtype))])
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    text = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), len(values), text)


def write_reader_indexes(folder: Path, index: SampleIndex, *, name: str) -> None:
    """Write what other readers look up: index.json for wids, and one `.idx` beside each shard for DALI (its version 1.2)."""
    shards = [{"url": info.name, "nsamples": info.num_samples, "filesize": info.size_bytes} for info in index.shards]
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": shards}
    write_atomic(folder / WIDS_NAME, (json.dumps(wids, indent=1) + "\n").encode())
    for number, info in enumerate(index.shards):
        lines = [f"v1.2 {info.num_samples}"]
        with (folder / info.name).open("rb") as shard:
            for row in np.flatnonzero(index.shard == number).tolist():
                key, offset, size = index.key(row), int(index.offset[row]), int(index.size[row])
                json_offset = offset + size + (-size % BLOCK_BYTES) + BLOCK_BYTES
                json_size = _member_size(shard, json_offset)
                end = offset - BLOCK_BYTES + int(index.span[row])
                if json_size is None or json_offset + json_size + (-json_size % BLOCK_BYTES) != end:
                    raise ManifestError(
                        f"{folder / info.name}: sample {key} ends elsewhere than its index says; build it again"
                    )
                image_name = f"{key}.{index.image_format}"
                lines.append(
                    f"{index.image_format} {offset} {size} {image_name} json {json_offset} {json_size} {key}.json"
                )
        write_atomic((folder / info.name).with_suffix(".idx"), ("\n".join(lines) + "\n").encode())


def _member_size(shard: BinaryIO, data_offset: int) -> int | None:
    """Bytes of the member whose data begins at `data_offset`, read from the tar header before it; None where none stands."""
    shard.seek(data_offset - BLOCK_BYTES)
    try:
        return int(shard.read(BLOCK_BYTES)[124:135], 8)
    except ValueError:
        return None


def check_packages() -> None:
    """MissingExtraError now rather than at the end of a long extraction."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", extra="extract", needed_for="writing manifest.parquet")


def _pyarrow() -> tuple[Any, Any]:
    check_packages()
    import pyarrow
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise MissingExtraError("pandas", extra="extract", needed_for="the manifest as a table") from error
    return pandas
