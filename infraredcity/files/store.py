"""Read and write files behind every other scheme (s3, gs, memory, ...) through fsspec."""

import errno
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from infraredcity.errors import MissingExtraError, RemoteError, RemoteMissingError, RemoteRefusedError
from infraredcity.files.retry import (
    FOR_GOOD,
    WORDS_FOR_GOOD,
    Clock,
    PassingError,
    in_words,
)
from infraredcity.files.source import LOGIN_ADVICE, UNKNOWN_BYTES, FileFacts, Source
from infraredcity.files.temporary import TEMPORARY_PREFIX
from infraredcity.files.traffic import counter
from infraredcity.files.urls import shown

_PART_BYTES = 16 * 1024 * 1024
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4
"""A file goes to S3 in parts; those that are sent at once are in memory."""
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2", "swift"})
"""Schemes where a file needs no folder above it, and making one would make a bucket."""
_RENAMES = frozenset({"file", "local", "sftp", "ssh"})
"""Schemes that give a file another name in one step, also where that name is taken."""


class StoreSource(Source):
    """A file behind any scheme that fsspec knows. It makes file systems anew after a fork, so none is kept here."""

    def facts(self, clock: Clock) -> FileFacts:
        """Return size and version, pinned."""
        with self._errors() as (filesystem, path):
            found = filesystem.info(path)
            size_bytes = found["size"]
            if found.get("type") == "directory":
                raise RemoteMissingError(f"{shown(self.url)}: is a folder, no file; check the URL")
            if size_bytes is None:
                raise RemoteError(f"{shown(self.url)}: its size is not known there; copy the files to a disk here")
            # An object store names a state; for others fsspec makes a name of all that it knows, and asks again for it.
            version = found.get("ETag") or found.get("etag") or filesystem.ukey(path)
            return self.pin(FileFacts(int(size_bytes), str(version)))

    def read(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read these bytes of the pinned file."""
        facts = self.pinned or self.facts(clock)
        if offset + size > facts.size_bytes:
            self.ends_before(offset, size)
        return self.piece(offset, size, clock)

    def piece(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read these bytes of a file of which nothing need be known."""
        try:
            with self._errors() as (filesystem, path):
                data = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
        except RemoteError:
            self.facts(clock)  # S3 refuses a range behind the end of what has become shorter
            raise
        counter().add(received_bytes=len(data))
        if len(data) != size:
            # Either an answer was cut, which passes, or the file is shorter by now, which a new request shows.
            if self.facts(clock).size_bytes < offset + size:
                self.ends_before(offset, size)
            raise PassingError(f"{len(data)} of {size} bytes came")
        return data

    def whole(self, max_bytes: int, clock: Clock) -> bytes:
        """Read all bytes."""
        size_bytes = self.facts(clock).size_bytes
        if size_bytes > max_bytes:
            self.too_large(size_bytes, max_bytes)
        return self.read(0, size_bytes, clock) if size_bytes else b""

    def kind(self, clock: Clock) -> Literal["file", "folder"] | None:
        """Say what is there."""
        try:
            with self._errors() as (filesystem, path):
                kind: str = filesystem.info(path)["type"]
        except RemoteMissingError:
            return None
        return "folder" if kind == "directory" else "file"

    def listed(self, clock: Clock) -> dict[str, int | None]:
        """List what lies directly in the folder."""
        with self._errors() as (filesystem, path):
            found = filesystem.ls(path, detail=True)
        sizes: dict[str, int | None] = {}
        for entry in found:
            name = entry["name"].strip("/")
            if name == path.strip("/"):
                continue  # an object store's object for the folder itself, or a file that was asked for as a folder
            size_bytes = UNKNOWN_BYTES if entry["size"] is None else int(entry["size"])
            sizes[name.rpartition("/")[2]] = None if entry["type"] == "directory" else size_bytes
        if not sizes and self.kind(clock) != "folder":
            raise RemoteMissingError(f"{shown(self.url)}: no such folder; check the URL")
        return sizes

    def write(self, data: bytes, clock: Clock) -> None:
        """Send `data` as the file."""
        with self._written() as (filesystem, path):
            filesystem.pipe_file(path, data)
        counter().add(sent_bytes=len(data))

    def copy_from(self, here: Path, clock: Clock) -> None:
        """Copy a local file."""
        size_bytes = here.stat().st_size
        with self._written() as (filesystem, path):
            parts: dict[str, int] = {}
            if "s3" in _protocols(filesystem):
                part_bytes = max(_PART_BYTES, math.ceil(size_bytes / _MAX_PARTS))
                parts = {"chunksize": part_bytes, "max_concurrency": _PARTS_AT_ONCE}
            filesystem.put_file(str(here), path, **parts)
            there_bytes = filesystem.info(path)["size"]
            if there_bytes != size_bytes:
                raise PassingError(f"{there_bytes} of {size_bytes} bytes arrived")
        counter().add(sent_bytes=size_bytes)

    def remove(self, clock: Clock) -> None:
        """Remove the file."""
        with self._errors() as (filesystem, path):
            filesystem.rm_file(path)

    @contextmanager
    def _written(self) -> "Iterator[tuple[Any, str]]":
        """Yield a file system and the path to write to: the file's own, or one beside it that is renamed when all is there."""
        try:
            with self._errors() as (filesystem, path):
                protocols = _protocols(filesystem)
                folder, _, name = path.rpartition("/")
                if not protocols & _OBJECT_STORES:
                    filesystem.makedirs(folder, exist_ok=True)
                if not protocols & _RENAMES:
                    yield filesystem, path
                    return
                if filesystem.isdir(path):  # or the file would be moved into it
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                temporary = f"{folder}/{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{name}"
                try:
                    yield filesystem, temporary
                    filesystem.mv(temporary, path)
                except BaseException:
                    # The same error kept it from being written, and is raised already.
                    with suppress(Exception):
                        filesystem.rm_file(temporary)
                    raise
        except RemoteMissingError as error:
            raise RemoteError(
                f"{shown(self.url)}: there is no such bucket or folder to write to; make it, or check the URL"
            ) from error

    @contextmanager
    def _errors(self) -> "Iterator[tuple[Any, str]]":
        """Yield the file system and path of this URL; turn fsspec's errors into ours, which happens only here."""
        try:
            import fsspec
        except ModuleNotFoundError as error:
            scheme = self.url.partition("://")[0]
            raise MissingExtraError("fsspec", extra="remote", needed_for=f"reading {scheme}://") from error
        counter().add(num_requests=1)
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url)
            if isinstance(getattr(filesystem, "dircache", None), fsspec.dircache.DirCache):
                # It would go on to answer from a listing of before another machine wrote there.
                filesystem.dircache.use_listings_cache = False
            filesystem.invalidate_cache()
            yield filesystem, path
        except (RemoteError, PassingError):
            raise
        except FileNotFoundError as error:
            raise RemoteMissingError(f"{shown(self.url)}: no such file or folder; check the URL") from error
        except PermissionError as error:
            raise RemoteRefusedError(f"{shown(self.url)}: access is refused; {LOGIN_ADVICE}") from error
        except ImportError as error:  # "Install s3fs to access S3"
            raise RemoteError(f"{shown(self.url)}: fsspec lacks a package for it ({error}); install that") from error
        except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, IsADirectoryError) as error:
            raise RemoteError(f"{shown(self.url)}: fsspec cannot do it ({in_words(error)}); check the URL") from error
        except Exception as error:  # every file system has errors of its own; most are of the network
            if type(error).__name__ in WORDS_FOR_GOOD or (isinstance(error, OSError) and error.errno in FOR_GOOD):
                raise RemoteError(f"{shown(self.url)}: {in_words(error)}; check the URL and the credentials") from error
            raise PassingError(in_words(error)) from error


def _protocols(filesystem: Any) -> set[str]:
    names = filesystem.protocol
    return {names} if isinstance(names, str) else {*names}
