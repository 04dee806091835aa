"""A worker: a process of its own that decodes and writes for its parent, and sends a sign of life ten times a second.

A decoder can hang where no exception reaches it, even while it holds the interpreter's lock (dmlc/decord issue 373), so only
another process can watch it. The parent knows where the worker is; one that stops sending, or stays at one frame, is killed and
replaced (see `executors.local`). A worker ends with its parent: the pipe closes, and it is gone in the same moment.

It is started as `python -c`, not by multiprocessing's spawn, so that a caller's script needs no `if __name__ == "__main__"`.
"""

import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal

from infraredcity.errors import InfraredCityError
from infraredcity.extraction.job import ExtractJob
from infraredcity.extraction.segments import Segment
from infraredcity.files import traffic
from infraredcity.files.traffic import Traffic
from infraredcity.video.remote_source import waits_for_network

BEAT_S = 0.1
# A decoded picture is of the size that glibc gives back to the system at once and fetches anew for the next one, page by page.
# OpenBLAS comes with numpy, and its threads would wait busily for work that never comes.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_TOP_PAD_": "33554432",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Work for a worker: write `todo`, or fit the job's tone to all its frames."""

    kind: Literal["segments", "tone"]
    job: ExtractJob
    todo: tuple[Segment, ...] = ()
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life."""

    is_decoding: bool
    """Whether the worker waits for its decoder, rather than for an encoder or the disk."""
    num_decoded: int
    """Frames that came out of the decoder since the task began."""
    frame_index: int
    """The last of them in its clip, -1 before the first."""
    num_written: int
    """Frames written since the task began."""
    moved: Traffic = field(default_factory=Traffic)
    """What the worker moved from and to other machines since its last beat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The task is done; `value` is the fitted tone, or None."""

    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The task ended with an error: one of ours, or the traceback of another one as text."""

    error: InfraredCityError | str

    def raise_again(self) -> None:
        """Raise the worker's error in the parent."""
        if isinstance(self.error, str):
            raise RuntimeError(f"a worker process failed:\n{self.error}")
        raise self.error


class Worker:
    """The parent's side of one worker process."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**_ENVIRONMENT, **os.environ},
            process_group=0,  # a terminal's Ctrl-C reaches only the parent, which ends its workers
        )
        theirs.close()
        self.connection: Connection[Any, Any] = ours

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def give(self, task: Task) -> None:
        """Start a task; one at a time."""
        with suppress(BrokenPipeError, ConnectionResetError):  # a worker that died is noticed by `receive`
            self.connection.send(task)

    def receive(self) -> Iterator[Beat | Done | Failed]:
        """Yield what has come since the last call.

        Raises:
            EOFError: The process is gone.
        """
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error

    def end(self) -> int:
        """Kill the process, whatever it does, and wait for it; return its exit code."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self.connection.close()
        return self._process.wait()


@dataclass(slots=True)
class _Life:
    """What the next beat reports; written by the task, read by the thread that sends beats."""

    is_decoding: bool = False
    num_decoded: int = 0
    frame_index: int = -1
    num_written: int = 0
    moved: Traffic = field(default_factory=Traffic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Count anew for another task."""
        with self.lock:
            self.num_decoded, self.frame_index, self.num_written = 0, -1, 0

    def on_alive(self, frame_index: int) -> None:
        self.num_decoded += 1
        self.frame_index = frame_index

    def on_frames(self, count: int) -> None:
        self.num_written += count

    @contextmanager
    def decoding(self) -> Iterator[None]:
        self.is_decoding = True
        try:
            yield
        finally:
            self.is_decoding = False


def main(handle: int) -> None:
    """Serve the parent at the other end of the pipe `handle` until it hangs up."""
    connection: Connection[Any, Any] = Connection(handle)
    life = _Life()
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    threading.Thread(target=_beat, args=(connection, life), daemon=True).start()
    from infraredcity.stills.opencv import use_one_thread
    from infraredcity.video import pyav  # noqa: F401  # while the parent still scans, the libraries are loaded here

    use_one_thread()

    while True:
        answer = _run(tasks.get(), life)
        with life.lock:
            connection.send(_beat_of(life))
            connection.send(answer)


def _run(task: Task, life: _Life) -> Done | Failed:
    from infraredcity.extraction import run

    life.begin()
    try:
        if task.kind == "tone":
            with life.decoding():
                return Done(value=run.fit_clip_tone(task.job, life.on_alive))
        run.run_segments(
            task.job,
            task.todo,
            threads=task.threads,
            on_frames=life.on_frames,
            on_alive=life.on_alive,
            decoding=life.decoding,
        )
    except InfraredCityError as error:
        return Failed(error=error)
    except Exception:
        return Failed(error=traceback.format_exc())
    return Done()


def _listen(connection: "Connection[Any, Any]", tasks: "queue.SimpleQueue[Task]") -> None:
    while True:
        try:
            tasks.put(connection.recv())
        except (EOFError, OSError):  # the parent ended; whatever is open here has a temporary name
            os._exit(1)


def _beat(connection: "Connection[Any, Any]", life: _Life) -> None:
    while True:
        time.sleep(BEAT_S)
        with life.lock, suppress(OSError):
            connection.send(_beat_of(life))


def _beat_of(life: _Life) -> Beat:
    """Make the next beat; the caller holds the lock."""
    before, life.moved = life.moved, traffic.traffic()
    return Beat(
        # A wait for the network has a deadline of its own, and is no decoder that hangs.
        is_decoding=life.is_decoding and not waits_for_network(),
        num_decoded=life.num_decoded,
        frame_index=life.frame_index,
        num_written=life.num_written,
        moved=life.moved - before,
    )
