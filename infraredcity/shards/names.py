"""Names in shards: keys of samples, file names of shards, and the 512-byte blocks that tars are made of."""

import re

from infraredcity.clips import is_clip_id

BLOCK_BYTES = 512
"""The unit of a tar: headers are one block, data is padded to whole ones."""
MAX_MEMBER_BYTES = 256 * 1024 * 1024
"""No still is larger; a header that claims more is damaged or hostile. Also the most that one sample may hold."""
FRAME_DIGITS = 8
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,195}\.tar")
_KEY = re.compile(rf"(.+)_([0-9]{{{FRAME_DIGITS},18}})")


def shard_name(dataset: str, clip_id: str, number: int) -> str:
    """Name the file of a shard: `<dataset>-<clip>-<number>.tar`."""
    return f"{dataset}-{clip_id}-{number:06d}.tar"


def dataset_of(shard: str, clip_id: str) -> str:
    """Return the first part of a shard's name as `shard_name` makes it; of any other name, all before the clip or the suffix."""
    stem = shard.removesuffix(".tar")
    return stem.partition(f"-{clip_id}-")[0] or stem


def padded(size: int) -> int:
    """Count the bytes that data of `size` bytes takes in a tar, its padding to whole blocks included."""
    return size + -size % BLOCK_BYTES


def member_span(size: int) -> int:
    """Count the bytes that a member with `size` bytes of data takes in a tar, from its header to the end of its padding."""
    return BLOCK_BYTES + padded(size)


def key_of(clip_id: str, frame_index: int) -> str:
    """Make the WebDataset key of a frame: no dot in it, zero-padded so that names sort like frames."""
    return f"{clip_id}_{frame_index:0{FRAME_DIGITS}d}"


def parse_key(key: str) -> tuple[str, int]:
    """Split a key into clip id and frame index, the inverse of `key_of`.

    Raises:
        ValueError: It is not of that form.
    """
    found = _KEY.fullmatch(key)
    if found is None or not is_clip_id(found[1]):
        raise ValueError(f"key must be <clip id>_<frame index, {FRAME_DIGITS} digits or more>, got {key!r}")
    return found[1], int(found[2])


def is_shard_name(name: str) -> bool:
    """Check that a shard may have this name: a plain file name that ends in .tar, so that it leads nowhere else."""
    return _SHARD_NAME.fullmatch(name) is not None


def is_inside(name: str) -> bool:
    """Say whether a path with forward slashes stays below the folder that it starts from."""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and all(part not in ("", ".", "..") for part in parts)
