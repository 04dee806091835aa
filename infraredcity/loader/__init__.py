"""Windows of frames from shards to any PyTorch program: by position, for any rank of any world, resumed by a number.

```python
from infraredcity.loader import WindowReader, batches

reader = WindowReader(["lite/city/infrared-train/*.tar"], window_frames=2)
for windows in batches(reader, batch_size=8, rank=0, world_size=1, start_step=0):
    windows.frames  # u8 [8, 2, C, H, W]
```
"""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from infraredcity import index as sample_index
from infraredcity.catalog import ColorMode
from infraredcity.errors import MissingExtraError, ShardError
from infraredcity.images import decode
from infraredcity.index import SampleIndex
from infraredcity.order import WindowOrder, WindowTable, positions_of, window_table
from infraredcity.shard_reader import ShardFiles

try:
    import torch
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtraError("torch", extra="loader", needed_for="infraredcity.loader") from error

PREFETCH_BATCHES = 3
_Batch = TypeVar("_Batch")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameWindows:
    """A batch of windows of one domain.

    Attributes:
        frames: u8 [B, T, C, H, W], 0..255; C is 1 for gray and 3 for R, G, B.
        keys: For each window, the WebDataset keys of its T frames.
        positions: i64 [B], the stream positions the windows stand at.
    """

    frames: torch.Tensor
    keys: tuple[tuple[str, ...], ...]
    positions: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnpairedBatch:
    """What one rank trains on at one step: windows of two domains that have nothing to do with each other."""

    step: int
    infrared: FrameWindows
    visible: FrameWindows


class WindowReader:
    """Windows of one domain by their position in the endless shuffled stream.

    Args:
        sources: Tar files or glob patterns of tar files; the folder of each must hold its index.npz.
        window_frames: T, frames per window.
        stride: Samples from one frame of a window to the next.
        color: "gray" or "rgb": channels of the frames, whatever the files hold.
        size: (height, width) that frames are resized to (bicubic, antialiased), or None to take them as they are.
        seed: Another seed is another order.
        threads: Decoding threads; one per usable core by default.

    Raises:
        ShardError: No shard matches, a shard is not in its folder's index, or the shards hold no window.
        ManifestError: A folder has no index, or a damaged one.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        *,
        window_frames: int = 2,
        stride: int = 1,
        color: ColorMode = "rgb",
        size: tuple[int, int] | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.index, folders = open_shards(sources)
        self.table: WindowTable = window_table(self.index, window_frames=window_frames, stride=stride)
        if self.table.num_windows == 0:
            raise ShardError(
                f"{', '.join(map(str, sources))}: {len(self.index)} samples hold no window of {window_frames} frames "
                f"at stride {stride}; take fewer frames or longer runs"
            )
        self.order = WindowOrder(num_windows=self.table.num_windows, seed=seed, data_hash=self.index.rows_hash())
        self._color: ColorMode = color
        self._size = size
        self._files = ShardFiles(self.index, folders)
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), thread_name_prefix="decode")

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return self.table.num_windows

    def read(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        """The windows at some stream positions, in that order; a frame that two of them share is decoded once.

        Raises:
            ShardError: A shard is missing or shorter than its index says.
            ImageError: A picture is damaged.
        """
        places = np.asarray(positions, np.int64)
        rows = self.table.rows(self.order.window_at(places))
        return FrameWindows(
            frames=self._frames(rows),
            keys=tuple(tuple(self.index.key(row) for row in window) for window in rows.tolist()),
            positions=places,
        )

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """u8 [N, C, H, W], the frames of some rows of the index, for passes over every sample such as an evaluation."""
        return self._frames(np.asarray(rows, np.int64)[:, None])[:, 0]

    def close(self) -> None:
        """End the decoding threads and close the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def _frames(self, rows: np.ndarray) -> torch.Tensor:
        unique, inverse = np.unique(rows, return_inverse=True)
        pictures = list(self._pool.map(self._picture, unique.tolist()))
        shapes = {picture.shape for picture in pictures}
        if len(shapes) > 1:
            (a, b) = sorted(shapes)[:2]
            raise ShardError(
                f"one batch holds frames of {a[2]}x{a[1]} and {b[2]}x{b[1]}; extract with one --size, or give the loader a size"
            )
        stacked = torch.stack(pictures)
        return stacked[torch.from_numpy(inverse.reshape(-1))].reshape(*rows.shape, *stacked.shape[1:])

    def _picture(self, row: int) -> torch.Tensor:
        """u8 [C, H, W]."""
        picture = decode(self._files.image(row), self._color, name=self.index.key(row))
        tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        if self._size is None or tensor.shape[1:] == self._size:
            return tensor
        return F.interpolate(tensor[None], size=self._size, mode="bicubic", antialias=True)[0]


