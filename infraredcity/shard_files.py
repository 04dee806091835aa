"""Samples by their place in an index, from shards on a local disk or on another machine."""

import errno
import hashlib
import os
import queue
import resource
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from infraredcity.cache import CacheFacts, ChunkCache, OpenFile, OpenFiles
from infraredcity.errors import InfraredCityError, ShardError
from infraredcity.index import SampleIndex, ShardInfo
from infraredcity.remote import RemoteFile, RemoteOptions, is_remote, join, shown

MAX_OPEN_SHARDS = 512
PREFETCH_THREADS = 16
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
        locations: Path | str | Sequence[Path | str],
        remote: RemoteOptions | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        folders = [locations] * len(index.shards) if isinstance(locations, Path | str) else list(locations)
        self._index = index
        self._folders = folders
        self._options = remote
        self._cache = cache
        self._shards: list[_LocalShard | _RemoteShard] = []
        for folder, info in zip(folders, index.shards, strict=True):
            if is_remote(str(folder)):
                url = join(str(folder), info.name)
                self._shards.append(_RemoteShard(url, RemoteFile(url, remote, info.size_bytes), info, cache))
            else:
                self._shards.append(_LocalShard(Path(folder) / info.name, info))
        self._process = _Process(os.getpid())

    def __reduce__(self) -> tuple[object, ...]:
        return ShardFiles, (self._index, self._folders, self._options, self._cache)

    @property
    def cache(self) -> ChunkCache | None:
        """What keeps bytes from other machines."""
        return self._cache

    @property
    def is_remote(self) -> bool:
        """Whether any of the shards is on another machine."""
        return any(isinstance(shard, _RemoteShard) for shard in self._shards)

    def image(self, row: int) -> bytes:
        """The image's bytes of one row.

        Raises:
            ShardError: The shard is missing, shorter than the index says, or holds another picture there.
            RemoteError: A shard on another machine could not be read in time, or changed.
        """
        index = self._index
        return self._read(row, int(index.offset[row]), int(index.size[row]), 0)

    def sample(self, row: int) -> bytes:
        """The whole sample of one row as it stands in the tar, headers and padding included.

        Raises:
            ShardError: As for `image`.
            RemoteError: As for `image`.
        """
        start, size = self._index.sample_place(row)
        return self._read(row, start, size, int(self._index.offset[row]) - start)

    def prefetch(self, rows: Sequence[int] | np.ndarray) -> None:
        """Start to bring the images of some rows into the cache, and return at once; what goes wrong is for the read to say."""
        if self._cache is None:
            return
        index, process = self._index, self._mine()
        for row in np.asarray(rows, np.int64).tolist():
            number = int(index.shard[row])
            shard = self._shards[number]
            if isinstance(shard, _RemoteShard):
                for chunk in self._cache.chunks(int(index.offset[row]), int(index.size[row])):
                    process.prefetcher.want((number, chunk), shard.fetch_chunk)

    def facts(self) -> ReadFacts:
        """What this process read so far."""
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

    def _mine(self) -> "_Process":
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def _read(self, row: int, offset: int, size: int, image_at: int) -> bytes:
        """Bytes of a row's shard, in which the row's image begins at `image_at`."""
        index, process = self._index, self._mine()
        shard = self._shards[int(index.shard[row])]
        if isinstance(shard, _LocalShard):
            data = shard.read(process.files, offset, size)
        else:
            image = slice(image_at, image_at + int(index.size[row]))
            data = shard.read(offset, size, image, index.sha256[row].tobytes())
        with process.lock:
            process.reads += 1
            process.read_bytes += size
        return data


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


class _TooManyOpenError(ShardError):
    """The system lets this process open no more files."""


def _most_open_shards() -> int:
    """A quarter of what the system allows, for two domains, a cache, and the rest of the program."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_SHARDS if allowed == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_SHARDS, allowed // 4))


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
            file = OpenFile(os.open(self.path, os.O_RDONLY))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise _TooManyOpenError(
                    f"{self.path}: cannot be opened, this process may open no more files; raise the limit (ulimit -n)"
                ) from error
            raise ShardError(
                f"{self.path}: the index names it, but it cannot be opened ({error.strerror}); copy it again"
            ) from error
        if file.size_bytes != self.info.size_bytes:
            raise ShardError(
                f"{self.path}: is {file.size_bytes} bytes, the index says {self.info.size_bytes}; {_COPY_AGAIN}"
            )
        return file


@dataclass(frozen=True, slots=True)
class _RemoteShard:
    url: str
    file: RemoteFile
    info: ShardInfo
    cache: ChunkCache | None

    def read(self, offset: int, size: int, image: slice, sha256: bytes) -> bytes:
        if offset + size > self.info.size_bytes:
            raise ShardError(
                f"{shown(self.url)}: {size} bytes were expected at {offset}, its {self.info.size_bytes} bytes end before; "
                "take the index that belongs to it"
            )
        data = self._kept_or_read(offset, size)
        if _is_picture(data[image], sha256):
            return data
        if self.cache is not None:
            self.cache.forget(self._identity(), offset, size)
        data = self.file.read(offset, size)
        if _is_picture(data[image], sha256):
            return data
        found = hashlib.sha256(data[image]).hexdigest()
        raise ShardError(
            f"{shown(self.url)}: stale or damaged: the picture at {offset + image.start} has sha256 {found}, the index says "
            f"{sha256.hex()}; copy the shard there again, or take the index that belongs to it"
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
            return  # whoever reads it meets the same error, and can raise it

    def _identity(self) -> str:
        """Names the content for the cache: wherever this shard lies, it is the same."""
        if self.info.sha256.strip("0"):
            return self.info.sha256
        return f"{self.url} {self.file.version} {self.info.size_bytes}"


def _is_picture(image: bytes, sha256: bytes) -> bool:
    """Whether an image is the one that the index means; an index without hashes says zeros."""
    return not any(sha256) or hashlib.sha256(image).digest() == sha256
