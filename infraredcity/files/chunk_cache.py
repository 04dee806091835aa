"""Cache chunks of remote files on a local disk: bounded, shared by all processes of a machine, checked before it is believed.

A chunk is one file, named for the content it is part of, so that another content never meets it. It holds the digest of its bytes,
which is checked when it is opened. One reader fetches a missing chunk while others that want it wait. A fault of the disk (full,
read-only, damaged) costs speed and is counted; it never changes what a reader gets.
"""

import hashlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from infraredcity.errors import OutputError
from infraredcity.files.lock import acquire, open_lock, release
from infraredcity.files.open_files import OpenFile, OpenFiles
from infraredcity.files.temporary import is_temporary, temporary_beside

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "INFRAREDCITY_CACHE"
CACHE_GIB_VARIABLE = "INFRAREDCITY_CACHE_GIB"
DEFAULT_CACHE_BYTES = 10 << 30
_LEAST_CACHE_BYTES = 100 << 20
DIGEST_BYTES = 16
MAX_OPEN_CHUNKS = 64
"""Few, since an evicted chunk takes room on the disk as long as a process has it open; opening one again costs little."""
_STRIPES = 256
_DISABLED_S = 60.0
"""How long nothing is written after a failed write; then a full disk may have room again."""
_SCAN_SHARE = 64
"""A process looks at the whole folder when it has written max_bytes / _SCAN_SHARE since it last did."""
_ROOM_SHARE = 8
"""A look leaves max_bytes / _ROOM_SHARE free: as much as 8 processes write before each of them looks again."""
_EVICT_WAIT_S = 5.0
_STALE_TEMPORARY_S = 600.0
_MAX_CHECKED = 200_000
_CHUNK_NAME = re.compile("[0-9a-f]{32}")


