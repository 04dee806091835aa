"""Extraction on this machine: worker processes that decode and write, and this one that watches them.

A worker that dies is replaced, and goes on at the last finished shard. One whose decoder stands still for the deadline is killed
and replaced once; if the next one stands still at the same frame, the frames from there to the next key frame are given up and
named as a gap.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from infraredcity import extract
from infraredcity.catalog import Clip
from infraredcity.dataset import MARKERS
from infraredcity.errors import InfraredCityError, OutputError, VideoDecodeError
from infraredcity.executors.worker import BEAT_S, Beat, Done, Task, Worker
from infraredcity.extract import ExtractJob, ExtractReport, Hang
from infraredcity.plan import DEADLINE_S, ExtractConfig, Segment
from infraredcity.progress import OnProgress, Progress
from infraredcity.storage import TEMPORARY_PREFIX, lock_folder
from infraredcity.tone import ToneMap

_MAX_DEATHS = 3
_MAX_FRUITLESS = 3
_MAX_SUITABLE_WORKERS = 8


def extract_clip(
    clip: Clip,
    config: ExtractConfig,
    out: Path,
    *,
    workers: int | None = None,
    deadline_s: float = DEADLINE_S,
    is_strict: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Extract one clip to `out`/<clip_id> and finalize it; go on where an earlier run stopped, or do nothing.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip.
        workers: Processes that decode; None takes as many as suit the cores. Each has its own stretch of the clip; a clip that
            cannot be entered in the middle takes one. 0 decodes in this process, which nothing watches.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
        is_strict: Whether damage is an error, and nothing is finalized.
        overwrite: Delete an earlier extraction of the clip first.
        on_progress: Told of frames done.

    Raises:
        InfraredCityError: As `extract.prepare`, `run_segments` and `finalize`; OutputError when worker processes die again and
            again; VideoDecodeError when decord is stuck, or the clip is damaged and `is_strict`.
    """
    if workers is None:
        workers = _suitable_workers()
    if workers < 0 or deadline_s <= 0:
        raise ValueError(f"workers must be at least 0 and deadline_s positive, got {workers} and {deadline_s}")
    folder = out / clip.clip_id
    with lock_folder(folder):
        # The first worker loads its libraries on one core while this process scans the clip on another.
        is_new = overwrite or not (folder / "clips.json").exists()
        crew = _Crew([Worker()] if workers > 0 and is_new else [])
        is_claimed = False
        try:
            job = extract.prepare(clip, config, out, overwrite=overwrite)
            if is_strict and job.video.suspect:
                raise VideoDecodeError(f"{job.video.suspect[0]}; --strict takes no damaged clip")
            watch = _Watch(crew, deadline_s)
            if job.needs_tone:
                job = extract.with_tone(job, watch.tone(job) if workers > 0 else extract.fit_clip_tone(job))
            extract.claim(job)
            is_claimed = True
            todo = extract.pending(job)
            total = sum(len(segment.frames) for segment in job.segments)
            counter = _Counter(f"{clip.clip_id}: frames", total - sum(len(s.frames) for s in todo), total, on_progress)
            if todo and workers == 0:
                extract.run_segments(job, todo, threads=extract.default_threads(), on_frames=counter.add)
            elif todo:
                count = min(workers, len(todo)) if job.can_start_anywhere else 1
                job = watch.segments(job, _shares(todo, count), counter)
            crew.end()  # their memory, before the index of a long clip takes its own
            if is_strict:
                is_claimed = False  # running again would end the same way
                extract.check_whole(job)
            return extract.finalize(job, new_frames=counter.added)
        except InfraredCityError as error:
            error.is_resumable = is_claimed and any((folder / MARKERS).glob("*.json"))
            raise
        finally:
            crew.end()
            extract.remove_leftovers(folder)  # what a worker had open when it was ended


def _suitable_workers() -> int:
    """One per core, up to where their memory adds up: one thread of each decodes and one encodes, which keeps all cores busy."""
    return min(extract.default_threads(), _MAX_SUITABLE_WORKERS)


