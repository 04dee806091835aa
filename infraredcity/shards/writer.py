"""Shards out: WebDataset tars that appear whole or not at all and are the same bytes every time.

USTAR, uncompressed, mtime, uid and gid 0, the image first and its json after it, so that any tar reader and any WebDataset reader
opens them, and so that a whole sample can be copied by its byte range.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from infraredcity.files.atomic import open_atomic
from infraredcity.files.path import AnyPath
from infraredcity.shards.index import IndexEntry, ShardInfo
from infraredcity.shards.names import BLOCK_BYTES, key_of, padded

_END = bytes(2 * BLOCK_BYTES)


class ShardWriter:
    """Appends samples to one open shard; made by `open_shard`."""

    def __init__(self, file: BinaryIO, image_format: str) -> None:
        self._file = file
        self._image_format = image_format
        self._digest = hashlib.sha256()
        self._position = 0
        self._entries: list[IndexEntry] = []

    @property
    def entries(self) -> list[IndexEntry]:
        """What was written so far, in order."""
        return self._entries

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return self._position

    def add(
        self,
        clip_id: str,
        frame_index: int,
        pts: int,
        image: bytes,
        facts: bytes,
        *,
        size_px: tuple[int, int],
        image_sha256: str | None = None,
    ) -> IndexEntry:
        """Write one sample: `<key>.<image format>` and `<key>.json`.

        Args:
            clip_id: Clip of the frame.
            frame_index: 0-based index of the frame in it.
            pts: Presentation time in units of the clip's time_base.
            image: The encoded still.
            facts: The json member.
            size_px: Width and height of the still.
            image_sha256: Hash of `image` in hexadecimal, where the caller knows it.
        """
        key = key_of(clip_id, frame_index)
        start = self._position
        for part in (*_member(f"{key}.{self._image_format}", image), *_member(f"{key}.json", facts)):
            self._write(part)
        sha256 = image_sha256 or hashlib.sha256(image).hexdigest()
        return self._record(frame_index, pts, start, len(image), size_px, sha256)

    def add_copy(
        self,
        frame_index: int,
        pts: int,
        sample: bytes,
        image_size: int,
        image_sha256: str,
        *,
        size_px: tuple[int, int],
        mark: int = 0,
    ) -> IndexEntry:
        """Write one sample's bytes exactly as they stand in another shard, headers and padding included."""
        start = self._position
        self._write(sample)
        return self._record(frame_index, pts, start, image_size, size_px, image_sha256, mark)

    def _record(
        self, frame_index: int, pts: int, start: int, size: int, size_px: tuple[int, int], sha256: str, mark: int = 0
    ) -> IndexEntry:
        entry = IndexEntry(
            frame_index=frame_index,
            pts=pts,
            offset=start + BLOCK_BYTES,
            size=size,
            span=self._position - start,
            width=size_px[0],
            height=size_px[1],
            sha256=sha256,
            mark=mark,
        )
        self._entries.append(entry)
        return entry

    def finish(self, name: str) -> ShardInfo:
        """Write the end of the archive; for `open_shard`."""
        self._write(_END)
        return ShardInfo(
            name=name, num_samples=len(self._entries), size_bytes=self._position, sha256=self._digest.hexdigest()
        )

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return header, data and padding of a tar member.

    The header is that of `tarfile` with another name and size, which takes a tenth of its time. Source: POSIX.1-1988 (USTAR).
    """
    name_bytes = name.encode("ascii")
    size = b"%011o" % len(data)
    checksum = _HEADER_SUM + sum(name_bytes) + sum(size)
    header = b"".join((
        name_bytes.ljust(100, b"\0"), _HEADER[100:124], size, _HEADER[135:148], b"%06o" % checksum, b"\0 ", _HEADER[156:]
    ))  # fmt: skip
    if len(header) != BLOCK_BYTES:
        raise ValueError(
            f"a member's name must be of at most 100 bytes and its data below 8 GiB, got {name!r}, {len(data)}"
        )
    return header, data, bytes(padded(len(data)) - len(data))


def _empty_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _empty_header()
# The checksum field counts as spaces; neither the name nor the size stand in it yet.
_HEADER_SUM = sum(_HEADER[:124]) + sum(_HEADER[135:148]) + 8 * ord(" ") + sum(_HEADER[156:])


class ShardHandle:
    """The writer of a shard while it is open, and its facts once it is closed."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self.info: ShardInfo | None = None


@contextmanager
def open_shard(folder: AnyPath, name: str, *, image_format: str) -> Iterator[ShardHandle]:
    """Open a shard that appears as `folder`/`name` when the block ends well; `info` is set then.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    with open_atomic(folder / name) as file:
        handle = ShardHandle(ShardWriter(file, image_format))
        yield handle
        info = handle.writer.finish(name)
    handle.info = info
