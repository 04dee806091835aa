"""Files that are whole or not there: written under a temporary name, fsynced, renamed; behind a URL written here and sent whole."""

import errno
import fcntl
import filecmp
import io
import math
import os
import secrets
import socket
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from infraredcity.errors import OutputError, RemoteError
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.urls import TEMPORARY_PREFIX as TEMPORARY_PREFIX

NPZ_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, NotImplementedError, RuntimeError,
              MemoryError, zipfile.BadZipFile, struct.error, zlib.error)  # fmt: skip
"""What zipfile, numpy and json raise over bytes that are not what was written."""
_HOST_END = 16
"""So many letters of the host's name stand in a temporary one; its end tells pods and nodes apart."""


def read_npz(file: io.BufferedReader | io.BytesIO, size_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of an npz file of `size_bytes`, in the memory that the file has on the disk.

    Raises:
        ValueError: It unpacks to more, as none of ours does, or the header of an array claims more than there is.
        Exception: One of NPZ_DAMAGE, over bytes that are no npz.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        if claimed > size_bytes:
            raise ValueError(f"unpacks to {claimed} bytes, more than the file has")
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(stream)
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{name} claims {math.prod(shape)} values, more than it has")
            with archive.open(member) as stream:
                arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that no reader looks at and no other process uses."""
    return path.with_name(f"{temporary_prefix(os.getpid())}{secrets.token_hex(4)}-{path.name}")


def temporary_prefix(pid: int) -> str:
    """How all names begin that a process of this machine uses so; on a shared disk others have a process of that number too."""
    return f"{TEMPORARY_PREFIX}{socket.gethostname()[-_HOST_END:]}-{pid}-"


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of a write that did not end."""
    return path.name.startswith(TEMPORARY_PREFIX)


@contextmanager
def open_atomic(path: AnyPath, *, keep_same: bool = False) -> Iterator[BinaryIO]:
    """A file that appears under `path` when the block ends well, and not at all when it does not.

    Args:
        path: The file.
        keep_same: Whether a local file that holds the same bytes already is left as it is, time and all.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        RemoteError: `path` is remote, and the file could not be sent.
    """
    if isinstance(path, RemotePath):
        with _open_to_send(path) as file:
            yield file
        return
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_same and path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            temporary.unlink()
            return
        temporary.replace(path)
        fsync_folder(path.parent)
    except RemoteError:  # what was to be written could not be read; a file that is missing elsewhere is an OSError too
        _discard(temporary)
        raise
    except OSError as error:
        _discard(temporary)
        raise _cannot_write(str(path), error) from error
    except BaseException:
        _discard(temporary)
        raise


@contextmanager
def _open_to_send(path: RemotePath) -> Iterator[BinaryIO]:
    """A file in this machine's folder for temporary files (TMPDIR), sent to `path` when the block ends well."""
    path.check_writable()
    try:
        handle, name = tempfile.mkstemp(prefix="infraredcity-")
    except OSError as error:
        raise _cannot_write(tempfile.gettempdir(), error, "; set TMPDIR") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        path.upload(Path(name))
    except RemoteError:
        raise
    except OSError as error:
        raise _cannot_write(name, error, "; set TMPDIR to a folder with room for a shard") from error
    finally:
        _discard(Path(name))


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Put `data` under `path`, whole or not at all; a local file that holds it already is left as it is, time and all.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        RemoteError: `path` is remote, and the file could not be sent.
    """
    if isinstance(path, RemotePath):
        path.write_whole(data)
        return
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
def lock_folder(folder: AnyPath, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process alone; a second holder gets an error. A killed holder frees it.

    Args:
        folder: Made if it is not there. A remote one is not held: stores have no locks that a killed holder frees.
        wait_s: How long to wait for a holder to end. On network file systems the lock of a dead machine outlives it for a while.

    Raises:
        OutputError: Another process holds it, or the folder cannot be written.
    """
    if isinstance(folder, RemotePath):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _cannot_write(str(folder), error) from error
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


def is_locked(folder: AnyPath) -> bool:
    """Whether somebody holds `folder` at this moment; a remote one is never held."""
    if isinstance(folder, RemotePath):
        return False
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _discard(path: Path) -> None:
    with suppress(OSError):  # what keeps it from being deleted kept it from being made, and is told already
        path.unlink(missing_ok=True)


def _cannot_write(name: str, error: OSError, remedy: str = "") -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"{name}: cannot be written: {reason}{remedy}", errno=error.errno)
