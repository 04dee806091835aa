"""The manifest of a folder of samples: one row per frame for people and tools, facts per clip, index files of other readers."""

import csv
import hashlib
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
"""The manifest's columns by name, all of one length, in the order of COLUMNS."""
COLUMNS = ("key", "clip", "modality", "time_of_day", "scene", "weather", "split", "frame_index", "pts", "time_s", "run_id", "shard",
           "offset", "size", "sha256", "width", "height", "dup_of", "suspect", "mark")  # fmt: skip
COLUMN_KINDS: dict[str, type] = {name: str for name in COLUMNS} | {
    "frame_index": int, "pts": int, "time_s": float, "run_id": int, "offset": int, "size": int, "width": int, "height": int,
    "suspect": bool,
}  # fmt: skip
_ROWS_AT_ONCE = 10_000
_PLACES = ("shard", "offset", "size")
"""Where a sample lies; all other columns say what it is."""


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


def write_clips(folder: Path, clips: Sequence[ClipFacts], *, split: str = "all") -> None:
    """Write `folder`/clips.json. Written last, it marks a folder as complete."""
    payload = {"format": FORMAT, "split": split, "clips": {facts.clip_id: asdict(facts) for facts in clips}}
    write_atomic(folder / CLIPS_NAME, (json.dumps(payload, indent=1) + "\n").encode())


def read_clips(folder: Path) -> dict[str, ClipFacts]:
    """The clips of `folder`/clips.json by id.

    Raises:
        ManifestError: The file is missing, damaged or of another format.
    """
    return read_folder(folder)[0]


