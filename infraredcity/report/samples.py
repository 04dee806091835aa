"""Choose the samples that a report looks at, spread evenly, and read them in parallel; count what fails."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder, shard_sizes
from infraredcity.errors import ImageError, InfraredCityError, ShardError
from infraredcity.files import path
from infraredcity.progress import OnProgress, Ticker
from infraredcity.report.facts import Problem
from infraredcity.shards.by_row import ShardFiles, check_size
from infraredcity.threads import threads_for

_BATCH = 128  # pictures that share open shards: a set may have more shards than a process may open
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class SampleAt:
    """A sample: number of its part, and row of the part's index."""

    part: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipSamples:
    """The samples of one clip over all parts, by time."""

    facts: ClipFacts
    """Facts of the clip, from the first of its parts."""
    part: np.ndarray
    """i64 [N], numbers of their parts."""
    row: np.ndarray
    """i64 [N], their rows in the parts' indexes."""
    frame_index: np.ndarray
    """i64 [N], ascending."""
    has_next: np.ndarray
    """bool [N], whether the next row of the part is the next frame, a frame step later and without a break."""

    def places(self, chosen: np.ndarray) -> list[SampleAt]:
        """Return the samples at i64 [M], places in the columns."""
        return [
            SampleAt(part, row) for part, row in zip(self.part[chosen].tolist(), self.row[chosen].tolist(), strict=True)
        ]


