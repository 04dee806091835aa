"""Run work in threads a little ahead of its consumer, and choose the number of threads."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from infraredcity.files.path import AnyPath, RemotePath

_REMOTE_THREADS = 16
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def num_cores() -> int:
    """Return the number of processors that this process may use: its affinity, or its control group's (container's) limit.

    Source of the limit: cgroup v2, `cpu.max`, "quota period" in microseconds or "max".
    """
    bound_to = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text(encoding="ascii").split()
        return bound_to if quota == "max" else max(1, min(bound_to, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or version 1
        return bound_to


def threads_for(location: AnyPath) -> int:
    """Return how many threads read from a path: one per processor, but more for a remote path, where each read waits."""
    return max(num_cores(), _REMOTE_THREADS) if isinstance(location, RemotePath) else num_cores()


def in_order(make: Callable[[_Item], _Made], items: Iterable[_Item], *, num_threads: int, name: str) -> Iterator[_Made]:
    """Yield `make(item)` for each item, in order, computed in threads that run only a little ahead; memory stays small.

    Args:
        make: Called from several threads; its first error ends everything.
        items: Read one by one in the caller's thread.
        num_threads: Number of threads; at most twice as many items are in progress or waiting.
        name: Name of the threads.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    under_way: deque[Future[_Made]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(make, item))
            if len(under_way) == 2 * num_threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