def open_shards(sources: Sequence[str | Path]) -> tuple[SampleIndex, list[Path]]:
    """The samples of some shards, and the folder of each shard.

    Raises:
        ShardError: A pattern matches no file, or a tar is not in its folder's index.
        ManifestError: A folder has no index, or a damaged one.
    """
    paths: dict[Path, None] = {}
    for source in sources:
        # Path.glob refuses absolute patterns, and callers give both.
        matches = [str(source)] if Path(source).is_file() else sorted(glob.glob(str(source)))  # noqa: PTH207
        if not matches:
            raise ShardError(f"{source}: no shard matches; check the path, and quote the pattern")
        paths.update(dict.fromkeys(Path(match) for match in matches))
    by_folder: dict[Path, list[str]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path.name)
    indexes, folders = [], []
    for folder, names in by_folder.items():
        index = sample_index.load(folder)
        known = {info.name: number for number, info in enumerate(index.shards)}
        for name in names:
            if name not in known:
                raise ShardError(
                    f"{folder / name}: not in {folder / sample_index.INDEX_NAME}, so it is not part of the data set; "
                    "remove it, or build the folder again"
                )
        wanted = np.isin(index.shard, [known[name] for name in names])
        indexes.append(index.take(np.flatnonzero(wanted)))
        folders += [folder] * len(index.shards)
    return sample_index.concatenate(indexes), folders


def batches(
    reader: WindowReader, *, batch_size: int, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> Iterator[FrameWindows]:
    """One rank's share of every batch from `start_step` on, without end, read ahead by a thread.

    Over all ranks each position of the stream appears exactly once, at any world size.

    Raises:
        ValueError: The batch is smaller than the world.
    """
    _check_share(batch_size, rank, world_size)

    def read(step: int) -> FrameWindows:
        return reader.read(positions_of(step, batch_size=batch_size, rank=rank, world_size=world_size))

    return _ahead(read, start_step)


def unpaired_batches(
    infrared: WindowReader,
    visible: WindowReader,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
) -> Iterator[UnpairedBatch]:
    """One rank's share of two independent streams, step by step and without end; see `batches`."""
    _check_share(batch_size, rank, world_size)

    def read(step: int) -> UnpairedBatch:
        share = positions_of(step, batch_size=batch_size, rank=rank, world_size=world_size)
        return UnpairedBatch(step=step, infrared=infrared.read(share), visible=visible.read(share))

    return _ahead(read, start_step)


def _check_share(batch_size: int, rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    if batch_size < world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot feed {world_size} ranks; make the batch at least {world_size}, "
            "or start fewer processes"
        )


def _ahead(read: Callable[[int], _Batch], start_step: int) -> Iterator[_Batch]:
    """read(start_step), read(start_step + 1), ... with a few steps read ahead; what is read but not taken does not count."""
    waiting: deque[Future[_Batch]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        step = start_step
        while True:
            while len(waiting) < PREFETCH_BATCHES:
                waiting.append(pool.submit(read, step))
                step += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
