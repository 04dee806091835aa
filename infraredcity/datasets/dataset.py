"""A data set on disk: one folder of shards, or a tree of such folders (parts), as `extract`, `make-lite` and `shard` write them.

A part holds shards, index.npz, clips.json, the manifest and the index files of other readers. clips.json is written last: a folder
without it is not finished, and so is no part yet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infraredcity.datasets import manifest
from infraredcity.datasets.manifest import ClipFacts, Columns
from infraredcity.errors import ManifestError, RemoteError
from infraredcity.files.path import FarPath, Place, size_of, sizes_in, walk
from infraredcity.files.remote import READ_ONLY_SCHEMES
from infraredcity.shards import index_file, sidecars
from infraredcity.shards.index import BLOCK_ROWS, FROZEN, REPEAT, SUSPECT, SampleIndex
from infraredcity.threads import in_order, threads_for

RECORD_NAMES = ("lite.json", "shards.json", "import.json")
"""What begins and ends a data set that was made from others."""
JOB_NAME, GAPS_NAME, MARKERS = "extract.json", "gaps.json", "segments"
"""What extract leaves beside its shards: its settings, the frames it could not have, a file for each segment that is done."""
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One folder of shards with all that is known of its samples.

    Attributes:
        path: The folder.
        name: The folder below the data set's own, with forward slashes; "." where it is the data set's own.
        index: Where its samples lie.
        clips: Facts of its clips by id.
        split: "all", "train" or "test".
    """

    path: Place
    name: str
    index: SampleIndex
    clips: Mapping[str, ClipFacts]
    split: str

    def rows(self) -> Columns:
        """Its manifest, with shards named from the data set's folder."""
        return manifest.in_folder(manifest.columns(self.index, self.clips, split=self.split), self.name)

    def blocks(self) -> Iterator[Columns]:
        """The same, a few rows after the other."""
        return manifest.blocks(self.index, self.clips, split=self.split, folder=self.name)


def part_names(root: Place) -> list[str]:
    """The folders at and below `root` that hold shards or what describes them, in order of their names; see `Part.name`.

    Unfinished and damaged ones are among them. Links to folders are not followed.
    """
    return names_of_parts(folders_of(root))


def names_of_parts(folders: Mapping[str, set[str]]) -> list[str]:
    """The parts among folders that `folders_of` gave."""
    marks = {manifest.CLIPS_NAME, index_file.INDEX_NAME}
    return sorted(
        name for name, files in folders.items() if marks & files or any(file.endswith(".tar") for file in files)
    )


def folders_of(root: Place) -> dict[str, set[str]]:
    """What `folders_below` gives; of a part behind a server that lists nothing, the index alone."""
    try:
        return dict(folders_below(root))
    except RemoteError:
        if not (root / index_file.INDEX_NAME).is_file():
            raise
        return {".": {index_file.INDEX_NAME}}


def folders_below(root: Place) -> Iterator[tuple[str, set[str]]]:
    """The folders at and below `root`, named as parts are, each with the files in it.

    Hidden ones and links are left out, and the markers of extraction, of which there may be a million.
    """
    for place, folders, files in walk(root):
        below = place.relative_to(root)  # type: ignore[arg-type]  # both are here, or both are far
        if len(below.parts) >= _MAX_DEPTH:
            folders.clear()
        left_out = {MARKERS} if JOB_NAME in files else set()
        folders[:] = sorted(folder for folder in folders if not folder.startswith(".") and folder not in left_out)
        yield below.as_posix(), {*files}


