"""Files of torch.save with a sha256 at their end: a flipped bit is noticed, and a file from a stranger runs no code.

They are zip files whose comment, at the very end, is the sha256 of all before it. `torch.load` opens them as they are, but does not
notice a flipped bit in a tensor; what reads them here does. They are read with `weights_only`.
"""

import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infraredcity.files.atomic import open_atomic
from infraredcity.files.records import read_whole
from roma.errors import CheckpointError

CHECKPOINT_FORMAT = "roma-checkpoint-2"
SNAPSHOT_FORMAT = "roma-snapshot-3"
SNAPSHOT_NAME = "snapshot.pt"
_SEAL = b"roma-sha256:"
_NUM_SEAL_BYTES = len(_SEAL) + 64
_MAX_BYTES = 1 << 36
_ZIP_END = b"PK\x05\x06"
_NUM_ZIP_END_BYTES = 22
"""The end of a zip file without a comment; its last two bytes are the comment's length."""
_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
           MemoryError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error)  # fmt: skip
"""What torch and pickle raise over bytes that are not what was written."""


def is_count(value: object, *, least: int = 0, most: int = 1 << 62) -> bool:
    """Whether a value is a whole number within bounds."""
    return type(value) is int and least <= value <= most


def are_weights(value: object) -> bool:
    """Whether a value is a dict of plain tensors by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        for name, tensor in value.items()
    )


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write values, whole or not at all, with the sha256 of the file at its end."""
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    data = buffer.getbuffer()
    assert data[-_NUM_ZIP_END_BYTES:][: len(_ZIP_END)] == _ZIP_END  # torch writes no comment of its own
    data[-2:] = _NUM_SEAL_BYTES.to_bytes(2, "little")
    seal = _SEAL + hashlib.sha256(data).hexdigest().encode()
    with open_atomic(path) as file:
        file.write(data)
        file.write(seal)


def _check_members(path: Path, data: bytes) -> None:
    """Refuse what would be larger in memory than the file: torch packs nothing, and no two of its members share bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(member.file_size for member in members) > len(data)
    ):
        raise CheckpointError(f"{path}: its members are packed, as roma writes none; fetch it anew")


def read_sealed(path: Path, expected: str) -> dict[str, Any]:
    """Read the values of a file of the expected format.

    Raises:
        CheckpointError: The file is missing, damaged, packed, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        data = read_whole(path, _MAX_BYTES)
        is_sealed = data[-_NUM_SEAL_BYTES:].startswith(_SEAL)
        if is_sealed:
            digest = hashlib.sha256(memoryview(data)[:-_NUM_SEAL_BYTES]).hexdigest()
            stored = data[-_NUM_SEAL_BYTES + len(_SEAL) :].decode("ascii", "replace")
            if digest != stored:
                raise CheckpointError(
                    f"{path}: damaged: sha256 is {digest[:8]}..., the file says {stored[:8]}...; copy it again, or use another"
                )
        _check_members(path, data)
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: damaged, or not written by roma ({type(error).__name__}); expected a file of format {expected!r}"
        ) from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != expected:
        hint = "; it is of another version of roma: use that one, or train again"
        if found == CHECKPOINT_FORMAT:
            hint = f"; this is a checkpoint: use the {SNAPSHOT_NAME} of its run"
        raise CheckpointError(f"{path}: format is {found!r}, expected {expected!r}{hint}")
    if found == CHECKPOINT_FORMAT and not is_sealed:
        raise CheckpointError(f"{path}: damaged: its sha256 at the end is missing; copy it again, or use another")
    return dict(values)
