"""Extraction on this machine: worker processes that decode and write, and this one that watches them.

A worker that dies is replaced, and goes on at the last finished shard. One whose decoder stands still for the deadline is killed
and replaced once; if the next one stands still at the same frame, the frames from there to the next key frame are given up and
named as a gap.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Protocol, runtime_checkable

from infraredcity.clips import Clip
from infraredcity.datasets.dataset import SEGMENTS_FOLDER
from infraredcity.errors import InfraredCityError, OutputError, VideoDecodeError
from infraredcity.extraction import run
from infraredcity.extraction.config import DEADLINE_S, ExtractConfig
from infraredcity.extraction.executors.worker import BEAT_S, Beat, Done, Task, Worker
from infraredcity.extraction.finish import ExtractReport, SkippedRange
from infraredcity.extraction.plan_file import PLAN_NAME
from infraredcity.extraction.run import ExtractJob
from infraredcity.extraction.segments import Segment, frames_ticker
from infraredcity.files import traffic
from infraredcity.files.atomic import is_locked, lock_folder, temporary_prefix
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.progress import OnProgress
from infraredcity.stills.tone import ToneMap
from infraredcity.video import find_decoder

_MAX_DEATHS = 3
_MAX_FRUITLESS = 3
_MAX_SUITABLE_WORKERS = 8


@runtime_checkable
class Executor(Protocol):
    """Who has segments written, and knows how far that is."""

    def __call__(
        self, job: ExtractJob, todo: Sequence[Segment], *, deadline_s: float, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        """Write the segments of a bound job; return the job, with the ranges that had to be skipped.

        Args:
            job: What to do and where.
            todo: Its segments that are not done, ascending.
            deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
            on_frames: Called with how many more frames are written; less than 0 where some must be written again.
        """


def extract_clip(
    clip: Clip,
    config: ExtractConfig,
    out: AnyPath,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    deadline_s: float = DEADLINE_S,
    is_strict: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Extract one clip to `out`/<clip_id> and finalize it; go on where an earlier run stopped, or do nothing.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip; a remote one must have one writer, since stores have no locks.
        workers: Processes that decode; None takes as many as suit the cores. Each has its own stretch of the clip; a clip that
            cannot be entered in the middle takes one. 0 decodes in this process, which nothing watches.
        executor: Who writes the segments; None for `workers` processes here.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
        is_strict: Whether damage is an error, and nothing is finalized.
        overwrite: Delete an earlier extraction of the clip first.
        on_progress: Told of frames done.

    Raises:
        InfraredCityError: As `run.prepare`, `run_segments` and `finalize`; OutputError when worker processes die again and
            again, or the folder holds a plan; VideoDecodeError when decord is stuck, or the clip is damaged and `is_strict`.
    """
    workers = _checked(workers, deadline_s)
    folder = out / clip.clip_id
    _check_unplanned(out)
    with lock_folder(folder):
        # Whoever plans holds `out` until the plan stands, and takes this lock too: what is so now is so until it is free. In the
        # other order a plan could come to stand between the two looks.
        _check_not_being_planned(out)
        _check_unplanned(out)
        # The first worker loads its libraries on one core while this process scans the clip on another.
        is_new = overwrite or not (folder / "clips.json").exists()
        crew = _Crew([Worker()] if workers > 0 and executor is None and is_new else [])
        is_bound = False
        try:
            job = run.prepare(clip, config, out, overwrite=overwrite)
            run.remove_leftovers(folder)
            if is_strict and job.video.suspect:
                raise VideoDecodeError(f"{job.video.suspect[0]}; --strict takes no damaged clip")
            job = _with_tone(job, crew, workers, deadline_s)
            job = run.bind(job)
            is_bound = True
            todo = run.pending(job)
            ticker = frames_ticker(f"{clip.clip_id}: frames", job.segments, todo, on_progress)
            if todo and executor is not None:
                job = executor(job, todo, deadline_s=deadline_s, on_frames=ticker.add)
            elif todo:
                job = _write(job, todo, crew, workers, deadline_s, ticker.add)
            crew.end()  # their memory, before the index of a long clip takes its own
            if is_strict:
                is_bound = False  # running again would end the same way
                run.check_whole(job)
            return run.finalize(job, new_frames=ticker.added)
        except InfraredCityError as error:
            error.is_resumable = is_bound and run.any_done(folder)
            raise
        finally:
            crew.end()
            run.remove_leftovers(folder)  # what a worker had open when it was ended


