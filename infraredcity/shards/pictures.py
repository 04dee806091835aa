"""An index over folders of plain pictures, as most data sets of stills come: every file is a sample, its name the key.

It opens no picture. What is known are names and sizes, so another picture of the same name and size goes unnoticed.
"""

import itertools
import logging
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from infraredcity.errors import ShardError
from infraredcity.shards.foreign import TarIndex, clip_ids, most_frequent, numbered
from infraredcity.shards.index import ShardInfo, unread
from infraredcity.shards.names import BLOCK_BYTES, MAX_MEMBER_BYTES
from infraredcity.stills.formats import READ_SUFFIXES, our_suffix

logger = logging.getLogger(__name__)

OTHER_PICTURES = ("avif", "bmp", "gif", "heic", "jp2", "jxl", "pgm", "ppm", "tif", "tiff")
"""Endings of pictures that are not read."""


def is_picture(name: str) -> bool:
    """Say whether a file's name ends like a picture's that is read: jpg, jpeg, png, webp, in small letters or capitals."""
    return ending_of(name) in READ_SUFFIXES and not name.startswith(".")


def ending_of(name: str) -> str:
    """Return what is behind the last dot of a file's name, in small letters; empty where no dot is."""
    return Path(name).suffix[1:].lower()


def index_pictures(folder: Path, names: Sequence[str] | None = None) -> TarIndex:
    """Index the pictures of a folder in the natural order of their names (2 before 10), each under its file name as key.

    The folder is a clip, and a picture's place in the order its frame index. Pictures whose names end in a number behind the same
    text follow one another where the numbers differ by that text's most frequent difference; all else begins a new run.

    Args:
        folder: Where they lie; folders in it are not entered.
        names: File names to take; None takes every picture of the folder.

    Raises:
        ShardError: The folder holds no picture, or one cannot be looked at.
    """
    sizes = _sizes(folder) if names is None else {name: _size_bytes(folder / name) for name in names}
    if not sizes:
        raise ShardError(f"{folder}: holds no picture ({', '.join(READ_SUFFIXES)}); name a folder that does")
    ordered = sorted(sizes, key=natural_order)
    too_large = next((name for name in ordered if sizes[name] > MAX_MEMBER_BYTES), None)
    if too_large is not None:
        raise ShardError(
            f"{folder / too_large}: has {sizes[too_large]} bytes, more than {MAX_MEMBER_BYTES}; take it away"
        )
    num_rows = len(ordered)
    places = np.arange(num_rows, dtype=np.int64)
    endings = Counter(ending_of(name) for name in ordered)
    bytes_of = np.array([sizes[name] for name in ordered], np.int64)
    return TarIndex(
        clips=clip_ids([folder.resolve().name]),
        frame_steps=(1,),
        shards=tuple(ShardInfo(name=name, num_samples=1, size_bytes=sizes[name], sha256="") for name in ordered),
        image_format=our_suffix(max(READ_SUFFIXES, key=lambda suffix: endings[suffix])),
        clip=np.zeros(num_rows, np.int32),
        frame_index=places,
        pts=places,
        run_id=_runs(ordered),
        shard=places.astype(np.int32),
        # A file has no header: its sample is the file.
        offset=np.zeros(num_rows, np.int64),
        size=bytes_of,
        span=bytes_of + BLOCK_BYTES,
        **unread(num_rows),
        own_keys=np.array([os.fsencode(name) for name in ordered], "S"),
        start=np.zeros(num_rows, np.int64),
        num_without_picture=0,
        num_refused=0,
    )


def _sizes(folder: Path) -> dict[str, int]:
    """Return the pictures of a folder with their bytes; other pictures are named in the log."""
    sizes, others = {}, Counter[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_picture(entry.name):
                    with suppress(FileNotFoundError):  # gone since it was listed
                        if entry.is_file():
                            sizes[entry.name] = entry.stat().st_size
                elif ending_of(entry.name) in OTHER_PICTURES:
                    others[ending_of(entry.name)] += 1
    except OSError as error:
        raise ShardError(f"{folder}: cannot be listed ({error.strerror}); check the folder's permissions") from error
    if others and sizes:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        logger.warning("%s: left out %s, since only %s are read", folder, listed, ", ".join(READ_SUFFIXES))
    return sizes


def _size_bytes(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); copy it again") from error
    if not stat.S_ISREG(status.st_mode):
        raise ShardError(f"{path}: not a plain file, as a picture is; take it away")
    return status.st_size


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Return what names are sorted by: their texts as texts, their numbers as numbers, so 2 comes before 10."""
    parts = re.split("([0-9]+)", name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def _runs(ordered: Sequence[str]) -> np.ndarray:
    """Return i32 [N], the number of the run that each file name is in."""
    pairs = [numbered(Path(name).stem) for name in ordered]
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for pair in pairs:
        if pair is not None:
            numbers_of[pair[0]].append(pair[1])
    steps = {text: most_frequent(np.diff(np.array(numbers, np.int64))) for text, numbers in numbers_of.items()}
    follows = [
        before is not None and after is not None and after == (before[0], before[1] + steps[before[0]])
        for before, after in itertools.pairwise(pairs)
    ]
    return np.concatenate([[0], np.cumsum(~np.array(follows, bool))]).astype(np.int32)
