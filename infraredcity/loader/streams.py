"""Batches one after the other: without end and resumed by a number, or once through everything."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Required, TypedDict, TypeVar, Unpack

import numpy as np

from infraredcity.errors import ManifestError
from infraredcity.loader.decode_task import Reading
from infraredcity.loader.monitor import LoaderFacts, Monitor
from infraredcity.loader.order import part_of
from infraredcity.loader.reader import WindowReader
from infraredcity.loader.windows import FrameWindows, UnpairedBatch

PREFETCH_BATCHES = 3
_PLAN_POSITIONS = 1024
"""Positions whose windows are looked up at once: a lookup costs half a millisecond for one as for a thousand."""
STATE_FORMAT = "infraredcity-stream-1"
_Batch = TypeVar("_Batch")


class StreamOptions(TypedDict, total=False):
    """What all endless streams take; what is left out has the default of `Batches`."""

    batch_size: Required[int]
    """Windows of a batch over all ranks."""
    rank: int
    """Which of the ranks, from 0."""
    world_size: int
    """How many ranks there are."""
    start_step: int
    """The batch to begin with; over all ranks, `start_step` * `batch_size` is its first position."""
    prefetch_batches: int
    """Batches read ahead."""
    monitor: Monitor | None
    """Where to write how fast it goes; None writes nothing."""


class Batches(Iterator[_Batch], Generic[_Batch]):
    """One rank's share of every batch of one or several independent streams, without end, read ahead.

    What is read ahead but was not taken does not count: `position` is where the batch begins that the next `next` gives.

    Args:
        readers: The domains; each is a stream of its own.
        combine: The step's number and each domain's windows -> what `next` gives.

    The other arguments are `StreamOptions`.

    Raises:
        ValueError: The batch is smaller than the world, or another number is out of range.
    """

    def __init__(
        self,
        readers: Sequence[WindowReader],
        combine: Callable[[int, Sequence[FrameWindows]], _Batch],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        prefetch_batches: int = PREFETCH_BATCHES,
        monitor: Monitor | None = None,
    ) -> None:
        check_share(batch_size, rank, world_size)
        if start_step < 0 or prefetch_batches < 1:
            raise ValueError(
                f"start_step must be at least 0 and prefetch_batches at least 1, got {start_step} and {prefetch_batches}"
            )
        self.position = start_step * batch_size
        self._readers = tuple(readers)
        self._combine = combine
        self.batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._prefetch = prefetch_batches
        self._monitor = monitor
        self._planned: deque[list[tuple[np.ndarray, np.ndarray]]] = deque()
        self._plan_position = self.position
        self._under_way: deque[list[Reading]] = deque()
        self._started: float | None = None
        self._before = [reader.tally.sum() for reader in self._readers]
        self._cache_before = self._cache_counts()
        self._wait_s = 0.0
        self._windows = 0

    def __iter__(self) -> "Batches[_Batch]":
        return self

    def __next__(self) -> _Batch:
        asked = time.perf_counter()
        if self._started is None:
            self._started = asked
        while len(self._under_way) < self._prefetch:
            self._begin_one()
        # Taken out only when it has come: a batch that fails fails again when it is asked for again.
        parts = [reading.result() for reading in self._under_way[0]]
        self._under_way.popleft()
        batch = self._combine(self.position // self.batch_size, parts)
        self.position += self.batch_size
        self._windows += len(parts[0].positions)
        self._begin_one()
        self._wait_s += time.perf_counter() - asked
        if self._monitor is not None and self._monitor.is_due():
            self._monitor.write(self.facts())
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream: a number, and what it belongs to. Any world size may go on from it."""
        return {
            "format": STATE_FORMAT,
            "position": self.position,
            "streams": [reader.stream for reader in self._readers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another stream over the same data was.

        Raises:
            ManifestError: The state is of other data, of another seed, or of other windows.
        """
        check_state(state, self.state_dict())
        self.position = self._plan_position = int(state["position"])
        self._planned.clear()
        self._under_way.clear()

    def facts(self) -> LoaderFacts:
        """Return how fast it was so far and what it waited for."""
        seconds = max(time.perf_counter() - self._started, 1e-9) if self._started is not None else 1e-9
        work = [reader.tally.sum() for reader in self._readers]
        frames, bytes_read, read_s, decode_s = (
            sum(getattr(now, name) - getattr(before, name) for now, before in zip(work, self._before, strict=True))
            for name in ("frames", "bytes_read", "read_s", "decode_s")
        )
        thread_s = seconds * sum(reader.num_threads for reader in self._readers)
        hits, misses, fetched_bytes = (
            now - before for now, before in zip(self._cache_counts(), self._cache_before, strict=True)
        )
        return LoaderFacts(
            rank=self._rank,
            world_size=self._world_size,
            position=self.position,
            seconds=seconds,
            windows=self._windows,
            frames=frames,
            bytes_read=bytes_read,
            frames_per_s=frames / seconds,
            megabytes_per_s=bytes_read / 1e6 / seconds,
            read_share=read_s / thread_s,
            decode_share=decode_s / thread_s,
            wait_share=self._wait_s / seconds,
            cache_hits=hits,
            cache_misses=misses,
            fetched_bytes=fetched_bytes,
            replaced=sum(reader.num_replaced for reader in self._readers),
            bad_samples=sum(len(reader.bad) for reader in self._readers),
        )

    def _cache_counts(self) -> tuple[int, int, int]:
        """Return hits, misses and fetched bytes of the readers' caches so far; readers may share one."""
        caches = {id(cache): cache.facts() for reader in self._readers if (cache := reader.files.cache) is not None}
        counts = [(facts.hits, facts.misses, facts.fetched_bytes) for facts in caches.values()]
        hits, misses, fetched_bytes = map(sum, zip((0, 0, 0), *counts, strict=True))
        return hits, misses, fetched_bytes

    def _begin_one(self) -> None:
        """Have the next batch read."""
        if not self._planned:
            self._plan()
        step = self._planned.popleft()
        self._under_way.append(
            [
                reader.begin_at(positions, windows)
                for reader, (positions, windows) in zip(self._readers, step, strict=True)
            ]
        )

    def _plan(self) -> None:
        """Look up the windows of the next batches at once, and have those on other machines fetched."""
        share = -(-self.batch_size // self._world_size)
        num_steps = max(1, _PLAN_POSITIONS // share)
        firsts = [self._plan_position + step * self.batch_size for step in range(num_steps)]
        self._plan_position = firsts[-1] + self.batch_size
        by_reader = []
        for reader in self._readers:
            shares = [
                reader.order.share(first, batch_size=self.batch_size, rank=self._rank, world_size=self._world_size)
                for first in firsts
            ]
            windows = reader.order.window_at(np.concatenate(shares))
            reader.prefetch(windows)
            borders = np.cumsum([len(one) for one in shares])[:-1]
            by_reader.append(list(zip(shares, np.split(windows, borders), strict=True)))
        self._planned.extend([list(step) for step in zip(*by_reader, strict=True)])


def batches(reader: WindowReader, **options: Unpack[StreamOptions]) -> Batches[FrameWindows]:
    """Give one rank's share of every batch from `start_step` on, without end, read ahead by the decoding threads.

    Over all ranks each position of the stream appears exactly once, at any world size.

    Raises:
        ValueError: The batch is smaller than the world.
    """
    return Batches([reader], lambda _step, parts: parts[0], **options)


def unpaired_batches(
    infrared: WindowReader, visible: WindowReader, **options: Unpack[StreamOptions]
) -> Batches[UnpairedBatch]:
    """Give one rank's share of two independent streams, step by step and without end; see `batches`."""

    def pair(step: int, parts: Sequence[FrameWindows]) -> UnpairedBatch:
        return UnpairedBatch(step=step, infrared=parts[0], visible=parts[1])

    return Batches([infrared, visible], pair, **options)


def domain_batches(
    readers: Mapping[str, WindowReader], **options: Unpack[StreamOptions]
) -> Batches[dict[str, FrameWindows]]:
    """Give one rank's share of any number of independent streams, each under its name; see `batches`."""
    names = tuple(readers)
    return Batches(
        [readers[name] for name in names], lambda _step, parts: dict(zip(names, parts, strict=True)), **options
    )


def one_pass(
    reader: WindowReader,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    prefetch_batches: int = PREFETCH_BATCHES,
) -> Iterator[FrameWindows]:
    """Yield every window once over all ranks, in natural order, the ragged end included: for an evaluation.

    Each rank goes through its own part, so that neighbours share frames, which are decoded once per batch; parts differ by one
    window at most, and so may the number of batches: a collective call per batch would wait for ever, one at the end does not.
    With `window_frames=1` the windows are the samples.

    Args:
        reader: Whose windows.
        batch_size: Windows of a batch of this rank.
        rank: Which of the ranks.
        world_size: How many there are; may be more than there are windows.
        prefetch_batches: Batches read ahead.

    Yields:
        Windows; their `positions` are the numbers of the windows, in [0, num_windows).

    Raises:
        ValueError: A number is out of range.
    """
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"batch_size must be at least 1 and rank in [0, {world_size}), got {batch_size} and {rank}")
    part = part_of(reader.num_windows, rank=rank, world_size=world_size)
    starts = range(part.start, part.stop, batch_size)
    under_way: deque[Reading] = deque()
    for start in starts:
        under_way.append(reader.begin_windows(np.arange(start, min(start + batch_size, part.stop))))
        if len(under_way) > prefetch_batches:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def check_share(batch_size: int, rank: int, world_size: int) -> None:
    """Raise ValueError for a share that cannot be cut."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    if batch_size < world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot feed {world_size} ranks; make the batch at least {world_size}, "
            "or start fewer processes"
        )


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise ManifestError for a state that is not of this stream.

    Args:
        state: What was saved.
        own: What this stream would save.
    """
    if state.get("format") != STATE_FORMAT or not isinstance(state.get("position"), int) or state["position"] < 0:
        raise ManifestError(f"not the state of a stream of windows: {dict(state)!r:.200}")
    if len(state["streams"]) != len(own["streams"]):
        raise ManifestError(f"the state is of {len(state['streams'])} streams, this one has {len(own['streams'])}")
    for number, (saved, here) in enumerate(zip(state["streams"], own["streams"], strict=True)):
        for name in here:
            if saved.get(name) != here[name]:
                raise ManifestError(
                    f"stream {number}: {name} was {saved.get(name)} when the state was saved and is {here[name]} now; its position "
                    "means other windows here; take the same data, seed and window, or begin anew"
                )
