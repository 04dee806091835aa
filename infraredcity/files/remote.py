"""Files on other machines: ranges of one, all of it, what lies in a folder, sending one; in time or one line that says why not.

http(s) goes through urllib3 and is for reading alone, every other scheme (s3, gs, memory, ...) goes through fsspec. What passes
by itself (a refused or cut connection, silence, a short body, 5xx, 429) is tried again until the deadline; all else is an error at
once. A file that changes between two reads is an error over http(s); fsspec has no such check for all schemes, there only another
size is noticed. Nothing is remembered of what a folder holds: another machine may write there at any time.

A URL is `scheme://host/path?query`. In http the path is quoted (`%20` for a space), in all other schemes it stands for itself.
"""

import errno
import functools
import math
import os
import random
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from infraredcity.errors import MissingExtraError, RemoteError, RemoteMissingError, RemoteRefusedError

if TYPE_CHECKING:
    import urllib3

READ_ONLY_SCHEMES = ("http", "https")
UNKNOWN_BYTES = -1
"""The size of a file in the listing of a web server, which does not tell it."""
TEMPORARY_PREFIX = ".tmp-"
"""How the name of a file begins that is not written to its end."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_LOGIN_PART = re.compile(r"(?<=:)//(?:[^/?#@\[]*:(?!\d*(?:[/?#]|$)).*|[^/?#]*)@", re.DOTALL)
"""`//user:password@`, also where the password holds a slash or an @; what stands before a mere port is left."""
_OF_NAME = re.compile(r"[^/=&#]*\.tar(?=\?|$)", re.IGNORECASE)
"""What follows a `?` that stands for a character of a tar's name; in a query there is a `=` before anything that ends so."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PIECE_BYTES = 256 * 1024
_MAX_PAGE_BYTES = 256 * 1024 * 1024
_MAX_REDIRECTS = 5
_WHOLE_BYTES = 32 * 1024 * 1024
"""What one request brings of a whole file."""
_LEAST_ATTEMPTS = 3
"""So often is tried what may take longer than its deadline, however long the attempts before took."""
_PART_BYTES = 16 * 1024 * 1024
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4
"""A file goes to S3 in parts; as many as are sent at once are in memory."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2", "swift"})
"""Schemes where a file needs no folder above it, and making one would make a bucket."""
_RENAMES = frozenset({"file", "local", "sftp", "ssh"})
"""Schemes that give a file another name in one step, also where that name is taken."""
_PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
_OVER_AGAIN = "check the network and the server, then run it again"
_NOT_RIGHT = "the server or a proxy before it is not right, try another one"
_LOGIN = "check who may read or write there, and the credentials"
_WORDS_FOR_GOOD = {
    "NoCredentialsError": "no credentials are found",
    "PartialCredentialsError": "a part of the credentials is missing",
    "DefaultCredentialsError": "no credentials are found",
    "ProfileNotFound": "the profile with the credentials is not found",
    "AuthenticationException": "the credentials are refused",
    "ParamValidationError": "not a bucket and a key (credentials come from the environment, not from the URL)",
}
"""What libraries' errors mean which no further attempt mends."""
_WORDS = _WORDS_FOR_GOOD | {
    "ConnectTimeoutError": "no connection in time",
    "ConnectTimeout": "no connection in time",
    "EndpointConnectionError": "no connection",
    "ReadTimeoutError": "silence on the connection",
    "FSTimeoutError": "silence on the connection",
    "ProtocolError": "the connection was cut",
    "IncompleteRead": "the connection was cut",
    "ConnectionClosedError": "the connection was cut",
}
"""What libraries' errors mean where the system says nothing."""
_FOR_GOOD = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC, errno.EDQUOT,
                       errno.EFBIG, errno.EROFS, errno.ENOTDIR, errno.EEXIST, getattr(errno, "EREMCHG", errno.EINVAL)})  # fmt: skip
"""What the system or an object store says where no further attempt helps; EREMCHG, of a bucket in another region, is of Linux."""
_T = TypeVar("_T")


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


def is_remote(location: str) -> bool:
    """Whether a location is a URL: it has a scheme, as in `https://...` or `s3://...`."""
    return _SCHEME.match(location) is not None


