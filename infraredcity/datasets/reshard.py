"""Chosen samples of a folder of shards as a folder of its own, with index and manifest."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from infraredcity.datasets.folder import ShardFolder, write_folder
from infraredcity.files.path import AnyPath
from infraredcity.shards import index as sample_index
from infraredcity.shards.copy import copy
from infraredcity.shards.names import dataset_of


def copy_part(
    part: ShardFolder,
    rows: np.ndarray,
    root: AnyPath,
    *,
    samples_per_shard: int,
    on_samples: Callable[[int], None] | None = None,
) -> ShardFolder:
    """Copy samples of a part, of any of its clips, into `root`/<the part's name>, with index and manifest.

    Shards keep the first part of their names and are numbered anew.

    Args:
        part: Where the samples are.
        rows: i64 [N], rows of the part's index, ascending.
        root: Folder of the new data set.
        samples_per_shard: Samples in a full shard.
        on_samples: Called with the number of samples just written.

    Raises:
        ShardError: A sample in the source is not what the index says.
        OutputError: The disk is full or the folder cannot be written.
    """
    copied = []
    for number in dict.fromkeys(part.index.clip[rows].tolist()):
        of_clip = rows[part.index.clip[rows] == number]
        clip_id = part.index.clips[number]
        of_one_clip = replace(
            part.index.take(of_clip),
            clips=(clip_id,),
            frame_steps=(part.index.frame_steps[number],),
            clip=np.zeros(len(of_clip), np.int32),
        )
        first = part.index.shards[int(of_one_clip.shard[0])].name
        copied.append(
            copy(
                part.path,
                of_one_clip,
                np.arange(len(of_one_clip)),
                root / part.name,
                dataset=dataset_of(first, clip_id),
                samples_per_shard=samples_per_shard,
                on_samples=on_samples,
            )
        )
    return write_folder(
        root,
        part.name,
        sample_index.concatenate([each.index for each in copied]),
        part.clips,
        split=part.split,
        json_sizes=np.concatenate([each.json_sizes for each in copied]),
    )