@runtime_checkable
class RangeFile(Protocol):
    """A file that the cache reads from; see remote.RemoteFile."""

    @property
    def size_bytes(self) -> int:
        """The file's size."""

    @property
    def deadline_s(self) -> float:
        """The longest that one read may take."""

    def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
        """Read exactly `size` bytes from `offset`, or raise an error within `within_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """What a cache did for this process."""

    hits: int
    """Chunks that were there."""
    misses: int
    """Chunks that were not."""
    fetched_bytes: int
    """Bytes read from remote files."""
    dropped: int
    """Chunks that were damaged on the disk, or whose content was found wrong."""
    evicted: int
    """Chunks that were deleted to make room for others."""
    unwritten: int
    """Chunks that could not be kept."""
    disabled: str | None
    """Why nothing can be kept at present, or None."""


@dataclass(slots=True)
class _Process:
    """The state of one process; a forked child starts anew, since locks and counts are its parent's."""

    pid: int
    files: OpenFiles = field(default_factory=lambda: OpenFiles(MAX_OPEN_CHUNKS))
    lock: threading.Lock = field(default_factory=threading.Lock)
    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    dropped: int = 0
    evicted: int = 0
    unwritten: int = 0
    disabled: str | None = None
    disabled_until_s: float = 0.0
    checked: dict[str, int] = field(default_factory=dict)
    """Inodes of the chunks whose digest was found right: shuffled windows come back to a chunk long after it was closed."""
    unscanned_bytes: int = sys.maxsize
    """Bytes written since the folder was last looked at; before the first look, as many as can be."""

    def count(self, **amounts: int) -> None:
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class ChunkCache:
    """Chunks of remote files as files in a folder. Safe to use from several threads and processes, can be pickled, survives a fork.

    Args:
        folder: Where the chunks lie; made when it is missing, best on a fast local disk.
        max_bytes: How large the folder may grow.
        chunk_bytes: How much is fetched at a time.
    """

    def __init__(self, folder: Path, max_bytes: int, chunk_bytes: int = 1024 * 1024) -> None:
        if chunk_bytes <= 0 or max_bytes < 2 * chunk_bytes:
            raise ValueError(f"a cache needs room for two chunks of {chunk_bytes} bytes, got {max_bytes}")
        self.folder = folder
        self.max_bytes = max_bytes
        self.chunk_bytes = chunk_bytes
        self._process = _Process(os.getpid())

    def __reduce__(self) -> tuple[object, ...]:
        return ChunkCache, (self.folder, self.max_bytes, self.chunk_bytes)

    def read(self, file: RangeFile, identity: str, offset: int, size: int) -> bytes:
        """Read `size` bytes of a file from `offset`: from the disk where they are cached, else from the file.

        Args:
            file: Where missing chunks come from.
            identity: Names the content, such as its sha256; another content must have another one.
            offset: First byte.
            size: How many; all of them must lie in the file.

        Raises:
            RemoteError: What is missing could not be had before the file's deadline.
        """
        if size == 0:
            return b""
        until_s = time.monotonic() + file.deadline_s
        pieces = []
        for number in self.chunks(offset, size):
            start = max(offset - number * self.chunk_bytes, 0)
            stop = min(offset + size - number * self.chunk_bytes, self.chunk_bytes)
            pieces.append(self._piece(file, identity, number, start, stop, until_s))
        return b"".join(pieces)

    def chunks(self, offset: int, size: int) -> range:
        """Return the numbers of the chunks that hold some bytes."""
        return range(offset // self.chunk_bytes, -(-(offset + size) // self.chunk_bytes))

    def forget(self, identity: str, offset: int, size: int) -> None:
        """Drop the chunks that hold some bytes, because their content was found wrong."""
        process = self._mine()
        for number in self.chunks(offset, size):
            self._drop(process, self._path(identity, number))

    def facts(self) -> CacheFacts:
        """Return what the cache did for this process so far."""
        process = self._mine()
        with process.lock:
            return CacheFacts(**{name: getattr(process, name) for name in CacheFacts.__slots__})

    def _mine(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def _path(self, identity: str, number: int) -> Path:
        """Return the file of a chunk; caches of other chunk sizes can share the folder."""
        name = hashlib.blake2b(f"{self.chunk_bytes} {number} {identity}".encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / name

    def _piece(self, file: RangeFile, identity: str, number: int, start: int, stop: int, until_s: float) -> bytes:
        """Read bytes `start` to `stop` of a chunk."""
        process = self._mine()
        path = self._path(identity, number)
        chunk_start = number * self.chunk_bytes
        size = min(self.chunk_bytes, file.size_bytes - chunk_start)
        if stop > size:
            raise ValueError(f"bytes up to {chunk_start + stop} were asked for, the file has {file.size_bytes}")
        found = self._held(process, path, size, start, stop)
        if found is None and self._can_write(process):
            with self._stripe(process, path, (until_s - time.monotonic()) / 2):
                found = self._held(process, path, size, start, stop)  # the holder of the lock may have fetched it
                if found is None:
                    data = self._fetched(process, file, chunk_start, size, until_s)
                    self._write(process, path, data)
                    return data[start:stop]
        if found is None:
            process.count(unwritten=1)
            return self._fetched(process, file, chunk_start + start, stop - start, until_s)
        process.count(hits=1)
        return found

    def _fetched(self, process: _Process, file: RangeFile, offset: int, size: int, until_s: float) -> bytes:
        process.count(misses=1)
        data = file.read(offset, size, within_s=max(until_s - time.monotonic(), 0.0))
        process.count(fetched_bytes=size)
        return data

    def _held(self, process: _Process, path: Path, size: int, start: int, stop: int) -> bytes | None:
        """Read some bytes of a cached chunk of `size` bytes; None if it is not there, or was damaged and is now dropped."""
        file = process.files.get(path.name)
        if file is None:
            try:
                file = OpenFile(os.open(path, os.O_RDONLY))
            except OSError:  # most often there is none
                return None
            if self._is_right(process, path.name, file, size):
                process.files.keep(path.name, file)
            else:
                self._drop(process, path)
                return None
        found = _read(file, DIGEST_BYTES + start, stop - start)
        if len(found) != stop - start:
            self._drop(process, path)
            return None
        file.touch()
        return found

    def _is_right(self, process: _Process, name: str, file: OpenFile, size: int) -> bool:
        """Whether a file holds a chunk of `size` bytes and their digest; checked once, unless it is another file by now."""
        if file.size_bytes != DIGEST_BYTES + size:
            return False
        if process.checked.get(name) == file.inode:
            return True
        content = _read(file, 0, DIGEST_BYTES + size)
        if content[:DIGEST_BYTES] != _digest(name, content[DIGEST_BYTES:]):
            return False
        if len(process.checked) >= _MAX_CHECKED:
            process.checked.clear()
        process.checked[name] = file.inode
        return True

    def _drop(self, process: _Process, path: Path) -> None:
        process.files.drop(path.name)
        process.checked.pop(path.name, None)
        with suppress(OSError):  # gone already, or not ours to delete: then its bytes are refused each time
            path.unlink()
            process.count(dropped=1)

    def _can_write(self, process: _Process) -> bool:
        return time.monotonic() >= process.disabled_until_s

    def _disable(self, process: _Process, error: OSError) -> None:
        with process.lock:
            is_first = process.disabled is None
            process.disabled = (error.strerror or str(error)).lower()
            process.disabled_until_s = time.monotonic() + _DISABLED_S
        if is_first:
            logger.warning(
                "%s: the cache cannot be written (%s); reading goes on without it", self.folder, process.disabled
            )

    @contextmanager
    def _stripe(self, process: _Process, path: Path, wait_s: float) -> Iterator[None]:
        """Hold the lock that a chunk shares with a 256th of all; after `wait_s`, or where no lock can be had, go on without."""
        lock: int | None = None
        try:
            lock = open_lock(self.folder / "locks" / f"{int(path.name[:8], 16) % _STRIPES:03d}", 0o666)
            acquire(lock, wait_s)
        except OSError as error:
            self._disable(process, error)
        try:
            yield
        finally:
            if lock is not None:
                release(lock)

    def _write(self, process: _Process, path: Path, data: bytes) -> None:
        """Write a chunk if the disk permits; without fsync, since a chunk that a power cut left half-written fails its digest."""
        if not self._can_write(process):
            process.count(unwritten=1)
            return
        temporary = temporary_beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb", buffering=0) as file:
                _write_all(file.fileno(), _digest(path.name, data) + data)
            temporary.replace(path)
            self._evict(process, DIGEST_BYTES + len(data))
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            process.count(unwritten=1)
            self._disable(process, error)
        else:
            with process.lock:
                process.disabled = None

    def _evict(self, process: _Process, written_bytes: int) -> None:
        """Note what was written and, when that is a share of the bound, delete the least recently used chunks."""
        with process.lock:
            process.unscanned_bytes += written_bytes
        if not self._is_due(process):
            return
        lock = open_lock(self.folder / "locks" / "evict", 0o666)
        try:
            # Writers wait while one makes room, or they would fill the disk meanwhile; then it may not be due any more.
            if acquire(lock, _EVICT_WAIT_S) and self._is_due(process):
                with process.lock:
                    process.unscanned_bytes = 0
                process.count(evicted=self._make_room())
        finally:
            release(lock)

    def _is_due(self, process: _Process) -> bool:
        return process.unscanned_bytes >= self.max_bytes // _SCAN_SHARE

    def _make_room(self) -> int:
        """Delete the least recently used chunks until there is room; return how many that were."""
        stale_s = time.time() - _STALE_TEMPORARY_S
        chunks: list[tuple[float, int, str]] = []
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        if _CHUNK_NAME.fullmatch(entry.name):
                            chunks.append((status.st_mtime, status.st_size, entry.path))
                        elif is_temporary(Path(entry)) and status.st_mtime < stale_s:  # its writer was killed
                            Path(entry).unlink()
        excess = sum(size for _, size, _ in chunks) - self.max_bytes + self.max_bytes // _ROOM_SHARE
        if excess > 0:
            chunks.sort(reverse=True)
        evicted = 0
        while excess > 0:
            _, size, path = chunks.pop()
            Path(path).unlink(missing_ok=True)
            excess -= size
            evicted += 1
        return evicted


def _digest(name: str, data: bytes) -> bytes:
    """Hash a chunk with its name, so that a chunk under another's name is no chunk."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, person=bytes.fromhex(name)).digest()


def _read(file: OpenFile, offset: int, size: int) -> bytes:
    """Read as `file.read` does; return nothing where the disk fails, since what cannot be read counts as damaged."""
    try:
        return file.read(offset, size)
    except OSError:
        return b""


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def cache_folder() -> Path:
    """The folder of all that is kept between runs: $INFRAREDCITY_CACHE, or ~/.cache/infraredcity; RuntimeError without a home."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/infraredcity").expanduser()


def default_cache() -> ChunkCache:
    """Keep chunks of remote shards in the `cache_folder`; at most $INFRAREDCITY_CACHE_GIB of them, or 10 GiB.

    Raises:
        OutputError: $INFRAREDCITY_CACHE_GIB is no number, or too small.
    """
    setting = os.environ.get(CACHE_GIB_VARIABLE)
    try:
        max_bytes = round(float(setting) * 2**30) if setting else DEFAULT_CACHE_BYTES
    except (ValueError, OverflowError):
        max_bytes = 0
    if max_bytes < _LEAST_CACHE_BYTES:
        raise OutputError(
            f"{CACHE_GIB_VARIABLE} is {setting!r}, expected a number of GiB, at least .1; set it so, or leave it out"
        )
    return ChunkCache(cache_folder() / "chunks", max_bytes=max_bytes)
