"""Shards in: every reading of a tar in order, trusting nothing that it says of itself; shard_files.py reads by place."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from infraredcity.errors import ShardError
from infraredcity.files.records import opened
from infraredcity.shards.names import BLOCK_BYTES, MAX_MEMBER_BYTES, padded

MAX_MEMBERS = 1_000_000
"""No shard of a thousand samples comes near it; a tar of more is made to keep a reader busy."""
MAX_SAMPLE_MEMBERS = 64
MAX_NAME_BYTES = 512
"""No longer than a header, so that the keys of a tar take no more memory than the tar itself."""
READ_AHEAD_BYTES = 1 << 20
"""What is asked for at once of a source where each request takes its time."""
_MAX_EXTENSION_BYTES = 64 * 1024
_MAX_END_BYTES = 16 << 20
"""Zeros behind the last member: tar writes them up to a whole record, which nobody makes larger."""
_END_BLOCK = bytes(BLOCK_BYTES)
_END_READ_BYTES = 64 * 1024
_MEMBER_NAME = re.compile(r"[a-z0-9_-]+\.[a-z0-9]+")
_WEBDATASET_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""Key and suffix by webdataset's rule. Source: `base_plus_ext` in webdataset 1.0, tariterators.py."""
_WEBDATASET_NOTE = re.compile(r"__[^/]*__($|/)")
"""What webdataset reads over. Source: `tar_file_iterator` there."""
_OCTAL = re.compile(rb"[ \0]*([0-7]+)[ \0]*")
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

