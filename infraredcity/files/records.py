"""Files that are read whole, as anyone may have made them: of bounded size, plain files alone, json and TOML of any depth.

A pipe in a data set never ends a read, `/dev/zero` never stops giving bytes, and `[[[[...` is deeper than Python's stack. All of
these are errors here like those of a file that is missing or damaged: an OSError or a ValueError.
"""

import errno
import io
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from infraredcity.files.path import AnyPath, RemotePath

MAX_RECORD_BYTES = 64 << 20
"""The longest json or TOML file that is read; what it says takes some twenty times its bytes in memory at most."""
MAX_SIDECAR_BYTES = 1 << 30
"""The longest file of another kind that is read whole."""
_TOO_DEEP = "nested too deeply"


def opened(path: AnyPath) -> io.BufferedReader:
    """A file for reading bytes; one of this disk is known to be a plain one.

    Raises:
        OSError: It cannot be opened, or is no plain file.
        RemoteError: The same of a remote one.
    """
    return path.open("rb") if isinstance(path, RemotePath) else open(plain_descriptor(path), "rb")


def plain_descriptor(path: Path, *, follow_links: bool = True) -> int:
    """A file of this disk for reading, known to be a plain one; nothing is waited for, as one would for who fills a pipe.

    Raises:
        OSError: It cannot be opened, or is a folder, a pipe, a socket, a device or, unless links are followed, a link.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW))
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, a socket or a device, no plain file", str(path))
        return number
    except BaseException:
        os.close(number)
        raise


def read_whole(path: AnyPath, max_bytes: int, *, follow_links: bool = True) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: It cannot be read, is no plain file, or is larger.
        RemoteError: The same of a remote one.
    """
    if isinstance(path, RemotePath):
        return path.read_bytes(max_bytes)
    with open(plain_descriptor(path, follow_links=follow_links), "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"holds {size_bytes} bytes, expected at most {max_bytes}", str(path))
        return file.read(size_bytes) if size_bytes else b""


def read_json(path: AnyPath, max_bytes: int = MAX_RECORD_BYTES) -> Any:
    """What a json file says.

    Raises:
        OSError: It cannot be read, is no plain file, or is larger than `max_bytes`.
        ValueError: It is no json, or nested too deeply.
    """
    return parse_json(read_whole(path, max_bytes))


def parse_json(text: str | bytes) -> Any:
    """What some json says; a ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def read_toml(path: AnyPath) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        OSError: It cannot be read, is no plain file, or is larger than MAX_RECORD_BYTES.
        ValueError: It is no TOML, or nested too deeply.
    """
    text = read_whole(path, MAX_RECORD_BYTES).decode("utf-8").replace("\r\n", "\n")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
