"""The progress of long jobs: the core counts and reports a few times a second; the caller draws."""

import time
from collections.abc import Callable
from dataclasses import dataclass

EVERY_S = 0.2
"""Least time between two reports of a Ticker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report of a running job."""

    what: str
    """What is counted, for people: "city_clear: frames"."""
    done: int
    """How much is done since the job began, in units of `what`."""
    total: int | None = None
    """How much there is, or None when it is not known."""


OnProgress = Callable[[Progress], None]


class Ticker:
    """Count what is done and report it at most a few times a second; reaching a known total is always reported.

    Args:
        what: What is counted, for people.
        total: How much there is, or None when it is not known.
        on_progress: Gets the reports; None gets none.
        done: How much was done before.
    """

    def __init__(self, what: str, total: int | None, on_progress: OnProgress | None, *, done: int = 0) -> None:
        self._what, self._total, self._on_progress = what, total, on_progress
        self._done = done
        self._reported_s = -EVERY_S
        self.added = 0

    def add(self, count: int = 1) -> None:
        """Count more as done."""
        self.added += count
        self._done += count
        if self._on_progress is None:
            return
        now_s = time.monotonic()
        if now_s - self._reported_s >= EVERY_S or self._done == self._total:
            self._reported_s = now_s
            self._on_progress(Progress(what=self._what, done=self._done, total=self._total))
