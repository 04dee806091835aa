"""Write files that are whole or not there: under a temporary name, fsynced, renamed; remote ones are sent whole."""

import errno
import filecmp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infraredcity.errors import OutputError, RemoteError
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.temporary import temporary_beside


@contextmanager
def open_atomic(path: AnyPath, *, keep_same: bool = False) -> Iterator[BinaryIO]:
    """Open a file that appears under `path` if the block ends without an error, and not at all if it does not.

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
    except RemoteError:  # its content could not be read; a missing remote file is an OSError too
        _discard(temporary)
        raise
    except OSError as error:
        _discard(temporary)
        raise cannot_write(str(path), error) from error
    except BaseException:
        _discard(temporary)
        raise


@contextmanager
def _open_to_send(path: RemotePath) -> Iterator[BinaryIO]:
    """Open a file in this machine's folder for temporary files (TMPDIR); send it to `path` if the block ends without an error."""
    path.check_writable()
    try:
        handle, name = tempfile.mkstemp(prefix="infraredcity-")
    except OSError as error:
        raise cannot_write(tempfile.gettempdir(), error, "; set TMPDIR") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        path.upload(Path(name))
    except RemoteError:
        raise
    except OSError as error:
        raise cannot_write(name, error, "; set TMPDIR to a folder with room for a shard") from error
    finally:
        _discard(Path(name))


def write_atomic(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; leave a local file that holds it already as it is, time and all.

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


def _discard(path: Path) -> None:
    with suppress(OSError):  # the same error kept it from being made, and is raised already
        path.unlink(missing_ok=True)


def cannot_write(name: str, error: OSError, remedy: str = "") -> OutputError:
    """Return the error of a file or folder that cannot be written, in the system's words."""
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"{name}: cannot be written: {reason}{remedy}", errno=error.errno)
