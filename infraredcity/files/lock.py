"""Locks on files of a local disk: one process at a time writes a folder; a killed holder frees it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infraredcity.errors import OutputError
from infraredcity.files.atomic import cannot_write
from infraredcity.files.path import AnyPath, RemotePath

LOCK_NAME = ".lock"
"""The file of a folder that is locked."""


@contextmanager
def lock_folder(folder: AnyPath, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process only; a second holder gets an error. A killed holder frees it.

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
        lock = open_lock(folder / LOCK_NAME)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    try:
        if not acquire(lock, wait_s, most_pause_s=0.1):
            raise OutputError(f"{folder}: another run is writing here; wait for it or choose another --out")
        yield
    finally:
        os.close(lock)


def is_locked(folder: AnyPath) -> bool:
    """Whether a process holds `folder` at this moment; a remote one is never held."""
    if isinstance(folder, RemotePath):
        return False
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def open_lock(path: Path, mode: int = 0o644) -> int:
    """Open the file of a lock; make it and its folder if they are not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, mode)


def acquire(lock: int, wait_s: float, *, most_pause_s: float = 0.02) -> bool:
    """Lock an open file; return whether that was possible within `wait_s`. A blocking call could not be given up."""
    until_s, pause_s = time.monotonic() + wait_s, 0.001
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, most_pause_s)
        else:
            return True


def release(lock: int) -> None:
    """Unlock a file and close it."""
    # Closing it does not unlock it where a child that was forked meanwhile holds the same open file.
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