def sets_of(root: Place, names: Sequence[str]) -> dict[str | None, list[str]]:
    """Parts by the data set they belong to: the nearest folder with a record, or with a manifest of several parts; None for no set.

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


def open_part(root: Place, name: str = ".") -> Part:
    """One part of a data set.

    Raises:
        ManifestError: Its index or its clips.json is missing or damaged, or they name different clips.
    """
    return open_with_hash(root, name)[0]


def open_with_hash(root: Place, name: str = ".") -> tuple[Part, str]:
    """As `open_part`, with the hash of its rows that its index was written with."""
    folder = root / name
    clips, split = manifest.read_folder(folder)
    index, stored_hash = index_file.load_with_hash(folder)
    missing = [clip_id for clip_id in index.clips if clip_id not in clips]
    if missing:
        raise ManifestError(
            f"{folder / manifest.CLIPS_NAME}: lacks clip {missing[0]}, which {index_file.INDEX_NAME} has; "
            'rebuild both with "infraredcity repair"'
        )
    return Part(path=folder, name=name, index=index, clips=clips, split=split), stored_hash


def open_dataset(root: Place) -> list[Part]:
    """All parts of a data set, in order of their names.

    Raises:
        ManifestError: There is none, or one of them is unfinished or damaged.
    """
    names = part_names(root)
    if not names:
        what = "no such folder" if not root.is_dir() else "holds no shards"
        raise ManifestError(f"{root}: {what}; name a folder that extract, make-lite or shard wrote")
    return [open_part(root, name) for name in names]


def shard_sizes(part: Part) -> dict[str, int]:
    """The shards of a part that are there, with their bytes: from one listing, or asked one by one over http."""
    if not isinstance(part.path, FarPath) or part.path.scheme not in READ_ONLY_SCHEMES:
        there = sizes_in(part.path)
        return {info.name: there[info.name] for info in part.index.shards if info.name in there}
    names = [info.name for info in part.index.shards]
    sizes = in_order(size_of, (part.path / name for name in names), num_threads=threads_for(part.path), name="sizes")
    return {name: size for name, size in zip(names, sizes, strict=True) if size is not None}


def rows_of(parts: Sequence[Part]) -> Columns:
    """The manifest of a data set: all rows of all parts, in order."""
    return manifest.concatenate([part.rows() for part in parts])


def dataset_hash(parts: Sequence[Part]) -> str:
    """The `manifest.dataset_hash` of all rows of all parts, in little memory."""
    return manifest.hash_of_sorted(_sorted_blocks(parts))


def _sorted_blocks(parts: Sequence[Part]) -> Iterator[Columns]:
    """All rows of all parts, sorted by split and key."""
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


def write_manifest(root: Place, parts: Sequence[Part]) -> None:
    """Write the manifest of a data set of several parts into its own folder."""
    manifest.write_blocks(root, (block for part in parts for block in part.blocks()))


def write_part(
    root: Place,
    name: str,
    index: SampleIndex,
    clips: Mapping[str, ClipFacts],
    *,
    split: str = "all",
    json_sizes: np.ndarray | None = None,
    with_dali: bool = True,
) -> Part:
    """Write all that describes the shards of `root`/`name`: index, manifest, index files of other readers, and clips.json last.

    Args:
        root: The data set's folder.
        name: The part, see `Part.name`.
        index: Its samples; their shards stand there already.
        clips: Facts of at least its clips; what counts samples is counted anew.
        split: See `Part`.
        json_sizes: See `sidecars.write_reader_indexes`.
        with_dali: As there.

    Raises:
        ManifestError: The index contradicts the shards.
        OutputError: The disk is full or the folder cannot be written.
    """
    folder = root / name
    facts = counted(index, clips)
    sidecars.write_reader_indexes(
        folder, index, name=reader_name(root, name), json_sizes=json_sizes, with_dali=with_dali
    )
    manifest.write_rows(folder, index, facts, split=split)
    index_file.save(index, folder)
    manifest.write_clips(folder, list(facts.values()), split=split)
    return Part(path=folder, name=name, index=index, clips=facts, split=split)


def reader_name(root: Place, name: str) -> str:
    """What a part calls itself in index.json."""
    return root.resolve().name if name == "." else name.replace("/", "-")


def counted(index: SampleIndex, clips: Mapping[str, ClipFacts]) -> dict[str, ClipFacts]:
    """The facts of the index's clips, with what counts samples counted anew."""
    facts = {}
    for number, clip_id in enumerate(index.clips):
        marks = index.mark[index.clip == number]
        facts[clip_id] = replace(
            clips[clip_id],
            num_suspect=int(np.count_nonzero(marks & SUSPECT)),
            num_repeats=int(np.count_nonzero(marks & REPEAT)),
            num_frozen=int(np.count_nonzero(marks & FROZEN)),
        )
    return facts
