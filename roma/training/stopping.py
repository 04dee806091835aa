"""Why a run should end before its schedule does: SIGTERM, Ctrl-C, a time limit.

The first signal asks the run to end after the running step, with a checkpoint. A second one quits at once, also inside a step that
takes long: a thread learns of signals through a pipe that Python's C handler writes to, not when the main thread has time for it.
"""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from roma.errors import ConfigError

SAME_REQUEST_S = 2.0
"""A signal so soon after the first one is the same request: Ctrl-C goes to torchrun and its workers, and torchrun hands it on."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Stop:
    """Whether to end after the running step, and why.

    Args:
        time_limit_s: Seconds from now on after which to end; None never does.
    """

    def __init__(self, *, time_limit_s: float | None = None) -> None:
        self.signal: signal.Signals | None = None
        """The first signal that came."""
        self.time_limit_s = time_limit_s
        self._begun_s = time.monotonic()
        self._signal_s = 0.0

    @property
    def is_out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self.time_limit_s is not None and time.monotonic() - self._begun_s >= self.time_limit_s

    @property
    def is_requested(self) -> bool:
        """Whether this process wants to end."""
        return self.signal is not None or self.is_out_of_time

    @contextmanager
    def watching(self) -> Iterator["Stop"]:
        """Take SIGTERM and SIGINT for requests inside the block; only the main thread can."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = {number: signal.signal(number, _take_note) for number in _SIGNALS}
        before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            with suppress(OSError):
                theirs.shutdown(socket.SHUT_RDWR)
            watcher.join()
            ours.close()
            theirs.close()

    def _listen(self, ours: socket.socket) -> None:
        while numbers := ours.recv(16):
            for number in numbers:
                if number in _SIGNALS:
                    self._note(signal.Signals(number))

    def _note(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self.signal is None:
            self.signal, self._signal_s = number, now_s
        elif now_s - self._signal_s > SAME_REQUEST_S:
            # What is half written has a temporary name, which the next run clears away.
            os._exit(128 + number)


def parse_duration(text: str) -> float:
    """Read the seconds of "90m", "5h30m", "3600s", "1d", "HH:MM:SS" or SLURM's "D-HH:MM:SS".

    Raises:
        ConfigError: It is none of these, or 0.
    """
    seconds = 0
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text.strip())
    if clock is not None:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = days * 86400 + hours * 3600 + minutes * 60 + rest
    elif re.fullmatch(r"(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?", text.strip()):
        seconds = sum(int(count) * _UNITS_S[unit] for count, unit in re.findall(r"(\d+)([dhms])", text))
    if seconds == 0:
        raise ConfigError(f"--time-limit {text!r} is no duration; use 90m, 5h30m, 3600s or HH:MM:SS")
    return float(seconds)


def _take_note(_number: int, _frame: FrameType | None) -> None:
    """Keep the default action from ending the process; the thread learns of the signal by itself."""