def split(url: str) -> tuple[str, str, str]:
    """A URL as `scheme://host`, path, and query with its `?`; a fragment of http, which no server sees, is dropped."""
    if _is_http(url):
        url = url.partition("#")[0]
    bare, mark, query = url.partition("?")
    root = re.match(rf"{_SCHEME.pattern}[^/]*", bare)
    end = root.end() if root else 0
    return bare[:end], bare[end:], mark + query


def join(folder_url: str, name: str) -> str:
    """The URL of a file in a folder; a query of the folder's (a token, say) stays at the end.

    Raises:
        RemoteError: The name cannot be told in a URL of this scheme.
    """
    root, path, query = split(folder_url)
    if _is_http(folder_url):
        name = quote(name)
    elif "?" in name:
        raise RemoteError(
            f"{shown(folder_url)}: holds {name!r}, which a URL cannot name for its `?`; give it another name there"
        )
    return f"{root}{path.rstrip('/')}/{name}{query}"


def shown(url: str) -> str:
    """A URL for messages: without user, password, query and (in http) fragment, where credentials stand."""
    bare = _LOGIN_PART.sub("//", url)
    return split_query(bare.partition("#")[0] if _is_http(bare) else bare)[0]


def split_query(url: str) -> tuple[str, str]:
    """A URL or a pattern of URLs before its query, and the query with its `?`.

    In `lite-00000?.tar?token=x` the first `?` stands for a character and the second begins the query.
    """
    marks = (found.start() for found in re.finditer(r"\?", url) if not _OF_NAME.match(url, found.end()))
    begin = next(marks, len(url))
    return url[:begin], url[begin:]


def shown_in(text: str) -> str:
    """A text with each URL in it as `shown`; a URL ends at a blank or a quote, or before the marks of a sentence there."""
    return re.sub(
        rf"({_SCHEME.pattern}[^\s'\"]*?)([:;,.)\]}}]*)(?=[\s'\"]|$)", lambda found: shown(found[1]) + found[2], text
    )


def check_writable(url: str) -> None:
    """RemoteError where the scheme is for reading alone."""
    scheme = url.partition("://")[0].lower()
    if scheme in READ_ONLY_SCHEMES:
        raise RemoteError(f"{shown(url)}: {scheme} is for reading; write to s3://, gs://, sftp:// or a folder here")


