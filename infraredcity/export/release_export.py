"""Write a data set in the folders of the published Lite, for training code that reads those: CUT, ROMA's reference.

`release.json` is begun before the first picture and ended after the last one. It lists every file, so that a killed run goes on,
that only what was written here is deleted, and that `infraredcity import` finds the clips and their runs again.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from infraredcity.clips import WORDS
from infraredcity.datasets.build import hash_of, restored, stored
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.folder import ShardFolder
from infraredcity.errors import ImageError, ManifestError, OutputError, ShardError, check_choice
from infraredcity.export.release_layout import (
    CELL_FOLDERS,
    CELLS,
    DOUBLE_SIDE_PX,
    KIND_FOLDERS,
    KINDS,
    RECORD_FORMAT,
    RECORD_NAME,
    Kind,
)
from infraredcity.files.atomic import fsync_folder, write_atomic
from infraredcity.files.lock import lock_folder
from infraredcity.files.records import read_json
from infraredcity.files.temporary import is_temporary, remove_temporaries, temporary_beside
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.names import is_inside
from infraredcity.stills import formats, framing
from infraredcity.stills.decode import decode_any
from infraredcity.threads import num_cores

DoubleFormat = Literal["jpg", "png"]
DOUBLE_FORMATS: tuple[DoubleFormat, ...] = ("jpg", "png")
Pairs = Literal["overlapping", "disjoint"]
PAIRS: tuple[Pairs, ...] = ("overlapping", "disjoint")
QUALITY = 95
_TASK_FRAMES = 64
"""Pairs that one thread makes in a row, so that a frame of two pairs is decoded once."""
_MIN_THREADS = 4
"""More than a small machine has cores: half of the time goes into waiting for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    """What one folder of the layout holds."""

    folder: str
    num_pictures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Frames that have no place in a kind of the layout, and why."""

    kind: Kind
    reason: str
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReport:
    """What was exported; stored in release.json."""

    folder: str
    """Where it lies."""
    kinds: tuple[Kind, ...]
    """"single", "double"."""
    pairs: Pairs
    """Which pairs of neighbours Double holds: all ("overlapping"), or each frame once ("disjoint")."""
    rows: tuple[ReleaseRow, ...]
    """One for each folder."""
    left_out: tuple[LeftOut, ...]
    """Frames without a place."""
    num_foreign_files: int = 0
    """Files in these folders that this command did not write; a training run would read them too."""
    is_new: bool = True
    """False when all of it was there already."""

    @property
    def num_pictures(self) -> int:
        """Count the pictures of all folders."""
        return sum(row.num_pictures for row in self.rows)


@dataclass(frozen=True, slots=True)
class _Task:
    """Pictures of one part for one folder: a row each, or the first row of each pair; all rows are neighbours for pairs."""

    part: ShardFolder
    kind: Kind
    folders: tuple[str, ...]
    rows: tuple[int, ...]
    suffix: str

    def names(self) -> list[str]:
        return [f"{self.part.index.key(row)}.{self.suffix}" for row in self.rows]


@dataclass(slots=True)
class _Plan:
    tasks: list[_Task] = field(default_factory=list)
    left_out: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def files(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for task in self.tasks:
            for folder in task.folders:
                found.setdefault(folder, []).extend(task.names())
        return found


def export(
    root: Path,
    out: Path,
    *,
    kinds: Sequence[Kind] = KINDS,
    pairs: Pairs = "overlapping",
    double_format: DoubleFormat = "jpg",
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ReleaseReport:
    """Write a data set in the layout of the published Lite.

    Single holds the bytes of the pictures as they are. Double holds neighbours of one run, resized to 256x256 each. A file is named
    by the key of its frame, the first one's for a pair. What two weathers share is one file with two names where the disk can.

    Args:
        root: A data set with train and test splits, such as a Lite set.
        out: Folder to write.
        kinds: What to write.
        pairs: For Double: "overlapping" takes every two neighbours, as the reference's training does, so that a run of N frames
            gives N - 1 pairs; "disjoint" takes each frame once at most.
        double_format: For Double: "jpg" of quality 95, or "png".
        overwrite: Replace another export in `out`, or write among other files, which stay.
        on_progress: Told of pictures written.

    Raises:
        ManifestError: The set is empty or unfinished, or nothing of it has a place in the layout.
        ShardError: A picture is not what its index says.
        ImageError: A picture cannot be decoded, or has 16 bits, which jpg cannot hold.
        OutputError: `out` holds something else, or cannot be written.
    """
    check_choice("pairs", pairs, PAIRS)
    check_choice("double_format", double_format, DOUBLE_FORMATS)
    for kind in kinds:
        check_choice("kinds", kind, KINDS)
    parts = open_dataset(root)
    plan = _planned(parts, kinds, pairs, double_format)
    if not plan.tasks:
        why = "; ".join(f"{count:,} frames: {reason}" for (_, reason), count in sorted(plan.left_out.items()))
        raise ManifestError(f"{root}: nothing of it has a place in the release's layout ({why or 'no samples'})")
    files = plan.files()
    doubled = [folder for folder, names in files.items() if len({*names}) != len(names)]
    if doubled:
        raise ManifestError(
            f"{root}: two samples of one key would become one file of {doubled[0]}; choose one with select"
        )
    inputs = {
        "parts": {part.name: [part.split, part.index.samples_hash()] for part in parts},
        "kinds": list(kinds),
        "pairs": pairs,
        "double_format": double_format,
    }
    with lock_folder(out):
        record = _Record(out=out, inputs=inputs, files=files, clips=_clip_notes(parts))
        existing = record.find_existing(overwrite=overwrite)
        if existing.report is not None:
            return restored(
                ReleaseReport, existing.report, record.path,
                folder=str(out), num_foreign_files=record.num_foreign(), is_new=False,
            )  # fmt: skip
        record.write(None)
        _write_all(plan, out, existing.goes_on, on_progress)
        report = ReleaseReport(
            folder=str(out),
            kinds=tuple(kinds),
            pairs=pairs,
            rows=tuple(ReleaseRow(folder=folder, num_pictures=len(names)) for folder, names in sorted(files.items())),
            left_out=tuple(
                LeftOut(kind=kind, reason=reason, num_frames=count)
                for (kind, reason), count in sorted(plan.left_out.items())
            ),
            num_foreign_files=record.num_foreign(),
        )
        record.write(stored(report, without=("folder", "is_new", "num_foreign_files")))
        return report


def _planned(parts: Sequence[ShardFolder], kinds: Sequence[Kind], pairs: Pairs, double_format: DoubleFormat) -> _Plan:
    plan = _Plan()
    weathers = _weathers_with_infrared(parts)
    for part in parts:
        index = part.index
        stretches = index.stretches().tolist()
        for number, clip_id in enumerate(index.clips):
            rows = np.flatnonzero(index.clip == number).tolist()
            facts = part.clips[clip_id]
            homes = _homes(facts, part.split, weathers)
            for kind in kinds:
                if isinstance(homes, str):
                    plan.left_out[kind, homes] += len(rows)
                    continue
                folders = tuple(f"{KIND_FOLDERS[kind]}/{home}" for home in homes)
                if kind == "single":
                    plan.tasks += [
                        _Task(part, kind, folders, tuple(rows[start : start + _TASK_FRAMES]), index.image_format)
                        for start in range(0, len(rows), _TASK_FRAMES)
                    ]
                    continue
                for start, length in stretches:
                    if int(index.clip[start]) != number:
                        continue
                    firsts = range(start, start + length - 1, 1 if pairs == "overlapping" else 2)
                    paired = len(firsts) * 2 if pairs == "disjoint" else length if length > 1 else 0
                    if paired < length:
                        plan.left_out[kind, "no neighbour in time to make a pair with"] += length - paired
                    plan.tasks += [
                        _Task(part, kind, folders, tuple(firsts[place : place + _TASK_FRAMES]), double_format)
                        for place in range(0, len(firsts), _TASK_FRAMES)
                    ]
    return plan


def _weathers_with_infrared(parts: Sequence[ShardFolder]) -> dict[str, set[str]]:
    """Return for each scene the weathers of its infrared clips: those whose trainB is of use."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for clip_id in part.index.clips:
            facts = part.clips[clip_id]
            if facts.modality == "infrared":
                found.setdefault(facts.scene, set()).add(facts.weather)
    return found


