"""Run segments in worker processes on this machine, watched by this process.

A worker that dies is replaced, and goes on behind the last finished shard. One whose decoder gives no frame for the deadline is
killed and replaced once; if the next one is stuck at the same frame, the frames from there to the next key frame are skipped and
named as a gap.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Protocol, runtime_checkable

from infraredcity.datasets.walk import SEGMENTS_FOLDER
from infraredcity.errors import OutputError, VideoDecodeError
from infraredcity.extraction import run
from infraredcity.extraction.config import DEADLINE_S
from infraredcity.extraction.executors.worker import BEAT_S, Beat, Done, Task, Worker
from infraredcity.extraction.job import ExtractJob, SkippedRange, pending, skip_range
from infraredcity.extraction.segments import Segment
from infraredcity.files import traffic
from infraredcity.files.path import RemotePath
from infraredcity.files.temporary import temporary_prefix
from infraredcity.stills.tone import ToneMap
from infraredcity.threads import num_cores
from infraredcity.video import find_decoder

_MAX_DEATHS = 3
_MAX_FRUITLESS = 3
_MAX_SUITABLE_WORKERS = 8


@runtime_checkable
class Executor(Protocol):
    """A way to write segments of a job: in processes here, or on other machines."""

    def __call__(
        self, job: ExtractJob, todo: Sequence[Segment], *, deadline_s: float, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        """Write some segments, and return the job with all ranges at which its decoder hung and which are skipped.

        Args:
            job: A job whose folder is bound to it.
            todo: Its segments that are not done, ascending.
            deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
            on_frames: Called with the number of frames just written; negative where some must be written again.
        """


class LocalExecutor:
    """Writes segments in worker processes on this machine, which it keeps for the next call until `end`.

    Args:
        workers: Processes that decode; None takes as many as suit the cores. Each has its own range of the clip; a clip that
            cannot be entered in the middle takes one. 0 decodes in this process, which nothing watches.
        cores: Cores that the workers' encoding threads share; None takes all of this machine.
    """

    def __init__(self, workers: int | None = None, *, cores: int | None = None) -> None:
        # One worker per core, up to where their memory adds up: one thread of each decodes and one encodes, which keeps all busy.
        self._workers = min(num_cores(), _MAX_SUITABLE_WORKERS) if workers is None else workers
        if self._workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        self._cores = num_cores() if cores is None else cores
        self._crew = _Crew()

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def start_worker(self) -> None:
        """Start a worker ahead of its work: it loads its libraries on one core while this process scans the clip on another."""
        if self._workers > 0:
            self._crew.start()

    def fit_tone(self, job: ExtractJob, *, deadline_s: float = DEADLINE_S) -> ExtractJob:
        """Return the job with its tone, fitted in a worker if it needs one; see `run.fit_clip_tone`.

        Raises:
            VideoDecodeError: The decoder is stuck, since a tone of half a clip would be another one.
        """
        if not job.needs_tone:
            return job
        fitted = _Watch(self._crew, deadline_s).tone(job) if self._workers > 0 else run.fit_clip_tone(job)
        return replace(job, tone=fitted)

    def __call__(
        self,
        job: ExtractJob,
        todo: Sequence[Segment],
        *,
        deadline_s: float = DEADLINE_S,
        on_frames: Callable[[int], None] = lambda _count: None,
    ) -> ExtractJob:
        """Write some segments, see `Executor`; others may write other segments of the job meanwhile.

        Raises:
            InfraredCityError: As decoding, encoding and writing raise; OutputError when workers die again and again.
        """
        if self._workers == 0:
            run.run_segments(job, todo, threads=self._cores, on_frames=on_frames)
            return job
        count = min(self._workers, len(todo)) if job.can_start_anywhere else 1
        return _Watch(self._crew, deadline_s).segments(
            job, _shares(todo, count), max(1, self._cores // count), on_frames
        )

    def end(self) -> None:
        """End the workers, whatever they do."""
        self._crew.end()


def _shares(todo: Sequence[Segment], workers: int) -> list[tuple[Segment, ...]]:
    """Split the segments into `workers` ranges of neighbours, as even as possible."""
    return [tuple(todo[len(todo) * k // workers : len(todo) * (k + 1) // workers]) for k in range(workers)]


class _Crew:
    """Worker processes: those that wait for work, and those that have some."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []

    def start(self) -> None:
        """Start a worker that waits for work."""
        self._idle.append(Worker())

    def take(self) -> Worker:
        """Take a worker for a task, a new one if none waits."""
        worker = self._idle.pop() if self._idle else Worker()
        self._busy.append(worker)
        return worker

    def dismiss(self, worker: Worker) -> int:
        """Kill a worker; return its exit code."""
        self._busy.remove(worker)
        return worker.end()

    def release(self, worker: Worker) -> None:
        """Put a worker whose task is done back to those that wait."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def end(self) -> None:
        """Kill them all."""
        for worker in (*self._busy, *self._idle):
            worker.end()
        self._busy, self._idle = [], []


@dataclass(slots=True, eq=False)
class _Shift:
    """One worker at one task, and how it is doing."""

    worker: Worker
    task: Task
    beat: Beat = field(default_factory=lambda: Beat(is_decoding=False, num_decoded=0, frame_index=-1, num_written=0))
    beat_s: float = field(default_factory=time.monotonic)
    moved_s: float = field(default_factory=time.monotonic)
    num_deaths: int = 0
    stuck_at: int | None = None
    """The last frame of an earlier worker of this task that was stuck."""
    num_fruitless: int = 0
    """Ranges that were skipped, one after the other, by workers that had not decoded a single frame."""
    last_pending: int = -1

    def take(self, beat: Beat) -> int:
        """Take note of a beat; return the frames written since the last one."""
        now = time.monotonic()
        if not beat.is_decoding or beat.num_decoded != self.beat.num_decoded:
            self.moved_s = now
        written = beat.num_written - self.beat.num_written
        self.beat, self.beat_s = beat, now
        traffic.count_elsewhere(beat.moved)
        return written

    def is_stuck(self, deadline_s: float) -> bool:
        """Return whether no beat, or no frame, came for the deadline."""
        return time.monotonic() - min(self.beat_s, self.moved_s) > deadline_s


class _Watch:
    """Gives tasks to workers, and replaces those that die or are stuck."""

    def __init__(self, crew: _Crew, deadline_s: float) -> None:
        if deadline_s <= 0:
            raise ValueError(f"deadline_s must be positive, got {deadline_s}")
        self._crew = crew
        self._deadline_s = deadline_s

    def tone(self, job: ExtractJob) -> ToneMap:
        """Have the job's tone fitted."""
        shift = self._begin(Task(kind="tone", job=job))
        while True:
            wait([shift.worker.connection], timeout=BEAT_S)
            try:
                for message in shift.worker.receive():
                    if isinstance(message, Beat):
                        shift.take(message)
                    elif isinstance(message, Done):
                        self._crew.release(shift.worker)
                        fitted: ToneMap = message.value
                        return fitted
                    else:
                        message.raise_again()
            except EOFError:
                raise _died(job, self._crew.dismiss(shift.worker)) from None
            if shift.is_stuck(self._deadline_s):
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: the decoder is stuck behind frame {shift.beat.frame_index} while the tone is "
                    "fitted; name the counts with --tone fixed --tone-range LOW,HIGH, or take --format png16"
                )

    def segments(
        self, job: ExtractJob, parts: Sequence[tuple[Segment, ...]], threads: int, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        """Have all segments written; return the job, with the ranges that had to be skipped."""
        shifts = [self._begin(Task(kind="segments", job=job, todo=part, threads=threads)) for part in parts]
        while shifts:
            wait([shift.worker.connection for shift in shifts], timeout=BEAT_S)
            for shift in list(shifts):
                try:
                    for message in shift.worker.receive():
                        if isinstance(message, Beat):
                            on_frames(shift.take(message))
                        elif isinstance(message, Done):
                            self._crew.release(shift.worker)
                            shifts.remove(shift)
                            break
                        else:
                            message.raise_again()
                except EOFError:
                    self._replace(shift, job, on_frames)
                    continue
                if shift in shifts and shift.is_stuck(self._deadline_s):
                    job = self._unstick(shift, job, on_frames)
        return job

    def _begin(self, task: Task) -> _Shift:
        worker = self._crew.take()
        worker.give(task)
        return _Shift(worker=worker, task=task)

    def _replace(self, shift: _Shift, job: ExtractJob, on_frames: Callable[[int], None]) -> None:
        """Replace a worker that died; the next one goes on behind its finished shards. The third death at one place is an error."""
        code = self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, on_frames)
        shift.num_deaths = shift.num_deaths + 1 if len(todo) == shift.last_pending else 1
        shift.last_pending = len(todo)
        if shift.num_deaths >= _MAX_DEATHS:
            raise _died(job, code)
        self._start_again(shift, job, todo)

    def _unstick(self, shift: _Shift, job: ExtractJob, on_frames: Callable[[int], None]) -> ExtractJob:
        """Replace a worker whose decoder is stuck; the second time at one frame, skip the frames to the next key frame."""
        self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, on_frames)
        last = shift.beat.frame_index
        if shift.stuck_at == last and todo:
            decoder = find_decoder(job.decoder)
            if not decoder.can_start_anywhere:
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: {job.decoder} is stuck behind frame {last}; use {decoder.instead}"
                )
            shift.num_fruitless = shift.num_fruitless + 1 if shift.beat.num_decoded == 0 else 0
            first = job.first_decoded(max(last + 1, todo[0].frames.start_frame))
            if shift.num_fruitless > _MAX_FRUITLESS or first >= todo[-1].frames.stop_frame:
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: the decoder gives no frame for {self._deadline_s:g} s wherever it begins, last at "
                    f"frame {first}; see whether its file can be read, then run the same command again to go on"
                )
            reason = f"the decoder gave no frame for {self._deadline_s:g} s, twice"
            skipped = SkippedRange(start_frame=first, stop_frame=job.video.next_entry(first), reason=reason)
            job = skip_range(job, skipped)
            last = -2  # the next place has its own two tries
        shift.stuck_at = last
        self._start_again(shift, job, todo)
        return job

    def _left_over(self, shift: _Shift, job: ExtractJob, on_frames: Callable[[int], None]) -> tuple[Segment, ...]:
        """Return what an ended worker has not finished, after removing its temporary files."""
        for below in () if isinstance(job.folder, RemotePath) else (job.folder, job.folder / SEGMENTS_FOLDER):
            for path in below.glob(f"{temporary_prefix(shift.worker.pid)}*"):
                path.unlink(missing_ok=True)
        undone = {segment.number for segment in pending(job)}
        todo = tuple(segment for segment in shift.task.todo if segment.number in undone)
        finished = sum(len(s.frames) for s in shift.task.todo) - sum(len(s.frames) for s in todo)
        on_frames(finished - shift.beat.num_written)  # frames of unfinished shards are written once more
        return todo

    def _start_again(self, shift: _Shift, job: ExtractJob, todo: tuple[Segment, ...]) -> None:
        task = Task(kind="segments", job=job, todo=todo, threads=shift.task.threads)
        fresh = self._begin(task)
        shift.worker, shift.task, shift.beat = fresh.worker, task, fresh.beat
        shift.beat_s, shift.moved_s = fresh.beat_s, fresh.moved_s


def _died(job: ExtractJob, code: int) -> OutputError:
    return OutputError(
        f"{job.folder}: a worker process died with exit code {code}, and so did {_MAX_DEATHS - 1} before it at the same place; "
        "run the same command again to go on, with fewer --workers if memory is short"
    )
