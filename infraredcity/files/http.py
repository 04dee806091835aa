"""Read files behind http and https by ranges, with urllib3."""

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from infraredcity.errors import MissingExtraError, RemoteError, RemoteMissingError, RemoteRefusedError
from infraredcity.files.retry import Clock, PassingError, in_words
from infraredcity.files.source import LOGIN_ADVICE, NOT_RIGHT, PIECE_BYTES, UNKNOWN_BYTES, FileFacts, Source
from infraredcity.files.traffic import counter
from infraredcity.files.urls import join, shown, split

if TYPE_CHECKING:
    import urllib3

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MAX_PAGE_BYTES = 256 * 1024 * 1024
_MAX_REDIRECTS = 5
_PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})


class HttpSource(Source):
    """A file behind http or https. Source: RFC 9110, section 14 (ranges)."""

    def facts(self, clock: Clock) -> FileFacts:
        """Return size and version, pinned."""
        # One byte instead of HEAD: it proves at once that ranges work, and a signed URL is good for nothing but GET.
        try:
            self.read(0, 1, clock)
        except RemoteError:
            if self.pinned is None or self.pinned.size_bytes > 0:
                raise
        assert self.pinned is not None
        return self.pinned

    def read(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read these bytes of the pinned file."""
        with self._answer(clock, {"Range": f"bytes={offset}-{offset + size - 1}"}) as (response, _):
            headers = response.headers
            version = headers.get("ETag") or headers.get("Last-Modified") or ""
            if (response.status, headers.get("Content-Length")) == (200, "0") or headers.get(
                "Content-Range"
            ) == "bytes */0":
                self.pin(FileFacts(0, version))  # of an empty file no range can be asked for
                self.ends_before(offset, size)
            if response.status == 416:
                self.ends_before(offset, size)
            if response.status == 200:
                if headers.get("Content-Length", "").isdigit():
                    self.pin(FileFacts(int(headers["Content-Length"]), version))
                raise RemoteError(
                    f"{shown(self.url)}: the server sends only whole files, no ranges of bytes (status 200 instead of 206); "
                    "copy the files to a disk here, or read them in order with the webdataset pipeline"
                )
            if response.status != 206:
                self._refuse(response)
            content_range = headers.get("Content-Range", "")
            found = _CONTENT_RANGE.fullmatch(content_range)
            if found is None:
                raise RemoteError(
                    f"{shown(self.url)}: Content-Range is {content_range!r}, not a range of a known whole; {NOT_RIGHT}"
                )
            start, stop, total = int(found[1]), int(found[2]) + 1, int(found[3])
            self.pin(FileFacts(total, version))
            if offset + size > total:
                self.ends_before(offset, size)
            if (start, stop) != (offset, offset + size):
                raise RemoteError(
                    f"{shown(self.url)}: bytes {offset} to {offset + size} were asked for, {start} to {stop} came; {NOT_RIGHT}"
                )
            return self._body(response, size, clock)

    def piece(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read these bytes of a file of which nothing need be known."""
        return self.read(offset, size, clock)

    def whole(self, max_bytes: int, clock: Clock) -> bytes:
        """Read all bytes."""
        with self._answer(clock, {}) as (response, _):
            if response.status != 200:
                self._refuse(response)
            length = response.headers.get("Content-Length", "")
            if not length.isdigit():  # without it a cut file looks like a whole one
                raise RemoteError(
                    f"{shown(self.url)}: the server does not say how long it is; copy the file to a disk here"
                )
            if int(length) > max_bytes:
                self.too_large(int(length), max_bytes)
            return self._body(response, int(length), clock)

    def kind(self, clock: Clock) -> Literal["file", "folder"] | None:
        """Say what is there."""
        with self._answer(clock, {"Range": "bytes=0-0"}) as (response, url):
            if response.status in (404, 410):
                return None
            is_folder = split(url)[1][-1:] in ("", "/")  # a web server redirects there from a folder's name
            if response.status not in (200, 206, 416, 403 if is_folder else 200):
                self._refuse(response)
            return "folder" if is_folder else "file"

    def listed(self, clock: Clock) -> dict[str, int | None]:
        """Read the links of a folder's page that lead to what lies in it."""
        asked = HttpSource(join(self.url, ""), None)
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
    def _answer(self, clock: Clock, headers: dict[str, str]) -> "Iterator[tuple[urllib3.BaseHTTPResponse, str]]":
        """Yield the answer to a GET behind all redirects, and its URL; keep the connection only if the body was read to the end."""
        connections = pool(os.getpid())
        import urllib3

        options, url = clock.options, self.url
        for _ in range(_MAX_REDIRECTS + 1):
            timeout = urllib3.Timeout(
                connect=min(options.connect_timeout_s, clock.left_s + 0.01),
                read=min(options.read_timeout_s, clock.left_s + 0.01),
            )
            counter().add(num_requests=1)
            try:
                response = connections.request(
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
                if "certificate" in (reason := in_words(error)).lower():
                    raise RemoteError(
                        f"{shown(url)}: {reason}; check the server's certificate and this clock"
                    ) from error
                raise PassingError(reason) from error
            url = urljoin(url, location)
        raise RemoteError(
            f"{shown(self.url)}: more than {_MAX_REDIRECTS} redirects, at last to {shown(url)}; check the URL"
        )

    def _body(self, response: "urllib3.BaseHTTPResponse", size: int, clock: Clock) -> bytes:
        data = self._bytes(response, size, clock)
        if len(data) > size:
            raise RemoteError(f"{shown(self.url)}: more than the {size} bytes that were asked for came; {NOT_RIGHT}")
        if len(data) < size:
            raise PassingError(f"{len(data)} of {size} bytes came")
        return data

    def _bytes(self, response: "urllib3.BaseHTTPResponse", max_bytes: int, clock: Clock) -> bytes:
        """Read the body, at most one byte more than `max_bytes`."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RemoteError(f"{shown(self.url)}: comes packed as {encoding!r}, which was not asked for; {NOT_RIGHT}")
        pieces, got = [], 0
        while got <= max_bytes:
            piece = response.read1(min(PIECE_BYTES, max_bytes + 1 - got))
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
            counter().add(received_bytes=len(piece))
            if got < max_bytes:
                clock.check()
        return b"".join(pieces)

    def _refuse(self, response: "urllib3.BaseHTTPResponse", hint: str = "") -> NoReturn:
        """Raise the error that a status other than the expected one means."""
        answer = f"the server answered {response.status} {response.reason or ''}".rstrip()
        if response.status in _PASSING_STATUS:
            wait_s = _retry_after_s(response)
            raise PassingError(f"{answer}, come again in {wait_s:.0f} s" if wait_s else answer, wait_s)
        advice = {401: LOGIN_ADVICE, 403: LOGIN_ADVICE, 404: "check the URL", 410: "check the URL"}
        kinds = {401: RemoteRefusedError, 403: RemoteRefusedError, 404: RemoteMissingError, 410: RemoteMissingError}
        error = kinds.get(response.status, RemoteError)
        raise error(f"{shown(self.url)}: {answer}; {advice.get(response.status, 'check the URL and the server')}{hint}")


class _Links(HTMLParser):
    """Where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what an `a` gives as its `href`."""
        self.targets += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


@functools.cache
def pool(pid: int) -> "urllib3.PoolManager":
    """Return the connections of one process: a forked child must not use those of its parent."""
    try:
        import urllib3
    except ModuleNotFoundError as error:
        raise MissingExtraError("urllib3", extra="remote", needed_for="reading http:// and https://") from error
    return urllib3.PoolManager(num_pools=32, maxsize=64)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _login(url: str) -> dict[str, str]:
    """Make the header for `user:password@` in a URL."""
    import urllib3

    user, at, _ = urlsplit(url).netloc.rpartition("@")
    return dict(urllib3.util.make_headers(basic_auth=unquote(user))) if at else {}


def _retry_after_s(response: "urllib3.BaseHTTPResponse") -> float:
    """Return how many seconds the server asks to wait; 0 if it does not, or in a form that cannot be understood."""
    import urllib3

    try:
        return float(urllib3.Retry().get_retry_after(response) or 0)
    except urllib3.exceptions.InvalidHeader:
        return 0.0