def _homes(facts: ClipFacts, split: str, weathers: Mapping[str, set[str]]) -> tuple[str, ...] | str:
    """Return the folders of a clip's frames below that of the kind, or why it has no folder."""
    cells = [cell for cell in CELLS if cell.scene == facts.scene]
    if not cells:
        return f"scene {facts.scene}, the layout has {', '.join(dict.fromkeys(cell.scene for cell in CELLS))}"
    if facts.modality == "visible" and facts.time_of_day != "day":
        return f"visible by {facts.time_of_day}, the layout has visible frames only by day"
    place = next((place for place in CELL_FOLDERS if (place.modality, place.split) == (facts.modality, split)), None)
    if place is None:
        if split == "all":
            return "of no split; draw train and test frames with make-lite"
        return f"{facts.modality} {split}, the layout has no folder for it"
    if cells[0].weather != "any":
        if facts.modality == "infrared":
            cells = [cell for cell in cells if cell.weather == facts.weather]
            if not cells:
                return f"{facts.scene} in weather {facts.weather}, the layout has clear and overcast"
        else:
            used = [cell for cell in cells if cell.weather in weathers.get(facts.scene, set())]
            cells = used or cells
    return tuple(f"{cell.folder}/{place.folder}" for cell in cells)


def _clip_notes(parts: Sequence[ShardFolder]) -> dict[str, dict[str, Any]]:
    """Note what the layout loses of each clip and import needs: its facts, and where a run begins though its numbers go on."""
    notes: dict[str, dict[str, Any]] = {}
    for part in parts:
        index = part.index
        for number, clip_id in enumerate(index.clips):
            facts = part.clips[clip_id]
            entry = notes.setdefault(
                clip_id,
                {
                    **{name: getattr(facts, name) for name in WORDS},
                    "nominal_fps": facts.nominal_fps,
                    "frame_step": index.frame_steps[number],
                    "run_starts": [],
                },
            )
            entry["run_starts"] = sorted({*entry["run_starts"], *_hidden_run_starts(index, number)})
    return notes


