"""Count the requests and bytes that a process moved from and to other machines."""

import os
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The requests of this process to other machines, and the bytes that it moved."""

    num_requests: int = 0
    """Requests of http; of other schemes operations (a listing is one, and so is a file that is sent in parts), failed ones too."""
    received_bytes: int = 0
    """Bytes of files and of pages of links that came, those of answers that were cut included."""
    sent_bytes: int = 0
    """Bytes of files that were sent and arrived."""

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        return Traffic(
            num_requests=self.num_requests - earlier.num_requests,
            received_bytes=self.received_bytes - earlier.received_bytes,
            sent_bytes=self.sent_bytes - earlier.sent_bytes,
        )


class _Counter:
    """Adds up traffic, from all threads of a process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.total = Traffic()

    def add(self, *, num_requests: int = 0, received_bytes: int = 0, sent_bytes: int = 0) -> None:
        with self.lock:
            self.total = Traffic(
                num_requests=self.total.num_requests + num_requests,
                received_bytes=self.total.received_bytes + received_bytes,
                sent_bytes=self.total.sent_bytes + sent_bytes,
            )


_counters: dict[int, _Counter] = {}
"""The counter of each process, by its id: a lock could be held by another thread at the moment of a fork."""


def counter() -> _Counter:
    """Return the counter of this process."""
    return _counters.get(os.getpid()) or _counters.setdefault(os.getpid(), _Counter())


def traffic() -> Traffic:
    """Return what this process moved since it began, or others for it; a forked child begins at zero."""
    return counter().total


def count_elsewhere(moved: Traffic) -> None:
    """Count what another process moved for this one."""
    counter().add(num_requests=moved.num_requests, received_bytes=moved.received_bytes, sent_bytes=moved.sent_bytes)
