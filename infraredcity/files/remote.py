"""Remote files: read ranges or all of one, list a folder, send and remove files; in time, or with one line that says why not.

http(s) goes through urllib3 and is only for reading; every other scheme (s3, gs, memory, ...) goes through fsspec. What may pass
by itself (a refused or cut connection, silence, a short body, 5xx, 429) is tried again until the deadline; all else is an error at
once. A file that changes between two reads is an error over http(s); fsspec has no such check for all schemes, there only another
size is noticed. Nothing is remembered of what a folder holds: another machine may write there at any time.

A URL is `scheme://host/path?query`. In http the path is quoted (`%20` for a space), in all other schemes it stands for itself.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from infraredcity.errors import RemoteError
from infraredcity.files.http import HttpSource
from infraredcity.files.retry import Clock, RemoteOptions, TooLargeError, until_deadline
from infraredcity.files.source import FileFacts, Source
from infraredcity.files.store import StoreSource
from infraredcity.files.urls import CONTROL, check_writable, is_http, shown

WHOLE_BYTES = 32 * 1024 * 1024
"""The most bytes of a whole file that one request brings."""


class RemoteFile:
    """One file on another machine, read by ranges; safe to use from several threads and after a fork, can be pickled.

    Args:
        url: Where it is.
        options: Timeouts and deadline.
        expected_bytes: Its size, if it is known from elsewhere; a file of another size is an error at first contact.
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
        """The file's size; asked for if nothing is known yet.

        Raises:
            RemoteError: It cannot be reached, or is not what was expected.
        """
        expected_bytes = self._source.expected_bytes
        return self._facts().size_bytes if expected_bytes is None else expected_bytes

    @property
    def version(self) -> str:
        """The server's name for this state of the file (ETag or Last-Modified, fsspec's ukey); "" if it has none.

        Raises:
            RemoteError: It cannot be reached, or is not what was expected.
        """
        return self._facts().version

    def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
        """Read exactly `size` bytes from `offset`.

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
        return until_deadline(self._source.url, self._options, attempt, within_s)

    def close(self) -> None:
        """End the use of it; connections belong to the process and stay for other files."""
        self._closed = True

    def _facts(self) -> "FileFacts":
        return self._source.pinned or until_deadline(self._source.url, self._options, self._source.facts)


def fetch(url: str, options: RemoteOptions | None = None, max_bytes: int = 64 * 1024 * 1024) -> bytes:
    """Read the whole of a file: in one request if it is small, else in pieces, each with a deadline of its own.

    Args:
        url: Where it is.
        options: Timeouts and deadline.
        max_bytes: A larger file is an error.

    Raises:
        RemoteError: It could not be had before the deadline, is larger, or changed meanwhile; RemoteMissingError where none is.
        MissingExtraError: The package for this scheme is not installed.
    """
    attempt = functools.partial(_source(url).whole, min(max_bytes, WHOLE_BYTES))
    try:
        return until_deadline(url, options or RemoteOptions(), attempt)
    except TooLargeError:
        if max_bytes <= WHOLE_BYTES:
            raise
    file = RemoteFile(url, options)
    if file.size_bytes > max_bytes:
        _source(url).too_large(file.size_bytes, max_bytes)
    return _in_pieces(file.read, file.size_bytes)


def fetch_start(url: str, size: int, options: RemoteOptions | None = None) -> bytes:
    """Read the first `size` bytes of a file that is known to have as many: in one request if they are few, else in pieces.

    Raises:
        RemoteError: They could not be had before the deadline, or the file is shorter; RemoteMissingError where none is.
        MissingExtraError: The package for this scheme is not installed.
    """
    source, chosen = _source(url), options or RemoteOptions()

    def read(offset: int, count: int) -> bytes:
        return until_deadline(url, chosen, functools.partial(source.piece, offset, count))

    return _in_pieces(read, size)


def _in_pieces(read: Callable[[int, int], bytes], size: int) -> bytes:
    return b"".join(read(start, min(WHOLE_BYTES, size - start)) for start in range(0, size, WHOLE_BYTES))


def kind(url: str, options: RemoteOptions | None = None) -> Literal["file", "folder"] | None:
    """Find out what is at `url`; None if nothing is.

    A folder of an object store is there if something lies in it; what is a file as well counts as a file.

    Raises:
        RemoteError: It could not be found out before the deadline.
        MissingExtraError: The package for this scheme is not installed.
    """
    return until_deadline(url, options or RemoteOptions(), _source(url).kind)


def listing(url: str, options: RemoteOptions | None = None) -> dict[str, int | None]:
    """List what lies directly in a folder, by name: size of a file (UNKNOWN_BYTES if it is not listed), None for a folder.

    Raises:
        RemoteMissingError: Nothing is there.
        RemoteError: It could not be listed before the deadline; over http only a server that makes pages of links lists a folder.
        MissingExtraError: The package for this scheme is not installed.
    """
    options = options or RemoteOptions()
    found = until_deadline(url, options, _source(url).listed, allowance_s=options.listing_s)
    for name in found:
        if name in ("", ".", "..") or "/" in name or CONTROL.search(name):
            raise RemoteError(
                f"{shown(url)}: lists {name[:80]!a}, which is no name of a file; do not use what lies there"
            )
    return found


def send(url: str, data: bytes, options: RemoteOptions | None = None) -> None:
    """Send `data` as the file at `url`.

    Raises:
        RemoteError: It could not be sent before the deadline, or may not be written there.
        MissingExtraError: The package for this scheme is not installed.
    """
    _send(url, functools.partial(StoreSource(url, None).write, data), len(data), options or RemoteOptions())


def send_file(url: str, path: Path, options: RemoteOptions | None = None) -> None:
    """Copy a local file to `url`; check its size there afterwards.

    Raises:
        RemoteError: It could not be sent before the deadline, or may not be written there.
        MissingExtraError: The package for this scheme is not installed.
    """
    attempt = functools.partial(StoreSource(url, None).copy_from, path)
    _send(url, attempt, path.stat().st_size, options or RemoteOptions())


def _send(url: str, attempt: "Callable[[Clock], None]", size_bytes: int, options: RemoteOptions) -> None:
    check_writable(url)
    until_deadline(url, options, attempt, allowance_s=size_bytes / options.slowest_bytes_per_s)


def remove(url: str, options: RemoteOptions | None = None) -> None:
    """Remove a file.

    Raises:
        RemoteMissingError: None is there; S3 does not say so.
        RemoteError: It cannot be done.
        MissingExtraError: The package for this scheme is not installed.
    """
    check_writable(url)
    until_deadline(url, options or RemoteOptions(), StoreSource(url, None).remove)


def _source(url: str, expected_bytes: int | None = None) -> Source:
    return HttpSource(url, expected_bytes) if is_http(url) else StoreSource(url, expected_bytes)
