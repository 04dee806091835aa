"""Files that are whole or not there: written under a temporary name, fsynced, renamed."""

import errno
import fcntl
import os
import secrets
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infraredcity.errors import OutputError

TEMPORARY_PREFIX = ".tmp-"
NPZ_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, NotImplementedError, RuntimeError,
              zipfile.BadZipFile, struct.error, zlib.error)  # fmt: skip
"""What zipfile, numpy and json raise over bytes that are not what was written."""


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that no reader looks at and no other process uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of a write that did not end."""
    return path.name.startswith(TEMPORARY_PREFIX)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and not at all when it does not.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error
    except BaseException:
        _discard(temporary)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path`, whole or not at all; a file that holds it already is left as it is, time and all.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    with suppress(OSError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    with open_atomic(path) as file:
        file.write(data)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file, written by a library under `temporary_beside(path)`, its name: fsynced first, then renamed."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems refuse to sync a folder; their renames are synchronous
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed writers left in `folder`; returns how many files that were. Only for the holder of its lock."""
    leftovers = [path for path in folder.iterdir() if is_temporary(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


@contextmanager
def lock_folder(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process alone; a second holder gets an error. A killed holder frees it.

    Args:
        folder: Made if it is not there.
        wait_s: How long to wait for a holder to end. On network file systems the lock of a dead machine outlives it for a while.

    Raises:
        OutputError: Another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {_reason(error)}") from error
    try:
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline_s:
                    raise OutputError(
                        f"{folder}: another run is writing here; wait for it or choose another --out"
                    ) from error
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def _discard(path: Path) -> None:
    with suppress(OSError):  # what keeps it from being deleted kept it from being made, and is told already
        path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
