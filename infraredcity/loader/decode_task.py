"""Decode one batch of windows in a few tasks: frames into their slots, crops, transforms, other windows for unreadable ones."""

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from infraredcity.clips import ColorMode
from infraredcity.errors import ImageError, ShardError
from infraredcity.loader.crops import Boxes, Crop, resized
from infraredcity.loader.monitor import Tally, Work
from infraredcity.loader.order import WindowTable, substitute, uniforms
from infraredcity.loader.windows import FrameWindows
from infraredcity.loader.workers import Buffers, Task, Workers
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.foreign import TarIndex
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.reader import read_members
from infraredcity.stills.decode import decode, decode_deep, decode_into, is_deep_png
from infraredcity.stills.tone import ToneMap

Transform = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
"""Changes a window u8 [T, C, H, W], with random numbers of its position; a batch stacks the results."""
_NOTHING = np.empty(0, np.uint8)
_TASK_FRAMES = 8
"""Frames that a thread decodes before its next task: fewer wait longer for each other, more leave one thread busy at the end."""
_CROP, _TRANSFORM = 1, 2  # purposes of random draws
_MOST_ATTEMPTS = 20


@dataclass(slots=True)
class BadSamples:
    """The samples of a reader that cannot be read, and how many of them are allowed."""

    max_bad: int
    found: dict[str, str] = field(default_factory=dict)
    """What is wrong with each of them, by key."""

    def note(self, key: str, error: Exception) -> None:
        """Count a sample that cannot be read; past `max_bad` of them that is an error.

        Raises:
            ShardError: There are too many.
        """
        self.found[key] = str(error)
        if len(self.found) > self.max_bad:
            listed = ", ".join(sorted(self.found)[:3])
            raise ShardError(
                f"{len(self.found)} samples cannot be read, {self.max_bad} are allowed ({listed}, ...); the last: {error}; "
                'find them with "infraredcity verify --decode all"'
            ) from error


@dataclass(slots=True, kw_only=True, eq=False)
class Decoding:
    """How the batches of a reader are decoded, and what they share."""

    index: SampleIndex
    """Which samples there are."""
    table: WindowTable
    """Which of them make windows."""
    files: ShardFiles
    """Where the bytes come from."""
    workers: Workers
    """Decode."""
    buffers: Buffers
    """Memory for batches."""
    tally: Tally
    """What was done so far."""
    bad: BadSamples
    """What cannot be read."""
    seed: int
    """Of crops, transforms and substitutes."""
    color: ColorMode
    """Channels of the frames."""
    size: tuple[int, int] | None
    """Height and width that frames are resized to; None takes them as they are."""
    crop: Crop | None
    """What every window is cropped by."""
    transform: Transform | None
    """Done to each window after all else."""
    members: tuple[str, ...]
    """Suffixes of further members that batches bring along."""
    may_replace: bool
    """Whether another window takes the place of one that cannot be read."""
    num_replaced: int = 0
    """Windows that were replaced so far."""
    tones: dict[int, ToneMap] = field(default_factory=dict)
    """How counts of 16 bits become bytes, by the number of their clip in `index`."""


