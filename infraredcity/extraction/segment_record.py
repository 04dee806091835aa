"""Segment records: one small file in `segments/` for each segment that is written, the proof that its shard is whole.

A record is written after its shard got its name (or was sent whole), and appears whole itself. It is two lines of JSON: the
segment as a whole (`SegmentHead`; enough to know what is outstanding), with how many bytes follow; and its samples as columns
(`SegmentRows`; enough to build index and manifest without opening a shard).
"""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from infraredcity.datasets.walk import SEGMENTS_FOLDER
from infraredcity.errors import OutputError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.segments import segment_of
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath, RemotePath, folder_listing, is_remote
from infraredcity.files.records import MAX_SIDECAR_BYTES, opened, parse_json, read_whole
from infraredcity.files.source import UNKNOWN_BYTES
from infraredcity.shards.index import FIELDS, ShardInfo
from infraredcity.shards.names import key_of
from infraredcity.stills.formats import suffix_of

FORMAT = "infraredcity-segment-2"
_HEAD_BYTES = 4096
_REMOTE_READERS = 32
RECORDED = tuple(name for name in FIELDS if name not in ("clip", "run_id", "mark", "shard", "dup_of"))
"""Columns of the index that a segment record holds; merging makes the others."""
COLUMNS = (*(name for name in RECORDED if name not in ("width", "height", "sha256")), "json_size")
"""Columns that are a list of numbers in the record: those of the index that it does not pack, and the bytes of the json member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHead:
    """The first line of a segment record: the segment as a whole."""

    job_identity: str
    """Identity of the job that it belongs to, see `JobSpec.identity`."""
    number: int
    """Position among the clip's segments."""
    shard: ShardInfo | None
    """Its shard with sha256; the folder itself, ".", for plain files; None when none of its frames could be decoded."""
    num_missing: int
    """Frames of the segment that could not be decoded, or were left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentRows:
    """The second line of a segment record: its samples as columns of one length, and the frames that are missing."""

    columns: Mapping[str, list[int]]
    """COLUMNS by name, see `IndexEntry`; json_size is the bytes of the json member, 0 for plain files."""
    picture_sizes: list[tuple[int, int, int]]
    """Ranges of stills of one size: how many, their width, their height."""
    sha256: bytes
    """32 bytes for each image."""
    differences: list[float | None]
    """How far each is from the one before; None where that one is missing, of another size, or in another segment."""
    first_glance: np.ndarray | None
    """A few pixels of the first sample, to compare it with the segment before; None without samples."""
    last_glance: np.ndarray | None
    """A few pixels of the last sample; None without samples."""
    suspect: list[int]
    """Frame indices of the samples that follow damage."""
    missing: list[int]
    """Frame indices that could not be decoded, or were left out."""
    dropped: list[int]
    """Those of `missing` that were left out as asked."""

    def __len__(self) -> int:
        return len(self.frame_index)

    @property
    def frame_index(self) -> list[int]:
        """Return the index of each sample in its clip."""
        return self.columns["frame_index"]

    def index_columns(self) -> dict[str, np.ndarray]:
        """Return RECORDED by name, as the index has them; the segment has a sample at least."""
        counts, widths, heights = np.array(self.picture_sizes).T
        unpacked = {
            "width": np.repeat(widths, counts),
            "height": np.repeat(heights, counts),
            "sha256": np.frombuffer(self.sha256, np.uint8).reshape(-1, 32),
        }
        return {name: unpacked[name] if name in unpacked else np.array(self.columns[name]) for name in RECORDED}


def record_path(folder: AnyPath, number: int) -> AnyPath:
    """Return the file of a segment's record in the folder of its clip."""
    return folder / SEGMENTS_FOLDER / f"{number:06d}.jsonl"


def number_of(name: str) -> int | None:
    """Return the number of the segment whose record a file's name is; None for another file."""
    stem = name.removesuffix(".jsonl")
    return int(stem) if name.endswith(".jsonl") and stem.isdecimal() else None


def list_records(folder: AnyPath) -> dict[int, int]:
    """Return the bytes of each segment record of a clip, by segment number; UNKNOWN_BYTES where a listing does not give them.

    On a disk it does not: to ask for the sizes of a million files takes a while.
    """
    below = folder / SEGMENTS_FOLDER
    sizes: dict[str, int] = {}
    with suppress(FileNotFoundError):
        if isinstance(below, RemotePath):
            sizes = {name: size for name, size in folder_listing(below).items() if size is not None}
        else:
            with os.scandir(below) as found:
                sizes = {entry.name: UNKNOWN_BYTES for entry in found}
    return {number: size for name, size in sizes.items() if (number := number_of(name)) is not None}


