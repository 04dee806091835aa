"""Shards in: every reading of a tar, by offset or in order, trusting nothing that it says of itself."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infraredcity.errors import ShardError
from infraredcity.index import BLOCK_BYTES, SampleIndex

MAX_MEMBER_BYTES = 256 * 1024 * 1024
"""No still is larger; a header that claims more is damaged or hostile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a tar: its key and its members' bytes by suffix ("jpg", "json")."""

    key: str
    members: dict[str, bytes]


class ShardFiles:
    """Reads samples by their place in an index. Opens each shard once; safe to use from several threads.

    A process that was forked must make its own.

    Args:
        index: Which samples lie where.
        folder: Where the shards lie, or one folder per shard of the index.
    """

    def __init__(self, index: SampleIndex, folder: Path | Sequence[Path]) -> None:
        self._index = index
        folders = [folder] * len(index.shards) if isinstance(folder, Path) else list(folder)
        self._paths = [place / info.name for place, info in zip(folders, index.shards, strict=True)]
        self._handles: dict[int, int] = {}

    def image(self, row: int) -> bytes:
        """The image's bytes of one row.

        Raises:
            ShardError: The shard is missing or shorter than the index says.
        """
        index = self._index
        return self._read(int(index.shard[row]), int(index.offset[row]), int(index.size[row]))

    def sample(self, row: int) -> bytes:
        """The whole sample of one row as it stands in the tar, headers and padding included."""
        index = self._index
        return self._read(int(index.shard[row]), int(index.offset[row]) - BLOCK_BYTES, int(index.span[row]))

    def close(self) -> None:
        """Close what was opened."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def __enter__(self) -> "ShardFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        handle = self._handles.get(shard)
        if handle is None:
            handle = self._open(shard)
        data = os.pread(handle, size, offset)
        if len(data) != size:
            raise ShardError(
                f"{self._paths[shard]}: {size} bytes were expected at {offset}, found {len(data)}; "
                "copy the shard again, or extract it anew"
            )
        return data

    def _open(self, shard: int) -> int:
        info = self._index.shards[shard]
        path = self._paths[shard]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ShardError(
                f"{path}: the index names it, but it cannot be opened ({error.strerror}); copy it again"
            ) from error
        size_bytes = os.fstat(handle).st_size
        if size_bytes != info.size_bytes:
            os.close(handle)
            raise ShardError(
                f"{path}: is {size_bytes} bytes, the index says {info.size_bytes}; copy the shard again, or extract it anew"
            )
        # Two threads may open one shard at the same time; the first to record it wins.
        kept = self._handles.setdefault(shard, handle)
        if kept != handle:
            os.close(handle)
        return kept


def iterate(path: Path) -> Iterator[Sample]:
    """The samples of one tar in order, without an index.

    Raises:
        ShardError: It is no tar, is cut short, or holds members that no shard of ours holds.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    raise ShardError(f"{path}: member {member.name!r} is not a plain file; rebuild the shard")
                if member.size > MAX_MEMBER_BYTES:
                    raise ShardError(f"{path}: member {member.name!r} claims {member.size} bytes; rebuild the shard")
                name, _, suffix = member.name.partition(".")
                if "/" in member.name or not name or not suffix:
                    raise ShardError(f"{path}: member {member.name!r} is not <key>.<suffix>; rebuild the shard")
                file = archive.extractfile(member)
                data = file.read() if file is not None else b""
                if len(data) != member.size:
                    raise ShardError(f"{path}: cut short inside {member.name!r}; copy the shard again")
                if name != key and key is not None:
                    yield Sample(key=key, members=members)
                    members = {}
                key = name
                members[suffix] = data
            _check_end(path, archive.offset)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such shard") from error
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: not a tar that can be read ({error}); copy the shard again") from error
    if key is not None:
        yield Sample(key=key, members=members)


def _check_end(path: Path, offset: int) -> None:
    """A whole tar ends with blocks of zeros; where tarfile stopped at something else, it stopped without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise ShardError(f"{path}: cut short, it lacks its end; copy the shard again")
    if block != bytes(BLOCK_BYTES):
        raise ShardError(f"{path}: damaged at byte {offset}: neither a member nor the end; copy the shard again")
