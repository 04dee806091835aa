"""Read a remote file as Python's raw file, for libraries that read and seek."""

import io
from collections import OrderedDict
from typing import Any

from infraredcity.files.remote import RemoteFile

_CHUNK_BYTES = 1024 * 1024
_KEPT_CHUNKS = 8


class RemoteReader(io.RawIOBase):
    """A remote file as Python's raw file: reading and seeking, by aligned chunks of which the last used are kept."""

    def __init__(self, file: RemoteFile, *, chunk_bytes: int = _CHUNK_BYTES, kept_chunks: int = _KEPT_CHUNKS) -> None:
        self._file = file
        self._size_bytes = file.size_bytes
        self._chunk_bytes = chunk_bytes
        self._kept_chunks = kept_chunks
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; return the new position in bytes from the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill as much of `buffer` as one chunk gives; 0 at the end."""
        view = memoryview(buffer).cast("B")
        left = self._size_bytes - self._position
        if left <= 0 or not len(view):
            return 0
        number, inside = divmod(self._position, self._chunk_bytes)
        data = self._chunk(number)[inside : inside + min(len(view), left)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _chunk(self, number: int) -> bytes:
        if number in self._chunks:
            self._chunks.move_to_end(number)
            return self._chunks[number]
        offset = number * self._chunk_bytes
        data = self._file.read(offset, min(self._chunk_bytes, self._size_bytes - offset))
        self._chunks[number] = data
        if len(self._chunks) > self._kept_chunks:
            self._chunks.popitem(last=False)
        return data