def read_folder(folder: Path) -> tuple[dict[str, ClipFacts], str]:
    """The clips of `folder`/clips.json by id, and the split that its samples belong to: "all", "train" or "test".

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
    """The name of a fact that cannot be what clips.json says of this clip; None where all can be worked with."""
    kinds = {
        str: ("scene", "weather", "modality", "time_of_day", "time_base"),
        int: ("width_px", "height_px", "frame_step", "clip_frames", "num_suspect", "num_repeats", "num_frozen"),
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


def read_unchecked(folder: Path) -> tuple[dict[str, ClipFacts], str]:
    """As `read_folder`, but facts are taken as they are, for who wants to put them right; see `flaw_of`.

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
        clips = {
            clip_id: ClipFacts(**{name: value for name, value in facts.items() if name in known})
            for clip_id, facts in payload["clips"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: lacks a fact ({error}); build it again") from error
    return clips, str(payload.get("split", "all"))


def columns(index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> Columns:
    """One row per sample, in the order of the index.

    Columns: key, clip, modality, time_of_day, scene, weather, split, frame_index, pts, time_s, run_id, shard, offset (bytes), size
    (bytes), sha256 (of the image's bytes), width, height (pixels), dup_of (key of an earlier sample that shows the same or nearly
    so, or empty), suspect (whether it follows damage), mark ("suspect", "repeat", "frozen", joined by "+", or empty).
    """
    of_row = [clips[index.clips[number]] for number in index.clip.tolist()]
    time_bases = {clip_id: float(Fraction(facts.time_base)) for clip_id, facts in clips.items()}
    seconds = index.pts * np.array([time_bases[facts.clip_id] for facts in of_row], np.float64)
    shard_names = [info.name for info in index.shards]
    marks = index.mark.tolist()
    rows: Columns = {
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
        "shard": [shard_names[number] for number in index.shard.tolist()],
        "offset": index.offset.tolist(),
        "size": index.size.tolist(),
        "sha256": [row.tobytes().hex() for row in index.sha256],
        "width": [facts.width_px for facts in of_row],
        "height": [facts.height_px for facts in of_row],
        "dup_of": [key.decode() for key in index.dup_of.tolist()],
        "suspect": [bool(mark & SUSPECT) for mark in marks],
        "mark": [_MARK_WORDS[mark] for mark in marks],
    }
    assert tuple(rows) == COLUMNS
    return rows


def in_folder(rows: Columns, folder: str) -> Columns:
    """The columns with `folder`/ before each shard's name, for a manifest further up; "." changes nothing."""
    return rows if folder == "." else {**rows, "shard": [f"{folder}/{name}" for name in rows["shard"]]}


def concatenate(parts: Sequence[Columns]) -> Columns:
    """All rows of several manifests, in the given order."""
    return {name: [value for part in parts for value in part[name]] for name in COLUMNS}


def take(rows: Columns, chosen: Sequence[int] | np.ndarray) -> Columns:
    """Some rows, in the given order."""
    numbers = np.asarray(chosen, np.int64).tolist()
    return {name: [values[number] for number in numbers] for name, values in rows.items()}


def rows_hash(rows: Columns) -> str:
    """sha256 over the canonical rows: what the samples are, sorted by split and key, whatever shards they lie in.

    A canonical row is the line that manifest.csv has for a sample, less shard, offset and size.
    """
    names = [name for name in COLUMNS if name not in _PLACES]
    order = sorted(range(len(rows["key"])), key=lambda row: (rows["split"][row], rows["key"][row]))
    columns_told = [_told(rows[name]) for name in names]
    digest = hashlib.sha256((",".join(names) + "\n").encode())
    for start in range(0, len(order), _ROWS_AT_ONCE):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([column[row] for column in columns_told] for row in order[start : start + _ROWS_AT_ONCE])
        digest.update(text.getvalue().encode())
    return digest.hexdigest()


def read(path: Path) -> Columns:
    """The rows of a manifest, as `write_columns` wrote them or as `select` did: parquet by its suffix, else csv.

    Raises:
        ManifestError: It is missing or damaged, lacks a column, or names a shard outside its folder.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        OverflowError,
        NotImplementedError,
        csv.Error,
    ) as error:
        said = str(error).partition("\n")[0]
        raise ManifestError(f"{path}: damaged, or not a manifest ({said}); build it again") from error
    for name in set(rows["shard"]):
        if name != "." and not is_inside(name):  # a picture file of its own lies in the folder itself
            raise ManifestError(f"{path}: names a shard outside its folder, {name!a}; do not use it")
    return rows


def is_inside(name: str) -> bool:
    """Whether a path with forward slashes stays below the folder that it starts from."""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in parts)


def _read_csv(path: Path) -> Columns:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _check_header(header)
        lines = list(reader)
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"a row has not {len(header)} values")
    by_name = dict(zip(header, zip(*lines, strict=True), strict=True)) if lines else dict.fromkeys(header, ())
    return {name: _parsed(name, by_name[name]) for name in COLUMNS}


def _parsed(name: str, values: Sequence[str]) -> list[Any]:
    kind = COLUMN_KINDS[name]
    if kind is bool:
        words = {"true": True, "false": False}
        if not words.keys() >= {*values}:
            raise ValueError(f"{name} must be true or false")
        return [words[value] for value in values]
    return list(map(kind, values))


def _read_parquet(path: Path) -> Columns:
    _, parquet = _pyarrow()
    data = parquet.read_table(path)
    _check_header(data.column_names)
    rows: Columns = {name: data.column(name).to_pylist() for name in COLUMNS}
    for name, values in rows.items():
        kind = COLUMN_KINDS[name]
        if not all(type(value) is kind for value in values):
            raise ValueError(f"column {name} holds other things than {kind.__name__}")
    return rows


def _check_header(names: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"lacks the column {missing[0]}")
    if len({*names}) != len(names):
        raise ValueError("a column occurs twice")


def _told(values: list[Any]) -> list[Any]:
    """Values as csv shows them: true and false in small letters, as json, parquet's printers and pandas read them."""
    return [str(value).lower() for value in values] if values and type(values[0]) is bool else values


def table(index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> "pd.DataFrame":
    """The columns as a pandas table, to look at and to select from."""
    frame: pd.DataFrame = _pandas().DataFrame(columns(index, clips, split=split))
    return frame


def write_columns(folder: Path, rows: Columns) -> None:
    """Write `folder`/manifest.csv and manifest.parquet."""
    write_atomic(folder / CSV_NAME, csv_bytes(rows))
    write_atomic(folder / PARQUET_NAME, parquet_bytes(rows))


def csv_bytes(rows: Columns) -> bytes:
    """The columns as csv: a header, a line for each sample."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows)
    writer.writerows(zip(*map(_told, rows.values()), strict=True))
    return text.getvalue().encode()


def parquet_bytes(rows: Columns) -> bytes:
    """The columns as parquet. Without pandas, which takes longer to load than a short clip to extract."""
    pyarrow, parquet = _pyarrow()
    data = pyarrow.table({name: _arrow_array(pyarrow, name, values) for name, values in rows.items()})
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(data, buffer)
    packed: bytes = buffer.getvalue().to_pybytes()
    return packed


def _arrow_array(pyarrow: Any, name: str, values: list[Any]) -> Any:
    """A column for parquet, made from its bytes: `pyarrow.array` would load pandas, to see whether it is given a series."""
    kind = COLUMN_KINDS[name]
    if kind is not str:
        arrow = {int: pyarrow.int64, float: pyarrow.float64, bool: pyarrow.bool_}[kind]()
        array: np.ndarray = np.array(values, {int: np.int64, float: np.float64, bool: np.bool_}[kind])
        packed = np.packbits(array, bitorder="little") if kind is bool else array
        return pyarrow.Array.from_buffers(arrow, len(values), [None, pyarrow.py_buffer(packed)])
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    text = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), len(values), text)


def write_reader_indexes(folder: Path, index: SampleIndex, *, name: str) -> None:
    """Write what other readers look up: index.json for wids, and one `.idx` beside each shard for DALI (its version 1.2)."""
    write_atomic(folder / WIDS_NAME, wids_bytes(index, name=name))
    for number, info in enumerate(index.shards):
        write_atomic((folder / info.name).with_suffix(".idx"), dali_bytes(folder, index, number))


def wids_bytes(index: SampleIndex, *, name: str) -> bytes:
    """index.json for wids, its version 1: name, samples and bytes of each shard."""
    shards = [{"url": info.name, "nsamples": info.num_samples, "filesize": info.size_bytes} for info in index.shards]
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": shards}
    return (json.dumps(wids, indent=1) + "\n").encode()


def dali_bytes(folder: Path, index: SampleIndex, number: int) -> bytes:
    """The `.idx` of one shard for DALI, its version 1.2: a line for each sample, four words for each of its two members.

    Raises:
        ManifestError: The index contradicts the shard.
    """
    info = index.shards[number]
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
            lines.append(f"{index.image_format} {offset} {size} {image_name} json {json_offset} {json_size} {key}.json")
    return ("\n".join(lines) + "\n").encode()


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
