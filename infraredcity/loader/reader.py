"""Positions of the stream in, batches of pixels out: one process, a few decoding threads, memory that is used again."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from infraredcity.clips import COLOR_MODES, ColorMode
from infraredcity.datasets.sources import open_sources
from infraredcity.errors import ImageError, ShardError, check_choice
from infraredcity.files.chunk_cache import ChunkCache
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.urls import is_url, shown
from infraredcity.loader.crops import Crop
from infraredcity.loader.decode_task import BadSamples, Decoding, Reading, Transform
from infraredcity.loader.monitor import Tally
from infraredcity.loader.order import MixedOrder, Order, WindowOrder, WindowTable, window_table
from infraredcity.loader.windows import FrameWindows
from infraredcity.loader.workers import Buffers, Workers
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.foreign import TarIndex
from infraredcity.stills.decode import decode_deep, is_deep_png, size_of
from infraredcity.stills.formats import DEEP_SUFFIXES
from infraredcity.stills.tone import FittedTone, LevelCounts, ToneMap, fit_tone
from infraredcity.threads import num_cores

OnBad = Literal["raise", "replace"]
_TONE_PICTURES = 128
"""Pictures of a clip to which its tone is fitted, where it has as many."""


class WindowReader:
    """Windows of one domain by their position in the endless shuffled stream.

    Args:
        sources: A tar file, a glob pattern of tar files or a folder of them, or several such; also on http(s), s3, gs and whatever
            fsspec knows (`sources.open_sources` says how). Tars without our index are indexed when they are first used. Folders and
            patterns of plain pictures are read as they are, each picture under its file name.
        window_frames: T, frames per window.
        stride: Samples from one frame of a window to the next.
        color: "gray" or "rgb": channels of the frames, whatever the files hold.
        size: (height, width) that frames are resized to (bicubic, antialiased), or None to take them as they are.
        seed: Another seed is another order, and other crops.
        threads: Decoding threads; one per usable core by default.
        weights: How often each of `sources` is drawn, in proportion; each then goes through epochs of its own. Without them all
            sources are one data set, and every window comes once per epoch.
        crop: What every window is cropped and mirrored by, one set of numbers for all its frames; instead of `size`.
        transform: Done to each window after all else, in the decoding threads: must be safe to call from several at once.
        members: Suffixes of further tar members that batches shall bring along as bytes, such as "json".
        on_bad: "raise" stops at a sample that cannot be read; "replace" takes another window in its place, the same one on
            every rank, and counts (`bad`, `FrameWindows.replaced`).
        max_bad: With "replace", how many different samples may be unreadable before that is an error after all.
        tone: How pictures of 16 bits become bytes: one line for each clip, "percentile" or "minmax" as `stills.tone.fit_tone` has
            them, fitted to at most 128 of its pictures, evenly spread, so it is the same everywhere. None refuses such pictures.
        remote: Time limits and retries for sources that are not files.
        cache: Disk cache for them; None keeps them in `chunk_cache.default_cache`, at most 10 GiB.

    Raises:
        ShardError: No shard matches, a shard is not in its folder's index, or the shards hold no window.
        ManifestError: A folder has no index, or a damaged one.
        RemoteError: A source cannot be reached.
        ImageError: The shards hold pictures of 16 bits, and no tone is given.
        ValueError: Arguments contradict each other, or are none of the choices.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        window_frames: int = 2,
        stride: int = 1,
        color: ColorMode = "rgb",
        size: tuple[int, int] | None = None,
        seed: int = 0,
        threads: int | None = None,
        weights: Sequence[float | int] | None = None,
        crop: Crop | None = None,
        transform: Transform | None = None,
        members: Sequence[str] = (),
        on_bad: OnBad = "raise",
        max_bad: int = 100,
        tone: FittedTone | None = None,
        remote: RemoteOptions | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        if size is not None and crop is not None:
            raise ValueError("give size or crop, not both: a crop has a size of its own")
        check_choice("color", color, COLOR_MODES)
        check_choice("on_bad", on_bad, ("raise", "replace"))
        if tone is not None:
            check_choice("tone", tone, ("minmax", "percentile"))
        sources = [sources] if isinstance(sources, str | Path) else list(sources)
        if not sources:
            raise ValueError("sources names nothing; name tars, folders of shards, or folders of pictures")
        if weights is not None and len(weights) != len(sources):
            raise ValueError(f"weights must be one per source, got {len(weights)} for {len(sources)} sources")
        groups = [[source] for source in sources] if weights is not None else [sources]
        opened = open_sources(groups, remote=remote, cache=cache)
        self.index = opened.index
        tables, orders, first_row = [], [], 0
        for group, part in zip(groups, opened.parts, strict=True):
            table = window_table(part.index, window_frames=window_frames, stride=stride)
            if table.num_windows == 0:
                raise ShardError(
                    f"{_named(group)}: {len(part.index)} samples hold no window of {window_frames} frames "
                    f"at stride {stride}; take fewer frames (of stills 1, which is roma's --mode image) or longer runs"
                )
            orders.append(WindowOrder(num_windows=table.num_windows, seed=seed, data_hash=part.data_hash))
            tables.append(table.shifted(first_row))
            first_row += len(part.index)
        self.table: WindowTable = WindowTable.joined(tables)
        self.order: Order = orders[0] if weights is None else MixedOrder(orders, weights, seed=seed)
        self.data_hash = opened.data_hash
        self.seed = seed
        self._weights = None if weights is None else [float(weight) for weight in weights]
        self._decoding = Decoding(
            index=self.index,
            table=self.table,
            files=opened.files,
            workers=Workers(threads or num_cores()),
            buffers=Buffers(),
            tally=Tally(),
            bad=BadSamples(max_bad),
            seed=seed,
            color=color,
            size=size,
            crop=crop,
            transform=transform,
            members=tuple(members),
            may_replace=on_bad == "replace",
        )
        self._frame_size: tuple[int, int] | None = None
        self._named = _named(sources)
        self._find_counts(tone)

    def __repr__(self) -> str:
        size = "own size" if self._decoding.size is None else f"{self._decoding.size[0]}x{self._decoding.size[1]}"
        return (
            f"WindowReader({self._named}: {len(self.index):,} frames, {self.num_windows:,} windows of {self.table.window_frames} "
            f"at stride {self.table.stride}, {self._decoding.color}, {size}, seed {self.seed}, {self.num_threads} threads)"
        )

    @property
    def num_windows(self) -> int:
        """Windows per epoch."""
        return self.table.num_windows

    @property
    def stream(self) -> dict[str, Any]:
        """What a position of this reader's stream belongs to, as plain values: with other ones it means another window."""
        return {
            "data_hash": self.data_hash,
            "seed": self.seed,
            "num_windows": self.num_windows,
            "window_frames": self.table.window_frames,
            "stride": self.table.stride,
            "weights": self._weights,
        }

    @property
    def bad(self) -> dict[str, str]:
        """What is wrong with each sample that could not be read, by key."""
        return self._decoding.bad.found

    @property
    def num_replaced(self) -> int:
        """Windows that were replaced so far, since a sample of theirs could not be read."""
        return self._decoding.num_replaced

    @property
    def tally(self) -> Tally:
        """What was read and decoded so far."""
        return self._decoding.tally

    @property
    def tones(self) -> dict[int, ToneMap]:
        """How pictures of 16 bits become bytes, by the number of their clip in `index`; empty where there are none."""
        return self._decoding.tones

    @property
    def num_threads(self) -> int:
        """Decoding threads."""
        return self._decoding.workers.num_threads

    @property
    def files(self) -> ShardFiles:
        """Where the bytes come from; its `facts` tell what the cache did."""
        return self._decoding.files

    def read(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        """Read the windows at some stream positions, in that order; a frame that two of them share is decoded once.

        Raises:
            ShardError: A shard is missing or shorter than its index says, or too many samples are bad.
            ImageError: A picture is damaged.
            RemoteError: A source cannot be reached in time.
        """
        return self.begin(positions).result()

    def begin(self, positions: Sequence[int] | np.ndarray) -> "Reading":
        """Have the threads read the windows at some positions; `result` waits for them."""
        places = np.asarray(positions, np.int64)
        return self._begin(places, self.order.window_at(places))

    def begin_at(self, positions: np.ndarray, windows: np.ndarray) -> "Reading":
        """Begin as `begin`, where the windows of the positions are known already."""
        return self._begin(positions, windows)

    def begin_windows(self, windows: Sequence[int] | np.ndarray) -> "Reading":
        """Begin as `begin`, for window numbers in [0, num_windows) in their natural order; `positions` are these numbers."""
        numbers = np.asarray(windows, np.int64)
        return self._begin(numbers, numbers)

    def read_here(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        """Read as `read`, in the calling thread only: for processes of which there are as many as cores, such as DataLoader's."""
        places = np.asarray(positions, np.int64)
        return self._begin(places, self.order.window_at(places), in_threads=False).result()

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Read the frames of some rows of the index, u8 [N, C, H, W], as they are (or at `size`), without crop or transform.

        Raises:
            ShardError: As `read`, and for frames of two sizes.
            ImageError: A picture is damaged; with `on_bad="replace"` too, since it is these rows that were asked for.
        """
        places = np.asarray(rows, np.int64)
        size = self._decoding.size or self._size_of(int(places[0])) if len(places) else (0, 0)
        reading = Reading(self._decoding, places[:, None], places, size=size, is_plain=True)
        reading.start(in_threads=True)
        return reading.result().frames[:, 0].contiguous()

    def at_size(self, size: tuple[int, int]) -> "WindowReader":
        """Return the same windows at the same positions, whole and resized to (height, width), by the same threads and files.

        To close one of the two closes both. Pictures that cannot be read are in the `bad` of both; `num_replaced` is each one's.
        """
        other = copy.copy(self)
        other._frame_size = size
        other._decoding = replace(self._decoding, size=size, crop=None, num_replaced=0)
        return other

    def prefetch(self, windows: np.ndarray) -> None:
        """Bring what some windows need from remote shards into the cache, in the background; nothing for local files."""
        if self.files.is_remote:
            self.files.prefetch(self.table.rows(windows).reshape(-1))

    def close(self) -> None:
        """End the decoding threads and close the shards. Batches that are under way come to nothing; later ones open anew."""
        self._decoding.workers.close()
        self.files.close()

    def _find_counts(self, tone: FittedTone | None) -> None:
        """Fit the tone of clips whose pictures hold counts of 16 bits; ImageError where none is asked for.

        Of shards of ours the first picture of each clip tells, since a clip has one format; of others the first of all.
        """
        is_foreign = isinstance(self.index, TarIndex)
        if (
            tone is None and (self.files.is_remote or self._decoding.may_replace)
            if is_foreign
            else self.index.image_format not in DEEP_SUFFIXES
        ):
            return
        clips, first_rows = np.unique(self.index.clip, return_index=True)
        for clip, row in zip(clips.tolist(), first_rows.tolist(), strict=True):
            try:
                is_deep = is_deep_png(self.files.image(row))
            except ShardError:
                continue  # who reads it gets the error
            if is_deep and tone is None:
                remedy = "make pictures of 8 bits" if is_foreign else "extract again without --format png16"
                raise ImageError(
                    f"{self._named}: {self.index.key(row)} is a png of 16 bits, and a loader gives 8; give the reader a tone, "
                    f"{remedy}, or read the pictures with infraredcity.stills.decode.decode_deep"
                )
            if is_deep and tone is not None:
                self._decoding.tones[clip] = self._fit_tone(clip, tone)
            elif is_foreign and tone is None:
                return

    def _fit_tone(self, clip: int, tone: FittedTone) -> ToneMap:
        """Fit the line of one clip to pictures that are evenly spread over it; those that cannot be read are passed over."""
        rows = np.flatnonzero(self.index.clip == clip)
        counts = LevelCounts()
        for place in np.unique(np.linspace(0, len(rows) - 1, _TONE_PICTURES).astype(np.int64)).tolist():
            row = int(rows[place])
            try:
                data = self.files.image(row)
                if is_deep_png(data):
                    counts.add(decode_deep(data, name=self.index.key(row)))
            except (ImageError, ShardError):
                continue
        return fit_tone(counts.histogram, tone)

    def _begin(self, places: np.ndarray, windows: np.ndarray, *, in_threads: bool = True) -> "Reading":
        if self._frame_size is None:
            self._frame_size = self._decoding.size or self._first_size()
        reading = Reading(self._decoding, self.table.rows(windows), places, size=self._frame_size)
        reading.start(in_threads=in_threads)
        return reading

    def _first_size(self) -> tuple[int, int]:
        """Find height and width of the first picture that can be read."""
        for row in range(len(self.index)):
            try:
                return self._size_of(row)
            except (ImageError, ShardError) as error:
                if not self._decoding.may_replace:
                    raise
                self._decoding.bad.note(self.index.key(row), error)
        raise ShardError('not one sample can be read; find out with "infraredcity verify --decode all"')

    def _size_of(self, row: int) -> tuple[int, int]:
        """Read height and width of one row's picture."""
        width, height = size_of(self.files.image(row), name=self.index.key(row))
        return height, width


def _named(sources: Sequence[str | Path]) -> str:
    """Name sources for messages, URLs without credentials; the `?` of a pattern on this disk stays."""
    return ", ".join(shown(text) if is_url(text) else text for text in map(str, sources))
