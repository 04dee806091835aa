"""Shards in: every reading of a tar, by offset or in order, trusting nothing that it says of itself."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infraredcity.errors import ShardError
from infraredcity.index import BLOCK_BYTES, SampleIndex

MAX_MEMBER_BYTES = 256 * 1024 * 1024
"""No still is larger; a header that claims more is damaged or hostile. Also the most that one sample may hold."""
MAX_MEMBERS = 1_000_000
"""No shard of a thousand samples comes near it; a tar of more is made to keep a reader busy."""
MAX_SAMPLE_MEMBERS = 64
_MAX_EXTENSION_BYTES = 64 * 1024
_END_BLOCK = bytes(BLOCK_BYTES)
_MEMBER_NAME = re.compile(r"[a-z0-9_-]+\.[a-z0-9]+")
_EXTENSIONS = (b"x", b"g", b"L", b"K")
"""Headers about the next member (pax, GNU) or about all of them."""
_KINDS = {
    b"1": "a link, not a plain file",
    b"2": "a link, not a plain file",
    b"3": "a device, not a plain file",
    b"4": "a device, not a plain file",
    b"5": "a folder, not a plain file",
    b"6": "a pipe, not a plain file",
    b"S": "a sparse file, not a plain one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a shard: the key of its sample, its suffix ("jpg", "json"), and where its bytes stand in the file."""

    key: str
    suffix: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """`<key>.<suffix>`."""
        return f"{self.key}.{self.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A member that was skipped: the name it gives itself, and why."""

    name: str
    reason: str


OnRefused = Callable[[Refused], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample of a tar: its key, its members' bytes by suffix ("jpg", "json"), and the byte where its first header stands."""

    key: str
    members: dict[str, bytes]
    offset: int


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


def members(path: Path, *, on_refused: OnRefused | None = None) -> Iterator[Member]:
    """The members of a shard in order, headers alone: names and places, nothing of what they hold.

    Only plain files named `<key>.<suffix>` are members, of at most MAX_MEMBER_BYTES, at most MAX_MEMBERS of them. All else (a path,
    a link, a device, a sparse file, a long or foreign name) is an error, or is skipped and told to `on_refused`. Damage is always
    an error: a header that is none, a tar that is cut short. Nothing that a tar says makes this read more than a header at a time.

    Args:
        path: The tar, uncompressed.
        on_refused: Told of each member that is skipped; without it, the first one is an error.

    Raises:
        ShardError: As said.
    """
    try:
        with path.open("rb", buffering=1 << 16) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            yield from _members(path, file, size_bytes, on_refused)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such shard") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); copy the shard again") from error


def iterate(path: Path, *, on_refused: OnRefused | None = None) -> Iterator[Sample]:
    """The samples of one tar in order, without an index; see `members` for what is refused.

    Raises:
        ShardError: It is no tar, is cut short, or holds members that no shard of ours holds.
    """
    key: str | None = None
    place = 0
    held: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            for member in members(path, on_refused=on_refused):
                if member.key != key and key is not None and held:
                    yield Sample(key=key, members=held, offset=place)
                    held = {}
                if not held:
                    key, place = member.key, member.offset - BLOCK_BYTES
                refusal = None
                if member.suffix in held:
                    refusal = f"a second {member.suffix!r} of one sample"
                elif len(held) == MAX_SAMPLE_MEMBERS:
                    refusal = f"more than {MAX_SAMPLE_MEMBERS} members of one sample"
                elif sum(map(len, held.values())) + member.size > MAX_MEMBER_BYTES:
                    refusal = f"more than {MAX_MEMBER_BYTES} bytes of one sample"
                if refusal is not None:
                    _refuse(path, Refused(name=member.name, reason=refusal), on_refused)
                    continue
                file.seek(member.offset)
                data = file.read(member.size)
                if len(data) != member.size:
                    raise ShardError(f"{path}: cut short inside {member.name!r}; copy the shard again")
                held[member.suffix] = data
    except FileNotFoundError as error:
        raise ShardError(f"{path}: no such shard") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); copy the shard again") from error
    if key is not None and held:
        yield Sample(key=key, members=held, offset=place)