def _check_unplanned(out: AnyPath) -> None:
    if (out / PLAN_NAME).exists():
        raise OutputError(
            f"{out}: holds a plan, whose parts may be under way; extract with --plan {out / PLAN_NAME}, or choose another --out"
        )


def _check_not_being_planned(out: AnyPath) -> None:
    if is_locked(out):
        raise OutputError(
            f"{out}: is being planned (or repaired as a whole); wait for that run to end, or choose another --out"
        )


def fit_tone(job: ExtractJob, *, deadline_s: float = DEADLINE_S) -> ExtractJob:
    """The job with its tone, fitted by a worker process if it needs one; see `run.fit_clip_tone`."""
    crew = _Crew([])
    try:
        return _with_tone(job, crew, 1, deadline_s)
    finally:
        crew.end()


def write_segments(
    job: ExtractJob,
    todo: Sequence[Segment],
    *,
    workers: int | None = None,
    cores: int | None = None,
    deadline_s: float = DEADLINE_S,
    on_frames: Callable[[int], None] = lambda _count: None,
) -> ExtractJob:
    """Write some segments of a bound job by processes on this machine; others may write other ones meanwhile.

    Args:
        job: From `run.bind` or `run.join`.
        todo: Its segments that are not done, ascending.
        workers: As for `extract_clip`.
        cores: How many cores the workers' encoding threads shall suit; None for all of this machine.
        deadline_s: As for `extract_clip`.
        on_frames: As for `Executor`.

    Returns:
        The job, with the stretches that had to be given up.

    Raises:
        InfraredCityError: As `extract_clip`.
    """
    crew = _Crew([])
    try:
        return _write(job, todo, crew, _checked(workers, deadline_s), deadline_s, on_frames, cores)
    finally:
        crew.end()


def _checked(workers: int | None, deadline_s: float) -> int:
    if workers is None:
        workers = _suitable_workers()
    if workers < 0 or deadline_s <= 0:
        raise ValueError(f"workers must be at least 0 and deadline_s positive, got {workers} and {deadline_s}")
    return workers


def _with_tone(job: ExtractJob, crew: "_Crew", workers: int, deadline_s: float) -> ExtractJob:
    if not job.needs_tone:
        return job
    return run.with_tone(job, _Watch(crew, deadline_s).tone(job) if workers > 0 else run.fit_clip_tone(job))


