"""Bytes of files on other machines: any range of a file, or a whole small one, right and in time or one line that says why not.

http(s) goes through urllib3, every other scheme (s3, gs, memory, ...) through fsspec. What passes by itself (a refused or cut
connection, silence, a short body, 5xx, 429) is tried again until the deadline; all else is an error at once. A file that changes
between two reads is an error over http(s); fsspec has no such check for all schemes, there only another size is noticed.
"""

import functools
import os
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from infraredcity.errors import MissingExtraError, RemoteError

if TYPE_CHECKING:
    import urllib3

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PIECE_BYTES = 256 * 1024
_MAX_REDIRECTS = 5
_PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
_OVER_AGAIN = "check the network and the server, then run it again"
_NOT_RIGHT = "the server or a proxy before it is not right, try another one"
_LOGIN = "check who may read there, and the credentials"
_WORDS = {
    "ConnectTimeoutError": "no connection in time",
    "ReadTimeoutError": "silence on the connection",
    "ProtocolError": "the connection was cut",
    "IncompleteRead": "the connection was cut",
}
"""What urllib3's errors mean where the system says nothing."""
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

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def is_remote(location: str) -> bool:
    """Whether a location is a URL: it has a scheme, as in `https://...` or `s3://...`."""
    return _SCHEME.match(location) is not None