def write(folder: AnyPath, head: SegmentHead, rows: SegmentRows) -> None:
    """Write the record of a segment whose shard is there, whole; with it the segment is done."""
    write_atomic(record_path(folder, head.number), to_bytes(head, rows))


def to_bytes(head: SegmentHead, rows: SegmentRows) -> bytes:
    """Return the bytes of a segment record."""
    shard = head.shard
    second = _line(
        {
            **{name: rows.columns[name] for name in COLUMNS},
            "picture_sizes": rows.picture_sizes,
            "sha256": base64.b64encode(rows.sha256).decode("ascii"),
            "differences": rows.differences,
            "glances": [_packed(rows.first_glance), _packed(rows.last_glance)],
            "suspect": rows.suspect,
            "missing": rows.missing,
            "dropped": rows.dropped,
        }
    )
    first = {
        "format": FORMAT,
        "claim": head.job_identity,
        "number": head.number,
        "shard": None if shard is None else [shard.name, shard.num_samples, shard.size_bytes, shard.sha256],
        "num_missing": head.num_missing,
        "rows_bytes": len(second),
    }
    return _line(first) + second


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, separators=(",", ":")) + "\n").encode()


def read(path: AnyPath, size_bytes: int = UNKNOWN_BYTES) -> tuple[SegmentHead, SegmentRows]:
    """Read a segment record; a remote one of known size takes one request, not two.

    Raises:
        OutputError: It is missing or damaged: the segment is not done.
    """
    try:
        if isinstance(path, RemotePath) and size_bytes != UNKNOWN_BYTES:
            return from_bytes(path.read_start(size_bytes), name=str(path))
        return from_bytes(read_whole(path, MAX_SIDECAR_BYTES), name=str(path))
    except OSError as error:
        raise _not_done(str(path), error) from error


def from_bytes(data: bytes, *, name: str) -> tuple[SegmentHead, SegmentRows]:
    """Parse a segment record.

    Raises:
        OutputError: It is damaged; `name` names the file.
    """
    try:
        first, second = data.splitlines()
        payload = parse_json(second)
        columns: dict[str, list[int]] = {column: payload[column] for column in COLUMNS}
        rows = SegmentRows(
            columns=columns,
            picture_sizes=[(count, width, height) for count, width, height in payload["picture_sizes"]],
            sha256=base64.b64decode(payload["sha256"], validate=True),
            differences=payload["differences"],
            first_glance=_unpacked(payload["glances"][0]),
            last_glance=_unpacked(payload["glances"][1]),
            suspect=payload["suspect"],
            missing=payload["missing"],
            dropped=payload["dropped"],
        )
        lengths = {len(values) for values in columns.values()} | {
            len(rows.differences),
            len(rows.sha256) / 32,
            sum(count for count, _, _ in rows.picture_sizes),
        }
        if len(lengths) != 1:
            raise ValueError("its columns have several lengths")
        return _head(first, name, len(data)), rows
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _not_done(name, error) from error


def read_head(path: AnyPath, size_bytes: int = UNKNOWN_BYTES) -> SegmentHead:
    """Read the first line of a segment record, not its samples; a remote one of known size takes one request.

    Raises:
        OutputError: It is missing or damaged: the segment is not done.
    """
    try:
        if isinstance(path, RemotePath):
            if size_bytes == UNKNOWN_BYTES:
                size_bytes = path.stat().st_size
            data = path.read_start(min(size_bytes, _HEAD_BYTES))
        else:
            with opened(path) as file:
                data = file.read(_HEAD_BYTES)
                size_bytes = os.fstat(file.fileno()).st_size
        return _head(data.partition(b"\n")[0], str(path), size_bytes)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _not_done(str(path), error) from error


def read_heads(
    folder: AnyPath, numbers: Sequence[int], sizes: Mapping[int, int] = MappingProxyType({})
) -> Iterator[tuple[int, SegmentHead | None]]:
    """Yield the heads of some segments of a clip, in order; None for a segment without a readable record.

    Args:
        folder: The clip's folder.
        numbers: The segments.
        sizes: What `list_records` returned, if it was called.
    """
    return _in_order(folder, numbers, sizes, _head_or_none)


