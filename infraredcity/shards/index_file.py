"""The file of a sample index, index.npz: saved as the same bytes for the same index, loaded and checked."""

import io
import json
import os
import re
from typing import Any

import numpy as np

from infraredcity.clips import is_clip_id
from infraredcity.errors import ManifestError
from infraredcity.files.atomic import open_atomic
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.records import NPZ_DAMAGE, opened, parse_json, read_npz
from infraredcity.shards.index import FIELDS, FROZEN, REPEAT, SUSPECT, SampleIndex, ShardInfo
from infraredcity.shards.names import MAX_MEMBER_BYTES, is_shard_name

INDEX_NAME = "index.npz"
FORMAT = "infraredcity-index-4"
MAX_INDEX_BYTES = 4 << 30
"""A remote index is read whole; none of ours is larger, and a wrong file or a hostile server may have no end."""
MAX_FRAME_STEP = 1 << 31


def save(index: SampleIndex, folder: AnyPath) -> None:
    """Write `folder`/index.npz, with the same bytes for the same index."""
    header = {
        "format": FORMAT,
        "clips": index.clips,
        "frame_steps": index.frame_steps,
        "image_format": index.image_format,
        "rows_hash": index.samples_hash(),
        "shards": [[info.name, info.num_samples, info.size_bytes, info.sha256] for info in index.shards],
    }
    with open_atomic(folder / INDEX_NAME, keep_same=True) as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            **{name: getattr(index, name) for name in FIELDS},
        )


def load(folder: AnyPath) -> SampleIndex:
    """Read `folder`/index.npz.

    Raises:
        ManifestError: There is none, it is damaged, or it is of another format.
    """
    return load_with_hash(folder)[0]


def load_with_hash(folder: AnyPath) -> tuple[SampleIndex, str]:
    """Load as `load`, with the hash of its rows that it was written with, to compare with `SampleIndex.samples_hash`."""
    found = load_if_there(folder)
    if found is None:
        raise ManifestError(
            f"{folder / INDEX_NAME}: no index; finish extraction or make-lite there, or name a folder that has one"
        )
    return found


def load_if_there(folder: AnyPath) -> tuple[SampleIndex, str] | None:
    """Load as `load_with_hash`; None where the folder has no index.

    Raises:
        ManifestError: It is damaged, or of another format.
        RemoteError: Another machine does not answer.
    """
    path = folder / INDEX_NAME
    try:
        if isinstance(path, RemotePath):
            data = path.read_bytes(MAX_INDEX_BYTES)
            return _read(io.BytesIO(data), len(data), str(path))
        with opened(path) as file:
            return _read(file, os.fstat(file.fileno()).st_size, str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path}: damaged or not an index ({error}); build it again") from error


def _read(file: io.BufferedReader | io.BytesIO, size_bytes: int, name: str) -> tuple[SampleIndex, str]:
    """Read the index in a file, and its stored hash."""
    try:
        arrays = read_npz(file, size_bytes)
        header = parse_json(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise ManifestError(
                f"{name}: format is {header['format']!r}, this version reads {FORMAT!r}; make the data set anew "
                "(`infraredcity extract --overwrite`, or `make-lite --overwrite` of a Lite set)"
            )
        columns = {name: arrays[name] for name in FIELDS}
        _check_header(header)
        _check_columns(columns, header)
        index = SampleIndex(
            clips=tuple(header["clips"]),
            frame_steps=tuple(header["frame_steps"]),
            image_format=header["image_format"],
            shards=tuple(
                ShardInfo(name=name, num_samples=count, size_bytes=size, sha256=sha256)
                for name, count, size, sha256 in header["shards"]
            ),
            **columns,
        )
        return index, str(header["rows_hash"])
    except NPZ_DAMAGE as error:
        raise ManifestError(f"{name}: damaged or not an index ({error}); build it again") from error


def _check_header(header: dict[str, Any]) -> None:
    """Raise ValueError for names that would lead out of the folder, and for numbers that no index of ours has."""
    for clip_id in header["clips"]:
        if not is_clip_id(clip_id):
            raise ValueError(f"clip id {clip_id!r}")
    for step in header["frame_steps"]:
        if type(step) is not int or not 0 < step <= MAX_FRAME_STEP:
            raise ValueError(f"frame step {step!r:.80}")
    for name, count, size_bytes, sha256 in header["shards"]:
        if not is_shard_name(name):
            raise ValueError(f"shard name {name!r}")
        if any(type(number) is not int or not 0 <= number < 1 << 62 for number in (count, size_bytes)):
            raise ValueError(f"{count!r:.80} samples and {size_bytes!r:.80} bytes of shard {name}")
        if not isinstance(sha256, str):
            raise ValueError(f"sha256 of shard {name}")
    if re.fullmatch("[a-z0-9]{1,8}", header["image_format"]) is None:
        raise ValueError(f"image format {header['image_format']!r}")


def _check_columns(columns: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Raise ValueError for columns that no index of ours has, and for samples that do not lie in their shards."""
    for name, column in columns.items():
        expected = (np.dtype(FIELDS[name]).kind, (32,) if name == "sha256" else ())
        if (column.dtype.kind, column.shape[1:]) != expected:
            raise ValueError(f"column {name} is {column.dtype} {list(column.shape)}")
    for numbering, of in (("clip", header["clips"]), ("shard", header["shards"])):
        numbers = columns[numbering]
        if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < len(of)):
            raise ValueError(f"column {numbering} numbers what is not there")
    for positive in ("frame_index", "offset", "size", "span", "width", "height"):
        if len(columns[positive]) and int(columns[positive].min()) < 0:
            raise ValueError(f"column {positive} has a negative number")
    if len(columns["mark"]) and int(columns["mark"].max()) > SUSPECT + REPEAT + FROZEN:
        raise ValueError(f"mark {int(columns['mark'].max())}")
    sizes = columns["size"].astype(np.int64)
    if len(sizes) and int(sizes.max()) > MAX_MEMBER_BYTES:
        raise ValueError(f"a picture of {int(sizes.max())} bytes")
    shard_bytes = np.array([size_bytes for _, _, size_bytes, _ in header["shards"]], np.int64)[columns["shard"]]
    outside = np.flatnonzero((columns["offset"] > shard_bytes - sizes) | (columns["span"] > shard_bytes))
    if len(outside):
        row = int(outside[0])
        raise ValueError(f"the sample of row {row} lies outside of the {int(shard_bytes[row])} bytes of its shard")
    if len(columns["frame_index"]) and int(columns["frame_index"].max()) >= 10**18:
        raise ValueError(f"frame index {int(columns['frame_index'].max())}")
