"""Shards from shards: chosen samples copied byte for byte into new ones, nothing decoded."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from infraredcity.errors import ShardError
from infraredcity.files.path import AnyPath
from infraredcity.shards import index as sample_index
from infraredcity.shards import names, sidecars
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.index import IndexEntry, SampleIndex, ShardInfo
from infraredcity.shards.names import shard_name
from infraredcity.shards.writer import open_shard


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Copied:
    """Samples of one clip in new shards: their index, and i64 [N], the bytes of their json members."""

    index: SampleIndex
    json_sizes: np.ndarray


def copy(
    source: AnyPath,
    index: SampleIndex,
    rows: np.ndarray,
    target: AnyPath,
    *,
    dataset: str,
    samples_per_shard: int,
    on_samples: Callable[[int], None] | None = None,
    on_picture: Callable[[str, bytes], None] | None = None,
) -> Copied:
    """Copy samples of one clip into new shards of `target`.

    From and to other machines too: neighbouring samples come in one request, and each new shard is sent when it is whole.

    Args:
        source: Folder of the shards that `index` describes.
        index: Index of one clip.
        rows: i64 [N], rows of the index, ascending.
        target: Folder for shards named `<dataset>-<clip>-<number>.tar`.
        dataset: First part of their names.
        samples_per_shard: Samples in a full shard.
        on_samples: Called with the number of samples just written.
        on_picture: Called with key and picture of each sample.

    Returns:
        The index of the new shards; run ids, marks, times, hashes and what samples repeat are those of the source.

    Raises:
        ShardError: A sample in the source is not what the index says.
        OutputError: The disk is full or the folder cannot be written.
    """
    (clip_id,) = index.clips
    json_sizes = array("q")

    def written() -> Iterator[tuple[ShardInfo, list[IndexEntry]]]:
        with ShardFiles(index, source) as files:
            samples = files.samples(rows)
            for number, start in enumerate(range(0, len(rows), samples_per_shard)):
                name = shard_name(dataset, clip_id, number)
                with open_shard(target, name, image_format=index.image_format) as handle:
                    for row in rows[start : start + samples_per_shard].tolist():
                        sample = next(samples)
                        picture = _checked_picture(source, index, row, sample)
                        handle.writer.add_copy(
                            int(index.frame_index[row]),
                            int(index.pts[row]),
                            sample,
                            int(index.size[row]),
                            index.sha256[row].tobytes().hex(),
                            size_px=(int(index.width[row]), int(index.height[row])),
                            mark=int(index.mark[row]),
                        )
                        json_sizes.append(sidecars.json_size_of(sample, len(picture)))
                        if on_picture is not None:
                            on_picture(index.key(row), picture)
                        if on_samples is not None:
                            on_samples(1)
                assert handle.info is not None
                yield handle.info, handle.writer.entries

    copied = sample_index.from_entries(
        clip_id=clip_id,
        frame_step=index.frame_steps[0],
        image_format=index.image_format,
        shards=written(),
        run_ids=index.run_id[rows],
        dup_of=index.dup_of[rows],
    )
    return Copied(index=copied, json_sizes=np.array(json_sizes, np.int64))


def _checked_picture(folder: AnyPath, index: SampleIndex, row: int, sample: bytes) -> bytes:
    """Return the picture in a sample's bytes, if its header names its key and the picture has its hash."""
    size = int(index.size[row])
    named = sample[:100].rstrip(b"\0").decode("ascii", "replace")
    picture = sample[names.BLOCK_BYTES : names.BLOCK_BYTES + size]
    shard = folder / index.shards[int(index.shard[row])].name
    if named != f"{index.key(row)}.{index.image_format}":
        raise ShardError(
            f"{shard}: expected {index.key(row)}.{index.image_format}, found {named!r}; extract the clip anew"
        )
    if hashlib.sha256(picture).digest() != index.sha256[row].tobytes():
        raise ShardError(f"{shard}: {named} is not the picture that was written; copy the shard again, or extract anew")
    return picture