_MAGIC = {
    b"\x1f\x8b": ("compressed by gzip", "gunzip"),
    b"BZh": ("compressed by bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("compressed by xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unzstd"),
    b"PK\x03\x04": ("a zip file", ""),
    b"\xff\xd8\xff": ("a jpg picture", ""),
    b"\x89PNG": ("a png picture", ""),
}
"""What other files begin with: what they are, and the program that makes a tar of a compressed one."""


Naming = Literal["ours", "webdataset"]
"""Which names members may have: `<key>.<suffix>` of only a-z, 0-9, _ and -, or all that webdataset reads."""


@runtime_checkable
class TarSource(Protocol):
    """A tar that is no file here, read by place; only ever forward, by readers that go in order."""

    @property
    def name(self) -> str:
        """What to call it in an error."""

    @property
    def size_bytes(self) -> int:
        """Its size; where nobody knows it, a number that it cannot reach."""

    @property
    def version(self) -> str:
        """Another text when its bytes are others, or it is another tar of the same name; empty where nobody can tell."""

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes from a place on, `size` of them unless it ends before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a shard.

    Attributes:
        key: That of its sample.
        suffix: What follows the key's dot: "jpg", "json".
        start: Byte where its header begins, or the first of the extended headers before it.
        offset: Byte where its data begins.
        size: Bytes of its data.
    """

    key: str
    suffix: str
    start: int
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """Byte where the next header begins."""
        return self.offset + padded(self.size)

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
    """One sample of a tar: its key, its members' bytes by suffix ("jpg", "json"), and the byte where its first header begins."""

    key: str
    members: dict[str, bytes]
    offset: int


def members(tar: Path | TarSource, *, naming: Naming = "ours", on_refused: OnRefused | None = None) -> Iterator[Member]:
    """Yield the members of a shard in order, read from their headers only: names and places, nothing of what they hold.

    Only plain files named `<key>.<suffix>` are members, of at most MAX_MEMBER_BYTES, at most MAX_MEMBERS of them. All else (a path,
    a link, a device, a sparse file, a long or foreign name) is an error, or is skipped and given to `on_refused`. Damage is always
    an error: a header that is none, a tar that is cut short. Nothing that a tar says makes this read more than a header at a time.

    With `naming="webdataset"` a name may hold folders, capitals, other scripts, several dots, and come from an extended header: the
    key is all up to the first dot of the base name, the suffix what follows it, in lower case. A name that leads out of its folder,
    is longer than MAX_NAME_BYTES or cannot be shown stays refused, and so does what is no plain file.

    Args:
        tar: The tar, uncompressed.
        naming: Which names members may have.
        on_refused: Told of each member that is skipped; without it, the first one is an error.

    Raises:
        ShardError: It is damaged, or a member is refused and `on_refused` is None.
    """
    with _opened(tar) as (name, read, size_bytes):
        yield from _members(name, read, size_bytes, naming, on_refused)


def iterate(tar: Path | TarSource, *, naming: Naming = "ours", on_refused: OnRefused | None = None) -> Iterator[Sample]:
    """Yield the samples of one tar in order, without an index; see `members` for what is refused.

    Raises:
        ShardError: It is no tar, is cut short, or holds members that no shard of ours holds.
    """
    with _opened(tar) as (name, read, size_bytes):
        yield from _samples(name, read, size_bytes, naming, on_refused)


def read_members(sample: bytes, *, naming: Naming = "ours", name: str = "sample") -> dict[str, bytes]:
    """Read what the members of one sample hold, by suffix.

    Args:
        sample: The sample as it is in a tar, headers and padding included.
        naming: As for `members`.
        name: What to call the sample in an error.

    Raises:
        ShardError: These bytes are not those of one whole sample.
    """
    # With an end of its own a sample is a tar, and all that is known of reading tars holds.
    data = sample + _END_BLOCK
    samples = list(_samples(name, lambda offset, size: data[offset : offset + size], len(data), naming, None))
    if len(samples) != 1:
        raise ShardError(f"{name}: expected the bytes of one sample, found {len(samples)}; index the shard again")
    return samples[0].members


def kept_members(
    name: str, found: Iterable[Member], on_refused: OnRefused | None = None
) -> Iterator[tuple[Member, bool]]:
    """Yield members less those that their sample may not have, each with whether it is the first of its sample.

    A sample has each suffix once, at most MAX_SAMPLE_MEMBERS of them, and takes at most MAX_MEMBER_BYTES of the tar.

    Args:
        name: What to call the tar in an error.
        found: What `members` gave.
        on_refused: As for `members`.

    Raises:
        ShardError: A member is refused, and `on_refused` is None.
    """
    key: str | None = None
    start = 0
    suffixes: set[str] = set()
    for member in found:
        is_first = member.key != key
        if is_first:
            key, start, suffixes = member.key, member.start, set()
        refusal = None
        if member.suffix in suffixes:
            refusal = f"a second {member.suffix!r} of one sample"
        elif len(suffixes) == MAX_SAMPLE_MEMBERS:
            refusal = f"more than {MAX_SAMPLE_MEMBERS} members of one sample"
        elif suffixes and member.stop - start > MAX_MEMBER_BYTES:
            refusal = f"more than {MAX_MEMBER_BYTES} bytes of one sample"
        if refusal is not None:
            _refuse(name, Refused(name=member.name, reason=refusal), on_refused)
            continue
        suffixes.add(member.suffix)
        yield member, is_first


_Read = Callable[[int, int], bytes]
"""Bytes from a place on, fewer than asked for only where the tar ends."""


@contextmanager
def _opened(tar: Path | TarSource) -> Iterator[tuple[str, _Read, int]]:
    """Yield name, reader and size in bytes of a tar."""
    if not isinstance(tar, Path):
        yield tar.name, _ReadAhead(tar).read, tar.size_bytes
        return
    try:
        with opened(tar) as file:
            handle = file.fileno()
            yield str(tar), lambda offset, size: os.pread(handle, size, offset), os.fstat(handle).st_size
    except FileNotFoundError as error:
        raise ShardError(f"{tar}: no such shard") from error
    except OSError as error:
        raise ShardError(f"{tar}: cannot be read ({error.strerror}); copy the shard again") from error


class _ReadAhead:
    """Reads of a source in few requests, each going on where the one before ended, so that what cannot seek need not."""

    def __init__(self, source: TarSource) -> None:
        self._source = source
        self._start = 0
        self._data = b""

    def read(self, offset: int, size: int) -> bytes:
        first = offset - self._start
        if not 0 <= first <= len(self._data) - size:
            held = self._data[first:] if 0 <= first <= len(self._data) else b""
            place = offset + len(held)
            wanted = min(max(size - len(held), READ_AHEAD_BYTES), self._source.size_bytes - place)
            fetched = self._source.read(place, wanted) if wanted > 0 else b""
            self._start, self._data, first = offset, held + fetched, 0
        return self._data[first : first + size]


def _samples(name: str, read: _Read, size_bytes: int, naming: Naming, on_refused: OnRefused | None) -> Iterator[Sample]:
    sample: Sample | None = None
    found = _members(name, read, size_bytes, naming, on_refused)
    for member, is_first in kept_members(name, found, on_refused):
        if is_first:
            if sample is not None:
                yield sample
            sample = Sample(key=member.key, members={}, offset=member.offset - BLOCK_BYTES)
        assert sample is not None
        data = read(member.offset, member.size)
        if len(data) != member.size:
            raise ShardError(f"{name}: cut short inside {_shown(member.name)}; copy the shard again")
        sample.members[member.suffix] = data
    if sample is not None:
        yield sample


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the member behind them: its name, or why it is refused."""

    name: bytes | None = None
    refusal: str | None = None


def _members(
    tar_name: str, read: _Read, size_bytes: int, naming: Naming, on_refused: OnRefused | None
) -> Iterator[Member]:
    place = count = start = 0
    extended = _Extended()
    while True:
        header = read(place, BLOCK_BYTES)
        if len(header) < BLOCK_BYTES:
            raise ShardError(f"{tar_name}: cut short, it lacks its end; copy the shard again")
        if header == _END_BLOCK:
            # The last block may be the only one: what counts is that an end was written at all.
            following = _behind_end(tar_name, read, place + BLOCK_BYTES)
            if following is None:
                return
            place = start = following
            continue
        if not _has_checksum(header):
            if place == 0:
                raise ShardError(f"{tar_name}: {_what_it_is(header)}")
            raise ShardError(f"{tar_name}: damaged at byte {place}: neither a member nor the end; copy the shard again")
        count += 1
        if count > MAX_MEMBERS:
            raise ShardError(f"{tar_name}: holds more than {MAX_MEMBERS:,} members, as no shard does; leave it out")
        raw_name = header[:100].partition(b"\0")[0]
        if naming == "webdataset":
            prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
            raw_name = extended.name or (prefix + b"/" + raw_name if prefix else raw_name)
        name = raw_name.decode("utf-8", "replace")
        size = _octal(header[124:136])
        if size is None:
            raise ShardError(f"{tar_name}: member {_shown(name)} claims no plain size; rebuild the shard")
        offset = place + BLOCK_BYTES
        place = offset + padded(size)
        if place > size_bytes:
            raise ShardError(
                f"{tar_name}: member {_shown(name)} claims {size} bytes, the file ends before; "
                "it is cut short, copy the shard again"
            )
        kind = header[156:157]
        if kind in _EXTENSIONS:  # a name of another kind for the next member, or times and owners that nobody needs
            _extension(tar_name, read, kind, offset, size, naming, extended)
            continue
        refusal = extended.refusal or _refusal(header, kind, name, size, naming)
        begin, start, extended = start, place, _Extended()
        if refusal is not None:
            _refuse(tar_name, Refused(name=name, reason=refusal), on_refused)
            continue
        if naming == "ours":
            key, _, suffix = name.partition(".")
        else:
            split = _WEBDATASET_NAME.fullmatch(name)
            assert split is not None
            key, suffix = split[1], split[2].lower()
        yield Member(key=key, suffix=suffix, start=begin, offset=offset, size=size)


def _behind_end(tar_name: str, read: _Read, place: int) -> int | None:
    """Find where the next member begins behind an end, as `cat a.tar b.tar` leaves one; None where nothing but zeros follows."""
    for first in range(place, place + _MAX_END_BYTES, _END_READ_BYTES):
        data = read(first, _END_READ_BYTES)
        zeros = len(data) - len(data.lstrip(b"\0"))
        if zeros < len(data):
            return first + zeros // BLOCK_BYTES * BLOCK_BYTES
        if len(data) < _END_READ_BYTES:
            return None
    raise ShardError(f"{tar_name}: more than {_MAX_END_BYTES} zeros behind its end at byte {place}; write it again")


def _what_it_is(start: bytes) -> str:
    """Say what a file that begins so is instead of a tar, and what to do."""
    for magic, (what, program) in _MAGIC.items():
        if not start.startswith(magic):
            continue
        if program:
            return f"{what}, and samples are read by their place in a plain tar; unpack it with {program}"
        return f"{what}, expected a tar; name tars, or a folder of pictures"
    return "damaged at byte 0: neither a member nor the end; copy the shard again, or name tars"


def _refusal(header: bytes, kind: bytes, name: str, size: int, naming: Naming) -> str | None:
    """Say why a member is no part of a sample, or None."""
    if kind not in (b"0", b"\0"):
        return _KINDS.get(kind, f"of type {kind!r}, not a plain file")
    if naming == "webdataset":
        if (why := _odd_name(name)) is not None:
            return why
    elif header[345:500].strip(b"\0"):
        return "in a folder, or its name is longer than 100 bytes"
    elif _MEMBER_NAME.fullmatch(name) is None:
        return "not <key>.<suffix> of a-z, 0-9, _ and -"
    if size > MAX_MEMBER_BYTES:
        return f"of {size} bytes, more than {MAX_MEMBER_BYTES}"
    return None


def _odd_name(name: str) -> str | None:
    """Say why a name is none of a webdataset's member, or None."""
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"named by more than {MAX_NAME_BYTES} bytes"
    if not name.isprintable() or "\ufffd" in name:
        return "named by bytes that cannot be shown"
    if name.startswith("/") or ".." in name.split("/"):
        return "named so that it leads out of its folder"
    if _WEBDATASET_NOTE.match(name):
        return "a note for webdataset, not part of a sample"
    if _WEBDATASET_NAME.fullmatch(name) is None:
        return "not <key>.<suffix>"
    return None


def _extension(
    tar_name: str, read: _Read, kind: bytes, offset: int, size: int, naming: Naming, extended: _Extended
) -> None:
    """Add to `extended` what a header before a member says of it."""
    if kind in (b"L", b"K") and naming == "ours":
        extended.refusal = extended.refusal or "named by a GNU extension, so not by a short plain name"
        return
    if size > _MAX_EXTENSION_BYTES:
        raise ShardError(f"{tar_name}: an extended header of {size} bytes at byte {offset}; rebuild the shard")
    data = read(offset, size)
    if kind == b"L":
        extended.name = data.partition(b"\0")[0]
    if kind in (b"L", b"K"):
        return
    records = _pax_records(data)
    if records is None:
        raise ShardError(f"{tar_name}: damaged at byte {offset}: no extended header; copy the shard again")
    if naming == "webdataset" and kind == b"x":
        extended.name = records.pop(b"path", extended.name)
    if any(keyword in (b"path", b"linkpath", b"size") or keyword.startswith(b"GNU.sparse") for keyword in records):
        extended.refusal = extended.refusal or "named or measured by an extended header, so not a short plain file"


def _pax_records(data: bytes) -> dict[bytes, bytes] | None:
    """Read the records of a pax header by keyword; None where it holds anything else.

    Source: POSIX.1-2001, pax: records "<length> <keyword>=<value>" and a line break, the length that of the whole record.
    """
    records: dict[bytes, bytes] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        keyword, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not equals or value[-1:] != b"\n" or length > len(data):
            return None
        records[keyword] = value[:-1]
        data = data[length:]
    return records


def _refuse(tar_name: str, refused: Refused, on_refused: OnRefused | None) -> None:
    if on_refused is None:
        raise ShardError(f"{tar_name}: member {_shown(refused.name)} is {refused.reason}; rebuild the shard")
    on_refused(refused)


def _has_checksum(header: bytes) -> bool:
    """Say whether a header's checksum is that of its bytes, its own field counted as spaces. Source: POSIX.1-1988 (USTAR)."""
    stored = _octal(header[148:156])
    return stored is not None and stored == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """Read a number as tar writes it; None for anything else, such as the base-256 sizes of GNU tar, beyond 8 GiB."""
    digits = _OCTAL.fullmatch(field)
    return None if digits is None else int(digits[1], 8)


def _shown(name: str) -> str:
    """Spell a name for an error line: what may be in it is up to a stranger."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")
