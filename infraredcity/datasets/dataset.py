"""A data set on disk: one folder of shards, or a tree of such folders (parts), as `extract`, `make-lite` and `shard` write them.

A part holds shards, index.npz, clips.json, the manifest and the index files of other readers. clips.json is written last: a folder
without it is not finished, and so is no part yet.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from infraredcity.datasets import manifest
from infraredcity.datasets.folder import ShardFolder, open_folder
from infraredcity.datasets.manifest import Columns
from infraredcity.datasets.walk import RECORD_NAMES, part_names
from infraredcity.errors import ManifestError
from infraredcity.files.path import AnyPath
from infraredcity.shards.index import BLOCK_ROWS


def sets_of(root: AnyPath, names: Sequence[str]) -> dict[str | None, list[str]]:
    """Group parts by their data set: the nearest folder with a record, or with a manifest of several parts; None for no set.

    Args:
        root: Folder of data sets.
        names: Its parts, as `part_names` gives them.
    """
    signs = (*RECORD_NAMES, manifest.CSV_NAME, manifest.PARQUET_NAME)
    sets: dict[str | None, list[str]] = {}
    for name in names:
        above = [parent.as_posix() for parent in Path(name).parents] if name != "." else []
        place = next(
            (
                place
                for place in (name, *above)
                if any((root / place / sign).is_file() for sign in (RECORD_NAMES if place in names else signs))
            ),
            None,
        )
        sets.setdefault(place, []).append(name)
    return sets


def open_dataset(root: AnyPath) -> list[ShardFolder]:
    """Open all parts of a data set, in order of their names.

    Raises:
        ManifestError: There is none, or one of them is unfinished or damaged.
    """
    names = part_names(root)
    if not names:
        what = "no such folder" if not root.is_dir() else "holds no shards"
        raise ManifestError(f"{root}: {what}; name a folder that extract, make-lite or shard wrote")
    return [open_folder(root, name) for name in names]


def rows_of(parts: Sequence[ShardFolder]) -> Columns:
    """Return the manifest of a data set: all rows of all parts, in order."""
    return manifest.concatenate([part.rows() for part in parts])


def dataset_hash(parts: Sequence[ShardFolder]) -> str:
    """Compute the `manifest.dataset_hash` of all rows of all parts, in little memory."""
    return manifest.hash_of_sorted(_sorted_blocks(parts))


def _sorted_blocks(parts: Sequence[ShardFolder]) -> Iterator[Columns]:
    """Yield all rows of all parts, sorted by split and key."""
    sizes = [len(part.index) for part in parts]
    keys = [np.array(block.keys(), "S") for part in parts for block in part.index.blocks()]
    splits = np.repeat(np.array([part.split for part in parts], "S"), sizes)
    order = np.lexsort((np.concatenate(keys), splits)) if keys else np.zeros(0, np.int64)
    ends = np.cumsum(sizes)
    for start in range(0, len(order), BLOCK_ROWS):
        chosen = order[start : start + BLOCK_ROWS]
        part_of = np.searchsorted(ends, chosen, side="right")
        pieces, places = [], []
        for number in np.unique(part_of).tolist():
            part, here = parts[number], np.flatnonzero(part_of == number)
            rows = chosen[here] - (int(ends[number]) - sizes[number])
            pieces.append(manifest.columns(part.index.take(rows), part.clips, split=part.split))
            places.append(here)
        yield manifest.take(manifest.concatenate(pieces), np.argsort(np.concatenate(places)))


def write_manifest(root: AnyPath, parts: Sequence[ShardFolder]) -> None:
    """Write the manifest of a data set of several parts into its own folder."""
    manifest.write_blocks(root, (block for part in parts for block in part.blocks()))
