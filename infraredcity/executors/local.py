"""Extraction in this process, or in several worker processes of this machine."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from infraredcity import extract
from infraredcity.catalog import Clip
from infraredcity.errors import InfraredCityError, OutputError
from infraredcity.extract import ExtractJob, ExtractReport
from infraredcity.plan import ExtractConfig, Segment
from infraredcity.progress import OnProgress, Progress
from infraredcity.storage import lock_folder


def extract_clip(
    clip: Clip,
    config: ExtractConfig,
    out: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Extract one clip to `out`/<clip_id> and finalize it; go on where an earlier run stopped, or do nothing.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip.
        workers: Processes that decode. Each has its own stretch of the clip; a clip that cannot be entered in the middle takes one.
        overwrite: Delete an earlier extraction of the clip first.
        on_progress: Told of frames done.

    Raises:
        InfraredCityError: As `extract.prepare`, `run_segments` and `finalize`; and OutputError when a worker process dies.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    with lock_folder(out / clip.clip_id):
        job = extract.prepare(clip, config, out, overwrite=overwrite)
        todo = extract.pending(job)
        total = sum(len(segment.frames) for segment in job.segments)
        counter = _Counter(f"{clip.clip_id}: frames", total - sum(len(s.frames) for s in todo), total, on_progress)
        workers = min(workers, len(todo)) if job.can_start_anywhere else 1
        if workers > 1:
            _run_in_processes(job, todo, workers, counter)
        elif todo:
            extract.run_segments(job, todo, threads=extract.default_threads(), on_frames=counter.add)
        return extract.finalize(job, new_frames=counter.added)


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


def _run_in_processes(job: ExtractJob, todo: Sequence[Segment], workers: int, counter: _Counter) -> None:
    context = multiprocessing.get_context("spawn")
    reports: Queue[Any] = context.Queue()
    shares = [todo[len(todo) * k // workers : len(todo) * (k + 1) // workers] for k in range(workers)]
    threads = max(1, extract.default_threads() // workers)
    # daemon: whatever ends this process (a signal, an error in another worker) ends the workers too.
    processes = [context.Process(target=_work, args=(job, share, threads, reports), daemon=True) for share in shares]
    try:
        for process in processes:
            process.start()
        finished = 0
        while finished < workers:
            try:
                kind, value = reports.get(timeout=0.5)
            except queue.Empty:
                dead = [process for process in processes if process.exitcode not in (None, 0)]
                if dead:
                    raise OutputError(
                        f"{job.folder}: a worker process died with exit code {dead[0].exitcode}; "
                        "run the same command again to go on, with fewer --workers if memory is short"
                    ) from None
                continue
            if kind == "frames":
                counter.add(value)
            elif kind == "done":
                finished += 1
            else:
                raise value
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()
        extract.remove_leftovers(job)  # what a worker had open when it was ended


def _work(job: ExtractJob, todo: Sequence[Segment], threads: int, reports: "Queue[Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    waiting = 0

    def on_frames(count: int) -> None:
        nonlocal waiting
        waiting += count
        if waiting >= 50:
            reports.put(("frames", waiting))
            waiting = 0

    try:
        extract.run_segments(job, todo, threads=threads, on_frames=on_frames)
    except InfraredCityError as error:
        reports.put(("error", type(error)(str(error)) if type(error).__init__ is Exception.__init__ else error))
        return
    reports.put(("frames", waiting))
    reports.put(("done", 0))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing beside the next run: it ends in the same moment."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
