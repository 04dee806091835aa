"""Index files for other readers beside our shards: index.json for wids, <shard>.idx for DALI."""

import io
import json
from collections.abc import Sequence

import numpy as np

from infraredcity.errors import ManifestError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.records import opened
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.names import BLOCK_BYTES, padded

WIDS_NAME = "index.json"


def write_reader_indexes(
    folder: AnyPath,
    index: SampleIndex,
    *,
    name: str,
    json_sizes: np.ndarray | None = None,
    with_dali: bool = True,
) -> None:
    """Write what other readers look up: index.json for wids, and one `.idx` beside each shard for DALI (its version 1.2).

    Args:
        folder: Where the shards are.
        index: Their samples.
        name: What the data set is called in index.json.
        json_sizes: i64 [N], bytes of each row's json member; without them every shard is opened.
        with_dali: False leaves the `.idx` as they are.
    """
    write_atomic(folder / WIDS_NAME, wids_bytes(index, name=name))
    if not with_dali:
        return
    for number, rows in enumerate(index.rows_by_shard()):
        sizes = json_sizes_of(folder, index, number, rows) if json_sizes is None else json_sizes[rows]
        path = (folder / index.shards[number].name).with_suffix(".idx")
        write_atomic(path, dali_bytes(folder, index, number, rows, sizes))


def wids_bytes(index: SampleIndex, *, name: str) -> bytes:
    """Write index.json for wids, its version 1: name, samples and bytes of each shard."""
    shards = [{"url": info.name, "nsamples": info.num_samples, "filesize": info.size_bytes} for info in index.shards]
    wids = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name, "shardlist": shards}
    buffer = io.BytesIO()
    text = io.TextIOWrapper(buffer, encoding="ascii")
    json.dump(wids, text, indent=1)  # for a million shards the pieces of `dumps` are a gigabyte
    text.write("\n")
    text.flush()
    return buffer.getvalue()


def dali_bytes(folder: AnyPath, index: SampleIndex, number: int, rows: np.ndarray, json_sizes: np.ndarray) -> bytes:
    """Write the `.idx` of one shard for DALI, its version 1.2: a line for each sample, four words for each of its two members.

    Args:
        folder: Where the shard is, for errors.
        index: Its samples, and those of other shards.
        number: The shard.
        rows: i64 [n], its rows in the index.
        json_sizes: i64 [n], bytes of their json members.

    Raises:
        ManifestError: The index contradicts the json members.
    """
    samples: list[tuple[str, int, int, int]] = []
    for row, json_size in zip(rows.tolist(), json_sizes.tolist(), strict=True):
        key, offset, size = index.key(row), int(index.offset[row]), int(index.size[row])
        end = offset - BLOCK_BYTES + int(index.span[row])
        if json_size < 0 or _json_offset(offset, size) + padded(json_size) != end:
            raise ManifestError(
                f"{folder / index.shards[number].name}: sample {key} ends elsewhere than its index says; build it again"
            )
        samples.append((key, offset, size, json_size))
    return idx_bytes(index.image_format, samples)


def idx_bytes(image_format: str, samples: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Write as `dali_bytes`, from what is known while a shard is written.

    Args:
        image_format: File suffix of the images.
        samples: Of each sample its key, the byte where its image begins, bytes of that, and bytes of its json member.
    """
    lines = [f"v1.2 {len(samples)}"]
    for key, offset, size, json_size in samples:
        json_offset = _json_offset(offset, size)
        lines.append(f"{image_format} {offset} {size} {key}.{image_format} json {json_offset} {json_size} {key}.json")
    return ("\n".join(lines) + "\n").encode()


def json_sizes_of(folder: AnyPath, index: SampleIndex, number: int, rows: np.ndarray) -> np.ndarray:
    """Read the bytes of the json members of some rows of one shard from their tar headers, i64 [n]; -1 where there is no header."""
    with opened(folder / index.shards[number].name) as shard:
        sizes = []
        for offset, size in zip(index.offset[rows].tolist(), index.size[rows].tolist(), strict=True):
            shard.seek(_json_offset(offset, size) - BLOCK_BYTES)
            sizes.append(_size_in_header(shard.read(BLOCK_BYTES)))
    return np.array(sizes, np.int64)


def _json_offset(offset: int, size: int) -> int:
    """Say where the data of a sample's json member begins, from place and size of its image."""
    return offset + padded(size) + BLOCK_BYTES


def json_size_of(sample: bytes, image_size: int) -> int:
    """Read the bytes of the json member of a sample in a shard; -1 where no header is before it."""
    json_offset = _json_offset(BLOCK_BYTES, image_size)
    return _size_in_header(sample[json_offset - BLOCK_BYTES : json_offset])


def _size_in_header(header: bytes) -> int:
    """Read the bytes of the member behind a tar header; -1 where it is none."""
    try:
        return int(header[124:135], 8)
    except ValueError:
        return -1
