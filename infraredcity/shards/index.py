"""The sample index: where every sample of a folder of shards lies, as columns, and which samples follow one another.

A shard that is not in the index does not exist: a tar cut at a block boundary reads as a good, shorter shard in every reader, so
only the index with its sizes and hashes says what belongs to the data set. It needs only numpy, so that a loader stays small.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from infraredcity.errors import ManifestError
from infraredcity.shards.names import BLOCK_BYTES, key_of

BLOCK_ROWS = 65_536
"""How many samples become lines of text, or rows of a table, at a time."""
FIELDS: dict[str, type[np.generic]] = {
    "clip": np.int32, "frame_index": np.int64, "pts": np.int64, "run_id": np.int32, "mark": np.uint8, "shard": np.int32,
    "offset": np.int64, "size": np.int64, "span": np.int64, "width": np.int32, "height": np.int32, "sha256": np.uint8,
    "dup_of": np.bytes_,
}  # fmt: skip
"""The columns of an index in the order in which a file holds them, and what each is made of; sha256 has 32 of them a row."""
SUSPECT, REPEAT, FROZEN = 1, 2, 4
"""Bits of `mark`: follows damage; the same picture as the sample before; hardly another one than the sample before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One sample, as the writer of its shard knows it.

    Attributes:
        frame_index: 0-based index of the frame in its clip.
        pts: Presentation time in units of the clip's time_base.
        offset: Byte in the shard where the image's data begins; its tar header is the 512 bytes before it.
        size: Bytes of image data.
        span: Bytes of the whole sample in the tar, from the image's header to the padding of its last member.
        width: Pixels of a row of the image.
        height: Rows of the image.
        sha256: Hash of the image's bytes, in hexadecimal.
        mark: SUSPECT, REPEAT, FROZEN, added up; 0 for a frame like any other.
    """

    frame_index: int
    pts: int
    offset: int
    size: int
    span: int
    width: int
    height: int
    sha256: str
    mark: int = 0


_ENTRY_FIELDS = tuple(field.name for field in fields(IndexEntry) if field.name != "sha256")
"""Columns that hold what an entry says as it says it; hashes become bytes."""


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
        mark: u8 [N], see IndexEntry.
        shard: i32 [N].
        offset: i64 [N], see IndexEntry.
        size: i64 [N], see IndexEntry.
        span: i64 [N], see IndexEntry.
        width: i32 [N], see IndexEntry; 0 where nobody has looked, as in tars of others.
        height: i32 [N], likewise.
        sha256: u8 [N, 32], hash of the image's bytes.
        dup_of: S [N], key of an earlier sample that shows the same picture or nearly so, perhaps in another folder; empty for none.
    """

    clips: tuple[str, ...]
    frame_steps: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    image_format: str
    clip: np.ndarray
    frame_index: np.ndarray
    pts: np.ndarray
    run_id: np.ndarray
    mark: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    span: np.ndarray
    width: np.ndarray
    height: np.ndarray
    sha256: np.ndarray
    dup_of: np.ndarray

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in FIELDS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of an index must have one length, got {lengths}")
        if len(self.clips) != len(self.frame_steps):
            raise ValueError(f"{len(self.clips)} clips but {len(self.frame_steps)} frame steps")

    def __len__(self) -> int:
        return len(self.frame_index)

    def key(self, row: int) -> str:
        """Return the WebDataset key of a row."""
        return key_of(self.clips[int(self.clip[row])], int(self.frame_index[row]))

    def keys(self) -> list[str]:
        """Return the WebDataset keys of all rows."""
        return [self.key(row) for row in range(len(self))]

    def take(self, rows: np.ndarray) -> "SampleIndex":
        """Return the index of some rows; clips and shards keep their numbers."""
        return replace(self, **{name: getattr(self, name)[rows] for name in FIELDS})

    def rows_by_shard(self) -> Iterator[np.ndarray]:
        """Yield i64 [n] for each shard in turn: its rows, ascending."""
        order = np.argsort(self.shard, kind="stable")
        bounds = np.searchsorted(self.shard[order], np.arange(len(self.shards) + 1)).tolist()
        for start, stop in pairwise(bounds):
            yield order[start:stop]

    def blocks(self) -> Iterator["SampleIndex"]:
        """Yield the index in pieces of BLOCK_ROWS rows, for work that makes Python objects of all its rows."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield self.take(np.arange(start, min(start + BLOCK_ROWS, len(self))))

    def picture_sizes(self) -> dict[tuple[int, int], int]:
        """Count the samples of each width and height, see `picture_sizes`."""
        return picture_sizes(self.width, self.height)

    def sample_place(self, row: int) -> tuple[int, int]:
        """Return the byte where a row's sample begins in its shard, and how many bytes the sample takes."""
        return int(self.offset[row]) - BLOCK_BYTES, int(self.span[row])

    def samples_hash(self) -> str:
        """Hash what the samples are (clip, frame, time, run, picture), whatever shards they lie in."""
        digest = hashlib.sha256()
        for block in self.blocks():
            lines = (
                f"{self.clips[clip]},{frame_index},{pts},{run_id},{sha256.tobytes().hex()}\n"
                for clip, frame_index, pts, run_id, sha256 in zip(
                    block.clip.tolist(),
                    block.frame_index.tolist(),
                    block.pts.tolist(),
                    block.run_id.tolist(),
                    block.sha256,
                    strict=True,
                )
            )
            digest.update("".join(lines).encode("ascii"))
        return digest.hexdigest()

    def stretches(self, *, spans_stills: bool = False) -> np.ndarray:
        """Return i64 [S, 2]: first row and number of rows of every maximal stretch of true neighbours.

        Neighbours are rows of one clip, run and picture size whose frame indices differ by exactly the clip's frame step.

        Args:
            spans_stills: Whether a stretch goes on over repeats and frozen frames, which end a run.
        """
        if len(self) == 0:
            return np.zeros((0, 2), np.int64)
        step = np.array(self.frame_steps, np.int64)[self.clip]
        same_run = np.diff(self.run_id) == 0
        if spans_stills:
            stands_still = (self.mark & (REPEAT | FROZEN)) != 0
            same_run |= stands_still[1:] | stands_still[:-1]
        same_size = (np.diff(self.width) == 0) & (np.diff(self.height) == 0)
        follows = (np.diff(self.clip) == 0) & same_size & same_run & (np.diff(self.frame_index) == step[1:])
        starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        lengths = np.diff(np.concatenate([starts, [len(self)]]))
        return np.stack([starts, lengths], axis=1).astype(np.int64)


