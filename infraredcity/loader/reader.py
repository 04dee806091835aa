"""Positions of the stream in, batches of pixels out: one process, a few decoding threads, memory that is used again."""

import copy
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from infraredcity.loader.crops import Boxes, Crop, resized
from infraredcity.loader.monitor import Tally, Work
from infraredcity.loader.order import MixedOrder, Order, WindowOrder, WindowTable, substitute, uniforms, window_table
from infraredcity.loader.windows import FrameWindows
from infraredcity.loader.workers import Buffers, Task, Workers
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.foreign import TarIndex
from infraredcity.shards.reader import read_members
from infraredcity.stills.decode import decode, decode_into, is_deep_png, size_of
from infraredcity.stills.formats import DEEP_SUFFIXES
from infraredcity.threads import num_cores

Transform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
"""A window u8 [T, C, H, W] and random numbers that belong to its position -> what shall be stacked."""
OnBad = Literal["raise", "replace"]
_NOTHING = np.empty(0, np.uint8)
_TASK_FRAMES = 8
"""Frames that a thread decodes before it takes the next task: fewer wait longer for each other, more leave one alone at the end."""
_CROP, _TRANSFORM = 1, 2  # purposes of random draws
_MOST_ATTEMPTS = 20


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
        on_bad: "raise" stops at a sample that cannot be read; "replace" takes another window in its place, the same one whoever
            reads it, and counts (`bad`, `FrameWindows.replaced`).
        max_bad: With "replace", how many different samples may be unreadable before that is an error after all.
        remote: Time limits and retries for sources that are not files.
        cache: Disk cache for them; None keeps them in `chunk_cache.default_cache`, at most 10 GiB.

    Raises:
        ShardError: No shard matches, a shard is not in its folder's index, or the shards hold no window.
        ManifestError: A folder has no index, or a damaged one.
        RemoteError: A source cannot be reached.
        ImageError: The shards hold pictures of 16 bits.
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
        remote: RemoteOptions | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        if size is not None and crop is not None:
            raise ValueError("give size or crop, not both: a crop has a size of its own")
        check_choice("color", color, COLOR_MODES)
        check_choice("on_bad", on_bad, ("raise", "replace"))
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
        self.bad: dict[str, str] = {}
        self.num_replaced = 0
        self.tally = Tally()
        self._color: ColorMode = color
        self._size = size
        self._crop = crop
        self._transform = transform
        self._members = tuple(members)
        self._on_bad = on_bad
        self._max_bad = max_bad
        self._files: ShardFiles = opened.files
        self._workers = Workers(threads or num_cores())
        self._buffers = Buffers()
        self._frame_size: tuple[int, int] | None = None
        self._named = _named(sources)
        self._refuse_counts()

    def __repr__(self) -> str:
        size = "own size" if self._size is None else f"{self._size[0]}x{self._size[1]}"
        return (
            f"WindowReader({self._named}: {len(self.index):,} frames, {self.num_windows:,} windows of {self.table.window_frames} "
            f"at stride {self.table.stride}, {self._color}, {size}, seed {self.seed}, {self.num_threads} threads)"
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
    def num_threads(self) -> int:
        """Decoding threads."""
        return self._workers.num_threads

    @property
    def files(self) -> ShardFiles:
        """Where the bytes come from; its `facts` tell what the cache did."""
        return self._files

    def read(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        """The windows at some stream positions, in that order; a frame that two of them share is decoded once.

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
        """As `begin`, where the windows of the positions are known already."""
        return self._begin(positions, windows)

    def begin_windows(self, windows: Sequence[int] | np.ndarray) -> "Reading":
        """As `begin`, for window numbers in [0, num_windows) in their natural order; `positions` are these numbers."""
        numbers = np.asarray(windows, np.int64)
        return self._begin(numbers, numbers)

    def read_here(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        """As `read`, by the calling thread alone: for processes of which there are as many as cores, such as DataLoader's."""
        places = np.asarray(positions, np.int64)
        return self._begin(places, self.order.window_at(places), in_threads=False).result()

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """u8 [N, C, H, W], contiguous: the frames of some rows of the index as they are (or at `size`), without crop or transform.

        Raises:
            ShardError: As `read`, and for frames of two sizes.
            ImageError: A picture is damaged; with `on_bad="replace"` too, since it is these rows that were asked for.
        """
        places = np.asarray(rows, np.int64)
        size = self._size or self._size_of(int(places[0])) if len(places) else (0, 0)
        reading = Reading(self, places[:, None], places, size=size, is_plain=True)
        reading.start(in_threads=True)
        return reading.result().frames[:, 0].contiguous()

    def at_size(self, size: tuple[int, int]) -> "WindowReader":
        """The same windows at the same positions, whole and resized to (height, width), by the same threads and files.

        To close one of the two closes both. Pictures that cannot be read are in the `bad` of both; `num_replaced` is each one's.
        """
        other = copy.copy(self)
        other._size = other._frame_size = size
        other._crop = None
        other.num_replaced = 0
        return other

    def prefetch(self, windows: np.ndarray) -> None:
        """Bring what some windows need from remote shards into the cache, in the background; nothing for local files."""
        if self._files.is_remote:
            self._files.prefetch(self.table.rows(windows).reshape(-1))

    def close(self) -> None:
        """End the decoding threads and close the shards. Batches that are under way come to nothing; later ones open anew."""
        self._workers.close()
        self._files.close()

    def note_bad(self, key: str, error: Exception) -> None:
        """Count a sample that cannot be read; past `max_bad` of them that is an error.

        Raises:
            ShardError: There are too many.
        """
        self.bad[key] = str(error)
        if len(self.bad) > self._max_bad:
            listed = ", ".join(sorted(self.bad)[:3])
            raise ShardError(
                f"{len(self.bad)} samples cannot be read, {self._max_bad} are allowed ({listed}, ...); the last: {error}; "
                'find them with "infraredcity verify --decode all"'
            ) from error

    def _refuse_counts(self) -> None:
        """ImageError where pictures hold counts of 16 bits, of which a batch of bytes would lose half.

        Of shards of ours the first picture of each clip tells, since a clip has one format; of others the first of all.
        """
        is_foreign = isinstance(self.index, TarIndex)
        if (
            (self._files.is_remote or self._on_bad == "replace")
            if is_foreign
            else self.index.image_format not in DEEP_SUFFIXES
        ):
            return
        _, first_rows = np.unique(self.index.clip, return_index=True)
        for row in [0] if is_foreign else first_rows.tolist():
            try:
                is_deep = is_deep_png(self._files.image(row))
            except ShardError:
                continue  # whoever reads it is told
            if is_deep:
                remedy = "make pictures of 8 bits" if is_foreign else "extract again without --format png16"
                raise ImageError(
                    f"{self._named}: {self.index.key(row)} is a png of 16 bits, and a loader gives 8; {remedy}, or read the "
                    "pictures with infraredcity.stills.decode.decode_deep"
                )

    def _begin(self, places: np.ndarray, windows: np.ndarray, *, in_threads: bool = True) -> "Reading":
        if self._frame_size is None:
            self._frame_size = self._size or self._first_size()
        reading = Reading(self, self.table.rows(windows), places, size=self._frame_size)
        reading.start(in_threads=in_threads)
        return reading

    def _first_size(self) -> tuple[int, int]:
        """Height and width of the first picture that can be read."""
        for row in range(len(self.index)):
            try:
                return self._size_of(row)
            except (ImageError, ShardError) as error:
                if self._on_bad == "raise":
                    raise
                self.note_bad(self.index.key(row), error)
        raise ShardError('not one sample can be read; find out with "infraredcity verify --decode all"')

    def _size_of(self, row: int) -> tuple[int, int]:
        """Height and width of one row's picture."""
        width, height = size_of(self._files.image(row), name=self.index.key(row))
        return height, width


class Reading:
    """A batch under way.

    Args:
        reader: Whose windows they are.
        rows: i64 [B, T], rows of the index.
        places: i64 [B], stream positions.
        size: Height and width of the frames before cropping.
        is_plain: Leave out crop and transform.
    """

    def __init__(
        self,
        reader: WindowReader,
        rows: np.ndarray,
        places: np.ndarray,
        *,
        size: tuple[int, int],
        is_plain: bool = False,
    ) -> None:
        self._reader = reader
        self._rows = rows
        self._places = places
        self._size = size
        self._crop = None if is_plain else reader._crop
        self._transform = None if is_plain else reader._transform
        self._may_replace = reader._on_bad == "replace" and not is_plain
        self._boxes: Boxes | None = None
        out_height, out_width = size
        if self._crop is not None:
            out_height, out_width = self._crop.out_size(*size)
            numbers = uniforms(reader.seed, _CROP, places, self._crop.num_numbers)
            self._boxes = self._crop.draw(numbers, *size)
        channels = 1 if reader._color == "gray" else 3
        self._shape = (*rows.shape, out_height, out_width, channels)
        # Taken when the first task begins: the fewer batches are in use, the more of them stay in the processor's cache.
        self._frames = _NOTHING
        self._flat = _NOTHING
        self._held: list[Mapping[str, bytes]] = [{}] * rows.size if reader._members else []
        self._transformed: list[torch.Tensor | None] = [None] * len(rows)
        self._errors: dict[int, Exception] = {}
        self._replaced: tuple[int, ...] = ()
        self._fatal: BaseException | None = None

    def start(self, *, in_threads: bool) -> None:
        """Begin; without threads, do all of it at once."""
        self._pid = os.getpid()
        self._over = self._reader._workers.over if in_threads else threading.Event()
        self._lock = threading.Lock()
        self._done = threading.Event()
        tasks = self._by_window() if self._boxes is not None else self._by_row(in_threads)
        self._left = len(tasks)
        if not tasks:
            self._take_memory()
            self._done.set()
        for task in tasks:
            if in_threads:
                self._reader._workers.submit(task)
            else:
                task()

    def _by_row(self, in_threads: bool) -> list[Task]:
        """Tasks that decode a few different rows each, straight into the slots of the batch that show them."""
        unique, inverse = np.unique(self._rows, return_inverse=True)
        by_row = np.argsort(inverse, axis=None, kind="stable")
        if len(unique) == self._rows.size:
            slots = by_row[:, None].tolist()
        else:
            counts = np.bincount(inverse.reshape(-1), minlength=len(unique))
            slots = [of_row.tolist() for of_row in np.split(by_row, np.cumsum(counts)[:-1])]
        pairs = list(zip(unique.tolist(), slots, strict=True))
        chunk = _TASK_FRAMES if in_threads else max(len(pairs), 1)
        return [partial(self._run, self._fill_rows, pairs[at : at + chunk]) for at in range(0, len(pairs), chunk)]

    def _by_window(self) -> list[Task]:
        """Tasks that decode and crop a few windows each, neighbours together, so that what they share is decoded once."""
        windows = np.argsort(self._rows[:, 0], kind="stable").tolist() if self._rows.size else []
        chunk = max(1, _TASK_FRAMES // self._rows.shape[1])
        return [
            partial(self._run, self._fill_windows, windows[at : at + chunk]) for at in range(0, len(windows), chunk)
        ]

    def result(self) -> FrameWindows:
        """Wait for the batch.

        Raises:
            ShardError, ImageError, RemoteError: As `WindowReader.read`.
            ValueError: The reader was closed meanwhile.
        """
        if self._pid != os.getpid():
            self.start(in_threads=True)  # a forked child has the batch, but not the threads that were at it
        self._done.wait()
        if self._fatal is not None:
            raise self._fatal
        reader = self._reader
        if self._errors:
            self._replace()
        if self._transform is not None:
            frames = torch.stack([window for window in self._transformed if window is not None])
        else:
            frames = torch.from_numpy(self._frames).permute(0, 1, 4, 2, 3)
        flat_keys = [reader.index.key(row) for row in self._rows.reshape(-1).tolist()]
        length = self._rows.shape[1]
        return FrameWindows(
            frames=frames,
            keys=tuple(tuple(flat_keys[at : at + length]) for at in range(0, len(flat_keys), length)),
            positions=self._places,
            members=tuple(tuple(self._held[at : at + length]) for at in range(0, len(self._held), length)),
            replaced=self._replaced,
        )

    def _replace(self) -> None:
        """Read other windows into the place of those that hold a sample which cannot be read."""
        reader = self._reader
        for row, error in sorted(self._errors.items()):
            if not self._may_replace:
                raise error
            reader.note_bad(reader.index.key(row), error)
        bad_windows = np.flatnonzero(np.isin(self._rows, list(self._errors)).any(axis=1))
        for window in bad_windows.tolist():
            self._rows[window] = self._substitute(window)
        reader.num_replaced += len(bad_windows)
        # Done once: who asks for the result again, since another domain's failed, finds the same.
        self._replaced, self._errors = tuple(self._places[bad_windows].tolist()), {}

    def _substitute(self, window: int) -> np.ndarray:
        """Read another window into the place of one; its rows."""
        reader = self._reader
        place = self._places[window : window + 1]
        for attempt in range(_MOST_ATTEMPTS):
            rows = reader.table.rows(substitute(reader.seed, place, attempt, reader.num_windows))
            if any(reader.index.key(row) in reader.bad for row in rows[0].tolist()):
                continue
            other = Reading(reader, rows, place, size=self._size)
            other.start(in_threads=False)
            if other._fatal is not None:
                raise other._fatal
            if not other._errors:
                self._frames[window] = other._frames[0]
                self._transformed[window] = other._transformed[0]
                self._held[window * rows.shape[1] : (window + 1) * rows.shape[1]] = other._held
                taken: np.ndarray = rows[0]
                return taken
            for row, error in other._errors.items():
                reader.note_bad(reader.index.key(row), error)
        raise ShardError(
            f"position {int(place[0])}: {_MOST_ATTEMPTS} windows drawn in place of one that cannot be read cannot be read either; "
            'find the damage with "infraredcity verify --decode all"'
        )

    def _run(self, fill: Callable[[list[Any], Work], None], part: list[Any]) -> None:
        """One task, by whichever thread; errors are kept for `result`."""
        work = Work()
        try:
            self._take_memory()
            fill(part, work)
        except BaseException as error:
            self._fatal = error
        self._reader.tally.add(work)
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._finish()

    def _take_memory(self) -> None:
        with self._lock:
            if self._frames is _NOTHING:
                self._frames = self._reader._buffers.take(self._shape)
                self._flat = self._frames.reshape(-1, *self._shape[2:])

    def _finish(self) -> None:
        """After the last frame: transforms, in the thread that came last."""
        try:
            if self._transform is not None:
                bad = np.isin(self._rows, list(self._errors)).any(axis=1)
                for window in np.flatnonzero(~bad).tolist():
                    if not self._goes_on():
                        break
                    draw = np.random.default_rng([self._reader.seed, _TRANSFORM, int(self._places[window])])
                    frames = torch.from_numpy(self._frames[window]).permute(0, 3, 1, 2)
                    self._transformed[window] = self._transform(frames, draw)
        except BaseException as error:
            self._fatal = error
        finally:
            self._done.set()

    def _goes_on(self) -> bool:
        """Whether what is left is worth doing: not when the batch has failed, or the reader is closed or the program ends."""
        if self._fatal is None and self._over.is_set():
            self._fatal = ValueError(
                "the reader was closed while it read a batch; take all batches before you close it"
            )
        return self._fatal is None

    def _fill_rows(self, pairs: list[tuple[int, list[int]]], work: Work) -> None:
        """Decode each row into its first slot, and copy it to the others."""
        for row, slots in pairs:
            first = self._flat[slots[0]]
            if self._decode(row, slots, first, work):
                for slot in slots[1:]:
                    self._flat[slot] = first

    def _fill_windows(self, windows: list[int], work: Work) -> None:
        """Decode the frames of some windows, and crop them together into their places."""
        assert self._crop is not None
        assert self._boxes is not None
        length = self._rows.shape[1]
        whole = _scratch((len(windows), length, *self._size, self._shape[-1]))
        decoded: dict[int, np.ndarray] = {}
        good: list[int] = []
        for place, window in enumerate(windows):
            is_whole = True
            for frame, row in enumerate(self._rows[window].tolist()):
                out = whole[place, frame]
                if row in decoded and not self._held:
                    out[:] = decoded[row]
                elif self._decode(row, [window * length + frame], out, work):
                    decoded[row] = out
                else:
                    is_whole = False
            if is_whole:
                good.append(place)
        started = time.perf_counter()
        self._crop.apply_all(
            [whole[place] for place in good],
            [self._boxes[windows[place]] for place in good],
            [self._frames[windows[place]] for place in good],
        )
        work.decode_s += time.perf_counter() - started

    def _decode(self, row: int, slots: list[int], out: np.ndarray, work: Work) -> bool:
        """Read and decode one row; whether that could be done."""
        if not self._goes_on():
            return False
        reader = self._reader
        started = time.perf_counter()
        try:
            if reader._members:
                sample = reader._files.sample(row)
                start, _ = reader.index.sample_place(row)
                picture_at = int(reader.index.offset[row]) - start
                data = sample[picture_at : picture_at + int(reader.index.size[row])]
                held = self._wanted_members(row, sample)
                for slot in slots:
                    self._held[slot] = held
            else:
                data = reader._files.image(row)
            was_read = time.perf_counter()
            name = reader.index.key(row)
            if reader._size is not None:
                self._resized(data, out, name)
            else:
                self._check_size(decode_into(data, out, name=name))
        except (ImageError, ShardError) as error:
            # Its traceback would hold this batch, and the batch holds it: memory that waits for a garbage collection.
            self._errors[row] = error.with_traceback(None)
            return False
        work.frames += 1
        work.bytes_read += len(data)
        work.read_s += was_read - started
        work.decode_s += time.perf_counter() - was_read
        return True

    def _wanted_members(self, row: int, sample: bytes) -> Mapping[str, bytes]:
        """Those of a sample's members that were asked for."""
        reader = self._reader
        is_foreign = isinstance(reader.index, TarIndex)
        if isinstance(reader.index, TarIndex) and reader.index.is_file(row):
            raise ShardError(
                f"{reader.index.key(row)}: a file by itself, which has no member {reader._members[0]!r}; leave out members"
            )
        found = read_members(sample, naming="webdataset" if is_foreign else "ours", name=reader.index.key(row))
        missing = [suffix for suffix in reader._members if suffix not in found]
        if missing:
            raise ShardError(
                f"{reader.index.key(row)}: has no member {missing[0]!r}, only {', '.join(sorted(found))}; ask for what there is"
            )
        return {suffix: found[suffix] for suffix in reader._members}

    def _resized(self, data: bytes, out: np.ndarray, name: str) -> None:
        picture = decode(data, self._reader._color, name=name)
        if picture.shape == out.shape:
            out[:] = picture
            return
        out[:] = resized(picture, out.shape[:2])

    def _check_size(self, found: tuple[int, int]) -> None:
        if found != self._size:
            (a, b) = sorted((found, self._size), key=lambda size: size[::-1])
            self._fatal = ShardError(
                f"one batch holds frames of {a[1]}x{a[0]} and {b[1]}x{b[0]}; extract with one --size, or give the loader a size"
            )


_local = threading.local()


def _named(sources: Sequence[str | Path]) -> str:
    """Sources for messages, URLs without credentials; the `?` of a pattern on this disk stays."""
    return ", ".join(shown(text) if is_url(text) else text for text in map(str, sources))


def _scratch(shape: tuple[int, ...]) -> np.ndarray:
    """u8 of a shape, for this thread until it asks again."""
    size = math.prod(shape)
    held: np.ndarray | None = getattr(_local, "scratch", None)
    if held is None or held.size < size:
        held = _local.scratch = np.empty(size, np.uint8)
    return held[:size].reshape(shape)