class Reading:
    """A batch under way.

    Args:
        shared: How to decode, and what all batches of the reader share.
        rows: i64 [B, T], rows of the index.
        places: i64 [B], stream positions.
        size: Height and width of the frames before cropping.
        is_plain: Leave out crop and transform.
    """

    def __init__(
        self,
        shared: Decoding,
        rows: np.ndarray,
        places: np.ndarray,
        *,
        size: tuple[int, int],
        is_plain: bool = False,
    ) -> None:
        self._shared = shared
        self._rows = rows
        self._places = places
        self._size = size
        self._crop = None if is_plain else shared.crop
        self._transform = None if is_plain else shared.transform
        self._may_replace = shared.may_replace and not is_plain
        self._boxes: Boxes | None = None
        out_height, out_width = size
        if self._crop is not None:
            out_height, out_width = self._crop.out_size(*size)
            numbers = uniforms(shared.seed, _CROP, places, self._crop.num_numbers)
            self._boxes = self._crop.draw(numbers, *size)
        channels = 1 if shared.color == "gray" else 3
        self._shape = (*rows.shape, out_height, out_width, channels)
        # Taken when the first task begins: the fewer batches are in use, the more of them stay in the processor's cache.
        self._frames = _NOTHING
        self._flat = _NOTHING
        self._held: list[Mapping[str, bytes]] = [{}] * rows.size if shared.members else []
        self._transformed: list[torch.Tensor | None] = [None] * len(rows)
        self._errors: dict[int, Exception] = {}
        self._replaced: tuple[int, ...] = ()
        self._fatal: BaseException | None = None

    def start(self, *, in_threads: bool) -> None:
        """Begin; without threads, do all of it at once."""
        self._pid = os.getpid()
        self._over = self._shared.workers.over if in_threads else threading.Event()
        self._lock = threading.Lock()
        self._done = threading.Event()
        tasks = self._by_window() if self._boxes is not None else self._by_row(in_threads)
        self._left = len(tasks)
        if not tasks:
            self._take_memory()
            self._done.set()
        for task in tasks:
            if in_threads:
                self._shared.workers.submit(task)
            else:
                task()

    def _by_row(self, in_threads: bool) -> list[Task]:
        """Make tasks that decode a few different rows each, straight into the slots of the batch that show them."""
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
        """Make tasks that decode and crop a few windows each, neighbours together, so that what they share is decoded once."""
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
        shared = self._shared
        if self._errors:
            self._replace()
        if self._transform is not None:
            frames = torch.stack([window for window in self._transformed if window is not None])
        else:
            frames = torch.from_numpy(self._frames).permute(0, 1, 4, 2, 3)
        flat_keys = [shared.index.key(row) for row in self._rows.reshape(-1).tolist()]
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
        shared = self._shared
        for row, error in sorted(self._errors.items()):
            if not self._may_replace:
                raise error
            shared.bad.note(shared.index.key(row), error)
        bad_windows = np.flatnonzero(np.isin(self._rows, list(self._errors)).any(axis=1))
        for window in bad_windows.tolist():
            self._rows[window] = self._substitute(window)
        shared.num_replaced += len(bad_windows)
        # Done once: a second call, since another domain's failed, finds the same.
        self._replaced, self._errors = tuple(self._places[bad_windows].tolist()), {}

    def _substitute(self, window: int) -> np.ndarray:
        """Read another window into the place of one; its rows."""
        shared = self._shared
        place = self._places[window : window + 1]
        for attempt in range(_MOST_ATTEMPTS):
            rows = shared.table.rows(substitute(shared.seed, place, attempt, shared.table.num_windows))
            if any(shared.index.key(row) in shared.bad.found for row in rows[0].tolist()):
                continue
            other = Reading(shared, rows, place, size=self._size)
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
                shared.bad.note(shared.index.key(row), error)
        raise ShardError(
            f"position {int(place[0])}: {_MOST_ATTEMPTS} windows drawn in place of one that cannot be read cannot be read either; "
            'find the damage with "infraredcity verify --decode all"'
        )

    def _run(self, fill: Callable[[list[Any], Work], None], part: list[Any]) -> None:
        """Run one task in any thread; keep errors for `result`."""
        work = Work()
        try:
            self._take_memory()
            fill(part, work)
        except BaseException as error:
            self._fatal = error
        self._shared.tally.add(work)
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._finish()

    def _take_memory(self) -> None:
        with self._lock:
            if self._frames is _NOTHING:
                self._frames = self._shared.buffers.take(self._shape)
                self._flat = self._frames.reshape(-1, *self._shape[2:])

    def _finish(self) -> None:
        """Do transforms after the last frame, in the thread that came last."""
        try:
            if self._transform is not None:
                bad = np.isin(self._rows, list(self._errors)).any(axis=1)
                for window in np.flatnonzero(~bad).tolist():
                    if not self._goes_on():
                        break
                    draw = np.random.default_rng([self._shared.seed, _TRANSFORM, int(self._places[window])])
                    frames = torch.from_numpy(self._frames[window]).permute(0, 3, 1, 2)
                    self._transformed[window] = self._transform(frames, draw)
        except BaseException as error:
            self._fatal = error
        finally:
            self._done.set()

    def _goes_on(self) -> bool:
        """Say whether what is left is worth doing: not when the batch has failed, or the reader is closed or the program ends."""
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
        shared = self._shared
        started = time.perf_counter()
        try:
            if shared.members:
                sample = shared.files.sample(row)
                start, _ = shared.index.sample_place(row)
                picture_at = int(shared.index.offset[row]) - start
                data = sample[picture_at : picture_at + int(shared.index.size[row])]
                held = self._wanted_members(row, sample)
                for slot in slots:
                    self._held[slot] = held
            else:
                data = shared.files.image(row)
            was_read = time.perf_counter()
            name = shared.index.key(row)
            tone = shared.tones.get(int(shared.index.clip[row])) if shared.tones else None
            if tone is not None and is_deep_png(data):
                self._toned(decode_deep(data, name=name), tone, out)
            elif shared.size is not None:
                self._resized(decode(data, shared.color, name=name), out)
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
        """Return those of a sample's members that were asked for."""
        shared = self._shared
        is_foreign = isinstance(shared.index, TarIndex)
        if isinstance(shared.index, TarIndex) and shared.index.is_file(row):
            raise ShardError(
                f"{shared.index.key(row)}: a file by itself, which has no member {shared.members[0]!r}; leave out members"
            )
        found = read_members(sample, naming="webdataset" if is_foreign else "ours", name=shared.index.key(row))
        missing = [suffix for suffix in shared.members if suffix not in found]
        if missing:
            raise ShardError(
                f"{shared.index.key(row)}: has no member {missing[0]!r}, only {', '.join(sorted(found))}; ask for what there is"
            )
        return {suffix: found[suffix] for suffix in shared.members}

    def _toned(self, counts: np.ndarray, tone: ToneMap, out: np.ndarray) -> None:
        if self._shared.size is None:
            self._check_size((counts.shape[0], counts.shape[1]))
        self._resized(np.repeat(tone.apply(counts), out.shape[2], axis=2), out)

    def _resized(self, picture: np.ndarray, out: np.ndarray) -> None:
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


def _scratch(shape: tuple[int, ...]) -> np.ndarray:
    """Return u8 memory of a shape, for this thread until it asks again."""
    size = math.prod(shape)
    held: np.ndarray | None = getattr(_local, "scratch", None)
    if held is None or held.size < size:
        held = _local.scratch = np.empty(size, np.uint8)
    return held[:size].reshape(shape)
