"""Samples by their place in an index, from shards on a local disk or on another machine."""

import errno
import hashlib
import os
import queue
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from infraredcity.errors import InfraredCityError, ShardError
from infraredcity.files.chunk_cache import CacheFacts, ChunkCache
from infraredcity.files.open_files import OpenFile, OpenFiles
from infraredcity.files.path import AnyPath, RemotePath, any_path, is_remote
from infraredcity.files.records import plain_descriptor
from infraredcity.files.remote import RemoteFile
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.urls import is_url, shown
from infraredcity.shards.index import SampleIndex, ShardInfo
from infraredcity.threads import in_order

MAX_OPEN_SHARDS = 512
PREFETCH_THREADS = 16
_STRETCH_THREADS = 8
_STRETCH_BYTES = 4 << 20
"""Neighbours are read in one request up to this size."""
_COPY_AGAIN = "copy the shard again, or extract it anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFacts:
    """What was read by this process: how many reads, their bytes, and what the cache did for them."""

    reads: int
    read_bytes: int
    cache: CacheFacts | None


class ShardFiles:
    """Reads samples by their place in an index. Safe to use from several threads, survives a fork, can be pickled.

    Pictures from another machine are compared with the sha256 in the index, so a stale or damaged one is never returned.

    Args:
        index: Which samples lie where.
        locations: The folder that holds the shards, or one folder per shard of the index: paths, or URLs such as `s3://bucket/lite`.
        remote: Timeouts and deadline of reads from other machines.
        cache: Keeps what was read from other machines; without one, each sample is fetched when it is read.
    """

    def __init__(
        self,
        index: SampleIndex,
        locations: AnyPath | str | Sequence[AnyPath | str],
        remote: RemoteOptions | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        folders = [locations] * len(index.shards) if isinstance(locations, Path | RemotePath | str) else list(locations)
        if len(folders) != len(index.shards):
            raise ValueError(f"{len(folders)} folders for {len(index.shards)} shards")
        self._index = index
        self._folders = folders
        self._options = remote
        self._cache = cache
        self._places = {folder: _place_of(folder, remote) for folder in dict.fromkeys(folders)}
        self._shards: dict[int, _LocalShard | _RemoteShard] = {}
        self._process = _Process(os.getpid())

    def __reduce__(self) -> tuple[object, ...]:
        return ShardFiles, (self._index, self._folders, self._options, self._cache)

    @property
    def cache(self) -> ChunkCache | None:
        """What keeps bytes from other machines."""
        return self._cache

    @property
    def folders(self) -> tuple[AnyPath, ...]:
        """Where the shards lie, each folder once."""
        return tuple(self._places.values())

    @property
    def is_remote(self) -> bool:
        """Whether any of the shards is on another machine."""
        return any(map(is_remote, self._places.values()))

    def image(self, row: int) -> bytes:
        """Read the image's bytes of one row.

        Raises:
            ShardError: The shard is missing, shorter than the index says, or holds another picture there.
            RemoteError: A shard on another machine could not be read in time, or changed.
        """
        index = self._index
        return self._read(row, int(index.offset[row]), int(index.size[row]), 0)

    def sample(self, row: int) -> bytes:
        """Read the whole sample of one row as it is in the tar, headers and padding included.

        Raises:
            ShardError: As for `image`.
            RemoteError: As for `image`.
        """
        start, size = self._index.sample_place(row)
        return self._read(row, start, size, int(self._index.offset[row]) - start)

    def samples(self, rows: np.ndarray) -> Iterator[bytes]:
        """Read the whole samples of some rows, in the given order, many at a time; the cache is left out.

        Samples that stand next to each other in a shard on another machine come in one request of some MiB, and the next requests
        are under way meanwhile.

        Raises:
            ShardError: As for `image`.
            RemoteError: As for `image`.
        """
        if not self.is_remote:
            yield from map(self.sample, rows.tolist())
            return
        stretches = in_order(self._stretch, self._stretches(rows), num_threads=_STRETCH_THREADS, name="stretches")
        yield from chain.from_iterable(stretches)

    def _stretches(self, rows: np.ndarray) -> Iterator[list[int]]:
        """Yield the rows in pieces of which each is one stretch of one shard."""
        stretch: list[int] = []
        place = (-1, 0, 0)  # its shard, and where it starts and stops there
        for row in rows.tolist():
            shard, (start, size) = int(self._index.shard[row]), self._index.sample_place(row)
            if stretch and (shard, start) == (place[0], place[2]) and start + size - place[1] <= _STRETCH_BYTES:
                stretch.append(row)
            else:
                if stretch:
                    yield stretch
                stretch, place = [row], (shard, start, start)
            place = (shard, place[1], start + size)
        if stretch:
            yield stretch

    def _stretch(self, rows: list[int]) -> list[bytes]:
        """Read the samples of rows that lie next to each other."""
        places = [self._index.sample_place(row) for row in rows]
        first, stop = places[0][0], sum(places[-1])
        process = self._mine()
        shard = self._shard(int(self._index.shard[rows[0]]))
        if isinstance(shard, _LocalShard):
            data = shard.read(process.files, first, stop - first)
        else:
            data = shard.fetch(first, stop - first)
            for row in rows:
                offset, size = int(self._index.offset[row]), int(self._index.size[row])
                shard.check(data[offset - first : offset - first + size], offset, self._index.sha256[row].tobytes())
        process.add(len(rows), stop - first)
        return [data[start - first : start - first + size] for start, size in places]

    def prefetch(self, rows: Sequence[int] | np.ndarray) -> None:
        """Start to bring the images of some rows into the cache, and return at once; what goes wrong is for the read to say."""
        if self._cache is None:
            return
        index, process = self._index, self._mine()
        for row in np.asarray(rows, np.int64).tolist():
            number = int(index.shard[row])
            shard = self._shard(number)
            if isinstance(shard, _RemoteShard):
                for chunk in self._cache.chunks(int(index.offset[row]), int(index.size[row])):
                    process.prefetcher.want((number, chunk), shard.fetch_chunk)

    def facts(self) -> ReadFacts:
        """Return what this process read so far."""
        process = self._mine()
        with process.lock:
            reads, read_bytes = process.reads, process.read_bytes
        return ReadFacts(reads=reads, read_bytes=read_bytes, cache=self._cache.facts() if self._cache else None)

    def close(self) -> None:
        """Close what was opened and forget what was to be prefetched; a later read opens anew."""
        self._process.prefetcher.close()
        self._process = _Process(os.getpid())

    def __enter__(self) -> "ShardFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _shard(self, number: int) -> "_LocalShard | _RemoteShard":
        """Return a shard of the index; made when it is first read, for there may be a million."""
        found = self._shards.get(number)
        if found is not None:
            return found
        info = self._index.shards[number]
        path = self._places[self._folders[number]] / info.name
        if isinstance(path, RemotePath):
            return self._shards.setdefault(
                number, _RemoteShard(path.url, path.file(info.size_bytes), info, self._cache)
            )
        return self._shards.setdefault(number, _LocalShard(path, info))

    def _mine(self) -> "_Process":
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def _read(self, row: int, offset: int, size: int, image_at: int) -> bytes:
        """Read bytes of a row's shard, in which the row's image begins at `image_at`."""
        index, process = self._index, self._mine()
        shard = self._shard(int(index.shard[row]))
        if isinstance(shard, _LocalShard):
            data = shard.read(process.files, offset, size)
        else:
            image = slice(image_at, image_at + int(index.size[row]))
            data = shard.read(offset, size, image, index.sha256[row].tobytes())
        process.add(1, size)
        return data


def _place_of(location: AnyPath | str, remote: RemoteOptions | None) -> AnyPath:
    if isinstance(location, str) and is_url(location):
        return RemotePath(location, remote)
    return any_path(location)


class _Prefetcher:
    """A few threads that work off a queue. They are daemons: a program that ends waits for no server."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._wanted: set[tuple[int, int]] = set()
        self._threads = 0

    def want(self, chunk: tuple[int, int], fetch: Callable[[int], None]) -> None:
        """Fetch a chunk, (shard, number), soon, unless that is under way."""
        if chunk in self._wanted:
            return
        self._wanted.add(chunk)
        wanted = self._wanted

        def work() -> None:
            try:
                fetch(chunk[1])
            finally:
                wanted.discard(chunk)

        self._queue.put(work)
        if self._threads < PREFETCH_THREADS:
            self._threads += 1
            threading.Thread(target=_work_off, args=(self._queue,), name="prefetch", daemon=True).start()

    def close(self) -> None:
        """Let the threads end after what they are doing."""
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._threads):
            self._queue.put(None)

    __del__ = close


def _work_off(tasks: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (task := tasks.get()) is not None:
        task()


@dataclass(slots=True)
class _Process:
    """What belongs to one process; a fork starts anew, since locks and threads are its parent's."""

    pid: int
    files: OpenFiles = field(default_factory=lambda: OpenFiles(_most_open_shards()))
    prefetcher: _Prefetcher = field(default_factory=_Prefetcher)
    lock: threading.Lock = field(default_factory=threading.Lock)
    reads: int = 0
    read_bytes: int = 0

    def add(self, reads: int, read_bytes: int) -> None:
        """Count reads."""
        with self.lock:
            self.reads += reads
            self.read_bytes += read_bytes


class _TooManyOpenError(ShardError):
    """The system lets this process open no more files."""


def _most_open_shards() -> int:
    """Return a quarter of what the system allows, for two domains, a cache, and the rest of the program."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_SHARDS if allowed == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_SHARDS, allowed // 4))


def check_size(path: AnyPath, info: ShardInfo, size_bytes: int | None) -> None:
    """Raise ShardError for a shard that is not as long as the index says; `size_bytes` is None where there is none."""
    if size_bytes is None:
        raise ShardError(
            f"{path}: the index names it, but it cannot be opened ({os.strerror(errno.ENOENT)}); copy it again"
        )
    if size_bytes != info.size_bytes:
        raise ShardError(f"{path}: is {size_bytes} bytes, the index says {info.size_bytes}; {_COPY_AGAIN}")


@dataclass(frozen=True, slots=True)
class _LocalShard:
    path: Path
    info: ShardInfo

    def read(self, files: OpenFiles, offset: int, size: int) -> bytes:
        file = files.get(self.path)
        if file is None:
            try:
                file = self._open()
            except _TooManyOpenError:
                files.clear()  # they are ours to give; what else the program has open is not
                file = self._open()
            files.keep(self.path, file)
        data = file.read(offset, size)
        if len(data) != size:
            raise ShardError(f"{self.path}: {size} bytes were expected at {offset}, found {len(data)}; {_COPY_AGAIN}")
        return data

    def _open(self) -> OpenFile:
        try:
            file = OpenFile(plain_descriptor(self.path))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise _TooManyOpenError(
                    f"{self.path}: cannot be opened, this process may open no more files; raise the limit (ulimit -n)"
                ) from error
            raise ShardError(
                f"{self.path}: the index names it, but it cannot be opened ({error.strerror}); copy it again"
            ) from error
        check_size(self.path, self.info, file.size_bytes)
        return file


@dataclass(frozen=True, slots=True)
class _RemoteShard:
    url: str
    file: RemoteFile
    info: ShardInfo
    cache: ChunkCache | None

    def fetch(self, offset: int, size: int) -> bytes:
        """Read bytes from the server, whatever the cache has."""
        self._check_range(offset, size)
        return self.file.read(offset, size)

    def _check_range(self, offset: int, size: int) -> None:
        if offset + size > self.info.size_bytes:
            raise ShardError(
                f"{shown(self.url)}: {size} bytes were expected at {offset}, its {self.info.size_bytes} bytes end before; "
                "take the index that belongs to it"
            )

    def read(self, offset: int, size: int, image: slice, sha256: bytes) -> bytes:
        self._check_range(offset, size)
        data = self._kept_or_read(offset, size)
        if _is_picture(data[image], sha256):
            return data
        if self.cache is not None:
            self.cache.forget(self._identity(), offset, size)
        data = self.file.read(offset, size)
        self.check(data[image], offset + image.start, sha256)
        return data

    def check(self, image: bytes, offset: int, sha256: bytes) -> None:
        """Raise ShardError for an image that is not the one that the index means."""
        if not _is_picture(image, sha256):
            raise ShardError(
                f"{shown(self.url)}: stale or damaged: the picture at {offset} has sha256 {hashlib.sha256(image).hexdigest()}, "
                f"the index says {sha256.hex()}; copy the shard there again, or take the index that belongs to it"
            )

    def _kept_or_read(self, offset: int, size: int) -> bytes:
        if self.cache is None:
            return self.file.read(offset, size)
        return self.cache.read(self.file, self._identity(), offset, size)

    def fetch_chunk(self, number: int) -> None:
        """Bring one chunk into the cache, if that can be done."""
        assert self.cache is not None
        try:
            self.cache.read(self.file, self._identity(), number * self.cache.chunk_bytes, 1)
        except InfraredCityError:
            return  # the read that needs it meets the same error, and can raise it

    def _identity(self) -> str:
        """Name the content for the cache: wherever this shard lies, it is the same."""
        if self.info.sha256.strip("0"):
            return self.info.sha256
        return f"{self.url} {self.file.version} {self.info.size_bytes}"


def _is_picture(image: bytes, sha256: bytes) -> bool:
    """Say whether an image is the one that the index means; an index without hashes says zeros."""
    return not any(sha256) or hashlib.sha256(image).digest() == sha256
