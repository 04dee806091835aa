"""Work out what every sidecar of a shard folder should contain: `verify` reports differences, `repair` rewrites the files.

Each check returns what is wrong with the file, in words that follow its path, or None where it is as expected.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from infraredcity.datasets import manifest
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder, counted
from infraredcity.datasets.manifest import COLUMNS, Columns
from infraredcity.errors import ManifestError
from infraredcity.files.path import AnyPath
from infraredcity.files.records import MAX_SIDECAR_BYTES, read_json, read_whole
from infraredcity.shards import sidecars

MANIFEST_NAMES = (manifest.CSV_NAME, manifest.PARQUET_NAME)


def wids_problem(part: ShardFolder) -> str | None:
    """Compare index.json with the shards of the index; the name in it may be any, since a folder can be renamed."""
    try:
        found = read_json(part.path / sidecars.WIDS_NAME, MAX_SIDECAR_BYTES)  # of a million shards 100 MB
        expected = json.loads(sidecars.wids_bytes(part.index, name=str(found["name"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"missing or damaged ({error})"
    return None if found == expected else "does not list these shards"


def dali_problem(part: ShardFolder, number: int, rows: np.ndarray, json_sizes: np.ndarray) -> str | None:
    """Compare the `.idx` of a shard that is there.

    Args:
        part: The shard folder.
        number: The shard.
        rows: i64 [n], its rows in the index.
        json_sizes: i64 [n], bytes of their json members.
    """
    path = (part.path / part.index.shards[number].name).with_suffix(".idx")
    try:
        found = read_whole(path, MAX_SIDECAR_BYTES)
        expected = sidecars.dali_bytes(part.path, part.index, number, rows, json_sizes)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ManifestError as error:
        return f"cannot be compared ({error})"
    return None if found == expected else "is not that of its shard"


def manifest_problem(path: AnyPath, expected: Callable[[], Iterable[Columns]]) -> str | None:
    """Compare a manifest, csv or parquet, with the rows that index and clips.json give.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        return _difference(manifest.read_blocks(path), expected())
    except ManifestError as error:
        return str(error).removeprefix(f"{path}: ")


def clips_problems(part: ShardFolder) -> Iterator[str]:
    """Compare the numbers of marked samples in clips.json with the index."""
    for clip_id, expected in counted(part.index, part.clips).items():
        for name in ("num_suspect", "num_repeats", "num_frozen"):
            found, number = getattr(part.clips[clip_id], name), getattr(expected, name)
            if found != number:
                yield f"says {name} {found} of {clip_id}, the index has {number}"


def asked_frames(facts: ClipFacts) -> range:
    """List the frames of a clip that were to be extracted."""
    frames = range(facts.clip_frames)[facts.extraction.get("start_frame", 0) : facts.extraction.get("stop_frame")]
    return frames[:: facts.frame_step]


def _difference(found: Iterable[Columns], expected: Iterable[Columns]) -> str | None:
    num_found = num_expected = 0
    difference = None
    for one, other in zip_longest(_rows(found), _rows(expected)):
        num_found += one is not None
        num_expected += other is not None
        if difference is None and one is not None and other is not None and one != other:
            column = next(at for at, value in enumerate(other) if one[at] != value)
            difference = (
                f"says {COLUMNS[column]} {ascii(one[column])[:80]} of {other[0]}, the index {ascii(other[column])[:80]}: "
                "it is of another build"
            )
    if num_found != num_expected:
        return f"has {num_found} rows, the index {num_expected}: it is of another build"
    return difference


def _rows(blocks: Iterable[Columns]) -> Iterator[tuple[Any, ...]]:
    for block in blocks:
        yield from zip(*block.values(), strict=True)
