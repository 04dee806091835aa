"""Shards out: WebDataset tars that appear whole or not at all and are the same bytes every time.

USTAR, uncompressed, mtime, uid and gid 0, the image first and its json after it, so that any tar reader and any WebDataset reader
opens them, and so that a whole sample can be copied by its byte range.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from infraredcity.index import BLOCK_BYTES, IndexEntry, ShardInfo, key_of
from infraredcity.storage import open_atomic

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

    def add(self, clip_id: str, frame_index: int, pts: int, image: bytes, facts: Mapping[str, Any]) -> IndexEntry:
        """Write one sample: `<key>.<image format>` and `<key>.json`.

        Args:
            clip_id: Clip of the frame.
            frame_index: 0-based index of the frame in it.
            pts: Presentation time in units of the clip's time_base.
            image: The encoded still.
            facts: What the json member says of it.
        """
        key = key_of(clip_id, frame_index)
        start = self._position
        self._member(f"{key}.{self._image_format}", image)
        self._member(f"{key}.json", json.dumps(facts, separators=(",", ":")).encode())
        return self._record(frame_index, pts, start, len(image), hashlib.sha256(image).hexdigest())

    def add_copy(self, frame_index: int, pts: int, sample: bytes, image_size: int, image_sha256: str) -> IndexEntry:
        """Write one sample's bytes exactly as they stand in another shard, headers and padding included."""
        start = self._position
        self._write(sample)
        return self._record(frame_index, pts, start, image_size, image_sha256)

    def _record(self, frame_index: int, pts: int, start: int, size: int, sha256: str) -> IndexEntry:
        entry = IndexEntry(
            frame_index=frame_index,
            pts=pts,
            offset=start + BLOCK_BYTES,
            size=size,
            span=self._position - start,
            sha256=sha256,
        )
        self._entries.append(entry)
        return entry

    def finish(self, name: str) -> ShardInfo:
        """Write the end of the archive; for `open_shard`."""
        self._write(_END)
        return ShardInfo(
            name=name, num_samples=len(self._entries), size_bytes=self._position, sha256=self._digest.hexdigest()
        )

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)


class ShardHandle:
    """The writer of a shard while it is open, and its facts once it is closed."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self.info: ShardInfo | None = None


@contextmanager
def open_shard(folder: Path, name: str, *, image_format: str) -> Iterator[ShardHandle]:
    """A shard that appears as `folder`/`name` when the block ends well; `info` is set then.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    with open_atomic(folder / name) as file:
        handle = ShardHandle(ShardWriter(file, image_format))
        yield handle
        info = handle.writer.finish(name)
    handle.info = info