def join(folder_url: str, name: str) -> str:
    """The URL of a file in a folder; a query of the folder's (a token, say) stays at the end."""
    parts = urlsplit(folder_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def shown(url: str) -> str:
    """A URL for messages: without user, password, query and fragment, where credentials stand."""
    bare = re.sub(r"[?#].*", "", url, flags=re.DOTALL)
    return re.sub(r"//[^/]*@", "//", bare)


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


def fetch(url: str, options: RemoteOptions | None = None, max_bytes: int = 64 * 1024 * 1024) -> bytes:
    """The whole of a small file, such as an index.

    Args:
        url: Where it is.
        options: Timeouts and deadline.
        max_bytes: A larger file is an error.

    Raises:
        RemoteError: It could not be had before the deadline, or is larger.
        MissingExtraError: The package for this scheme is not installed.
    """
    attempt = functools.partial(_source(url).whole, max_bytes)
    return _until_deadline(url, options or RemoteOptions(), attempt)


class _PassingError(Exception):
    """An attempt failed in a way that may not happen again; `wait_s` is how long the server wants to be left alone."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


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
    url: str, options: RemoteOptions, attempt: Callable[[_Clock], _T], within_s: float | None = None
) -> _T:
    """What `attempt` returns, which is made again until it does or the deadline comes."""
    within_s = options.deadline_s if within_s is None else min(within_s, options.deadline_s)
    clock = _Clock(options, time.monotonic(), within_s)
    attempts = 0
    while True:
        attempts += 1
        try:
            return _in_time(clock, functools.partial(attempt, clock))
        except _PassingError as error:
            # A random half keeps apart the many readers that lost one server at the same moment.
            backoff_s = min(options.backoff_cap_s, options.backoff_s * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)
            wait_s = max(backoff_s, error.wait_s)
            if wait_s >= clock.left_s:
                times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
                raise RemoteError(
                    f"{shown(url)}: {error}; gave up after {times} in {clock.past_s:.1f} s; {_OVER_AGAIN}"
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
        raise _PassingError("no whole answer came in time") from None


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
        raise RemoteError(f"{shown(self.url)}: is {size_bytes} bytes, expected at most {max_bytes}; check the URL")

    @abstractmethod
    def facts(self, clock: _Clock) -> _Facts:
        """Size and version, pinned."""

    @abstractmethod
    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        """Exactly these bytes of the file that was pinned."""

    @abstractmethod
    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        """All bytes."""


def _source(url: str, expected_bytes: int | None = None) -> _Source:
    is_http = url.lower().startswith(("http://", "https://"))
    return _Http(url, expected_bytes) if is_http else _Filesystem(url, expected_bytes)


class _Http(_Source):
    """A file behind http or https. Source: RFC 9110, section 14 (ranges)."""

    def facts(self, clock: _Clock) -> _Facts:
        # One byte instead of HEAD: it proves at once that ranges work, and a signed URL is good for GET alone.
        self.read(0, 1, clock)
        assert self.pinned is not None
        return self.pinned

    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        with self._answer(clock, {"Range": f"bytes={offset}-{offset + size - 1}"}) as response:
            headers = response.headers
            version = headers.get("ETag") or headers.get("Last-Modified") or ""
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

    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        with self._answer(clock, {}) as response:
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

    @contextmanager
    def _answer(self, clock: _Clock, headers: dict[str, str]) -> "Iterator[urllib3.BaseHTTPResponse]":
        """The answer to a GET behind all redirects; its connection is kept only when its body was read to the end."""
        pool = _pool(os.getpid())
        import urllib3

        options, url = clock.options, self.url
        for _ in range(_MAX_REDIRECTS + 1):
            timeout = urllib3.Timeout(
                connect=min(options.connect_timeout_s, clock.left_s + 0.01),
                read=min(options.read_timeout_s, clock.left_s + 0.01),
            )
            try:
                response = pool.request(
                    "GET", _without_user(url), headers=headers | _login(url) | {"Accept-Encoding": "identity"},
                    timeout=timeout, preload_content=False, decode_content=False, redirect=False, retries=False,
                )  # fmt: skip
                try:
                    location = response.get_redirect_location()
                    if not location:
                        yield response
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
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RemoteError(f"{shown(self.url)}: comes packed as {encoding!r}, which was not asked for; {_NOT_RIGHT}")
        pieces, got = [], 0
        while got <= size:
            piece = response.read1(min(_PIECE_BYTES, size + 1 - got))
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
            if got < size:
                clock.check()
        if got > size:
            raise RemoteError(f"{shown(self.url)}: more than the {size} bytes that were asked for came; {_NOT_RIGHT}")
        if got < size:
            raise _PassingError(f"{got} of {size} bytes came")
        return b"".join(pieces)

    def _refuse(self, response: "urllib3.BaseHTTPResponse") -> NoReturn:
        """What a status other than the hoped-for means."""
        said = f"the server answered {response.status} {response.reason or ''}".rstrip()
        if response.status in _PASSING_STATUS:
            wait_s = _retry_after_s(response)
            raise _PassingError(f"{said}, come again in {wait_s:.0f} s" if wait_s else said, wait_s)
        advice = {401: _LOGIN, 403: _LOGIN, 404: "check the URL", 410: "check the URL"}
        raise RemoteError(
            f"{shown(self.url)}: {said}; {advice.get(response.status, 'check the URL and the server')}",
            is_missing=response.status in (404, 410),
        )


class _Filesystem(_Source):
    """A file behind any scheme that fsspec knows. It makes file systems anew after a fork, so none is kept here."""

    def facts(self, clock: _Clock) -> _Facts:
        with self._errors() as (filesystem, path):
            size_bytes = filesystem.info(path)["size"]
            if size_bytes is None:
                raise RemoteError(f"{shown(self.url)}: its size is not known there; copy the files to a disk here")
            return self.pin(_Facts(int(size_bytes), str(filesystem.ukey(path))))

    def read(self, offset: int, size: int, clock: _Clock) -> bytes:
        facts = self.pinned or self.facts(clock)
        if offset + size > facts.size_bytes:
            self.ends_before(offset, size)
        with self._errors() as (filesystem, path):
            data = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
        if len(data) != size:
            # Either an answer was cut, which passes, or the file is shorter by now, which asking anew tells.
            self.facts(clock)
            raise _PassingError(f"{len(data)} of {size} bytes came")
        return data

    def whole(self, max_bytes: int, clock: _Clock) -> bytes:
        size_bytes = self.facts(clock).size_bytes
        if size_bytes > max_bytes:
            self.too_large(size_bytes, max_bytes)
        return self.read(0, size_bytes, clock) if size_bytes else b""

    @contextmanager
    def _errors(self) -> "Iterator[tuple[Any, str]]":
        """The file system and path of this URL, and the one place that knows what fsspec's errors mean."""
        try:
            import fsspec
        except ModuleNotFoundError as error:
            scheme = self.url.partition("://")[0]
            raise MissingExtraError("fsspec", extra="remote", needed_for=f"reading {scheme}://") from error
        try:
            yield fsspec.core.url_to_fs(self.url)
        except (RemoteError, _PassingError):
            raise
        except FileNotFoundError as error:
            raise RemoteError(f"{shown(self.url)}: no such file; check the URL", is_missing=True) from error
        except PermissionError as error:
            raise RemoteError(f"{shown(self.url)}: may not be read; {_LOGIN}") from error
        except ImportError as error:  # "Install s3fs to access S3"
            raise RemoteError(f"{shown(self.url)}: fsspec lacks a package for it ({error}); install that") from error
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, IsADirectoryError) as error:
            raise RemoteError(
                f"{shown(self.url)}: fsspec cannot read it ({_in_words(error)}); check the URL"
            ) from error
        except Exception as error:  # every file system has errors of its own; most are of the network
            raise _PassingError(_in_words(error)) from error


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
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror.lower()
        inner = next((part for part in link.args if isinstance(part, OSError)), None)
        link = inner or link.__cause__ or link.__context__
    return _WORDS.get(type(error).__name__, type(error).__name__)
