"""What a scan found, kept beside the output, so that later runs do not read terabytes again to learn what they know.

A kept scan counts as long as the file's place, size and time of change are those it was made from; anything else scans anew.
"""

import hashlib
import io
import json
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import numpy as np

from infraredcity.storage import NPZ_DAMAGE, write_atomic
from infraredcity.video.frames import VideoInfo

FORMAT = "infraredcity-scan-1"
_ARRAYS = ("pts", "keyframes", "decode_order", "suspect_ranges", "time_jumps")
_PLAIN = tuple(item.name for item in fields(VideoInfo) if item.name not in (*_ARRAYS, "path", "time_base", "suspect"))


def load(folder: Path, path: Path) -> VideoInfo | None:
    """The kept scan of `path` in `folder`, or None where there is none, or it is damaged, or the file is another by now."""
    kept = _file_of(folder, path)
    try:
        with np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != FORMAT or header["file"] != _identity(path):
                return None
            return VideoInfo(
                path=path,
                time_base=Fraction(header["time_base"]),
                suspect=tuple(header["suspect"]),
                **{name: header[name] for name in _PLAIN},
                **{name: arrays[name] for name in _ARRAYS},
            )
    except NPZ_DAMAGE:
        return None


def save(folder: Path, info: VideoInfo) -> None:
    """Keep a scan in `folder`.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    header = {name: getattr(info, name) for name in _PLAIN}
    header |= {
        "format": FORMAT,
        "file": _identity(info.path),
        "time_base": str(info.time_base),
        "suspect": list(info.suspect),
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        **{name: getattr(info, name) for name in _ARRAYS},
    )
    write_atomic(_file_of(folder, info.path), buffer.getvalue())


def _file_of(folder: Path, path: Path) -> Path:
    # Chunks of one recording may have one name in several folders.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return folder / f"scan-{place}-{path.name}.npz"


def _identity(path: Path) -> list[object]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