def _hidden_run_starts(index: SampleIndex, number: int) -> list[int]:
    rows = np.flatnonzero(index.clip == number)
    frames, runs = index.frame_index[rows], index.run_id[rows]
    goes_on = np.diff(frames) == index.frame_steps[number]
    starts: list[int] = frames[1:][goes_on & (np.diff(runs) != 0)].tolist()
    return starts


@dataclass(frozen=True, slots=True)
class _Existing:
    """What is in the folder: the report of a whole export, or whether a killed one can go on."""

    report: dict[str, Any] | None = None
    goes_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """release.json of an export: what it is made from, and every file of it."""

    out: Path
    inputs: Mapping[str, Any]
    files: Mapping[str, Sequence[str]]
    clips: Mapping[str, Mapping[str, Any]]

    @property
    def path(self) -> Path:
        return self.out / RECORD_NAME

    def write(self, report: Mapping[str, Any] | None) -> None:
        record = {
            "format": RECORD_FORMAT,
            "inputs_hash": hash_of(self.inputs),
            "inputs": self.inputs,
            "clips": self.clips,
            "files": self.files,
            "report": report,
        }
        write_atomic(self.path, (json.dumps(record, indent=0) + "\n").encode())

    def find_existing(self, *, overwrite: bool) -> _Existing:
        """Find the report of the same export with all its files; otherwise make the place ready, or find it taken.

        Of the same export that was killed, the files that are there stay; each was whole before it got its name.
        """
        self._check_inside()
        if not self.path.exists():
            taken = sorted(folder for folder in self.files if self._names(folder))
            if taken and not overwrite:
                raise OutputError(
                    f"{self.out / taken[0]}: holds files that are of no {RECORD_NAME}; use another --to, or --overwrite to "
                    "write among them"
                )
            return _Existing()
        try:
            record = read_json(self.path)
            report = None if record["report"] is None else dict(record["report"])
            same = record["format"] == RECORD_FORMAT and record["inputs_hash"] == hash_of(self.inputs)
            files = _listed(record["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not overwrite:
                raise OutputError(
                    f"{self.path}: damaged ({error}); use another --to, or --overwrite to write among what is there"
                ) from error
            return _Existing()
        if not overwrite:
            if same:
                is_whole = all({*names} <= self._names(folder) for folder, names in self.files.items())
                return _Existing(report=report if is_whole else None, goes_on=True)
            if report is not None:
                raise OutputError(
                    f"{self.out}: holds an export of other settings or of another data set; use another --to, or --overwrite"
                )
        self._remove(files)
        return _Existing()

    def num_foreign(self) -> int:
        """Count the files among those of the export that it did not write."""
        return sum(len(self._names(folder) - {*names}) for folder, names in self.files.items())

    def _names(self, folder: str) -> set[str]:
        place = self.out / folder
        return {path.name for path in place.iterdir() if not is_temporary(path)} if place.is_dir() else set()

    def _check_inside(self) -> None:
        for folder in self.files:
            if not (self.out / folder).resolve().is_relative_to(self.out.resolve()):
                raise OutputError(f"{self.out / folder}: leads out of {self.out}; remove the link, or use another --to")

    def _remove(self, files: Mapping[str, Sequence[str]]) -> None:
        """Delete what a record lists, and folders that are empty then."""
        self.path.unlink(missing_ok=True)
        for folder, names in files.items():
            place = self.out / folder
            if not place.is_dir() or not place.resolve().is_relative_to(self.out.resolve()):
                continue
            remove_temporaries(place)
            for name in names:
                with suppress(IsADirectoryError):
                    (place / name).unlink(missing_ok=True)
            while place != self.out:
                with suppress(OSError):  # something of the user's is in there
                    place.rmdir()
                place = place.parent


def _listed(files: Any) -> dict[str, list[str]]:
    """List the files of a record; ValueError for one that would lead out of its folder."""
    found: dict[str, list[str]] = {}
    for folder, names in files.items():
        if not is_inside(folder) or folder.split("/")[0] not in KIND_FOLDERS.values():
            raise ValueError(f"folder {folder!a}")
        for name in names:
            if not isinstance(name, str) or "/" in name or not is_inside(name):
                raise ValueError(f"file {name!a}")
        found[folder] = list(names)
    return found


def _write_all(plan: _Plan, out: Path, goes_on: bool, on_progress: OnProgress | None) -> None:
    for folder in plan.files():
        try:
            (out / folder).mkdir(parents=True, exist_ok=True)
            remove_temporaries(out / folder)
        except OSError as error:
            raise OutputError(f"{out / folder}: cannot be written: {error.strerror}") from error
    files = {id(task.part): ShardFiles(task.part.index, task.part.path) for task in plan.tasks}
    total = sum(len(task.rows) for task in plan.tasks)
    ticker = Ticker("release: pictures", total, on_progress)

    def write(task: _Task) -> int:
        if task.kind == "single":
            _write_single(task, files[id(task.part)], out)
        else:
            _write_double(task, files[id(task.part)], out, goes_on)
        return len(task.rows)

    pool = ThreadPoolExecutor(max(_MIN_THREADS, num_cores()), thread_name_prefix="release")
    try:
        for count in pool.map(write, plan.tasks):
            ticker.add(count)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for opened in files.values():
            opened.close()


def _write_single(task: _Task, files: ShardFiles, out: Path) -> None:
    for row, name in zip(task.rows, task.names(), strict=True):
        path = out / task.folders[0] / name
        write_atomic(path, _picture(task.part, files, row))
        _share(path, [out / folder / name for folder in task.folders[1:]])


def _write_double(task: _Task, files: ShardFiles, out: Path, goes_on: bool) -> None:
    kept: dict[int, np.ndarray] = {}

    def half(row: int) -> np.ndarray:
        if row not in kept:
            name = task.part.index.key(row)
            kept[row] = _half(_picture(task.part, files, row), name=name)
        return kept[row]

    for row, name in zip(task.rows, task.names(), strict=True):
        path = out / task.folders[0] / name
        if not (goes_on and path.is_file()):  # what the same export wrote before it was killed is whole
            write_atomic(path, _side_by_side(half(row), half(row + 1), task.suffix, name=name))
        _share(path, [out / folder / name for folder in task.folders[1:]])
        for gone in [each for each in kept if each <= row]:
            del kept[gone]


def _picture(part: ShardFolder, files: ShardFiles, row: int) -> bytes:
    data = files.image(row)
    if hashlib.sha256(data).digest() != part.index.sha256[row].tobytes():
        shard = part.path / part.index.shards[int(part.index.shard[row])].name
        raise ShardError(
            f"{shard}: {part.index.key(row)} is not the picture that was written; copy the shard again, or extract anew"
        )
    return data


def _half(data: bytes, *, name: str) -> np.ndarray:
    """Resize to u8 [256, 256, 1 or 3] or u16 [256, 256, 1]; what shows no colour has one channel."""
    picture = decode_any(data, name=name)
    if picture.shape[2] == 3 and (picture[:, :, :1] == picture[:, :, 1:]).all():
        picture = picture[:, :, :1]
    return framing.resize(picture, DOUBLE_SIDE_PX, DOUBLE_SIDE_PX)


def _side_by_side(left: np.ndarray, right: np.ndarray, suffix: str, *, name: str) -> bytes:
    if left.dtype != right.dtype:
        raise ImageError(f"{name}: its frames have 8 and 16 bits; extract the clip anew in one format")
    if left.dtype == np.uint16 and suffix == "jpg":
        raise ImageError(f"{name}: a png of 16 bits cannot become a jpg; use --format png, or extract with a tone")
    channels = max(left.shape[2], right.shape[2])
    both = np.concatenate([np.broadcast_to(side, (*side.shape[:2], channels)) for side in (left, right)], axis=1)
    image_format: formats.ImageFormat = "png16" if both.dtype == np.uint16 else "png" if suffix == "png" else "jpg"
    return formats.encode(both, image_format, quality=QUALITY)


def _share(path: Path, others: Sequence[Path]) -> None:
    """Give a file more names, or copies where the disk knows no second name."""
    for other in others:
        temporary = temporary_beside(other)
        try:
            if other.exists() and (other.samefile(path) or other.read_bytes() == path.read_bytes()):
                continue
            _link_or_copy(path, temporary)
            temporary.replace(other)
            fsync_folder(other.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OutputError(f"{other}: cannot be written: {error.strerror}") from error


def _link_or_copy(path: Path, temporary: Path) -> None:
    try:
        temporary.hardlink_to(path)
    except OSError:  # a disk without links, or with too many of them
        shutil.copyfile(path, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