def read_all(folder: AnyPath, numbers: Sequence[int]) -> Iterator[tuple[SegmentHead, SegmentRows]]:
    """Yield the records of some segments of a clip, in order.

    Raises:
        OutputError: One of them is not done.
    """
    # One listing gives the sizes of a thousand files, or is one request more for a few.
    sizes = list_records(folder) if is_remote(folder) else {}
    for _, record in _in_order(folder, numbers, sizes, read):
        yield record


def check_job(folder: AnyPath, head: SegmentHead, identity: str) -> None:
    """Check that a segment belongs to the job of this identity; OutputError where other settings or files gave it."""
    if head.job_identity != identity:
        raise OutputError(
            f"{record_path(folder, head.number)}: was written under another plan or other settings (job "
            f"{head.job_identity[:12]}, expected {identity[:12]}); delete it, or use the plan and the folder that belong together"
        )


def is_whole(
    folder: AnyPath,
    head: SegmentHead,
    *,
    clip_id: str,
    clip_frames: int,
    config: ExtractConfig,
    size_of: Callable[[str], int | None],
) -> bool:
    """Return whether the shard or the files of a segment are there, in the sizes that its record states.

    Args:
        folder: The clip's folder.
        head: The head of the segment's record.
        clip_id: The clip.
        clip_frames: Frames of the whole clip.
        config: What is written.
        size_of: Bytes of a file of that folder by its name; None where it is not there.
    """
    if head.shard is None:
        return head.num_missing == len(segment_of(clip_id, clip_frames, config, head.number).frames)
    if config.to == "shards":
        return size_of(head.shard.name) == head.shard.size_bytes
    try:
        _, rows = read(record_path(folder, head.number))
    except OutputError:
        return False
    names = [still_name(clip_id, frame_index, config) for frame_index in rows.frame_index]
    return all(size_of(name) == size for name, size in zip(names, rows.columns["size"], strict=True))


def still_name(clip_id: str, frame_index: int, config: ExtractConfig) -> str:
    """Name the file of a frame where plain files are written."""
    return f"{key_of(clip_id, frame_index)}.{suffix_of(config.image_format)}"


def _in_order(
    folder: AnyPath, numbers: Sequence[int], sizes: Mapping[int, int], read_one: Any
) -> Iterator[tuple[int, Any]]:
    """Yield what `read_one` makes of each record; remote ones are read many at a time."""
    if not isinstance(folder, RemotePath):
        for number in numbers:
            yield number, read_one(record_path(folder, number))
        return
    with ThreadPoolExecutor(max_workers=_REMOTE_READERS, thread_name_prefix="segment-records") as pool:
        for start in range(0, len(numbers), _REMOTE_READERS * 8):
            some = numbers[start : start + _REMOTE_READERS * 8]
            paths = [record_path(folder, number) for number in some]
            known = [sizes.get(number, UNKNOWN_BYTES) for number in some]
            yield from zip(some, pool.map(read_one, paths, known), strict=True)


def _head_or_none(path: AnyPath, size_bytes: int = UNKNOWN_BYTES) -> SegmentHead | None:
    try:
        return read_head(path, size_bytes)
    except OutputError:
        return None


def _head(line: bytes, name: str, size_bytes: int) -> SegmentHead:
    """Parse the first line of a record; ValueError where it is not that of the file `name` of `size_bytes`."""
    head = parse_json(line)
    if head["format"] != FORMAT:
        raise ValueError(f"format is {head['format']!r}, not {FORMAT!r}")
    if number_of(name.rpartition("/")[2]) != head["number"]:
        raise ValueError(f"it is that of segment {head['number']}")
    if len(line) + 1 + head["rows_bytes"] != size_bytes:
        raise ValueError(f"it has {size_bytes} bytes, expected {len(line) + 1 + head['rows_bytes']}")
    shard = head["shard"]
    return SegmentHead(
        job_identity=head["claim"],
        number=head["number"],
        shard=None
        if shard is None
        else ShardInfo(name=shard[0], num_samples=shard[1], size_bytes=shard[2], sha256=shard[3]),
        num_missing=head["num_missing"],
    )


def _not_done(name: str, error: Exception) -> OutputError:
    return OutputError(
        f"{name}: segment is not done ({error}); delete this file if it is there, then run the same command again"
    )


def _packed(glance: np.ndarray | None) -> list[Any] | None:
    if glance is None:
        return None
    return [glance.dtype.str, list(glance.shape), base64.b64encode(glance.tobytes()).decode("ascii")]


def _unpacked(packed: list[Any] | None) -> np.ndarray | None:
    if packed is None:
        return None
    dtype, shape, data = packed
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
