"""Keep what a scan found beside the output, so that later runs do not read terabytes again.

A kept scan counts as long as the file seems unchanged by all that can be found without reading it whole; see `Identity`.
Its name holds a hash of place, size and state, so that machines which have copies of their own keep a scan each.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from infraredcity.errors import RemoteError, VideoDecodeError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.records import NPZ_DAMAGE
from infraredcity.video.types import VideoInfo

FORMAT = "infraredcity-scan-3"
SAMPLE_BLOCKS = 16
SAMPLE_BLOCK_BYTES = 64 * 1024
_PREFIX = "scan-"
_NAME_END = 50
"""How many letters of a clip's name stand in that of its scan, of up to 4 bytes each: a file system takes 255 bytes."""
_ARRAYS = ("pts", "keyframes", "decode_order", "frame_packets", "packet_pts", "suspect_ranges", "time_jumps")
_FRACTIONS = ("time_base", "pixel_aspect")
_TUPLES = ("streams", "other_streams", "recordings", "pauses", "whole_packets", "suspect")
_PLAIN = tuple(item.name for item in fields(VideoInfo) if item.name not in (*_ARRAYS, *_FRACTIONS, *_TUPLES, "path"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The facts that tell a file from others and from its own past, without reading all of it."""

    place: str
    """The path with links resolved, or the URL without credentials."""
    name: str
    """The file's name."""
    size_bytes: int
    """Its size."""
    state: str
    """When its bytes and when its entry changed, in ns since 1970; a copy can set only the first, so each machine's copy has a
    state of its own. Of a remote file its server's name for its version; "" without one."""
    content_sha256: str
    """See `_sampled`."""


def identify(path: AnyPath) -> Identity:
    """Find the facts that tell a video file from others.

    Raises:
        VideoDecodeError: There is no such file, or it cannot be read.
        RemoteError: It is remote, and cannot be reached.
    """
    if isinstance(path, RemotePath):
        file = path.file()
        return Identity(
            place=str(path),
            name=path.name,
            size_bytes=file.size_bytes,
            state=file.version,
            content_sha256=_sampled(file.read, file.size_bytes),
        )
    try:
        with path.open("rb") as here:
            status = os.fstat(here.fileno())
            return Identity(
                place=str(path.resolve()),
                name=path.name,
                size_bytes=status.st_size,
                state=f"{status.st_mtime_ns} {status.st_ctime_ns}",
                content_sha256=_sampled(lambda offset, size: os.pread(here.fileno(), size, offset), status.st_size),
            )
    except FileNotFoundError as error:
        raise VideoDecodeError(f"{path}: no such video file") from error
    except OSError as error:
        raise VideoDecodeError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error


def _sampled(read: Callable[[int, int], bytes], size_bytes: int) -> str:
    """Compute the sampled SHA-256 of a file, in hex: equal for equal files, and nearly always different for different ones.

    Of a file of up to 16 x 65,536 bytes it is the SHA-256 of all its bytes. Of a larger one of N bytes it is that of 16 blocks of
    65,536 bytes, one behind the other: block k begins at byte (N - 65,536) * k // 15, so the first and the last bytes are among
    them. What lies between the blocks does not count, so this is no proof that two files are equal.
    """
    if size_bytes <= SAMPLE_BLOCKS * SAMPLE_BLOCK_BYTES:
        return hashlib.sha256(read(0, size_bytes)).hexdigest()
    digest = hashlib.sha256()
    for number in range(SAMPLE_BLOCKS):
        start = (size_bytes - SAMPLE_BLOCK_BYTES) * number // (SAMPLE_BLOCKS - 1)
        digest.update(read(start, SAMPLE_BLOCK_BYTES))
    return digest.hexdigest()


def load(folder: AnyPath, path: AnyPath, identity: Identity, *, stream: int | None = None) -> VideoInfo | None:
    """Load the kept scan of a file; None if there is none that counts.

    Args:
        folder: Where scans are kept.
        path: The file.
        identity: The result of `identify`.
        stream: The stream that was asked for, see `scan.scan`.

    Raises:
        RemoteError: `folder` is remote, and cannot be reached.
    """
    kept = _read(folder / _name_of(identity, stream), path)
    return kept[1] if kept is not None and kept[0] == identity else None


def save(folder: AnyPath, info: VideoInfo, identity: Identity, *, stream: int | None = None) -> None:
    """Keep the scan of a file in `folder`, under the identity before it was scanned and the stream that was asked for.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        RemoteError: `folder` is remote, and the scan could not be sent.
    """
    header = {name: getattr(info, name) for name in _PLAIN}
    header |= {
        "format": FORMAT,
        "file": asdict(identity),
        **{name: str(getattr(info, name)) for name in _FRACTIONS},
        **{name: list(getattr(info, name)) for name in _TUPLES},
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        **{name: getattr(info, name) for name in _ARRAYS},
    )
    write_atomic(folder / _name_of(identity, stream), buffer.getvalue())


def _read(kept: AnyPath, path: AnyPath) -> tuple[Identity, VideoInfo] | None:
    """Read a stored scan: its source, and its facts with `path` as their file. Return None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT:
                return None
            values: dict[str, Any] = {name: header[name] for name in _PLAIN}
            values |= {name: Fraction(header[name]) for name in _FRACTIONS}
            values |= {name: tuple(header[name]) for name in _TUPLES}
            values |= {name: arrays[name] for name in _ARRAYS}
            info = VideoInfo(path=path, **values)
            return Identity(**header["file"]), info
    except FileNotFoundError:
        return None
    except RemoteError:
        raise
    except NPZ_DAMAGE:
        return None


def _name_of(identity: Identity, stream: int | None) -> str:
    known = json.dumps([identity.place, identity.size_bytes, identity.state, stream]).encode()
    name = identity.name[-_NAME_END:].replace("/", "_")  # a remote file's name may hold a slash, written as %2F
    return f"{_PREFIX}{hashlib.sha256(known).hexdigest()[:16]}-{name}.npz"
