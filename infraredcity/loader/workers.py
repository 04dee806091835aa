"""Threads that decode, and memory that they decode into."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import numpy as np

Task = Callable[[], None]
_MOST_BUFFERS = 8
_LONGEST_END_S = 0.5
"""How long to wait for threads that are to end: more than a frame takes, less than the user who pressed Ctrl-C wants to wait."""


class Workers:
    """A few threads that run tasks in the order given. A forked or unpickled copy starts its own when it is first used.

    The threads are daemons: Ctrl-C ends the program at once, even while one waits for a slow server. They end with `close`, with
    the last reference to this object, and before the interpreter does. A task must not raise.
    """

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._crews: dict[int, _Crew] = {}  # by process

    @property
    def over(self) -> threading.Event:
        """Is set when tasks submitted before shall end without doing what is left of them."""
        return self._crew().over

    def submit(self, task: Task) -> None:
        """Have a thread run `task` when those before it are done or taken."""
        self._crew().tasks.put(task)

    def close(self) -> None:
        """Tell tasks by `over` to give up, and end the threads; one that waits for a server ends when that has answered."""
        crew = self._crews.pop(os.getpid(), None)
        if crew is not None:
            crew.end()

    def __getstate__(self) -> int:
        return self.num_threads

    def __setstate__(self, num_threads: int) -> None:
        self.__init__(num_threads)  # type: ignore[misc]

    def _crew(self) -> "_Crew":
        crew = self._crews.get(os.getpid())
        if crew is None:
            fresh = _Crew(self)
            crew = self._crews.setdefault(os.getpid(), fresh)  # atomic: a lock could be held when the process forks
            if crew is not fresh:
                fresh.end()
        return crew


class _Crew:
    """The threads of one process. They know nothing of the Workers, so that these can go.

    `end` is called at exit at the latest: a daemon that is inside torch while the interpreter goes down aborts the program.
    """

    def __init__(self, owner: Workers) -> None:
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.over = threading.Event()
        threads = [
            threading.Thread(target=_work, args=(self.tasks,), name=f"decode-{number}", daemon=True)
            for number in range(owner.num_threads)
        ]
        for thread in threads:
            thread.start()
        self.end = weakref.finalize(owner, _end, self.tasks, self.over, threads)


def _end(tasks: "SimpleQueue[Task | None]", over: threading.Event, threads: Sequence[threading.Thread]) -> None:
    over.set()
    for _ in threads:
        tasks.put(None)
    until_s = time.monotonic() + _LONGEST_END_S
    for thread in threads:
        if thread is not threading.current_thread():  # the last reference to a reader can be that of its own task
            thread.join(max(until_s - time.monotonic(), 0))


def _work(tasks: "SimpleQueue[Task | None]") -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # it holds a batch's memory, and the next one may be long in coming


class Buffers:
    """Memory for batches, used again as soon as nobody holds a batch any more.

    Fresh memory for each batch costs a page fault for every 4 KiB, about a tenth of the time of decoding into it.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return u8 memory of a shape, with whatever was in it before."""
        with self._lock:
            # The one used last first: more of it is still in the processor's cache.
            for number in reversed(range(len(self._kept))):
                # The list and getrefcount's argument make two; a tensor or a view over it would be a third.
                if sys.getrefcount(self._kept[number]) == 2 and self._kept[number].shape == shape:
                    self._kept.append(self._kept.pop(number))
                    return self._kept[-1]
            fresh = np.empty(shape, np.uint8)
            self._kept = [*self._kept[1 - _MOST_BUFFERS :], fresh]
            return fresh

    def __getstate__(self) -> tuple[()]:
        return ()  # for None, pickle would not call __setstate__

    def __setstate__(self, state: tuple[()]) -> None:
        self.__init__()  # type: ignore[misc]