class RemoteFile:
    """One file on another machine, read by ranges; safe to use from several threads and after a fork, can be pickled.

    Args:
        url: Where it is.
        options: Timeouts and deadline.
        expected_bytes: Its size, where it is known from elsewhere; a file of another size is an error at first contact.
    """

    def __init__(self, url: str, options: RemoteOptions | None = None, expected_bytes: int | None = None) -> None:
        self._options = options or RemoteOptions()
        self._source = _source(url, expected_bytes)
        self._closed = False

    @property
    def deadline_s(self) -> float:
        """The longest that one read may take."""
        return self._options.deadline_s

    @property
    def size_bytes(self) -> int:
        """How long the file is; asks for it when nothing is known yet.

        Raises:
            RemoteError: It cannot be reached, or is not what was expected.
        """
        expected_bytes = self._source.expected_bytes
        return self._facts().size_bytes if expected_bytes is None else expected_bytes

    @property
    def version(self) -> str:
        """What the server calls this state of the file (ETag or Last-Modified, fsspec's ukey); "" when it has no name for it.

        Raises:
            RemoteError: It cannot be reached, or is not what was expected.
        """
        return self._facts().version

    def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
        """Exactly `size` bytes from `offset`.

        Args:
            offset: First byte.
            size: How many.
            within_s: A deadline shorter than the one of the options.

        Raises:
            RemoteError: They could not be had before the deadline, the file ends before, it changed, or the server does no ranges.
            MissingExtraError: The package for this scheme is not installed.
        """
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative, got {offset} and {size}")
        if self._closed:
            raise ValueError(f"{shown(self._source.url)}: was closed before")
        if size == 0:
            return b""
        attempt = functools.partial(self._source.read, offset, size)
        return _until_deadline(self._source.url, self._options, attempt, within_s)

    def close(self) -> None:
        """End the use of it; connections belong to the process and serve other files."""
        self._closed = True

    def _facts(self) -> "_Facts":
        return self._source.pinned or _until_deadline(self._source.url, self._options, self._source.facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What this process asked of other machines, and what it moved.

    Attributes:
        num_requests: Requests of http; of other schemes operations (a listing is one, and so is a file that is sent in parts).
            Those that failed count too.
        received_bytes: Bytes of files and of pages of links that came, those of answers that were cut included.
        sent_bytes: Bytes of files that were sent and arrived.
    """

    num_requests: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

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


def _counter() -> _Counter:
    return _counters.get(os.getpid()) or _counters.setdefault(os.getpid(), _Counter())


def traffic() -> Traffic:
    """What this process moved since it began, or others for it; a forked child begins at zero."""
    return _counter().total


def count_elsewhere(moved: Traffic) -> None:
    """Count what another process moved for this one."""
    _counter().add(num_requests=moved.num_requests, received_bytes=moved.received_bytes, sent_bytes=moved.sent_bytes)


def fetch(url: str, options: RemoteOptions | None = None, max_bytes: int = 64 * 1024 * 1024) -> bytes:
    """The whole of a file: in one request where it is small, else in pieces, each with the deadline of its own.

    Args:
        url: Where it is.
        options: Timeouts and deadline.
        max_bytes: A larger file is an error.

    Raises:
        RemoteError: It could not be had before the deadline, is larger, or changed meanwhile; RemoteMissingError where none is.
        MissingExtraError: The package for this scheme is not installed.
    """
    attempt = functools.partial(_source(url).whole, min(max_bytes, _WHOLE_BYTES))
    try:
        return _until_deadline(url, options or RemoteOptions(), attempt)
    except _TooLargeError:
        if max_bytes <= _WHOLE_BYTES:
            raise
    file = RemoteFile(url, options)
    if file.size_bytes > max_bytes:
        _source(url).too_large(file.size_bytes, max_bytes)
    return _in_pieces(file.read, file.size_bytes)


def fetch_start(url: str, size: int, options: RemoteOptions | None = None) -> bytes:
    """The first `size` bytes of a file that is known to have as many: in one request where they are few, else in pieces.

    Raises:
        RemoteError: They could not be had before the deadline, or the file is shorter; RemoteMissingError where none is.
        MissingExtraError: The package for this scheme is not installed.
    """
    source, chosen = _source(url), options or RemoteOptions()

    def read(offset: int, count: int) -> bytes:
        return _until_deadline(url, chosen, functools.partial(source.piece, offset, count))

    return _in_pieces(read, size)


def _in_pieces(read: Callable[[int, int], bytes], size: int) -> bytes:
    return b"".join(read(start, min(_WHOLE_BYTES, size - start)) for start in range(0, size, _WHOLE_BYTES))


def kind(url: str, options: RemoteOptions | None = None) -> Literal["file", "folder"] | None:
    """What is at `url`; None where nothing is.

    A folder of an object store is there when something lies in it; what is a file there too is told to be a file.

    Raises:
        RemoteError: It could not be found out before the deadline.
        MissingExtraError: The package for this scheme is not installed.
    """
    return _until_deadline(url, options or RemoteOptions(), _source(url).kind)


def listing(url: str, options: RemoteOptions | None = None) -> dict[str, int | None]:
    """What lies directly in a folder, by name: bytes of a file (UNKNOWN_BYTES where only asking for it tells), None for a folder.

    Raises:
        RemoteMissingError: Nothing is there.
        RemoteError: It could not be listed before the deadline; over http only a server that makes pages of links lists a folder.
        MissingExtraError: The package for this scheme is not installed.
    """
    options = options or RemoteOptions()
    found = _until_deadline(url, options, _source(url).listed, allowance_s=options.listing_s)
    for name in found:
        if name in ("", ".", "..") or "/" in name or _CONTROL.search(name):
            raise RemoteError(
                f"{shown(url)}: lists {name[:80]!a}, which is no name of a file; do not use what lies there"
            )
    return found


def send(url: str, data: bytes, options: RemoteOptions | None = None) -> None:
    """Make `data` the file at `url`.

    Raises:
        RemoteError: It could not be sent before the deadline, or may not be written there.
        MissingExtraError: The package for this scheme is not installed.
    """
    _send(url, functools.partial(_Filesystem(url, None).write, data), len(data), options or RemoteOptions())


def send_file(url: str, path: Path, options: RemoteOptions | None = None) -> None:
    """Make a copy of a file of this disk at `url`; checked by its size there afterwards.

    Raises:
        RemoteError: It could not be sent before the deadline, or may not be written there.
        MissingExtraError: The package for this scheme is not installed.
    """
    attempt = functools.partial(_Filesystem(url, None).copy_from, path)
    _send(url, attempt, path.stat().st_size, options or RemoteOptions())


def _send(url: str, attempt: "Callable[[_Clock], None]", size_bytes: int, options: RemoteOptions) -> None:
    check_writable(url)
    _until_deadline(url, options, attempt, allowance_s=size_bytes / options.slowest_bytes_per_s)


def remove(url: str, options: RemoteOptions | None = None) -> None:
    """Remove a file.

    Raises:
        RemoteMissingError: None is there; S3 does not tell this and is content.
        RemoteError: It cannot be done.
        MissingExtraError: The package for this scheme is not installed.
    """
    check_writable(url)
    _until_deadline(url, options or RemoteOptions(), _Filesystem(url, None).remove)


class _TooLargeError(RemoteError):
    """A whole file is larger than was expected."""


class _PassingError(Exception):
    """An attempt failed in a way that may not happen again; `wait_s` is how long the server wants to be left alone."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _CutOffError(_PassingError):
    """An attempt had not ended when the time was over."""


@dataclass(frozen=True, slots=True)
class _Clock:
    """The time that one read has."""

    options: RemoteOptions
    started: float
    within_s: float

    @property
    def past_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        return max(self.within_s - self.past_s, 0.0)

    def check(self) -> None:
        if self.past_s > self.within_s:
            raise _PassingError("its bytes came too slowly")


def _until_deadline(
    url: str,
    options: RemoteOptions,
    attempt: Callable[[_Clock], _T],
    within_s: float | None = None,
    *,
    allowance_s: float = 0.0,
) -> _T:
    """What `attempt` returns, which is made again until it does or the deadline comes.

    What moves for long may have an allowance. It is not for failing: a server that is gone is given up at the deadline.
    """
    deadline_s = options.deadline_s if within_s is None else min(within_s, options.deadline_s)
    clock = _Clock(options, time.monotonic(), deadline_s + allowance_s)
    attempts = 0
    reason: _PassingError | None = None
    while True:
        attempts += 1
        try:
            return _in_time(clock, functools.partial(attempt, clock))
        except _PassingError as error:
            # An attempt that the deadline cut tells less than one that ended by itself.
            reason = error if reason is None or not isinstance(error, _CutOffError) else reason
            # A random half keeps apart the many readers that lost one server at the same moment.
            backoff_s = min(options.backoff_cap_s, options.backoff_s * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)
            wait_s = max(backoff_s, error.wait_s)
            is_late = clock.past_s + wait_s >= deadline_s and (allowance_s == 0 or attempts >= _LEAST_ATTEMPTS)
            if is_late or wait_s >= clock.left_s:
                times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise RemoteError(
                    f"{shown(url)}: {reason}; gave up after {times} in {clock.past_s:.1f} s; {_OVER_AGAIN}"
                ) from error
            time.sleep(wait_s)


def _in_time(clock: _Clock, call: Callable[[], _T]) -> _T:
    """What `call` returns, made by a thread of its own that is left behind when it does not end in time.

    A socket's timeout starts anew with every byte, a name lookup has none, and a file system has its own ideas.
    """
    future: Future[_T] = Future()

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
        raise _CutOffError("no whole answer came in time") from None


@dataclass(frozen=True, slots=True)
class _Facts:
    """What tells one state of a file from another."""

    size_bytes: int
    version: str

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes" + (f", version {self.version}" if self.version else "")


class _Source(ABC):
    """One file and what was seen of it; each method is one attempt.

    It raises _PassingError where another attempt may help, and RemoteError where none does.
    """

    def __init__(self, url: str, expected_bytes: int | None) -> None:
        self.url = url
        self.expected_bytes = expected_bytes
        self._pinned: dict[str, _Facts] = {}

    @property
    def pinned(self) -> _Facts | None:
        """What was seen at first contact."""
        return self._pinned.get("facts")

    def pin(self, facts: _Facts) -> _Facts:
        """Keep what is seen at first contact; anything else later is an error."""
        if self.expected_bytes is not None and facts.size_bytes != self.expected_bytes:
            raise RemoteError(
                f"{shown(self.url)}: is {facts.size_bytes} bytes, the index says {self.expected_bytes}; "
                "copy the file there again, or take the index that belongs to it"
            )
        first = self._pinned.setdefault("facts", facts)  # atomic: a lock could be held when the process forks
        if first != facts:
            raise RemoteError(
                f"{shown(self.url)}: changed while it was read, from {first} to {facts}; start again when nobody writes there"
            )
        return facts

    def ends_before(self, offset: int, size: int) -> NoReturn:
        raise RemoteError(
            f"{shown(self.url)}: ends before byte {offset + size}, of which {size} were asked for; "
            "copy the file there again, or take the index that belongs to it"
        )

    def too_large(self, size_bytes: int, max_bytes: int) -> NoReturn:
        raise _TooLargeError(f"{shown(self.url)}: is {size_bytes} bytes, expected at most {max_bytes}; check the URL")

    @abstractmethod
    def facts(self, clock: _Clock) -> _Facts:
        """Size and version, pinned."""

    @abstractmethod
    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        """Exactly these bytes of the file that was pinned."""

    @abstractmethod
    def piece(self, offset: int, size: int, clock: _Clock) -> bytes:
        """Exactly these bytes, of a file of which nothing need be known."""

    @abstractmethod
    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        """All bytes."""

    @abstractmethod
    def kind(self, clock: _Clock) -> Literal["file", "folder"] | None:
        """What is there."""

    @abstractmethod
    def listed(self, clock: _Clock) -> dict[str, int | None]:
        """What lies directly in the folder, by name: bytes of a file or UNKNOWN_BYTES, None for a folder."""


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _source(url: str, expected_bytes: int | None = None) -> _Source:
    return _Http(url, expected_bytes) if _is_http(url) else _Filesystem(url, expected_bytes)


class _Http(_Source):
    """A file behind http or https. Source: RFC 9110, section 14 (ranges)."""

    def facts(self, clock: _Clock) -> _Facts:
        # One byte instead of HEAD: it proves at once that ranges work, and a signed URL is good for GET alone.
        try:
            self.read(0, 1, clock)
        except RemoteError:
            if self.pinned is None or self.pinned.size_bytes > 0:
                raise
        assert self.pinned is not None
        return self.pinned

    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        with self._answer(clock, {"Range": f"bytes={offset}-{offset + size - 1}"}) as (response, _):
            headers = response.headers
            version = headers.get("ETag") or headers.get("Last-Modified") or ""
            if (response.status, headers.get("Content-Length")) == (200, "0") or headers.get(
                "Content-Range"
            ) == "bytes */0":
                self.pin(_Facts(0, version))  # of an empty file no range can be asked for
                self.ends_before(offset, size)
            if response.status == 416:
                self.ends_before(offset, size)
            if response.status == 200:
                if headers.get("Content-Length", "").isdigit():
                    self.pin(_Facts(int(headers["Content-Length"]), version))
                raise RemoteError(
                    f"{shown(self.url)}: the server sends whole files alone, no ranges of bytes (status 200 instead of 206); "
                    "copy the files to a disk here, or read them in order with the webdataset pipeline"
                )
            if response.status != 206:
                self._refuse(response)
            told = headers.get("Content-Range", "")
            found = _CONTENT_RANGE.fullmatch(told)
            if found is None:
                raise RemoteError(
                    f"{shown(self.url)}: Content-Range is {told!r}, not a range of a known whole; {_NOT_RIGHT}"
                )
            start, stop, total = int(found[1]), int(found[2]) + 1, int(found[3])
            self.pin(_Facts(total, version))
            if offset + size > total:
                self.ends_before(offset, size)
            if (start, stop) != (offset, offset + size):
                raise RemoteError(
                    f"{shown(self.url)}: bytes {offset} to {offset + size} were asked for, {start} to {stop} came; {_NOT_RIGHT}"
                )
            return self._body(response, size, clock)

    def piece(self, offset: int, size: int, clock: _Clock) -> bytes:
        return self.read(offset, size, clock)

    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        with self._answer(clock, {}) as (response, _):
            if response.status != 200:
                self._refuse(response)
            told = response.headers.get("Content-Length", "")
            if not told.isdigit():  # without it a cut file looks like a whole one
                raise RemoteError(
                    f"{shown(self.url)}: the server does not say how long it is; copy the file to a disk here"
                )
            if int(told) > max_bytes:
                self.too_large(int(told), max_bytes)
            return self._body(response, int(told), clock)

    def kind(self, clock: _Clock) -> Literal["file", "folder"] | None:
        with self._answer(clock, {"Range": "bytes=0-0"}) as (response, url):
            if response.status in (404, 410):
                return None
            is_folder = split(url)[1][-1:] in ("", "/")  # a web server leads there whoever asks for a folder
            if response.status not in (200, 206, 416, 403 if is_folder else 200):
                self._refuse(response)
            return "folder" if is_folder else "file"

    def listed(self, clock: _Clock) -> dict[str, int | None]:
        """The links of a folder's page that lead to what lies in it."""
        asked = _Http(join(self.url, ""), None)
        with asked._answer(clock, {}) as (response, url):
            if response.status != 200:
                asked._refuse(response, "; a web server lists a folder only where it is set to make pages of links")
            page = asked._bytes(response, _MAX_PAGE_BYTES, clock)
        if len(page) > _MAX_PAGE_BYTES:
            asked.too_large(len(page), _MAX_PAGE_BYTES)
        links = _Links()
        links.feed(page.decode("utf-8", "replace"))
        root, path, _ = split(url)
        folder = (_without_user(root), unquote(path.rpartition("/")[0]))
        sizes: dict[str, int | None] = {}
        for link in links.targets:
            root, path, _ = split(urljoin(url, link))
            above, _, name = unquote(path.removesuffix("/")).rpartition("/")
            if name and (_without_user(root), above) == folder:
                sizes[name] = None if path.endswith("/") else UNKNOWN_BYTES
        return sizes

    @contextmanager
    def _answer(self, clock: _Clock, headers: dict[str, str]) -> "Iterator[tuple[urllib3.BaseHTTPResponse, str]]":
        """The answer to a GET behind all redirects, and its URL; the connection is kept only when the body was read to the end."""
        pool = _pool(os.getpid())
        import urllib3

        options, url = clock.options, self.url
        for _ in range(_MAX_REDIRECTS + 1):
            timeout = urllib3.Timeout(
                connect=min(options.connect_timeout_s, clock.left_s + 0.01),
                read=min(options.read_timeout_s, clock.left_s + 0.01),
            )
            _counter().add(num_requests=1)
            try:
                response = pool.request(
                    "GET", _without_user(url), headers=headers | _login(url) | {"Accept-Encoding": "identity"},
                    timeout=timeout, preload_content=False, decode_content=False, redirect=False, retries=False,
                )  # fmt: skip
                try:
                    location = response.get_redirect_location()
                    if not location:
                        yield response, url
                        return
                finally:
                    if not response.closed:
                        response.close()
                    response.release_conn()
            except urllib3.exceptions.LocationValueError as error:
                raise RemoteError(f"{shown(url)}: is no address of http or https; check the URL") from error
            except urllib3.exceptions.HTTPError as error:
                if "certificate" in (reason := _in_words(error)).lower():
                    raise RemoteError(
                        f"{shown(url)}: {reason}; check the server's certificate and this clock"
                    ) from error
                raise _PassingError(reason) from error
            url = urljoin(url, location)
        raise RemoteError(
            f"{shown(self.url)}: more than {_MAX_REDIRECTS} redirects, at last to {shown(url)}; check the URL"
        )

    def _body(self, response: "urllib3.BaseHTTPResponse", size: int, clock: _Clock) -> bytes:
        data = self._bytes(response, size, clock)
        if len(data) > size:
            raise RemoteError(f"{shown(self.url)}: more than the {size} bytes that were asked for came; {_NOT_RIGHT}")
        if len(data) < size:
            raise _PassingError(f"{len(data)} of {size} bytes came")
        return data

    def _bytes(self, response: "urllib3.BaseHTTPResponse", max_bytes: int, clock: _Clock) -> bytes:
        """The body, of which at most one byte more than `max_bytes` is read."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RemoteError(f"{shown(self.url)}: comes packed as {encoding!r}, which was not asked for; {_NOT_RIGHT}")
        pieces, got = [], 0
        while got <= max_bytes:
            piece = response.read1(min(_PIECE_BYTES, max_bytes + 1 - got))
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
            _counter().add(received_bytes=len(piece))
            if got < max_bytes:
                clock.check()
        return b"".join(pieces)

    def _refuse(self, response: "urllib3.BaseHTTPResponse", hint: str = "") -> NoReturn:
        """What a status other than the hoped-for means."""
        said = f"the server answered {response.status} {response.reason or ''}".rstrip()
        if response.status in _PASSING_STATUS:
            wait_s = _retry_after_s(response)
            raise _PassingError(f"{said}, come again in {wait_s:.0f} s" if wait_s else said, wait_s)
        advice = {401: _LOGIN, 403: _LOGIN, 404: "check the URL", 410: "check the URL"}
        kinds = {401: RemoteRefusedError, 403: RemoteRefusedError, 404: RemoteMissingError, 410: RemoteMissingError}
        error = kinds.get(response.status, RemoteError)
        raise error(f"{shown(self.url)}: {said}; {advice.get(response.status, 'check the URL and the server')}{hint}")


class _Links(HTMLParser):
    """Where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what an `a` gives as its `href`."""
        self.targets += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


class _Filesystem(_Source):
    """A file behind any scheme that fsspec knows. It makes file systems anew after a fork, so none is kept here."""

    def facts(self, clock: _Clock) -> _Facts:
        with self._errors() as (filesystem, path):
            told = filesystem.info(path)
            size_bytes = told["size"]
            if told.get("type") == "directory":
                raise RemoteMissingError(f"{shown(self.url)}: is a folder, no file; check the URL")
            if size_bytes is None:
                raise RemoteError(f"{shown(self.url)}: its size is not known there; copy the files to a disk here")
            # An object store names a state; where none does, fsspec makes a name of all that it knows, and asks again for it.
            version = told.get("ETag") or told.get("etag") or filesystem.ukey(path)
            return self.pin(_Facts(int(size_bytes), str(version)))

    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        facts = self.pinned or self.facts(clock)
        if offset + size > facts.size_bytes:
            self.ends_before(offset, size)
        return self.piece(offset, size, clock)

    def piece(self, offset: int, size: int, clock: _Clock) -> bytes:
        try:
            with self._errors() as (filesystem, path):
                data = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
        except RemoteError:
            self.facts(clock)  # S3 refuses a range behind the end of what has become shorter
            raise
        _counter().add(received_bytes=len(data))
        if len(data) != size:
            # Either an answer was cut, which passes, or the file is shorter by now, which asking anew tells.
            if self.facts(clock).size_bytes < offset + size:
                self.ends_before(offset, size)
            raise _PassingError(f"{len(data)} of {size} bytes came")
        return data

    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        size_bytes = self.facts(clock).size_bytes
        if size_bytes > max_bytes:
            self.too_large(size_bytes, max_bytes)
        return self.read(0, size_bytes, clock) if size_bytes else b""

    def kind(self, clock: _Clock) -> Literal["file", "folder"] | None:
        try:
            with self._errors() as (filesystem, path):
                told: str = filesystem.info(path)["type"]
        except RemoteMissingError:
            return None
        return "folder" if told == "directory" else "file"

    def listed(self, clock: _Clock) -> dict[str, int | None]:
        with self._errors() as (filesystem, path):
            found = filesystem.ls(path, detail=True)
        sizes: dict[str, int | None] = {}
        for entry in found:
            name = entry["name"].strip("/")
            if name == path.strip("/"):
                continue  # an object store's object for the folder itself, or a file that was asked for as a folder
            size_bytes = UNKNOWN_BYTES if entry["size"] is None else int(entry["size"])
            sizes[name.rpartition("/")[2]] = None if entry["type"] == "directory" else size_bytes
        if not sizes and self.kind(clock) != "folder":
            raise RemoteMissingError(f"{shown(self.url)}: no such folder; check the URL")
        return sizes

    def write(self, data: bytes, clock: _Clock) -> None:
        """Make `data` the file."""
        with self._written() as (filesystem, path):
            filesystem.pipe_file(path, data)
        _counter().add(sent_bytes=len(data))

    def copy_from(self, here: Path, clock: _Clock) -> None:
        """Make a copy of a file of this disk."""
        size_bytes = here.stat().st_size
        with self._written() as (filesystem, path):
            parts: dict[str, int] = {}
            if "s3" in _protocols(filesystem):
                part_bytes = max(_PART_BYTES, math.ceil(size_bytes / _MAX_PARTS))
                parts = {"chunksize": part_bytes, "max_concurrency": _PARTS_AT_ONCE}
            filesystem.put_file(str(here), path, **parts)
            there_bytes = filesystem.info(path)["size"]
            if there_bytes != size_bytes:
                raise _PassingError(f"{there_bytes} of {size_bytes} bytes arrived")
        _counter().add(sent_bytes=size_bytes)

    def remove(self, clock: _Clock) -> None:
        """Remove the file."""
        with self._errors() as (filesystem, path):
            filesystem.rm_file(path)

    @contextmanager
    def _written(self) -> "Iterator[tuple[Any, str]]":
        """A file system and the path to write to: the file's own, or one beside it that gets its name when all is there."""
        try:
            with self._errors() as (filesystem, path):
                protocols = _protocols(filesystem)
                folder, _, name = path.rpartition("/")
                if not protocols & _OBJECT_STORES:
                    filesystem.makedirs(folder, exist_ok=True)
                if not protocols & _RENAMES:
                    yield filesystem, path
                    return
                if filesystem.isdir(path):  # or the file would be moved into it
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                temporary = f"{folder}/{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{name}"
                try:
                    yield filesystem, temporary
                    filesystem.mv(temporary, path)
                except BaseException:
                    # What keeps it from being removed kept it from being written, and is told already.
                    with suppress(Exception):
                        filesystem.rm_file(temporary)
                    raise
        except RemoteMissingError as error:
            raise RemoteError(
                f"{shown(self.url)}: there is no such bucket or folder to write to; make it, or check the URL"
            ) from error

    @contextmanager
    def _errors(self) -> "Iterator[tuple[Any, str]]":
        """The file system and path of this URL, and the one place that knows what fsspec's errors mean."""
        try:
            import fsspec
        except ModuleNotFoundError as error:
            scheme = self.url.partition("://")[0]
            raise MissingExtraError("fsspec", extra="remote", needed_for=f"reading {scheme}://") from error
        _counter().add(num_requests=1)
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
            if isinstance(getattr(filesystem, "dircache", None), fsspec.dircache.DirCache):
                # It would go on to answer from a listing of before another machine wrote there.
                filesystem.dircache.use_listings_cache = False
            filesystem.invalidate_cache()
            yield filesystem, path
        except (RemoteError, _PassingError):
            raise
        except FileNotFoundError as error:
            raise RemoteMissingError(f"{shown(self.url)}: no such file or folder; check the URL") from error
        except PermissionError as error:
            raise RemoteRefusedError(f"{shown(self.url)}: access is refused; {_LOGIN}") from error
        except ImportError as error:  # "Install s3fs to access S3"
            raise RemoteError(f"{shown(self.url)}: fsspec lacks a package for it ({error}); install that") from error
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, IsADirectoryError) as error:
            raise RemoteError(f"{shown(self.url)}: fsspec cannot do it ({_in_words(error)}); check the URL") from error
        except Exception as error:  # every file system has errors of its own; most are of the network
            if type(error).__name__ in _WORDS_FOR_GOOD or (isinstance(error, OSError) and error.errno in _FOR_GOOD):
                raise RemoteError(
                    f"{shown(self.url)}: {_in_words(error)}; check the URL and the credentials"
                ) from error
            raise _PassingError(_in_words(error)) from error


