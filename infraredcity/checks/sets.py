"""Check that the parts of a data set fit together: keys, the manifest of all, and the record of how the set was made."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from infraredcity.checks.expected import MANIFEST_NAMES, manifest_problem
from infraredcity.checks.findings import Findings, Found
from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import dataset_hash
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import Columns
from infraredcity.datasets.walk import JOB_NAME, RECORD_NAMES
from infraredcity.errors import MissingExtraError
from infraredcity.files.path import AnyPath
from infraredcity.files.records import read_json
from infraredcity.shards.names import key_of

LITE_NAME = "lite.json"


def check_manifests(folder: AnyPath, parts: Sequence[ShardFolder], place: str, findings: Findings) -> None:
    """Check manifest.csv and manifest.parquet of a folder against the index and clips.json of its parts.

    Args:
        folder: Where they are.
        parts: The parts they describe.
        place: Name of that folder below the data set's own.
        findings: Takes what is found.
    """
    for name in MANIFEST_NAMES:
        path = folder / name
        try:
            problem = manifest_problem(path, lambda: blocks_below(parts, place))
        except MissingExtraError as error:
            findings.notes.append(f"{path}: was not compared: {error}")
            continue
        if problem is not None:
            findings.of_part(place)(name, "manifest", f'{path}: {problem}; rebuild it with "infraredcity repair"')


def check_begun(root: AnyPath, folders: Mapping[str, set[str]], names: Sequence[str], findings: Findings) -> None:
    """Check for folders in which work began and that hold no shard."""
    for name, files in folders.items():
        place = root / name
        if JOB_NAME in files and name not in names:
            findings.of_part(name)(
                JOB_NAME, "unfinished", f"{place}: extraction was begun here; run the same extract command again"
            )
        for record in (record for record in RECORD_NAMES if record in files):
            if not any(each == name or name == "." or each.startswith(f"{name}/") for each in names):
                findings.of_part(name)(
                    record,
                    "missing-part",
                    f"{place / record}: no part of its data set is there; make the set again with --overwrite",
                )


def check_set(
    root: AnyPath,
    place: str,
    parts: Sequence[ShardFolder],
    members: Sequence[str],
    findings: Findings,
    *,
    is_quick: bool,
) -> str | None:
    """Check that parts fit together; return the hash of all their rows, or None where one could not be opened."""
    found = findings.of_part(place)
    folder = root / place
    has_record = any((folder / record_name).is_file() for record_name in RECORD_NAMES)
    has_manifest = place not in members and any((folder / name).is_file() for name in MANIFEST_NAMES)
    _check_keys(folder, parts, found)
    if has_record and not has_manifest and place not in members:
        found(manifest.CSV_NAME, "manifest", f'{folder}: lacks its manifest; run "infraredcity repair"')
    hash_of_all = None
    if len(parts) == len(members):
        if has_manifest and not is_quick:
            check_manifests(folder, parts, place, findings)
        hash_of_all = dataset_hash(parts)
    for record_name in RECORD_NAMES:
        path = folder / record_name
        if path.is_file():
            _check_record(path, place, parts, hash_of_all, found)
    return hash_of_all


def _check_keys(folder: AnyPath, parts: Sequence[ShardFolder], found: Found) -> None:
    """Check that no key occurs twice, in one part or in two."""
    places: dict[str, list[tuple[int, np.ndarray]]] = {}
    for number, part in enumerate(parts):
        for of_clip, clip_id in enumerate(part.index.clips):
            frames = part.index.frame_index[part.index.clip == of_clip]
            places.setdefault(clip_id, []).append((number, frames))
    for clip_id, of_parts in places.items():
        frames = np.concatenate([frames for _, frames in of_parts])
        holders = np.concatenate([np.full(len(frames), number) for number, frames in of_parts])
        order = np.argsort(frames, kind="stable")
        doubled = np.flatnonzero(np.diff(frames[order]) == 0)
        pairs = {(int(holders[order[at]]), int(holders[order[at + 1]])): int(frames[order[at]]) for at in doubled[::-1]}
        for (one, other), frame_index in sorted(pairs.items()):
            count = sum((int(holders[order[at]]), int(holders[order[at + 1]])) == (one, other) for at in doubled)
            key = key_of(clip_id, frame_index)
            found(
                key,
                "doubled-key",
                f"{folder}: {count} keys are in {parts[one].name} and in {parts[other].name}, the first is {key}; a sample "
                "belongs to one place",
            )


def blocks_below(parts: Sequence[ShardFolder], place: str) -> Iterator[Columns]:
    """Yield the manifest of some parts with shards named from a folder above them."""
    for part in parts:
        yield from manifest.blocks(part.index, part.clips, split=part.split, folder=below(part.name, place))


def below(name: str, place: str) -> str:
    """Name a part from a folder above it."""
    return name if place == "." else PurePosixPath(name).relative_to(place).as_posix()


def _check_record(
    path: AnyPath, place: str, parts: Sequence[ShardFolder], hash_of_all: str | None, found: Found
) -> None:
    try:
        record = read_json(path)
        report = record["report"]
        folders = {str(folder) for folder in record["folders"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        found(path.name, "record", f"{path}: damaged ({error}); make the set again with --overwrite")
        return
    if report is None:
        found(path.name, "unfinished", f"{path}: the set is not finished; run the same command again")
        return
    names = {below(part.name, place) for part in parts}
    for folder in sorted(folders - names):
        found(
            folder,
            "missing-part",
            f'{path}: names {folder!a}, which is not there or cannot be opened; run "infraredcity repair", or make the set again',
        )
    if hash_of_all is not None and not folders - names:
        for folder in sorted(names - folders):
            found(folder, "unknown-part", f"{path}: does not name {folder}; remove that folder from the set")
        try:
            if report["manifest_hash"] != hash_of_all:
                found(
                    path.name,
                    "manifest-hash",
                    f"{path}: says manifest hash {str(report['manifest_hash'])[:8]}..., the parts have another: samples were "
                    "changed or are of another build; make the set again with --overwrite",
                )
            if path.name == LITE_NAME:
                _check_lite(path, report, place, parts, found)
        except (KeyError, TypeError, ValueError) as error:
            found(path.name, "record", f"{path}: lacks a fact ({error}); make the set again with --overwrite")


def _check_lite(
    path: AnyPath, report: Mapping[str, Any], place: str, parts: Sequence[ShardFolder], found: Found
) -> None:
    """Check the counts of lite.json, and the guard gap between train and test frames of a clip."""
    counted = Counter(
        (below(part.name, place), part.index.clips[number], part.split)
        for part in parts
        for number in part.index.clip.tolist()
    )
    recorded = {(row["folder"], row["clip"], row["split"]): int(row["num_frames"]) for row in report["rows"]}
    for cell in sorted({*counted, *recorded}):
        if counted[cell] != recorded.get(cell, 0):
            found(
                path.name,
                "count",
                f"{path}: says {recorded.get(cell, 0)} frames of {cell[1]} in {cell[0]}, there are {counted[cell]}",
            )
    frames: dict[tuple[str, str], list[np.ndarray]] = {}
    for part in parts:
        for number, clip_id in enumerate(part.index.clips):
            frames.setdefault((clip_id, part.split), []).append(part.index.frame_index[part.index.clip == number])
    for clip_id in sorted({clip for clip, _ in frames}):
        train, test = (
            np.sort(np.concatenate(frames.get((clip_id, split), [np.zeros(0, np.int64)])))
            for split in ("train", "test")
        )
        if len(train) == 0 or len(test) == 0:
            continue
        after = np.searchsorted(train, test)
        to_next = np.where(after < len(train), train[np.minimum(after, len(train) - 1)] - test, np.iinfo(np.int64).max)
        to_last = np.where(after > 0, test - train[np.maximum(after - 1, 0)], np.iinfo(np.int64).max)
        nearest = int(np.minimum(to_next, to_last).min()) - 1
        if nearest < int(report["guard_frames"]):
            found(
                clip_id,
                "guard",
                f"{path}: only {max(0, nearest)} frames of {clip_id} are between a train and a test frame, the guard is "
                f"{report['guard_frames']}",
            )
