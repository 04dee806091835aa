"""Threads that work a little ahead of whoever takes what they make, and how many there should be."""

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
    """Processors that this process may use: those it is bound to, or as much time as its control group (container) gets.

    Source of the limit: cgroup v2, `cpu.max`, "quota period" in microseconds or "max".
    """
    bound_to = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text(encoding="ascii").split()
        return bound_to if quota == "max" else max(1, min(bound_to, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no such control group here, or an older kind of it
        return bound_to


def threads_for(location: AnyPath) -> int:
    """How many threads to read a place with: as many as processors, but more where each read waits for another machine."""
    return max(num_cores(), _REMOTE_THREADS) if isinstance(location, RemotePath) else num_cores()


def in_order(make: Callable[[_Item], _Made], items: Iterable[_Item], *, num_threads: int, name: str) -> Iterator[_Made]:
    """What `make` makes of each item, in the items' order, by threads that are never far ahead: millions of items take no memory.

    Args:
        make: Called from several threads; the first error ends all.
        items: Taken one by one, by the caller's thread.
        num_threads: How many threads; at most twice as many items are under way or wait to be taken.
        name: What the threads are called.
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