def _write(
    job: ExtractJob,
    todo: Sequence[Segment],
    crew: "_Crew",
    workers: int,
    deadline_s: float,
    on_frames: Callable[[int], None],
    cores: int | None = None,
) -> ExtractJob:
    cores = run.default_threads() if cores is None else cores
    if workers == 0:
        run.run_segments(job, todo, threads=cores, on_frames=on_frames)
        return job
    count = min(workers, len(todo)) if job.can_start_anywhere else 1
    return _Watch(crew, deadline_s).segments(job, _shares(todo, count), max(1, cores // count), on_frames)


def _suitable_workers() -> int:
    """One per core, up to where their memory adds up: one thread of each decodes and one encodes, which keeps all cores busy."""
    return min(run.default_threads(), _MAX_SUITABLE_WORKERS)


def _shares(todo: Sequence[Segment], workers: int) -> list[tuple[Segment, ...]]:
    """The segments in `workers` stretches of neighbours, as even as can be."""
    return [tuple(todo[len(todo) * k // workers : len(todo) * (k + 1) // workers]) for k in range(workers)]


class _Crew:
    """Worker processes: those that wait for work, and those that have some."""

    def __init__(self, idle: list[Worker]) -> None:
        self._idle = idle
        self._busy: list[Worker] = []

    def take(self) -> Worker:
        """A worker, a new one if none waits."""
        worker = self._idle.pop() if self._idle else Worker()
        self._busy.append(worker)
        return worker

    def dismiss(self, worker: Worker) -> int:
        """Kill a worker; its exit code."""
        self._busy.remove(worker)
        return worker.end()

    def release(self, worker: Worker) -> None:
        """The worker's task is done."""
        self._busy.remove(worker)
        self._idle.append(worker)

    def end(self) -> None:
        """Kill them all."""
        for worker in (*self._busy, *self._idle):
            worker.end()
        self._busy, self._idle = [], []


@dataclass(slots=True, eq=False)
class _Shift:
    """One worker at one task, and what is known of how it fares."""

    worker: Worker
    task: Task
    beat: Beat = field(default_factory=lambda: Beat(is_decoding=False, num_decoded=0, frame_index=-1, num_written=0))
    heard_s: float = field(default_factory=time.monotonic)
    moved_s: float = field(default_factory=time.monotonic)
    num_deaths: int = 0
    stuck_at: int | None = None
    """Where an earlier worker of this task stood still."""
    num_fruitless: int = 0
    """Stretches that were given up, one after the other, by workers that had not decoded a single frame."""
    last_pending: int = -1

    def take(self, beat: Beat) -> int:
        """Note a beat; frames written since the last one."""
        now = time.monotonic()
        if not beat.is_decoding or beat.num_decoded != self.beat.num_decoded:
            self.moved_s = now
        written = beat.num_written - self.beat.num_written
        self.beat, self.heard_s = beat, now
        traffic.count_elsewhere(beat.moved)
        return written

    def is_stuck(self, deadline_s: float) -> bool:
        """Whether nothing was heard, or no frame came, for the deadline."""
        return time.monotonic() - min(self.heard_s, self.moved_s) > deadline_s


class _Watch:
    """Gives tasks to workers and sees to it that they end."""

    def __init__(self, crew: _Crew, deadline_s: float) -> None:
        self._crew = crew
        self._deadline_s = deadline_s

    def tone(self, job: ExtractJob) -> ToneMap:
        """Fit the job's tone; a decoder that is stuck there is an error, since a tone of half a clip would be another one."""
        shift = self._begin(Task(kind="tone", job=job))
        while True:
            wait([shift.worker.connection], timeout=BEAT_S)
            try:
                for message in shift.worker.heard():
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
                    f"clip {job.clip.clip_id}: the decoder stands still behind frame {shift.beat.frame_index} while the tone is "
                    "fitted; name the counts with --tone fixed --tone-range LOW,HIGH, or take --format png16"
                )

    def segments(
        self, job: ExtractJob, parts: Sequence[tuple[Segment, ...]], threads: int, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        """Have all segments written; the job as it is then, with the stretches that had to be given up."""
        shifts = [self._begin(Task(kind="segments", job=job, todo=part, threads=threads)) for part in parts]
        while shifts:
            wait([shift.worker.connection for shift in shifts], timeout=BEAT_S)
            for shift in list(shifts):
                try:
                    for message in shift.worker.heard():
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
        """A worker died: another one goes on where its finished shards end, unless that happens again and again at one place."""
        code = self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, on_frames)
        shift.num_deaths = shift.num_deaths + 1 if len(todo) == shift.last_pending else 1
        shift.last_pending = len(todo)
        if shift.num_deaths >= _MAX_DEATHS:
            raise _died(job, code)
        self._start_again(shift, job, todo)

    def _unstick(self, shift: _Shift, job: ExtractJob, on_frames: Callable[[int], None]) -> ExtractJob:
        """A decoder stands still: try once more, then give up the frames to the next key frame."""
        self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, on_frames)
        last = shift.beat.frame_index
        if shift.stuck_at == last and todo:
            decoder = find_decoder(job.decoder)
            if not decoder.can_start_anywhere:
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: {job.decoder} stands still behind frame {last}; use {decoder.instead}"
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
            job = run.skip_range(job, skipped)
            last = -2  # the next place has its own two tries
        shift.stuck_at = last
        self._start_again(shift, job, todo)
        return job

    def _left_over(self, shift: _Shift, job: ExtractJob, on_frames: Callable[[int], None]) -> tuple[Segment, ...]:
        """What the ended worker has not finished, after tidying up behind it."""
        for below in () if isinstance(job.folder, RemotePath) else (job.folder, job.folder / SEGMENTS_FOLDER):
            for path in below.glob(f"{temporary_prefix(shift.worker.pid)}*"):
                path.unlink(missing_ok=True)
        undone = {segment.number for segment in run.pending(job)}
        todo = tuple(segment for segment in shift.task.todo if segment.number in undone)
        finished = sum(len(s.frames) for s in shift.task.todo) - sum(len(s.frames) for s in todo)
        on_frames(finished - shift.beat.num_written)  # frames of unfinished shards are written once more
        return todo

    def _start_again(self, shift: _Shift, job: ExtractJob, todo: tuple[Segment, ...]) -> None:
        task = Task(kind="segments", job=job, todo=todo, threads=shift.task.threads)
        fresh = self._begin(task)
        shift.worker, shift.task, shift.beat = fresh.worker, task, fresh.beat
        shift.heard_s, shift.moved_s = fresh.heard_s, fresh.moved_s


def _died(job: ExtractJob, code: int) -> OutputError:
    return OutputError(
        f"{job.folder}: a worker process died with exit code {code}, and so did {_MAX_DEATHS - 1} before it at the same place; "
        "run the same command again to go on, with fewer --workers if memory is short"
    )