def _protocols(filesystem: Any) -> set[str]:
    told = filesystem.protocol
    return {told} if isinstance(told, str) else {*told}


@functools.cache
def _pool(pid: int) -> "urllib3.PoolManager":
    """The connections of one process: a forked child must not speak on those of its parent."""
    try:
        import urllib3
    except ModuleNotFoundError as error:
        raise MissingExtraError("urllib3", extra="remote", needed_for="reading http:// and https://") from error
    return urllib3.PoolManager(num_pools=32, maxsize=64)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _login(url: str) -> dict[str, str]:
    """The header for `user:password@` in a URL."""
    import urllib3

    user, at, _ = urlsplit(url).netloc.rpartition("@")
    return dict(urllib3.util.make_headers(basic_auth=unquote(user))) if at else {}


def _retry_after_s(response: "urllib3.BaseHTTPResponse") -> float:
    """How long the server asks to wait, in seconds; 0 when it does not say, or not so that it can be understood."""
    import urllib3

    try:
        return float(urllib3.Retry().get_retry_after(response) or 0)
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _in_words(error: BaseException) -> str:
    """What went wrong, without the URLs and objects that libraries put into their messages."""
    words = type(error).__name__
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return " ".join(link.strerror.lower().split())
        words = _WORDS.get(type(link).__name__, words)
        inner = next((part for part in link.args if isinstance(part, OSError)), None)
        link = inner or link.__cause__ or link.__context__
    return words
