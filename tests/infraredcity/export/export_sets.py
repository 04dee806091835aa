"""Small data sets and release folders with known pictures, made without a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import picture

from infraredcity.datasets import dataset, folder
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.shards import index as sample_index
from infraredcity.shards import sample_json
from infraredcity.shards.index import run_ids
from infraredcity.shards.names import shard_name
from infraredcity.shards.writer import open_shard
from infraredcity.stills import formats
from infraredcity.stills.decode import size_of


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The frames that one clip gives to one part; frame n shows `picture(n + shows)`."""

    clip: str
    frames: Sequence[int]
    scene: str = "city"
    weather: str = "any"
    modality: str = "infrared"
    time_of_day: str = "night"
    frame_step: int = 1
    breaks: Sequence[int] = ()
    shows: int = 0
    fps: int = 25
    image_format: formats.ImageFormat = "png"


def still(number: int, *, gray: bool = True, width: int = 96, height: int = 64) -> np.ndarray:
    """u8 [height, width, 1 or 3]."""
    frame = picture(number, width, height)
    return frame[:, :, :1] if gray else frame


def still_bytes(number: int, image_format: formats.ImageFormat = "png", **options: Any) -> bytes:
    frame = still(number, **options)
    return formats.encode(frame.astype(np.uint16) * 100 if image_format == "png16" else frame, image_format)


def make_part(root: Path, name: str, split: str, *footage: Footage) -> folder.ShardFolder:
    """A part of a data set, 8 samples a shard."""
    indexes, facts = [], {}
    for of in footage:
        facts[of.clip] = ClipFacts(
            clip_id=of.clip, scene=of.scene, weather=of.weather, modality=of.modality, time_of_day=of.time_of_day,
            time_base=f"1/{of.fps}", nominal_fps=float(of.fps), frame_step=of.frame_step,
            clip_frames=max(of.frames) + 1,
        )  # fmt: skip
        shards = []
        for number, start in enumerate(range(0, len(of.frames), 8)):
            suffix = formats.suffix_of(of.image_format)
            with open_shard(root / name, shard_name("made", of.clip, number), image_format=suffix) as handle:
                for frame in of.frames[start : start + 8]:
                    data = still_bytes(frame + of.shows, of.image_format, gray=of.modality == "infrared")
                    size_px = size_of(data, name=of.clip)
                    told = sample_json.to_bytes(
                        sample_json.facts_of(facts[of.clip], f"1/{of.fps}", frame, frame, size_px)
                    )
                    handle.writer.add(of.clip, frame, frame, data, told, size_px=size_px)
            assert handle.info is not None
            shards.append((handle.info, handle.writer.entries))
        runs = run_ids(np.array(of.frames), frame_step=of.frame_step, break_frames=of.breaks)
        indexes.append(
            sample_index.from_entries(
                clip_id=of.clip, frame_step=of.frame_step, image_format=suffix, shards=shards, run_ids=runs
            )
        )
    return folder.write_folder(root, name, sample_index.concatenate(indexes), facts, split=split)


def put(folder: Path, pictures: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def samples_of(root: Path) -> dict[tuple[str, str], bytes]:
    """The picture of each sample by its part and key."""
    from infraredcity.shards.by_row import ShardFiles

    found = {}
    for part in dataset.open_dataset(root):
        with ShardFiles(part.index, part.path) as files:
            found |= {(part.name, part.index.key(row)): files.image(row) for row in range(len(part.index))}
    return found


def windows_of(root: Path) -> set[tuple[str, str, str]]:
    """Every pair of true neighbours of a data set: part and both keys."""
    found = set()
    for part in dataset.open_dataset(root):
        for start, length in part.index.stretches().tolist():
            found |= {
                (part.name, part.index.key(row), part.index.key(row + 1)) for row in range(start, start + length - 1)
            }
    return found
