"""Files kept open for reading: a bounded number of them, closed with the last reference."""

import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress

_TOUCH_S = 60.0


class OpenFile:
    """A descriptor that is closed with the last reference to it, so that no thread reads from one that is another file by now."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.size_bytes, self.inode, self._used_s = status.st_size, status.st_ino, status.st_mtime

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the file."""
        return os.pread(self._descriptor, size, offset)

    def touch(self) -> None:
        """Make the file the most recently used; a minute's precision is enough, and spares the disk."""
        now_s = time.time()
        if now_s - self._used_s > _TOUCH_S:
            self._used_s = now_s
            with suppress(OSError):  # a file of somebody else, or a read-only disk: its age is not ours to keep
                os.utime(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


class OpenFiles:
    """At most `limit` open files by name; the least recently used leaves first. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[object, OpenFile] = OrderedDict()

    def get(self, name: object) -> OpenFile | None:
        """The open file of that name, if there is one."""
        with self._lock:
            if name in self._files:
                self._files.move_to_end(name)
            return self._files.get(name)

    def keep(self, name: object, file: OpenFile) -> None:
        """Take in a file that was just opened, in place of an older one of that name."""
        with self._lock:
            left = self._files.pop(name, None)
            self._files[name] = file
            if len(self._files) > self._limit:
                _, left = self._files.popitem(last=False)
        del left  # closing happens outside the lock

    def drop(self, name: object) -> None:
        """Forget a file; it closes when nobody reads from it any more."""
        with self._lock:
            left = self._files.pop(name, None)
        del left

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            left, self._files = self._files, OrderedDict()
        del left

    def __len__(self) -> int:
        return len(self._files)