def _shares(todo: Sequence[Segment], workers: int) -> list[tuple[Segment, ...]]:
    """The segments in `workers` stretches of neighbours, as even as can be."""
    return [tuple(todo[len(todo) * k // workers : len(todo) * (k + 1) // workers]) for k in range(workers)]


class _Counter:
    """Turns "one more frame" into Progress reports, a few per second."""

    def __init__(self, what: str, done: int, total: int, on_progress: OnProgress | None) -> None:
        self._what, self._done, self._total, self._on_progress = what, done, total, on_progress
        self._last = 0.0
        self.added = 0
        self.add(0)

    def add(self, frames: int) -> None:
        self.added += frames
        self._done += frames
        now = time.monotonic()
        if self._on_progress is not None and (now - self._last > 0.2 or self._done == self._total):
            self._last = now
            self._on_progress(Progress(what=self._what, done=self._done, total=self._total))


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

    def segments(self, job: ExtractJob, parts: Sequence[tuple[Segment, ...]], counter: _Counter) -> ExtractJob:
        """Have all segments written; the job as it is then, with the stretches that had to be given up."""
        threads = max(1, extract.default_threads() // len(parts))
        shifts = [self._begin(Task(kind="segments", job=job, todo=part, threads=threads)) for part in parts]
        while shifts:
            wait([shift.worker.connection for shift in shifts], timeout=BEAT_S)
            for shift in list(shifts):
                try:
                    for message in shift.worker.heard():
                        if isinstance(message, Beat):
                            counter.add(shift.take(message))
                        elif isinstance(message, Done):
                            self._crew.release(shift.worker)
                            shifts.remove(shift)
                            break
                        else:
                            message.raise_again()
                except EOFError:
                    self._replace(shift, job, counter)
                    continue
                if shift in shifts and shift.is_stuck(self._deadline_s):
                    job = self._unstick(shift, job, counter)
        return job

    def _begin(self, task: Task) -> _Shift:
        worker = self._crew.take()
        worker.give(task)
        return _Shift(worker=worker, task=task)

    def _replace(self, shift: _Shift, job: ExtractJob, counter: _Counter) -> None:
        """A worker died: another one goes on where its finished shards end, unless that happens again and again at one place."""
        code = self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, counter)
        shift.num_deaths = shift.num_deaths + 1 if len(todo) == shift.last_pending else 1
        shift.last_pending = len(todo)
        if shift.num_deaths >= _MAX_DEATHS:
            raise _died(job, code)
        self._start_again(shift, job, todo)

    def _unstick(self, shift: _Shift, job: ExtractJob, counter: _Counter) -> ExtractJob:
        """A decoder stands still: try once more, then give up the frames to the next key frame."""
        self._crew.dismiss(shift.worker)
        todo = self._left_over(shift, job, counter)
        last = shift.beat.frame_index
        if shift.stuck_at == last and todo:
            if job.decoder != "pyav":
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: {job.decoder} stands still behind frame {last}; use --decoder pyav"
                )
            shift.num_fruitless = shift.num_fruitless + 1 if shift.beat.num_decoded == 0 else 0
            first = job.first_decoded(max(last + 1, todo[0].frames.start_frame))
            if shift.num_fruitless > _MAX_FRUITLESS or first >= todo[-1].frames.stop_frame:
                raise VideoDecodeError(
                    f"clip {job.clip.clip_id}: the decoder gives no frame for {self._deadline_s:g} s wherever it begins, last at "
                    f"frame {first}; see whether its file can be read, then run the same command again to go on"
                )
            reason = f"the decoder gave no frame for {self._deadline_s:g} s, twice"
            hang = Hang(start_frame=first, stop_frame=job.video.next_entry(first), reason=reason)
            job = extract.with_hang(job, hang)
            last = -2  # the next place has its own two tries
        shift.stuck_at = last
        self._start_again(shift, job, todo)
        return job

    def _left_over(self, shift: _Shift, job: ExtractJob, counter: _Counter) -> tuple[Segment, ...]:
        """What the ended worker has not finished, after tidying up behind it."""
        for place in (job.folder, job.folder / MARKERS):
            for path in place.glob(f"{TEMPORARY_PREFIX}{shift.worker.pid}-*"):
                path.unlink(missing_ok=True)
        undone = {segment.number for segment in extract.pending(job)}
        todo = tuple(segment for segment in shift.task.todo if segment.number in undone)
        finished = sum(len(s.frames) for s in shift.task.todo) - sum(len(s.frames) for s in todo)
        counter.add(finished - shift.beat.num_written)  # frames of unfinished shards are written once more
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