class FrameReader:
    """Read pictures of a data set, and count what could not be read.

    Args:
        root: The data set's folder.
        parts: Its parts.
        what: Name of the pictures in progress reports.
        total: Total number of pictures to read, if known.
        on_progress: Called after every batch.
    """

    def __init__(
        self,
        root: path.AnyPath,
        parts: Sequence[ShardFolder],
        *,
        what: str,
        total: int | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.parts = parts
        self.num_read = 0
        """Pictures that were read and decoded."""
        self.bad_shards = _bad_shards(parts)
        """Problems of shards that are missing or have another size than in the index, by numbers of part and shard."""
        self._root = root
        self._ticker = Ticker(what, total, on_progress)
        self._problems: dict[str, int] = {}

    def each(
        self, groups: Sequence[Sequence[SampleAt]], look: Callable[[Sequence[SampleAt], Sequence[bytes]], _Result]
    ) -> list[_Result | None]:
        """Return the result of `look` for the pictures of each group, in order; None where one cannot be read.

        Args:
            groups: Samples that are measured together.
            look: Gets the samples and their files' bytes, in several threads; ShardError and ImageError are counted as problems.
        """
        results: list[_Result | None] = []
        with ThreadPoolExecutor(threads_for(self._root), thread_name_prefix="report") as pool:
            for start in range(0, len(groups), _BATCH):
                batch = groups[start : start + _BATCH]
                with ExitStack() as stack:
                    files = {
                        number: stack.enter_context(ShardFiles(self.parts[number].index, self.parts[number].path))
                        for number in sorted({place.part for group in batch for place in group})
                    }

                    def attempt(
                        group: Sequence[SampleAt], files: Mapping[int, ShardFiles] = files
                    ) -> _Result | InfraredCityError:
                        bad = next((bad for place in group if (bad := self.bad_shard(place)) is not None), None)
                        if bad is not None:
                            return bad
                        try:
                            return look(group, [files[place.part].image(place.row) for place in group])
                        except (ShardError, ImageError) as error:
                            return error

                    for group, result in zip(batch, pool.map(attempt, batch), strict=True):
                        if isinstance(result, InfraredCityError):
                            self.add_problem(result, num_frames=1)
                            results.append(None)
                        else:
                            self.num_read += len(group)
                            results.append(result)
                self._ticker.add(sum(map(len, batch)))
        return results

    def key(self, place: SampleAt) -> str:
        """Return the key of a sample."""
        return self.parts[place.part].index.key(place.row)

    def bad_shard(self, place: SampleAt) -> ShardError | None:
        """Say what is wrong with the shard of a sample, if it is missing or of another size."""
        return self.bad_shards.get((place.part, int(self.parts[place.part].index.shard[place.row])))

    def add_problem(self, error: InfraredCityError | str, *, num_frames: int = 0) -> None:
        """Count a problem; equal texts are one problem. Paths are relative to the data set's folder."""
        message = str(error).removeprefix(f"{self._root}{os.sep}")
        self._problems[message] = self._problems.get(message, 0) + num_frames

    @property
    def problems(self) -> tuple[Problem, ...]:
        """List what went wrong, in the order in which it first did."""
        return tuple(Problem(message=message, num_frames=count) for message, count in self._problems.items())


def _bad_shards(parts: Sequence[ShardFolder]) -> dict[tuple[int, int], ShardError]:
    bad: dict[tuple[int, int], ShardError] = {}
    for number, part in enumerate(parts):
        there = shard_sizes(part)
        for shard in np.unique(part.index.shard).tolist():
            info = part.index.shards[shard]
            try:
                check_size(part.path / info.name, info, there.get(info.name))
            except ShardError as error:
                bad[number, shard] = error
    return bad


def clips_of(parts: Sequence[ShardFolder]) -> list[ClipSamples]:
    """Return the clips that have samples, by id."""
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    follows: list[np.ndarray] = []
    for number, each in enumerate(parts):
        index = each.index
        has_next = np.ones(len(index), bool)
        stretches = index.stretches(spans_stills=True)
        has_next[stretches.sum(axis=1) - 1] = False
        follows.append(has_next)
        for of_part, clip_id in enumerate(index.clips):
            rows = np.flatnonzero(index.clip == of_part)
            if len(rows):
                found.setdefault(clip_id, []).append((number, rows))
    clips = []
    for clip_id in sorted(found):
        pieces = found[clip_id]
        part = np.concatenate([np.full(len(rows), number) for number, rows in pieces])
        row = np.concatenate([rows for _, rows in pieces])
        frame_index = np.concatenate([parts[number].index.frame_index[rows] for number, rows in pieces])
        has_next = np.concatenate([follows[number][rows] for number, rows in pieces])
        order = np.lexsort((row, part, frame_index))
        clips.append(
            ClipSamples(
                facts=parts[pieces[0][0]].clips[clip_id],
                part=part[order],
                row=row[order],
                frame_index=frame_index[order],
                has_next=has_next[order],
            )
        )
    return clips


def column(parts: Sequence[ShardFolder], clip: ClipSamples, name: str) -> np.ndarray:
    """Return one column of the index for the samples of a clip."""
    first = getattr(parts[int(clip.part[0])].index, name)
    values = np.zeros(len(clip.row), first.dtype)
    for number in np.unique(clip.part).tolist():
        here = clip.part == number
        values[here] = getattr(parts[number].index, name)[clip.row[here]]
    return values


def is_named(parts: Sequence[ShardFolder], clip: ClipSamples) -> np.ndarray:
    """Return bool [N]: which samples of a clip name another one in `dup_of`."""
    named = np.zeros(len(clip.row), bool)
    for number in np.unique(clip.part).tolist():
        here = clip.part == number
        named[here] = parts[number].index.dup_of[clip.row[here]] != b""
    return named


def is_marked(parts: Sequence[ShardFolder], clip: ClipSamples) -> np.ndarray:
    """Return bool [N]: which samples of a clip have a mark or name another one."""
    marked: np.ndarray = (column(parts, clip, "mark") != 0) | is_named(parts, clip)
    return marked


def times_of(parts: Sequence[ShardFolder], places: Sequence[SampleAt], facts: ClipFacts) -> tuple[float, ...]:
    """Return presentation times in seconds, to the microsecond, of samples of one clip."""
    base = Fraction(facts.time_base)
    return tuple(round(float(int(parts[place.part].index.pts[place.row]) * base), 6) for place in places)


def spread(size: int, num: int) -> np.ndarray:
    """Return i64 [min(size, num)]: places in a row of `size`, the middles of equal pieces. 3 of 12 are 2, 6 and 10."""
    num = min(size, num)
    return (2 * np.arange(num, dtype=np.int64) + 1) * size // (2 * max(1, num))
