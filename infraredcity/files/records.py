"""Read whole files that anyone may have made: of bounded size, nothing but plain files, json, TOML and npz.

A pipe in a data set never ends a read, `/dev/zero` never stops giving bytes, and `[[[[...` is deeper than Python's stack. All of
these are errors here like those of a file that is missing or damaged: an OSError or a ValueError.
"""

import errno
import io
import json
import math
import os
import stat
import struct
import tomllib
import zipfile
import zlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from infraredcity.files.path import AnyPath, RemotePath

MAX_RECORD_BYTES = 64 << 20
"""The largest json or TOML file that is read; in memory it takes at most some twenty times its bytes."""
MAX_SIDECAR_BYTES = 1 << 30
"""The largest file of another kind that is read whole."""
Record = TypeVar("Record")
_TOO_DEEP = "nested too deeply"
NPZ_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, NotImplementedError, RuntimeError,
              MemoryError, zipfile.BadZipFile, struct.error, zlib.error)  # fmt: skip
"""What zipfile, numpy and json raise over bytes that are not what was written."""


def opened(path: AnyPath) -> io.BufferedReader:
    """Open a file for reading bytes; a local one is checked to be a plain file.

    Raises:
        OSError: It cannot be opened, or is no plain file.
        RemoteError: The same of a remote one.
    """
    return path.open("rb") if isinstance(path, RemotePath) else open(plain_descriptor(path), "rb")


def plain_descriptor(path: Path, *, follow_links: bool = True) -> int:
    """Open a local file for reading and check that it is a plain file, without waiting as opening a pipe would.

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
    """Read all bytes of a file.

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
    """Read a json file.

    Raises:
        OSError: It cannot be read, is no plain file, or is larger than `max_bytes`.
        ValueError: It is no json, or nested too deeply.
    """
    return parse_json(read_whole(path, max_bytes))


def parse_json(text: str | bytes) -> Any:
    """Parse json; raise a ValueError if it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def converted(values: Any, kind: type[Record]) -> Record:
    """Convert plain values, as json has them, to a dataclass or another type, with all that is in it.

    Names and types must be those of the fields; a number without a fraction is taken for a float, nothing else is guessed.

    Raises:
        ValueError: A value is missing, unknown or of another type; the message names its place, such as `$.rows[3].split`.
    """
    import msgspec

    try:
        made = msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error) or _TOO_DEEP) from error
    if is_dataclass(kind) and (unknown := values.keys() - {field.name for field in fields(kind)}):
        raise ValueError(f"unknown field {min(map(str, unknown))[:80]!a}")
    return made


def read_toml(path: AnyPath) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: It cannot be read, is no plain file, or is larger than MAX_RECORD_BYTES.
        ValueError: It is no TOML, or nested too deeply.
    """
    text = read_whole(path, MAX_RECORD_BYTES).decode("utf-8").replace("\r\n", "\n")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def read_npz(file: io.BufferedReader | io.BytesIO, size_bytes: int) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file of `size_bytes`, in no more memory than the file has bytes.

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