def _members(path: Path, file: BinaryIO, size_bytes: int, on_refused: OnRefused | None) -> Iterator[Member]:
    place = count = 0
    skipped: str | None = None  # why the member after an extended header is refused
    while True:
        file.seek(place)
        header = file.read(BLOCK_BYTES)
        if len(header) < BLOCK_BYTES:
            raise ShardError(f"{path}: cut short, it lacks its end; copy the shard again")
        if header == _END_BLOCK:
            # The last block may be the only one: what counts is that an end was written at all.
            return
        if not _has_checksum(header):
            raise ShardError(f"{path}: damaged at byte {place}: neither a member nor the end; copy the shard again")
        count += 1
        if count > MAX_MEMBERS:
            raise ShardError(f"{path}: holds more than {MAX_MEMBERS:,} members, as no shard does; leave it out")
        name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
        size = _octal(header[124:136])
        if size is None:
            raise ShardError(f"{path}: member {_shown(name)} claims no plain size; rebuild the shard")
        offset = place + BLOCK_BYTES
        place = offset + size + (-size % BLOCK_BYTES)
        if place > size_bytes:
            raise ShardError(
                f"{path}: member {_shown(name)} claims {size} bytes, the file ends before; it is cut short, copy the shard again"
            )
        kind = header[156:157]
        if kind in _EXTENSIONS:  # a name of another kind for the next member, or times and owners that nobody needs
            skipped = skipped or _extension(path, file, kind, offset, size)
            continue
        refusal = skipped or _refusal(header, kind, name, size)
        skipped = None
        if refusal is not None:
            _refuse(path, Refused(name=name, reason=refusal), on_refused)
            continue
        key, _, suffix = name.partition(".")
        yield Member(key=key, suffix=suffix, offset=offset, size=size)


def _refusal(header: bytes, kind: bytes, name: str, size: int) -> str | None:
    """Why a member is no part of a sample, or None."""
    if kind not in (b"0", b"\0"):
        return _KINDS.get(kind, f"of type {kind!r}, not a plain file")
    if header[345:500].strip(b"\0"):
        return "in a folder, or its name is longer than 100 bytes"
    if _MEMBER_NAME.fullmatch(name) is None:
        return "not <key>.<suffix> of a-z, 0-9, _ and -"
    if size > MAX_MEMBER_BYTES:
        return f"of {size} bytes, more than {MAX_MEMBER_BYTES}"
    return None


def _extension(path: Path, file: BinaryIO, kind: bytes, offset: int, size: int) -> str | None:
    """Why the next member is refused because of a header that stands before it; None for times and owners."""
    if kind in (b"L", b"K"):
        return "named by a GNU extension, so not by a short plain name"
    if size > _MAX_EXTENSION_BYTES:
        raise ShardError(f"{path}: an extended header of {size} bytes at byte {offset}; rebuild the shard")
    file.seek(offset)
    # Source: POSIX.1-2001, pax format: records "<length> <keyword>=<value>\n".
    keywords = {record.partition(b"=")[0].rpartition(b" ")[2] for record in file.read(size).split(b"\n") if record}
    if any(keyword in (b"path", b"linkpath", b"size") or keyword.startswith(b"GNU.sparse") for keyword in keywords):
        return "named or measured by an extended header, so not a short plain file"
    return None


def _refuse(path: Path, refused: Refused, on_refused: OnRefused | None) -> None:
    if on_refused is None:
        raise ShardError(f"{path}: member {_shown(refused.name)} is {refused.reason}; rebuild the shard")
    on_refused(refused)


def _has_checksum(header: bytes) -> bool:
    """Whether a header's checksum is that of its bytes, its own field counted as spaces. Source: POSIX.1-1988 (USTAR)."""
    told = _octal(header[148:156])
    return told is not None and told == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """A number as tar writes it; None for anything else, such as the base-256 sizes of GNU tar, beyond 8 GiB."""
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None


def _shown(name: str) -> str:
    """A name for an error line: what may stand in it is up to a stranger."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")