def picture_sizes(width: np.ndarray, height: np.ndarray) -> dict[tuple[int, int], int]:
    """Return how often each width and height occurs, i32 [N] both; the most frequent size first, of equals the smaller one."""
    sizes, counts = np.unique(np.stack([width, height], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable").tolist()
    return {(int(sizes[place, 0]), int(sizes[place, 1])): int(counts[place]) for place in order}


def no_duplicates(num_samples: int) -> np.ndarray:
    """Return the `dup_of` of samples of which none shows what another one showed."""
    return np.zeros(num_samples, "S1")


def unread(num_samples: int) -> dict[str, np.ndarray]:
    """Return the columns of samples whose pictures nobody has read: no marks, sizes, hashes or duplicates."""
    columns = {name: np.zeros(num_samples, FIELDS[name]) for name in ("mark", "width", "height", "dup_of")}
    return columns | {"sha256": np.zeros((num_samples, 32), FIELDS["sha256"])}


def repeated(clip_id: str, frame_indices: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Return the `dup_of` of one clip's samples by their marks: a repeat shows what the sample before its row of repeats showed."""
    is_repeat = (marks & REPEAT) != 0
    if not is_repeat.any():
        return no_duplicates(len(marks))
    before = np.maximum.accumulate(np.where(is_repeat, -1, np.arange(len(marks))))[is_repeat]
    frames = np.where(before < 0, -1, frame_indices[before]).tolist()  # -1: a clip that begins with repeats
    keys = np.array([key_of(clip_id, frame) if frame >= 0 else "" for frame in frames], "S")
    dup_of = np.zeros(len(marks), keys.dtype)
    dup_of[is_repeat] = keys
    return dup_of


def from_entries(
    *,
    clip_id: str,
    frame_step: int,
    image_format: str,
    shards: Iterable[tuple[ShardInfo, Sequence[IndexEntry]]],
    run_ids: np.ndarray,
    dup_of: np.ndarray | None = None,
) -> SampleIndex:
    """Return the index of one clip from what its shard writers returned, in order; `run_ids` is i32 [N] and `dup_of` S [N]."""
    infos: list[ShardInfo] = []
    columns = {name: [np.zeros(0, FIELDS[name])] for name in _ENTRY_FIELDS}
    shard_of = [np.zeros(0, np.int32)]
    hashes = bytearray()
    for info, entries in shards:  # its entries become columns before the next shard's are there
        for name, parts in columns.items():
            parts.append(np.array([getattr(entry, name) for entry in entries], FIELDS[name]))
        shard_of.append(np.full(len(entries), len(infos), np.int32))
        hashes += b"".join(bytes.fromhex(entry.sha256) for entry in entries)
        infos.append(info)
    return SampleIndex(
        clips=(clip_id,),
        frame_steps=(frame_step,),
        shards=tuple(infos),
        image_format=image_format,
        clip=np.zeros(len(run_ids), np.int32),
        run_id=run_ids.astype(np.int32),
        shard=np.concatenate(shard_of),
        sha256=np.frombuffer(bytes(hashes), np.uint8).reshape(-1, 32),
        dup_of=no_duplicates(len(run_ids)) if dup_of is None else dup_of,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    )


def concatenate(indexes: Sequence[SampleIndex], *, same_names: bool = False) -> SampleIndex:
    """Join the samples of several folders, in the given order; clips with the same id become one.

    Args:
        indexes: At least one.
        same_names: Whether shards of two folders may have one name; for callers that keep the folder of each shard by its number.

    Raises:
        ManifestError: A shard name occurs twice, the image formats differ, or one clip has two frame steps.
    """
    clips: dict[str, int] = {}
    shards: list[ShardInfo] = []
    names: set[str] = set()
    columns: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for index in indexes:
        if index.image_format != indexes[0].image_format:
            raise ManifestError(
                f"image formats differ: {indexes[0].image_format} and {index.image_format}; extract anew"
            )
        for clip_id, step in zip(index.clips, index.frame_steps, strict=True):
            if clips.setdefault(clip_id, step) != step:
                raise ManifestError(f"clip {clip_id} was extracted with --every {clips[clip_id]} and {step}; keep one")
        numbers = {clip_id: number for number, clip_id in enumerate(clips)}
        clip_numbers = np.array([numbers[clip_id] for clip_id in index.clips], np.int32)
        first_shard = len(shards)
        for info in index.shards:
            if info.name in names and not same_names:
                raise ManifestError(f"shard {info.name} occurs in two folders; rename one of the data sets")
            names.add(info.name)
            shards.append(info)
        for name in FIELDS:
            columns[name].append(getattr(index, name))
        columns["clip"][-1] = clip_numbers[index.clip] if len(index) else index.clip
        columns["shard"][-1] = index.shard + np.int32(first_shard)
    return SampleIndex(
        clips=tuple(clips),
        frame_steps=tuple(clips.values()),
        shards=tuple(shards),
        image_format=indexes[0].image_format,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    )


def run_ids(
    frame_indices: np.ndarray,
    *,
    frame_step: int,
    break_frames: Sequence[int] = (),
    marks: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
) -> np.ndarray:
    """Number the unbroken stretches of one clip: no window of frames may span a break.

    A run ends at a frame that is missing; where the clip says that something was lost (chunks of a recording, jumps of time);
    where suspect frames begin or end; where the pictures' size changes; and on both sides of a repeat or a frozen frame, whose time
    does not say when it was filmed.

    Args:
        frame_indices: i64 [N], ascending.
        frame_step: Clip frames from one extracted frame to the next.
        break_frames: Frame indices before which something is lost.
        marks: u8 [N], see IndexEntry; None when no frame is marked.
        sizes: i32 [N, 2], width and height; None where all are of one size.

    Returns:
        i32 [N], 0 for the first run.
    """
    if len(frame_indices) == 0:
        return np.zeros(0, np.int32)
    breaks = np.diff(frame_indices) != frame_step
    part = np.searchsorted(np.asarray(sorted(break_frames)), frame_indices, side="right")
    breaks |= np.diff(part) != 0
    if sizes is not None:
        breaks |= (np.diff(sizes, axis=0) != 0).any(axis=1)
    if marks is not None:
        breaks |= np.diff((marks & SUSPECT).astype(np.int8)) != 0
        stands_still = (marks & (REPEAT | FROZEN)) != 0
        breaks |= stands_still[1:] | stands_still[:-1]
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)
