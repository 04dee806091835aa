"""Give FFmpeg a remote clip as a file: read by ranges, ahead of a reader in order, with failures that FFmpeg cannot hide."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from infraredcity.files.path import RemotePath
from infraredcity.files.remote import RemoteFile

_LEAST_BYTES = 256 * 1024
"""The bytes of the first request after a jump: the head of a file, its index, a key frame."""
_MOST_BYTES = 4 * 1024 * 1024
"""The most bytes of one request; more would not come before the deadline on a slow network."""
_MOST_AHEAD_BYTES = 8 * 1024 * 1024
_RUN_SHARE = 8
"""A request, and all that is requested ahead, is at most this share of what was read in a row: little is read in vain."""
_KEPT_BYTES = 32 * 1024 * 1024
"""Enough for what FFmpeg reads twice when it opens a transport stream, and for two places that are read alternately."""
_waiting: set[int] = set()


def waits_for_network() -> bool:
    """Whether a reader of this process waits for another machine now; that ends by itself, with bytes or a RemoteError."""
    return bool(_waiting)


@dataclass(slots=True, eq=False)
class _Stretch:
    """Bytes from `start` to before `stop`, here or on their way; reading in a row that led to them began at `run_start`."""

    run_start: int
    start: int
    stop: int
    data: Future[bytes]


class RemoteVideo:
    """A file with the methods that PyAV needs, for one thread.

    A read that fails does not raise: FFmpeg would take it for damage or for the end, and PyAV print it where it cannot pass it on.
    From then on no bytes come, and the caller of FFmpeg looks at `failure` before believing what it says. The same holds for an
    interrupt that comes while a read waits: PyAV would drop it.

    Args:
        path: Where the clip is.

    Raises:
        RemoteError: It cannot be reached.
    """

    def __init__(self, path: RemotePath) -> None:
        self.name = path.name
        """FFmpeg looks at the suffix when it guesses the format."""
        self.failure: BaseException | None = None
        self._file = path.file()
        with self._waiting():
            self.size_bytes = self._file.size_bytes
        self._position = 0
        self._stretches: list[_Stretch] = []

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; none at the end, and after a failure."""
        if self.failure is not None or self._position >= self.size_bytes:
            return b""
        try:
            with self._waiting():
                stretch = self._stretch()
                inside = self._position - stretch.start
                data = stretch.data.result()[inside : inside + size]
        except BaseException as error:
            self.failure = error
            return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; return the new position in bytes from the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        _waiting.add(id(self))
        try:
            yield
        finally:
            _waiting.discard(id(self))

    def _stretch(self) -> _Stretch:
        """Find the stretch with the next byte; request those that will be read after it as well."""
        position = self._position
        found = next((each for each in self._stretches if each.start <= position < each.stop), None)
        if found is None:
            # A reader that leaves out a little, such as another stream's packet, still reads in a row.
            before = [each for each in self._stretches if 0 <= position - each.stop < _LEAST_BYTES]
            found = self._requested(position, before[-1].run_start if before else position)
        else:
            self._stretches.remove(found)
            self._stretches.append(found)
        last = found
        wanted = min(position + min((position - found.run_start) // _RUN_SHARE, _MOST_AHEAD_BYTES), self.size_bytes)
        while last.stop < wanted:
            behind = next((each for each in self._stretches if each.start == last.stop), None)
            last = behind or self._requested(last.stop, last.run_start)
        return found

    def _requested(self, start: int, run_start: int) -> _Stretch:
        size = min(max((start - run_start) // _RUN_SHARE, _LEAST_BYTES), _MOST_BYTES)
        stretch = _Stretch(run_start, start, min(start + size, self.size_bytes), Future())
        # A daemon: a program that ends waits for no server.
        threading.Thread(target=_fill, args=(stretch, self._file), name="remote-video", daemon=True).start()
        self._stretches.append(stretch)
        while sum(each.stop - each.start for each in self._stretches) > _KEPT_BYTES:
            del self._stretches[0]
        return stretch


def _fill(stretch: _Stretch, file: RemoteFile) -> None:
    try:
        stretch.data.set_result(file.read(stretch.start, stretch.stop - stretch.start))
    except BaseException as error:
        stretch.data.set_exception(error)
