"""The sample index: where every sample of a folder of shards lies, as columns, and which samples follow one another.

A shard that is not in the index does not exist: a tar cut at a block boundary reads as a good, shorter shard in every reader, so
only the index with its sizes and hashes says what belongs to the data set. It needs numpy alone, so that a loader stays small.
"""

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infraredcity.errors import ManifestError
from infraredcity.storage import write_atomic

INDEX_NAME = "index.npz"
FORMAT = "infraredcity-index-1"
FRAME_DIGITS = 8
BLOCK_BYTES = 512
"""The unit of a tar: headers are one block, data is padded to whole ones."""
# What zipfile, numpy and json raise over bytes that are not what was written.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, NotImplementedError, RuntimeError,
           zipfile.BadZipFile, struct.error, zlib.error)  # fmt: skip
_ARRAYS = ("clip", "frame_index", "pts", "run_id", "shard", "offset", "size", "span", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One sample, as whoever wrote it into a shard knows it.

    Attributes:
        frame_index: 0-based index of the frame in its clip.
        pts: Presentation time in units of the clip's time_base.
        offset: Byte in the shard where the image's data begins; its tar header is the 512 bytes before it.
        size: Bytes of image data.
        span: Bytes of the whole sample in the tar, from the image's header to the padding of its last member.
        sha256: Hash of the image's bytes, in hexadecimal.
    """

    frame_index: int
    pts: int
    offset: int
    size: int
    span: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One finished shard: its file name, how many samples and bytes it holds, and its sha256 in hexadecimal."""

    name: str
    num_samples: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleIndex:
    """All samples of a folder of shards, in the order of their clips and frames.

    Attributes:
        clips: Clip ids; `clip` numbers them.
        frame_steps: For each clip, how many clip frames lie from one extracted frame to the next (`--every`).
        shards: The shards; `shard` numbers them.
        image_format: File suffix of the image member: "jpg", "png" or "webp".
        clip: i32 [N].
        frame_index: i64 [N].
        pts: i64 [N].
        run_id: i32 [N], number of the unbroken stretch of its clip that a frame belongs to.
        shard: i32 [N].
        offset: i64 [N], see IndexEntry.
        size: i64 [N], see IndexEntry.
        span: i64 [N], see IndexEntry.
        sha256: u8 [N, 32], hash of the image's bytes.
    """

    clips: tuple[str, ...]
    frame_steps: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    image_format: str
    clip: np.ndarray
    frame_index: np.ndarray
    pts: np.ndarray
    run_id: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    span: np.ndarray
    sha256: np.ndarray

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _ARRAYS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of an index must have one length, got {lengths}")
        if len(self.clips) != len(self.frame_steps):
            raise ValueError(f"{len(self.clips)} clips but {len(self.frame_steps)} frame steps")

    def __len__(self) -> int:
        return len(self.frame_index)

    def key(self, row: int) -> str:
        """The WebDataset key of a row."""
        return key_of(self.clips[int(self.clip[row])], int(self.frame_index[row]))

    def keys(self) -> list[str]:
        """The WebDataset keys of all rows."""
        return [self.key(row) for row in range(len(self))]

    def take(self, rows: np.ndarray) -> "SampleIndex":
        """The index of some rows; clips and shards keep their numbers."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def rows_hash(self) -> str:
        """sha256 over what the samples are (clip, frame, time, run, picture), whatever shards they lie in."""
        digest = hashlib.sha256()
        for clip, frame_index, pts, run_id, sha256 in zip(
            self.clip.tolist(),
            self.frame_index.tolist(),
            self.pts.tolist(),
            self.run_id.tolist(),
            self.sha256,
            strict=True,
        ):
            line = f"{self.clips[clip]},{frame_index},{pts},{run_id},{sha256.tobytes().hex()}\n"
            digest.update(line.encode("ascii"))
        return digest.hexdigest()

    def stretches(self) -> np.ndarray:
        """i64 [S, 2]: first row and number of rows of every maximal stretch of true neighbours.

        Neighbours are rows of one clip and run whose frame indices differ by exactly the clip's frame step.
        """
        if len(self) == 0:
            return np.zeros((0, 2), np.int64)
        step = np.array(self.frame_steps, np.int64)[self.clip]
        follows = (np.diff(self.clip) == 0) & (np.diff(self.run_id) == 0) & (np.diff(self.frame_index) == step[1:])
        starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        lengths = np.diff(np.concatenate([starts, [len(self)]]))
        return np.stack([starts, lengths], axis=1).astype(np.int64)


def key_of(clip_id: str, frame_index: int) -> str:
    """The WebDataset key of a frame: no dot in it, zero-padded so that names sort like frames."""
    return f"{clip_id}_{frame_index:0{FRAME_DIGITS}d}"


def from_entries(
    *,
    clip_id: str,
    frame_step: int,
    image_format: str,
    shards: Sequence[tuple[ShardInfo, Sequence[IndexEntry]]],
    run_ids: np.ndarray,
) -> SampleIndex:
    """The index of one clip from what its shard writers returned, in order; `run_ids` is i32 [N] for all entries."""
    entries = [entry for _, shard_entries in shards for entry in shard_entries]
    shard_of = [number for number, (_, shard_entries) in enumerate(shards) for _ in shard_entries]
    hashes = b"".join(bytes.fromhex(entry.sha256) for entry in entries)
    return SampleIndex(
        clips=(clip_id,),
        frame_steps=(frame_step,),
        shards=tuple(info for info, _ in shards),
        image_format=image_format,
        clip=np.zeros(len(entries), np.int32),
        frame_index=np.array([entry.frame_index for entry in entries], np.int64),
        pts=np.array([entry.pts for entry in entries], np.int64),
        run_id=run_ids.astype(np.int32),
        shard=np.array(shard_of, np.int32),
        offset=np.array([entry.offset for entry in entries], np.int64),
        size=np.array([entry.size for entry in entries], np.int64),
        span=np.array([entry.span for entry in entries], np.int64),
        sha256=np.frombuffer(hashes, np.uint8).reshape(len(entries), 32),
    )


def concatenate(indexes: Sequence[SampleIndex]) -> SampleIndex:
    """One index over several folders' samples, in the given order; clips with the same id become one.

    Raises:
        ManifestError: A shard name occurs twice, the image formats differ, or one clip has two frame steps.
    """
    clips: dict[str, int] = {}
    shards: dict[str, ShardInfo] = {}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
    for index in indexes:
        if index.image_format != indexes[0].image_format:
            raise ManifestError(
                f"image formats differ: {indexes[0].image_format} and {index.image_format}; extract anew"
            )
        for clip_id, step in zip(index.clips, index.frame_steps, strict=True):
            if clips.setdefault(clip_id, step) != step:
                raise ManifestError(f"clip {clip_id} was extracted with --every {clips[clip_id]} and {step}; keep one")
        clip_numbers = np.array([list(clips).index(clip_id) for clip_id in index.clips], np.int32)
        first_shard = len(shards)
        for info in index.shards:
            if info.name in shards:
                raise ManifestError(f"shard {info.name} occurs in two folders; rename one of the data sets")
            shards[info.name] = info
        for name in _ARRAYS:
            columns[name].append(getattr(index, name))
        columns["clip"][-1] = clip_numbers[index.clip] if len(index) else index.clip
        columns["shard"][-1] = index.shard + np.int32(first_shard)
    return SampleIndex(
        clips=tuple(clips),
        frame_steps=tuple(clips.values()),
        shards=tuple(shards.values()),
        image_format=indexes[0].image_format,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    )


def save(index: SampleIndex, folder: Path) -> None:
    """Write `folder`/index.npz; the same bytes for the same index."""
    header = {
        "format": FORMAT,
        "clips": index.clips,
        "frame_steps": index.frame_steps,
        "image_format": index.image_format,
        "rows_hash": index.rows_hash(),
        "shards": [[info.name, info.num_samples, info.size_bytes, info.sha256] for info in index.shards],
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        **{name: getattr(index, name) for name in _ARRAYS},
    )
    write_atomic(folder / INDEX_NAME, buffer.getvalue())


def load(folder: Path) -> SampleIndex:
    """Read `folder`/index.npz.

    Raises:
        ManifestError: There is none, it is damaged, or it is of another format.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ManifestError(f"{path}: no index; finish extraction or make-lite there, or name a folder that has one")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                raise ManifestError(
                    f"{path}: format is {header['format']!r}, this version reads {FORMAT!r}; build it again"
                )
            return SampleIndex(
                clips=tuple(header["clips"]),
                frame_steps=tuple(header["frame_steps"]),
                image_format=header["image_format"],
                shards=tuple(
                    ShardInfo(name=name, num_samples=count, size_bytes=size, sha256=sha256)
                    for name, count, size, sha256 in header["shards"]
                ),
                **{name: arrays[name] for name in _ARRAYS},
            )
    except _DAMAGE as error:
        raise ManifestError(f"{path}: damaged or not an index ({error}); build it again") from error


def run_ids(
    frame_indices: np.ndarray, pts: np.ndarray, *, frame_step: int, part_starts: Sequence[int] = (0,)
) -> np.ndarray:
    """Number the unbroken stretches of one clip: no window of frames may span a break.

    A run ends at a frame that is missing, at the border of two chunks of a recording (what was filmed between them is unknown),
    and, in a clip of constant rate, where time jumps: frames were dropped before the file was written.

    Args:
        frame_indices: i64 [N], ascending.
        pts: i64 [N].
        frame_step: Clip frames from one extracted frame to the next.
        part_starts: Frame index of each chunk's first frame.

    Returns:
        i32 [N], 0 for the first run.
    """
    if len(frame_indices) == 0:
        return np.zeros(0, np.int32)
    breaks = np.diff(frame_indices) != frame_step
    part = np.searchsorted(np.asarray(part_starts), frame_indices, side="right")
    breaks |= np.diff(part) != 0
    steps = np.diff(pts)
    if len(steps):
        usual = float(np.median(steps))
        # Rounding to the time base moves a constant rate by a few percent; a variable rate spreads wider and has no "jump".
        is_constant_rate = float(np.mean(np.abs(steps - usual) <= 0.1 * usual)) >= 0.9
        if is_constant_rate:
            breaks |= steps > 1.5 * usual
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)
