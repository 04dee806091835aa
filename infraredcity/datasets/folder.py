"""A shard folder: shards, index.npz, clips.json, the manifest and the index files of other readers; opened and written as one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.manifest import Columns
from infraredcity.errors import ManifestError
from infraredcity.files.path import AnyPath, RemotePath, size_of, sizes_in
from infraredcity.files.urls import READ_ONLY_SCHEMES
from infraredcity.shards import index_file, sidecars
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT, SampleIndex
from infraredcity.threads import in_order, threads_for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardFolder:
    """One folder of shards (or, for the loader, of plain tars or pictures) with what is known of its samples."""

    path: AnyPath
    """The folder."""
    name: str = "."
    """The folder below the data set's own, with forward slashes; "." where it is the data set's own."""
    index: SampleIndex
    """Where its samples lie."""
    clips: Mapping[str, ClipFacts] = field(default_factory=dict)
    """Facts of its clips by id; none where only the index was read."""
    split: str = "all"
    """"all", "train" or "test"."""
    stored_hash: str | None = None
    """The hash of its rows that its index file was written with; None where it was not read from one."""

    @property
    def data_hash(self) -> str:
        """The hash that the order of its windows follows from."""
        return self.stored_hash or self.index.samples_hash()

    def of_shards(self, names: Sequence[str]) -> "ShardFolder":
        """Keep only the samples of some of its shards."""
        known = {info.name: number for number, info in enumerate(self.index.shards)}
        if len(names) == len(known):
            return self
        wanted = np.isin(self.index.shard, [known[name] for name in names])
        return replace(self, index=self.index.take(np.flatnonzero(wanted)), stored_hash=None)

    def rows(self) -> Columns:
        """Return its manifest, with shards named from the data set's folder."""
        return manifest.in_folder(manifest.columns(self.index, self.clips, split=self.split), self.name)

    def blocks(self) -> Iterator[Columns]:
        """Yield its manifest, a few rows after the other."""
        return manifest.blocks(self.index, self.clips, split=self.split, folder=self.name)


def open_folder(root: AnyPath, name: str = ".") -> ShardFolder:
    """Open one part of a data set, with the facts of its clips.

    Raises:
        ManifestError: Its index or its clips.json is missing or damaged, or they name different clips.
    """
    folder = root / name
    clips, split = clip_facts.read_folder(folder)
    index, stored_hash = index_file.load_with_hash(folder)
    missing = [clip_id for clip_id in index.clips if clip_id not in clips]
    if missing:
        raise ManifestError(
            f"{folder / clip_facts.CLIPS_NAME}: lacks clip {missing[0]}, which {index_file.INDEX_NAME} has; "
            'rebuild both with "infraredcity repair"'
        )
    return ShardFolder(path=folder, name=name, index=index, clips=clips, split=split, stored_hash=stored_hash)


def open_indexed(folder: AnyPath) -> ShardFolder | None:
    """Open a folder by its index only, as the loader needs it; None where it has none.

    Raises:
        ManifestError: The index is damaged, or of another format.
        RemoteError: Another machine does not answer.
    """
    found = index_file.load_if_there(folder)
    return None if found is None else ShardFolder(path=folder, index=found[0], stored_hash=found[1])


def shard_sizes(part: ShardFolder) -> dict[str, int]:
    """Return the shards of a part that are there, with their bytes: from one listing, or asked one by one over http."""
    if not isinstance(part.path, RemotePath) or part.path.scheme not in READ_ONLY_SCHEMES:
        there = sizes_in(part.path)
        return {info.name: there[info.name] for info in part.index.shards if info.name in there}
    names = [info.name for info in part.index.shards]
    sizes = in_order(size_of, (part.path / name for name in names), num_threads=threads_for(part.path), name="sizes")
    return {name: size for name, size in zip(names, sizes, strict=True) if size is not None}


def write_folder(
    root: AnyPath,
    name: str,
    index: SampleIndex,
    clips: Mapping[str, ClipFacts],
    *,
    split: str = "all",
    json_sizes: np.ndarray | None = None,
    with_dali: bool = True,
) -> ShardFolder:
    """Write all that describes the shards of `root`/`name`: index, manifest, index files of other readers, and clips.json last.

    Args:
        root: The data set's folder.
        name: The part, see `ShardFolder.name`.
        index: Its samples; their shards stand there already.
        clips: Facts of at least its clips; what counts samples is counted anew.
        split: See `ShardFolder`.
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
    clip_facts.write_clips(folder, list(facts.values()), split=split)
    return ShardFolder(path=folder, name=name, index=index, clips=facts, split=split)


def reader_name(root: AnyPath, name: str) -> str:
    """Return what a part calls itself in index.json."""
    return root.resolve().name if name == "." else name.replace("/", "-")


def counted(index: SampleIndex, clips: Mapping[str, ClipFacts]) -> dict[str, ClipFacts]:
    """Return the facts of the index's clips, with what counts samples counted anew."""
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
