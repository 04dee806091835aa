"""Try again until a deadline, and say in one line why it failed."""

import errno
import functools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from infraredcity.errors import RemoteError
from infraredcity.files.urls import shown

_LEAST_ATTEMPTS = 3
"""How often at least is tried what may take longer than its deadline, however long the attempts before took."""
OVER_AGAIN = "check the network and the server, then run it again"
WORDS_FOR_GOOD = {
    "NoCredentialsError": "no credentials are found",
    "PartialCredentialsError": "a part of the credentials is missing",
    "DefaultCredentialsError": "no credentials are found",
    "ProfileNotFound": "the profile with the credentials is not found",
    "AuthenticationException": "the credentials are refused",
    "ParamValidationError": "not a bucket and a key (credentials come from the environment, not from the URL)",
}
"""Names of libraries' errors that no further attempt mends, in our words."""
_WORDS = WORDS_FOR_GOOD | {
    "ConnectTimeoutError": "no connection in time",
    "ConnectTimeout": "no connection in time",
    "EndpointConnectionError": "no connection",
    "ReadTimeoutError": "silence on the connection",
    "FSTimeoutError": "silence on the connection",
    "ProtocolError": "the connection was cut",
    "IncompleteRead": "the connection was cut",
    "ConnectionClosedError": "the connection was cut",
}
"""Names of libraries' errors in our words, used where the system has no message."""
FOR_GOOD = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC, errno.EDQUOT,
                       errno.EFBIG, errno.EROFS, errno.ENOTDIR, errno.EEXIST, getattr(errno, "EREMCHG", errno.EINVAL)})  # fmt: skip
"""Errors of the system or an object store that no further attempt mends; Linux's EREMCHG is for a bucket in another region."""


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """How long to wait for another machine, and how often to ask it again."""

    connect_timeout_s: float = 10.0
    """The longest wait for one connection."""
    read_timeout_s: float = 10.0
    """The longest silence on one connection."""
    deadline_s: float = 60.0
    """The longest that one read may take, all its attempts and waits together."""
    backoff_s: float = 0.1
    """The wait after the first failed attempt; it doubles with each further one, less a random part."""
    backoff_cap_s: float = 5.0
    """The longest wait between two attempts, unless the server asks for more."""
    listing_s: float = 600.0
    """A listing may take this much longer than the deadline: a folder of a million files comes by the thousand."""
    slowest_bytes_per_s: float = 250_000.0
    """A file that is sent may take this much longer than the deadline: its bytes by this."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class TooLargeError(RemoteError):
    """A whole file is larger than was expected."""


class PassingError(Exception):
    """An attempt failed in a way that may not happen again; `wait_s` is how long the server asks to wait."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class CutOffError(PassingError):
    """An attempt had not ended when the time was over."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that one read has."""

    options: RemoteOptions
    started: float
    within_s: float

    @property
    def past_s(self) -> float:
        """Seconds since the read began."""
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until it must be done."""
        return max(self.within_s - self.past_s, 0.0)

    def check(self) -> None:
        """Raise PassingError when the time is over."""
        if self.past_s > self.within_s:
            raise PassingError("its bytes came too slowly")


def until_deadline(
    url: str,
    options: RemoteOptions,
    attempt: Callable[[Clock], Result],
    within_s: float | None = None,
    *,
    allowance_s: float = 0.0,
) -> Result:
    """Call `attempt` until it returns or the deadline comes; return its result.

    A long transfer may have an allowance. It does not hold for failures: a server that is gone is given up at the deadline.
    """
    deadline_s = options.deadline_s if within_s is None else min(within_s, options.deadline_s)
    clock = Clock(options, time.monotonic(), deadline_s + allowance_s)
    attempts = 0
    reason: PassingError | None = None
    while True:
        attempts += 1
        try:
            return _in_time(clock, functools.partial(attempt, clock))
        except PassingError as error:
            # An attempt that the deadline cut says less than one that ended by itself.
            reason = error if reason is None or not isinstance(error, CutOffError) else reason
            # A random half keeps apart the many readers that lost one server at the same moment.
            backoff_s = min(options.backoff_cap_s, options.backoff_s * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)
            wait_s = max(backoff_s, error.wait_s)
            is_late = clock.past_s + wait_s >= deadline_s and (allowance_s == 0 or attempts >= _LEAST_ATTEMPTS)
            if is_late or wait_s >= clock.left_s:
                times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise RemoteError(
                    f"{shown(url)}: {reason}; gave up after {times} in {clock.past_s:.1f} s; {OVER_AGAIN}"
                ) from error
            time.sleep(wait_s)


def _in_time(clock: Clock, call: Callable[[], Result]) -> Result:
    """Make a call in a thread of its own, which is left behind if it does not end in time; return its result.

    A socket's timeout starts anew with every byte, a name lookup has none, and a file system has its own ideas.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="remote-read", daemon=True).start()
    try:
        return future.result(timeout=clock.left_s)
    except TimeoutError:
        if future.done():  # just now, or it is the call's own error
            return future.result()
        raise CutOffError("no whole answer came in time") from None


def in_words(error: BaseException) -> str:
    """Say what went wrong, without the URLs and objects that libraries put into their messages."""
    words = type(error).__name__
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return " ".join(link.strerror.lower().split())
        words = _WORDS.get(type(link).__name__, words)
        inner = next((part for part in link.args if isinstance(part, OSError)), None)
        link = inner or link.__cause__ or link.__context__
    return words
