"""Putting a data set right from its shards: what describes them anew, damaged shards without what is damaged.

A picture is good if it has the hash that was written down for it: in index.npz, or where that is lost in the manifests, or in the
markers of extraction. Where all are lost it is good if it decodes and its json agrees with its key; suspect and frozen marks cannot
be known then. What is good is kept byte for byte: a sample is its picture and facts, so a shard that is rewritten with all its
samples is the one written first.

Nothing is deleted: a damaged shard keeps a second name, `<name>.damaged`. While a folder is changed it has no clips.json, so that
nobody takes it for whole; killed at any moment, the same command goes on.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import (
    GAPS_NAME,
    JOB_NAME,
    MARKERS,
    RECORD_NAMES,
    Part,
    counted,
    facts_json,
    facts_of,
    open_part,
    part_names,
    reader_name,
    rows_of,
    sets_of,
    write_manifest,
    write_part,
)
from infraredcity.datasets.manifest import ClipFacts, Columns
from infraredcity.errors import ImageError, ManifestError, OutputError, ShardError
from infraredcity.extraction import segment_record
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.files.atomic import (
    TEMPORARY_PREFIX,
    fsync_folder,
    is_temporary,
    lock_folder,
    open_atomic,
    remove_temporaries,
    write_atomic,
)
from infraredcity.files.records import MAX_SIDECAR_BYTES, opened, parse_json, read_json, read_whole
from infraredcity.progress import OnProgress, Progress
from infraredcity.shards import index as sample_index
from infraredcity.shards import names, sidecars
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT, IndexEntry, SampleIndex, ShardInfo
from infraredcity.shards.names import BLOCK_BYTES, parse_key
from infraredcity.shards.reader import Refused, Sample, iterate
from infraredcity.shards.writer import ShardWriter, open_shard
from infraredcity.stills import images

DAMAGED_SUFFIX = ".damaged"
_ASIDE_NAME = f"{TEMPORARY_PREFIX}repair-{manifest.CLIPS_NAME}"
"""clips.json while a folder is changed; whoever makes the folder anew takes it for the leftover that it is then."""
_LOST = "lost with a damaged shard; extract the clip again"
_UNKNOWN = "left out by extraction; the reason was lost with gaps.json"
_FACT_NAMES = ("scene", "weather", "modality", "time_of_day", "time_base")
"""What the json of every sample says of its clip, as clips.json does."""
_MARK_BITS = {"suspect": SUSPECT, "repeat": REPEAT, "frozen": FROZEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Frames of a clip that are in no shard any more: first_frame to last_frame, both included, and how to get them back."""

    part: str
    clip_id: str
    first_frame: int
    last_frame: int
    num_frames: int
    what_to_do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What repair did, or would do.

    Attributes:
        folder: The data set.
        num_parts: Parts that were looked at.
        num_samples: Samples that are there afterwards.
        actions: What was put right, a line each; empty when nothing was wrong.
        lost: What must be extracted again.
        unsolved: What is wrong still, and what to do about it.
        notes: What else to know.
        is_dry_run: Whether nothing was changed.
    """

    folder: str
    num_parts: int
    num_samples: int
    actions: tuple[str, ...]
    lost: tuple[Loss, ...]
    unsolved: tuple[str, ...]
    notes: tuple[str, ...]
    is_dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part(Part):
    """A part on a disk here: nothing is repaired elsewhere."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What was written down of a sample."""

    key: str
    shard: str
    sha256: bytes
    pts: int
    run_id: int
    mark: int
    dup_of: bytes
    size_px: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """What was written down of the samples of a part.

    Attributes:
        source: The file that says it.
        known: The samples by key, in order.
        shard_hashes: sha256 of whole shards, where the source has them.
        frame_steps: For each clip, frames from one sample to the next, where the source has them.
        has_marks: Whether runs and marks are in it as they were.
    """

    source: str
    known: dict[str, _Known]
    shard_hashes: dict[str, str] = field(default_factory=dict)
    frame_steps: dict[str, int] = field(default_factory=dict)
    has_marks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A picture as it stands in a file: its key, where it is, its hash, and whether all around it is as it should be.

    `size_px` is the width and height that its header tells, None where it cannot be read.
    """

    key: str
    path: Path
    offset: int
    size: int
    sha256: bytes
    size_px: tuple[int, int] | None
    span: int
    members: tuple[str, ...]
    facts: bytes


@dataclass(slots=True)
class _Tar:
    """What walking one file gave; `name` is the one that it should have."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    seen: list[_Seen]
    is_clean: bool


@dataclass(slots=True)
class _State:
    is_dry_run: bool
    actions: list[str] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    unsolved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_samples: int = 0
    moved: dict[Path, Path] = field(default_factory=dict)
    """Where the bytes are that a path had when it was walked, for files that were replaced."""
    rewritten: set[Path] = field(default_factory=set)


def repair(root: Path, *, dry_run: bool = False, on_progress: OnProgress | None = None) -> RepairReport:
    """Rebuild what describes the shards of a data set, and rewrite damaged shards with the samples that are whole.

    Args:
        root: A part, a data set, or a folder of data sets.
        dry_run: Only say what would be done.
        on_progress: Told of parts that were looked at.

    Raises:
        ManifestError: There is no data set.
        OutputError: Another run is writing there, or the folder cannot be written.
    """
    names = part_names(root)
    if not names:
        what = "no such folder" if not root.is_dir() else "holds no shards"
        raise ManifestError(f"{root}: {what}; name a folder that extract, make-lite or shard wrote")
    manifest.check_packages()
    state = _State(is_dry_run=dry_run)
    done = 0
    for place, members in sets_of(root, names).items():
        with _held(root / place, is_dry_run=dry_run) if place is not None else nullcontext():
            for name in members:
                with _held(root / name, is_dry_run=dry_run) if name != place else nullcontext():
                    try:
                        _repair_part(root, name, place, state)
                    except OSError as error:
                        reason = (error.strerror or str(error)).lower()
                        raise OutputError(
                            f"{root / name}: cannot be repaired: {reason}; see to that and run it again"
                        ) from error
                done += 1
                if on_progress is not None:
                    on_progress(Progress(what="parts", done=done, total=len(names)))
            if place is not None:
                _repair_set(root, place, members, state)
    return RepairReport(
        folder=str(root),
        num_parts=len(names),
        num_samples=state.num_samples,
        actions=tuple(state.actions),
        lost=tuple(state.lost),
        unsolved=tuple(state.unsolved),
        notes=tuple(state.notes),
        is_dry_run=dry_run,
    )


def _held(folder: Path, *, is_dry_run: bool) -> AbstractContextManager[None]:
    return nullcontext() if is_dry_run else lock_folder(folder)


def _repair_part(root: Path, name: str, place: str | None, state: _State) -> None:
    folder = root / name
    clips, split = _read_facts(folder)
    if any(facts.extraction.get("to") == "frames" for facts in clips.values()):
        state.notes.append(f"{folder}: holds plain image files, which nothing is rebuilt from; extract the clip again")
        return
    if not clips and _is_begun(folder):
        state.unsolved.append(f"{folder}: extraction is not finished; run the same extract command again")
        return
    tars = [_walk(path) for path in sorted(folder.glob("*.tar")) if not is_temporary(path)]
    reference = _best_reference(root, name, place, tars)
    clips = _facts_put_right(folder, clips, tars, reference, state)
    if not clips:
        state.unsolved.append(f"{folder}: no sample in it can be read, so nothing can be rebuilt; extract again")
        return
    if reference is None:
        reference = _reference_of_samples(tars, clips)
    if not reference.has_marks:
        state.notes.append(
            f"{folder}: index and manifests were lost or are of another build, this was rebuilt from {reference.source}: runs are "
            "those of frames without gaps, repeats were found again, frozen marks are unknown"
            + ("" if reference.shard_hashes else ", suspect marks too")
        )
    reference = replace(
        reference, known={key: each for key, each in reference.known.items() if parse_key(key)[0] in clips}
    )
    _put_names_right(folder, tars, reference, state)
    part = _Part(path=folder, name=name, index=_empty_index(clips, reference, tars), clips=clips, split=split)
    index, lost = _rebuilt(part, tars, reference, state)
    part = replace(part, index=index)
    state.num_samples += len(index)
    _write(root, part, lost, state)


def _is_begun(folder: Path) -> bool:
    """Whether an extraction has begun and not come to its end, of which gaps.json is the first sign."""
    names = (GAPS_NAME, sample_index.INDEX_NAME, manifest.CSV_NAME, manifest.PARQUET_NAME)
    return (folder / JOB_NAME).is_file() and not any((folder / name).is_file() for name in names)


def _read_facts(folder: Path) -> tuple[dict[str, ClipFacts], str]:
    with suppress(ManifestError):
        return _sound(*manifest.read_unchecked(folder))
    with suppress(ManifestError), TemporaryDirectory() as elsewhere:
        if (folder / _ASIDE_NAME).is_file():  # a repair was killed
            shutil.copyfile(folder / _ASIDE_NAME, Path(elsewhere) / manifest.CLIPS_NAME)
            return _sound(*manifest.read_unchecked(Path(elsewhere)))
    split = folder.name.rpartition("-")[2]  # as make-lite names its folders
    return {}, split if split in ("train", "test") else "all"


def _sound(clips: Mapping[str, ClipFacts], split: str) -> tuple[dict[str, ClipFacts], str]:
    """The clips whose facts can be worked with; those of the others are as good as lost."""
    return {clip_id: facts for clip_id, facts in clips.items() if manifest.flaw_of(clip_id, facts) is None}, split


def _begin(folder: Path, state: _State) -> None:
    """Take the sign of completeness from a folder before something in it is changed."""
    path = folder / manifest.CLIPS_NAME
    if not state.is_dry_run and path.is_file():
        path.replace(folder / _ASIDE_NAME)
        fsync_folder(folder)


def _best_reference(root: Path, name: str, place: str | None, tars: Sequence[_Tar]) -> _Reference | None:
    """What was written down and fits the samples best; None where nothing was, or where it is of another build."""
    pictures = {(seen.key, seen.sha256) for tar in tars for seen in tar.seen}
    best: _Reference | None = None
    most = -1
    for reference in _references(root, name, place):
        count = sum((each.key, each.sha256) in pictures for each in reference.known.values())
        if count > most:
            best, most = reference, count
        if count == len(reference.known) == len(pictures):
            break
    # Shards in which nothing is damaged and no picture is the one that was written down: nobody wrote that down of them.
    is_of_another = most == 0 and len(pictures) > 1 and all(tar.is_clean for tar in tars)
    return None if is_of_another else best


def _references(root: Path, name: str, place: str | None) -> Iterator[_Reference]:
    """All that was written down and can be read, what is nearest to the shards first."""
    folder = root / name
    try:
        index, stored_hash = sample_index.load_with_hash(folder)
        if stored_hash == index.rows_hash() and len(index):
            yield _reference_of_index(index)
    except ManifestError:
        pass
    places = [(folder / file, "") for file in (manifest.PARQUET_NAME, manifest.CSV_NAME)]
    if place is not None and place != name:
        below = Path(name).relative_to(place).as_posix()
        places += [(root / place / file, below) for file in (manifest.PARQUET_NAME, manifest.CSV_NAME)]
    for path, below in places:
        try:
            known = _known_of_rows(manifest.read(path), below)
        except (ManifestError, ValueError, KeyError):
            continue
        if known:
            yield _Reference(source=path.name, known=known)
    noted = _reference_of_markers(folder)
    if noted is not None:
        yield noted


def _reference_of_index(index: SampleIndex) -> _Reference:
    names = [info.name for info in index.shards]
    known = {
        index.key(row): _Known(
            key=index.key(row),
            shard=names[int(index.shard[row])],
            sha256=index.sha256[row].tobytes(),
            pts=int(index.pts[row]),
            run_id=int(index.run_id[row]),
            mark=int(index.mark[row]),
            dup_of=bytes(index.dup_of[row]),
            size_px=(int(index.width[row]), int(index.height[row])),
        )
        for row in range(len(index))
    }
    return _Reference(
        source=sample_index.INDEX_NAME,
        known=known,
        shard_hashes={info.name: info.sha256 for info in index.shards},
        frame_steps=dict(zip(index.clips, index.frame_steps, strict=True)),
    )


def _known_of_rows(rows: Columns, below: str) -> dict[str, _Known]:
    """The rows of a manifest whose shards lie in the folder `below` it; "" for its own."""
    known = {}
    for row, key in enumerate(rows["key"]):
        place, _, shard = rows["shard"][row].rpartition("/")
        if place != below:
            continue
        if not names.is_shard_name(shard):
            raise ValueError(f"shard name {shard!r}")
        parse_key(key)
        words = rows["mark"][row].split("+") if rows["mark"][row] else []
        known[key] = _Known(
            key=key,
            shard=shard,
            sha256=bytes.fromhex(rows["sha256"][row]),
            pts=rows["pts"][row],
            run_id=rows["run_id"][row],
            mark=sum(_MARK_BITS[word] for word in words),
            dup_of=rows["dup_of"][row].encode(),
            size_px=(rows["width"][row], rows["height"][row]),
        )
    return known


def _reference_of_markers(folder: Path) -> _Reference | None:
    """What extraction noted of each segment; None where it noted nothing."""
    clip_id = _job_of(folder).get("clip")
    entries: list[_Entry] = []
    hashes = {}
    for _, marker in _markers(folder):
        if marker is None or marker[0].shard is None or not names.is_shard_name(marker[0].shard.name):
            continue
        shard, rows = marker[0].shard, marker[1]
        suspects = {*rows.suspect}
        sizes = [(width, height) for count, width, height in rows.picture_sizes for _ in range(count)]
        for row, (frame, pts, size_px) in enumerate(zip(rows.frame_index, rows.pts, sizes, strict=True)):
            sha256 = rows.sha256[32 * row : 32 * row + 32]
            entries.append((frame, pts, sha256, shard.name, SUSPECT if frame in suspects else 0, size_px))
        hashes[shard.name] = shard.sha256
    if not entries or not isinstance(clip_id, str):
        return None
    frame_step = _job_of(folder)["config"]["every"]
    known = _known_of_one(clip_id, sorted(entries), frame_step)
    return _Reference(
        source="the markers of extraction",
        known=known,
        shard_hashes=hashes,
        frame_steps={clip_id: frame_step},
        has_marks=False,
    )


_Entry = tuple[int, int, bytes, str, int, tuple[int, int]]
"""Frame, pts, hash, shard, mark, and width and height."""


def _known_of_one(clip_id: str, entries: Sequence[_Entry], frame_step: int) -> dict[str, _Known]:
    """The samples of a clip, in order; runs and repeats are found anew."""
    frames = np.array([entry[0] for entry in entries], np.int64)
    marks = np.array([entry[4] for entry in entries], np.uint8)
    for row in range(1, len(entries)):
        if entries[row][2] == entries[row - 1][2] and frames[row] - frames[row - 1] == frame_step:
            marks[row] |= REPEAT
    sizes = np.array([entry[5] for entry in entries], np.int32).reshape(-1, 2)
    runs = sample_index.run_ids(frames, frame_step=frame_step, marks=marks, sizes=sizes)
    dup_of = sample_index.repeated(clip_id, frames, marks)
    known = {}
    for row, (frame_index, pts, sha256, shard, _, size_px) in enumerate(entries):
        key = names.key_of(clip_id, frame_index)
        known[key] = _Known(
            key=key, shard=shard, sha256=sha256, pts=pts, run_id=int(runs[row]), mark=int(marks[row]), dup_of=bytes(dup_of[row]),
            size_px=size_px,
        )  # fmt: skip
    return known


def _job_of(folder: Path) -> dict[str, Any]:
    """What extract.json says, where it says what it should."""
    try:
        job = read_json(folder / JOB_NAME)
        if isinstance(job["config"]["every"], int) and isinstance(job["clip"], str) and isinstance(job["facts"], dict):
            int(sum(source["num_frames"] for source in job["sources"]))
            return dict(job)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _walk(path: Path) -> _Tar:
    """What a file holds, as far as it can be read."""
    refused: list[Refused] = []
    seen: list[_Seen] = []
    is_clean = True
    try:
        for sample in iterate(path, on_refused=refused.append):
            found = _seen(path, sample)
            if found is None:
                is_clean = False
            else:
                seen.append(found)
    except ShardError:
        is_clean = False
    try:
        with opened(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError:  # a part of it cannot be read
        sha256, size_bytes, is_clean = "", 0, False
    return _Tar(
        name=path.name,
        path=path,
        sha256=sha256,
        size_bytes=size_bytes,
        seen=seen,
        is_clean=is_clean and not refused,
    )


def _seen(path: Path, sample: Sample) -> _Seen | None:
    suffixes = tuple(sample.members)
    image = next((suffix for suffix in suffixes if suffix in ("jpg", "png", "webp")), None)
    if image is None:
        return None
    place = sample.offset
    for suffix, data in sample.members.items():
        if suffix == image:
            break
        place += BLOCK_BYTES + len(data) + -len(data) % BLOCK_BYTES
    picture = sample.members[image]
    return _Seen(
        key=sample.key,
        path=path,
        offset=place + BLOCK_BYTES,
        size=len(picture),
        sha256=hashlib.sha256(picture).digest(),
        size_px=_size_of(picture, sample.key),
        span=sum(BLOCK_BYTES + len(data) + -len(data) % BLOCK_BYTES for data in sample.members.values()),
        members=suffixes,
        facts=sample.members.get("json", b""),
    )


def _size_of(picture: bytes, key: str) -> tuple[int, int] | None:
    try:
        return images.size_of(picture, name=key)
    except ImageError:
        return None


def _size_px(each: _Known, seen: _Seen) -> tuple[int, int]:
    """What the picture itself says, which is true; else what was written down."""
    return each.size_px if seen.size_px is None else seen.size_px


def _facts_put_right(
    folder: Path,
    clips: Mapping[str, ClipFacts],
    tars: Sequence[_Tar],
    reference: _Reference | None,
    state: _State,
) -> dict[str, ClipFacts]:
    """The facts of all clips of a part: clips.json, put right where all samples say otherwise, rebuilt where it is lost."""
    told, frames = _facts_of_samples(tars)
    for key, each in (reference.known if reference else {}).items():
        clip_id, frame_index = parse_key(key)
        frames.setdefault(clip_id, {}).setdefault(frame_index, each.pts)
    right: dict[str, ClipFacts] = {}
    for clip_id in {**clips, **frames}:
        step = (reference.frame_steps if reference else {}).get(clip_id)
        if clip_id in clips:
            right[clip_id] = _corrected(folder, clips[clip_id], told.get(clip_id), frames.get(clip_id, {}), step, state)
        elif clip_id in told:
            values = told[clip_id].most_common(1)[0][0]
            right[clip_id] = _rebuilt_facts(folder, clip_id, values, frames[clip_id], step)
            state.actions.append(
                f"{folder}: facts of {clip_id} in {manifest.CLIPS_NAME} rebuilt from the samples"
                + (
                    "; the same extract command restores the rest"
                    if right[clip_id].sources
                    else "; source, settings and versions are lost"
                )
            )
    return right


def _facts_of_samples(
    tars: Sequence[_Tar],
) -> tuple[dict[str, Counter[tuple[Any, ...]]], dict[str, dict[int, int]]]:
    """By clip: how many samples state which facts, and the pts of each frame."""
    said: dict[str, Counter[tuple[Any, ...]]] = {}
    frames: dict[str, dict[int, int]] = {}
    for tar in tars:
        for seen in tar.seen:
            told = _told(seen)
            if told is None:
                continue
            facts = tuple(told[name] for name in _FACT_NAMES)
            said.setdefault(told["clip"], Counter())[facts] += 1
            frames.setdefault(told["clip"], {})[told["frame_index"]] = told["pts"]
    return said, frames


def _told(seen: _Seen) -> dict[str, Any] | None:
    """What the json of a sample says; None where it cannot be read, lacks a fact, or does not agree with the sample's key."""
    try:
        clip_id, frame_index = parse_key(seen.key)
        told = parse_json(seen.facts)
        Fraction(told["time_base"])
        is_good = (
            (told["clip"], told["frame_index"]) == (clip_id, frame_index)
            and all(type(told[name]) is int for name in ("frame_index", "pts", "width", "height"))
            and all(type(told[name]) is str for name in _FACT_NAMES)
        )
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return dict(told) if is_good else None


def _corrected(
    folder: Path,
    facts: ClipFacts,
    told: "Counter[tuple[Any, ...]] | None",
    frames: Mapping[int, int],
    step: int | None,
    state: _State,
) -> ClipFacts:
    """The facts of clips.json, put right where what else is known says otherwise."""
    changes: dict[str, Any] = {}
    if told is not None:
        values, count = told.most_common(1)[0]
        # One edited sample of a few is no reason to believe it.
        if count > 2 and count * 2 > told.total():
            changes = {
                name: value for name, value in zip(_FACT_NAMES, values, strict=True) if getattr(facts, name) != value
            }
    smallest = min(np.diff(sorted(frames)).tolist(), default=step)
    if step is not None and step != facts.frame_step and smallest != facts.frame_step:
        changes["frame_step"] = step
    num_frames = sum(int(source["num_frames"]) for source in facts.sources)
    if facts.sources and num_frames != facts.clip_frames and num_frames > max(frames, default=-1):
        changes["clip_frames"] = num_frames
    for name, value in changes.items():
        state.actions.append(
            f"{folder}: {manifest.CLIPS_NAME} said {name} {ascii(getattr(facts, name))[:80]} of {facts.clip_id}, "
            f"put right to {value!r}"
        )
    return replace(facts, **changes)


def _rebuilt_facts(
    folder: Path, clip_id: str, values: Sequence[Any], frames: Mapping[int, int], step: int | None
) -> ClipFacts:
    """What clips.json said of a clip, as far as its samples, the index and extract.json know it."""
    facts = dict(zip(_FACT_NAMES, values, strict=True))
    places = sorted(frames.items())
    # A frame that was lost or left out makes a larger step, so the smallest is the true one.
    step = step or min(np.diff([frame for frame, _ in places]).tolist(), default=1)
    span_s = float((places[-1][1] - places[0][1]) * Fraction(facts["time_base"]))
    named = [gap for gap in _old_gaps(folder) or [] if gap["clip"] == clip_id]
    first = min([places[0][0], *(gap["first_frame"] for gap in named)])
    last = max([places[-1][0], *(gap["last_frame"] for gap in named)])
    job = _job_of(folder)
    is_of_job = job.get("clip") == clip_id
    polarity = job["facts"].get("polarity") if is_of_job else None
    wanted = job["config"].get("polarity") if is_of_job else None
    return ClipFacts(
        clip_id=clip_id,
        nominal_fps=round((places[-1][0] - places[0][0]) / span_s, 6) if span_s > 0 else 0.0,
        frame_step=step,
        clip_frames=sum(source["num_frames"] for source in job["sources"]) if is_of_job else last + 1,
        sources=job["sources"] if is_of_job else [],
        extraction=job["config"] if is_of_job else {"start_frame": first, "every": step},
        versions=job.get("versions", {}) if is_of_job else {},
        suspect=["clips.json was lost and rebuilt from the samples"],
        tone=job.get("tone") if is_of_job else None,
        is_inverted=facts["modality"] == "infrared" and polarity is not None and images.is_inverted(polarity, wanted),
        **facts,
    )


def _reference_of_samples(tars: Sequence[_Tar], clips: Mapping[str, ClipFacts]) -> _Reference:
    """What the samples say of themselves, for pictures that decode: the first of each key, by clip and frame."""
    found: dict[str, dict[int, _Entry]] = {}
    bad: dict[tuple[str, int], str] = {}
    for tar in tars:
        for seen in tar.seen:
            try:
                clip_id, frame_index = parse_key(seen.key)
            except ValueError:
                continue
            if clip_id not in clips or frame_index in found.get(clip_id, {}):
                continue
            told = _told(seen)
            if told is None or seen.size_px is None or not _decodes(seen):
                bad[clip_id, frame_index] = tar.name
                continue
            entry = (frame_index, told["pts"], seen.sha256, tar.name, 0, seen.size_px)
            found.setdefault(clip_id, {})[frame_index] = entry
    known: dict[str, _Known] = {}
    for clip_id, entries in found.items():
        of_clip = _known_of_one(clip_id, [entries[frame] for frame in sorted(entries)], clips[clip_id].frame_step)
        # No picture has the hash of none: these are lost.
        for (bad_clip, frame_index), shard in bad.items():
            if bad_clip == clip_id and frame_index not in entries:
                key = names.key_of(clip_id, frame_index)
                of_clip[key] = _Known(
                    key=key, shard=shard, sha256=b"", pts=0, run_id=0, mark=0, dup_of=b"", size_px=(0, 0)
                )
        known |= dict(sorted(of_clip.items(), key=lambda item: parse_key(item[0])))
    return _Reference(source="the samples", known=known, has_marks=False)


def _decodes(seen: _Seen) -> bool:
    try:
        images.decode_any(_bytes_at(seen.path, seen), name=seen.key)
    except ImageError:
        return False
    return True


def _put_names_right(folder: Path, tars: Sequence[_Tar], reference: _Reference, state: _State) -> None:
    """Renamed shards get their names back; what is no shard of the part is put aside."""
    keys_of: dict[str, list[str]] = {}
    for each in reference.known.values():
        keys_of.setdefault(each.shard, []).append(each.key)
    wanted = {*keys_of}
    for tar in tars:
        keys_of.pop(tar.name, None)
    for tar in tars:
        if tar.name in wanted:
            continue
        keys = [seen.key for seen in tar.seen]
        original = next((name for name, expected in keys_of.items() if expected == keys), None)
        if original is not None:
            state.actions.append(f"{tar.path}: renamed to {original}, which it is")
            del keys_of[original]
            tar.name = original
        else:
            tar.name = _aside(tar.path).name
            state.actions.append(f"{tar.path}: is no shard of this folder; renamed to {tar.name}")
        if not state.is_dry_run:
            _begin(folder, state)
            target = folder / tar.name
            tar.path.rename(target)
            tar.path.with_suffix(".idx").unlink(missing_ok=True)
            fsync_folder(folder)
            tar.seen = [replace(seen, path=target) for seen in tar.seen]
            tar.path = target


def _aside(path: Path) -> Path:
    """A name beside `path` that is no shard's and that nothing has."""
    for number in range(1, 1000):
        target = path.with_name(path.name + DAMAGED_SUFFIX + ("" if number == 1 else f"-{number}"))
        if not target.exists():
            return target
    raise ShardError(f"{path}: 999 damaged copies of it lie here; remove them")


def _empty_index(clips: Mapping[str, ClipFacts], reference: _Reference, tars: Sequence[_Tar]) -> SampleIndex:
    """An index of no samples with the clips in their order, and the pictures' format."""
    order = dict.fromkeys(parse_key(key)[0] for key in reference.known)
    names = [clip_id for clip_id in order if clip_id in clips] or list(clips)
    formats = [seen.members[0] for tar in tars for seen in tar.seen[:1]]
    image_format = next((name for name in formats if name in ("jpg", "png", "webp")), "jpg")
    first = sample_index.from_entries(
        clip_id=names[0], frame_step=1, image_format=image_format, shards=[], run_ids=np.zeros(0, np.int32)
    )
    return replace(first, clips=tuple(names), frame_steps=tuple(clips[name].frame_step for name in names))


@dataclass(slots=True)
class _Rows:
    """The rows of the index that is built, and its shards."""

    shards: list[ShardInfo] = field(default_factory=list)
    known: list[_Known] = field(default_factory=list)
    places: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    """Number of the shard, offset, size, span, width, height."""
    hashes: list[bytes] = field(default_factory=list)


def _rebuilt(
    part: _Part, tars: Sequence[_Tar], reference: _Reference, state: _State
) -> tuple[SampleIndex, list[_Known]]:
    """The index of what is good, after rewriting the shards that hold more or less than that; and what is lost."""
    by_name = {tar.name: tar for tar in tars}
    anywhere: dict[tuple[str, bytes], _Seen] = {}
    for tar in tars:
        for seen in tar.seen:
            anywhere.setdefault((seen.key, seen.sha256), seen)
    old = _places_of_index(part.path)
    rows = _Rows()
    lost: list[_Known] = []
    wanted: dict[str, list[_Known]] = {}
    for each in reference.known.values():
        wanted.setdefault(each.shard, []).append(each)
    for name, expected in wanted.items():
        of_tar = by_name.get(name)
        own = {(seen.key, seen.sha256): seen for seen in of_tar.seen} if of_tar is not None else {}
        good: list[tuple[_Known, _Seen]] = []
        num_lost = len(lost)
        for each in expected:
            picture = (each.key, each.sha256)
            found = own.get(picture) or anywhere.get(picture) or _at_old_place(part.path, each, old, state)
            if found is not None:
                good.append((each, found))
            else:
                lost.append(each)
        # A shard that lost samples cannot have the hash that it had with them.
        sha256 = reference.shard_hashes.get(name) if len(lost) == num_lost else None
        if of_tar is not None and good and _is_as_written(part, of_tar, good, sha256, state):
            info = ShardInfo(name=name, num_samples=len(good), size_bytes=of_tar.size_bytes, sha256=of_tar.sha256)
            for each, seen in good:
                rows.places.append((len(rows.shards), seen.offset, seen.size, seen.span, *_size_px(each, seen)))
                rows.known.append(each)
                rows.hashes.append(seen.sha256)
            rows.shards.append(info)
            continue
        path = part.path / name
        if not good:
            state.actions.append(
                f"{path}: {'is gone' if of_tar is None else 'nothing in it is good'}, left out of the index"
            )
            if of_tar is not None and not state.is_dry_run:
                _begin(part.path, state)
                _put_aside(path, state)
                path.unlink()
                fsync_folder(part.path)
            continue
        state.actions.append(
            f"{path}: rewritten, {len(good)} of {len(expected)} samples are good"
            + ("" if of_tar is None else f"; the old file is {_aside(path).name}")
        )
        _rewrite(part, name, good, rows, state)
    return _index_of(part.index, rows), lost


def _is_as_written(
    part: _Part, tar: _Tar, good: Sequence[tuple[_Known, _Seen]], sha256: str | None, state: _State
) -> bool:
    """Whether a shard is what a writer would write of its good samples, down to the padding."""
    if not tar.is_clean or [seen for _, seen in good] != tar.seen:
        return False
    if sha256 == tar.sha256:  # hashes may be those of facts that were edited
        return all(
            seen.members == (part.index.image_format, "json") and seen.facts == _facts(part, each, seen)
            for each, seen in good
        )
    return _written_nowhere(part, tar.name, good, state)[0].sha256 == tar.sha256


def _written_nowhere(
    part: _Part, name: str, good: Sequence[tuple[_Known, _Seen]], state: _State
) -> tuple[ShardInfo, list[IndexEntry]]:
    """What a shard of these samples would be."""
    with Path(os.devnull).open("wb") as nowhere:
        writer = ShardWriter(nowhere, part.index.image_format)
        _add_all(part, good, writer, state)
        return writer.finish(name), writer.entries


def _add_all(part: _Part, good: Sequence[tuple[_Known, _Seen]], writer: ShardWriter, state: _State) -> None:
    for each, seen in good:
        clip_id, frame_index = parse_key(each.key)
        picture = _bytes_at(state.moved.get(seen.path, seen.path), seen)
        facts = _facts(part, each, seen)
        entry = writer.add(clip_id, frame_index, each.pts, picture, facts, size_px=_size_px(each, seen))
        if bytes.fromhex(entry.sha256) != seen.sha256:
            raise ShardError(f"{seen.path}: was changed while it was read; run it again when nothing writes there")


def _facts(part: _Part, each: _Known, seen: _Seen) -> bytes:
    clip_id, frame_index = parse_key(each.key)
    return facts_json(facts_of(part.clips[clip_id], frame_index, each.pts, _size_px(each, seen)))


def _places_of_index(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Where the index says that each picture is, if there is one: shard, offset, size."""
    try:
        index = sample_index.load(folder)
    except ManifestError:
        return {}
    names = [info.name for info in index.shards]
    return {
        index.key(row): (names[int(index.shard[row])], int(index.offset[row]), int(index.size[row]))
        for row in range(len(index))
    }


def _at_old_place(folder: Path, each: _Known, old: Mapping[str, tuple[str, int, int]], state: _State) -> _Seen | None:
    """The picture where the index says it is, for a tar whose headers are damaged; if it has its hash."""
    if each.key not in old:
        return None
    name, offset, size = old[each.key]
    if size > images.MAX_PIXELS * 8:
        return None
    now = folder / name
    for path in (state.moved.get(now, now), *sorted(folder.glob(f"{name}{DAMAGED_SUFFIX}*"))):
        try:
            with opened(path) as file:
                file.seek(offset)
                data = file.read(size)
        except OSError:
            continue
        if hashlib.sha256(data).digest() == each.sha256:
            return _Seen(
                key=each.key, path=path, offset=offset, size=size, sha256=each.sha256, size_px=_size_of(data, each.key),
                span=0, members=(), facts=b"",
            )  # fmt: skip
    return None


def _bytes_at(path: Path, seen: _Seen) -> bytes:
    with opened(path) as file:
        file.seek(seen.offset)
        return file.read(seen.size)


def _put_aside(path: Path, state: _State) -> None:
    """A second name for a file that is about to be replaced or to go, where its bytes can be found from then on."""
    before = [other for other in path.parent.glob(f"{path.name}{DAMAGED_SUFFIX}*") if other.samefile(path)]
    aside = before[0] if before else _aside(path)  # a repair that was killed put it aside already
    if not before:
        try:
            os.link(path, aside)
        except OSError:  # a file system without second names
            with path.open("rb") as source, open_atomic(aside) as target:
                shutil.copyfileobj(source, target, 1 << 20)
        fsync_folder(path.parent)
    state.moved[path] = aside


def _rewrite(part: _Part, name: str, good: Sequence[tuple[_Known, _Seen]], rows: _Rows, state: _State) -> None:
    """A shard of the good samples; the damaged file gets a second name first, so that a kill loses neither."""
    path = part.path / name
    if state.is_dry_run:
        info, entries = _written_nowhere(part, name, good, state)
    else:
        _begin(part.path, state)
        if path.exists():
            _put_aside(path, state)
        with open_shard(part.path, name, image_format=part.index.image_format) as handle:
            _add_all(part, good, handle.writer, state)
        assert handle.info is not None
        info, entries = handle.info, handle.writer.entries
    for (each, seen), entry in zip(good, entries, strict=True):
        rows.places.append((len(rows.shards), entry.offset, entry.size, entry.span, entry.width, entry.height))
        rows.known.append(each)
        rows.hashes.append(seen.sha256)
    rows.shards.append(info)
    state.rewritten.add(path)


def _index_of(empty: SampleIndex, rows: _Rows) -> SampleIndex:
    parsed = [parse_key(each.key) for each in rows.known]
    numbers = {clip_id: number for number, clip_id in enumerate(empty.clips)}
    dup_of = [each.dup_of for each in rows.known]
    places = np.array(rows.places, np.int64).reshape(-1, 6)
    return replace(
        empty,
        shards=tuple(rows.shards),
        clip=np.array([numbers[clip_id] for clip_id, _ in parsed], np.int32),
        frame_index=np.array([frame for _, frame in parsed], np.int64),
        pts=np.array([each.pts for each in rows.known], np.int64),
        run_id=np.array([each.run_id for each in rows.known], np.int32),
        mark=np.array([each.mark for each in rows.known], np.uint8),
        shard=places[:, 0].astype(np.int32),
        offset=places[:, 1],
        size=places[:, 2],
        span=places[:, 3],
        width=places[:, 4].astype(np.int32),
        height=places[:, 5].astype(np.int32),
        sha256=np.frombuffer(b"".join(rows.hashes), np.uint8).reshape(-1, 32),
        dup_of=np.array(dup_of, "S") if any(dup_of) else sample_index.no_duplicates(len(dup_of)),
    )


def _tell_losses(root: Path, part: _Part, lost: Mapping[str, Iterable[int]], state: _State) -> None:
    """The lost frames as ranges, and what brings them back."""
    above = [part.path, *part.path.parents[: len(Path(part.name).parts)]]
    if (part.path / JOB_NAME).is_file():
        what = 'run the same "infraredcity extract --clip {}" again'
    elif any((place / "shards.json").is_file() for place in above):
        what = 'run the same "infraredcity shard" again, with --overwrite'
    elif any((place / "lite.json").is_file() for place in above):
        what = 'run the same "infraredcity make-lite" again, with --overwrite'
    elif any((place / "import.json").is_file() for place in above):
        what = 'run the same "infraredcity import" again, with --overwrite'
    else:
        what = "copy the shards of {} again"
    for clip_id, frames in lost.items():
        step = part.clips[clip_id].frame_step
        ranges: list[Loss] = []
        for frame in sorted(frames):
            if ranges and frame - ranges[-1].last_frame == step:
                ranges[-1] = replace(ranges[-1], last_frame=frame, num_frames=ranges[-1].num_frames + 1)
            else:
                ranges.append(
                    Loss(
                        part=part.name, clip_id=clip_id, first_frame=frame, last_frame=frame, num_frames=1,
                        what_to_do=what.format(clip_id),
                    )
                )  # fmt: skip
        state.lost += ranges


def _write(root: Path, part: _Part, lost: Sequence[_Known], state: _State) -> None:
    """Index, index files, manifest, clips.json, gaps and markers, where they are not what they should be."""
    wrong = _wrong_files(root, part, state)
    lost_frames: dict[str, set[int]] = {}
    for each in lost:
        clip_id, frame_index = parse_key(each.key)
        lost_frames.setdefault(clip_id, set()).add(frame_index)
    gaps = None
    if (part.path / JOB_NAME).is_file() or (part.path / GAPS_NAME).is_file():
        gaps = _gaps(part, lost_frames)
        if gaps != _old_gaps(part.path):
            wrong.append(GAPS_NAME)
    _tell_losses(root, part, lost_frames, state)
    leftovers = [path for path in part.path.iterdir() if is_temporary(path) and path.name != _ASIDE_NAME]
    if leftovers:
        state.actions.append(f"{part.path}: removed {len(leftovers)} temporary files of a run that was killed")
    if wrong:
        state.actions.append(f"{part.path}: rebuilt {', '.join(wrong)}")
    if state.is_dry_run:
        return
    aside = part.path / _ASIDE_NAME
    if wrong:
        _begin(part.path, state)
        # Gaps and markers first and clips.json last: until the new index stands, the old one tells the same losses again.
        _forget_segments(part, lost_frames)
        if gaps is not None:
            write_atomic(part.path / GAPS_NAME, (json.dumps(gaps, indent=1) + "\n").encode())
        for path in part.path.glob("*.idx"):
            if path.with_suffix(".tar").name not in {info.name for info in part.index.shards}:
                path.unlink()
        write_part(root, part.name, part.index, part.clips, split=part.split)
    elif aside.is_file() and not (part.path / manifest.CLIPS_NAME).is_file():
        aside.replace(part.path / manifest.CLIPS_NAME)
    remove_temporaries(part.path)
    fsync_folder(part.path)


def _wrong_files(root: Path, part: _Part, state: _State) -> list[str]:
    """Names of the files that describe the shards and do not say what is so; of a dry run, as far as that can be known."""
    wrong = []
    try:
        index, stored_hash = sample_index.load_with_hash(part.path)
        is_same = _same(index, part.index) and stored_hash == part.index.rows_hash()
    except ManifestError:
        is_same = False
    if not is_same:
        wrong.append(sample_index.INDEX_NAME)
    if _read_facts(part.path) != (counted(part.index, part.clips), part.split):
        wrong.append(manifest.CLIPS_NAME)
    rows = manifest.columns(part.index, part.clips, split=part.split)
    for name in (manifest.CSV_NAME, manifest.PARQUET_NAME):
        try:
            if manifest.read(part.path / name) != rows:
                wrong.append(name)
        except ManifestError:
            wrong.append(name)
    try:
        if read_whole(part.path / sidecars.WIDS_NAME, MAX_SIDECAR_BYTES) != sidecars.wids_bytes(
            part.index, name=reader_name(root, part.name)
        ):
            said = read_json(part.path / sidecars.WIDS_NAME, MAX_SIDECAR_BYTES)
            if said != json.loads(sidecars.wids_bytes(part.index, name=str(said["name"]))):
                wrong.append(sidecars.WIDS_NAME)
    except (OSError, ValueError, KeyError, TypeError):
        wrong.append(sidecars.WIDS_NAME)
    for number, (info, of_shard) in enumerate(zip(part.index.shards, part.index.rows_by_shard(), strict=True)):
        path = (part.path / info.name).with_suffix(".idx")
        is_to_come = part.path / info.name in state.rewritten or not (part.path / info.name).is_file()
        if state.is_dry_run and is_to_come:
            continue
        try:
            json_sizes = sidecars.json_sizes_of(part.path, part.index, number, of_shard)
            if read_whole(path, MAX_SIDECAR_BYTES) != sidecars.dali_bytes(
                part.path, part.index, number, of_shard, json_sizes
            ):
                wrong.append(path.name)
        except (OSError, ManifestError):
            wrong.append(path.name)
    return wrong


def _same(one: SampleIndex, other: SampleIndex) -> bool:
    names = [name for name in SampleIndex.__slots__ if isinstance(getattr(one, name), np.ndarray)]
    return (one.clips, one.frame_steps, one.shards, one.image_format) == (
        other.clips, other.frame_steps, other.shards, other.image_format,
    ) and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)  # fmt: skip


def _old_gaps(folder: Path) -> list[dict[str, Any]] | None:
    try:
        gaps = read_json(folder / GAPS_NAME)
        numbers = ("first_frame", "last_frame", "num_frames")
        if all(
            {"clip", "reason", *numbers} == set(gap) and all(type(gap[name]) is int for name in numbers) for gap in gaps
        ):
            return list(gaps)
    except (OSError, ValueError, TypeError):
        pass
    return None


def _gaps(part: _Part, lost: dict[str, set[int]]) -> list[dict[str, Any]]:
    """gaps.json with the frames that are not there and that it does not name yet; those that extraction had are added to `lost`."""
    gaps: list[dict[str, Any]] = []
    left_out, old_gaps = _left_out(part.path), _old_gaps(part.path) or []
    for number, clip_id in enumerate(part.index.clips):
        facts = part.clips[clip_id]
        step = facts.frame_step
        asked = range(facts.clip_frames)[facts.extraction.get("start_frame", 0) : facts.extraction.get("stop_frame")]
        missing = {*asked[::step]} - {*part.index.frame_index[part.index.clip == number].tolist()}
        for gap in old_gaps:
            frames = range(gap["first_frame"], gap["last_frame"] + 1, step)
            is_true = (
                (gap["clip"], gap["num_frames"]) == (clip_id, len(frames))
                and frames.stop <= facts.clip_frames
                and missing.issuperset(frames)
            )
            if is_true:
                gaps.append(gap)
                missing.difference_update(frames)
        for frame in sorted(missing):
            is_lost = frame not in left_out
            if is_lost:
                lost.setdefault(clip_id, set()).add(frame)
            reason = _LOST if is_lost else _UNKNOWN
            last = gaps[-1] if gaps else None
            if (
                last is not None
                and (last["clip"], last["reason"]) == (clip_id, reason)
                and last["last_frame"] + step == frame
            ):
                last["last_frame"], last["num_frames"] = frame, last["num_frames"] + 1
            else:
                gaps.append(
                    {"clip": clip_id, "first_frame": frame, "last_frame": frame, "num_frames": 1, "reason": reason}
                )
    return sorted(gaps, key=lambda gap: (gap["clip"], gap["first_frame"]))


def _left_out(folder: Path) -> set[int]:
    """Frames that extraction could not or should not write, as its markers say."""
    return {frame for _, marker in _markers(folder) if marker is not None for frame in marker[1].missing}


def _forget_segments(part: _Part, lost: Mapping[str, set[int]]) -> None:
    """Delete the markers of the segments that lost frames, so that extract writes these anew and only these."""
    frames = {frame for of_clip in lost.values() for frame in of_clip}
    for path, marker in _markers(part.path) if frames else ():
        if marker is None or not frames.isdisjoint(marker[1].frame_index):
            path.unlink()


def _markers(folder: Path) -> Iterator[tuple[Path, tuple[SegmentHead, SegmentRows] | None]]:
    """What extraction noted of each segment; None where it is damaged: extract does not believe it either."""
    for path in sorted((folder / MARKERS).glob("*.jsonl")):
        try:
            yield path, segment_record.read(path)
        except OutputError:
            yield path, None


def _repair_set(root: Path, place: str, members: Sequence[str], state: _State) -> None:
    """The manifest of a whole set, from its parts, and the hash of it in the set's record where no sample was lost."""
    folder = root / place
    if state.is_dry_run and any(action.startswith(str(root / name)) for name in members for action in state.actions):
        return  # the parts are not yet what the manifest has to say of them
    names = part_names(folder)
    try:
        parts = [open_part(folder, name) for name in names]
        whole = rows_of(parts)
    except ManifestError as error:
        state.unsolved.append(f"{folder}: its manifest was not rebuilt: {error}")
        return
    wrong = []
    for name in (manifest.CSV_NAME, manifest.PARQUET_NAME) if names != ["."] else ():
        try:
            if manifest.read(folder / name) != whole:
                wrong.append(name)
        except ManifestError:
            wrong.append(name)
    state.actions += [f"{folder}: rebuilt {name}" for name in wrong]
    if wrong and not state.is_dry_run:
        write_manifest(folder, parts)
    for record_name in RECORD_NAMES:
        if (folder / record_name).is_file():
            _repair_record(folder / record_name, whole, state)


def _repair_record(path: Path, whole: Columns, state: _State) -> None:
    """The hash in a set's record, where the set still has all its samples."""
    again = "make the set again with --overwrite"
    try:
        record = read_json(path)
        report = record["report"]
        if report is None:
            state.unsolved.append(f"{path}: the set is not finished; run the same command again")
            return
        said, num_samples = report["manifest_hash"], report.get("num_frames", report.get("num_samples"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        state.unsolved.append(f"{path}: damaged ({error}); {again}")
        return
    rows_hash = manifest.rows_hash(whole)
    if said == rows_hash:
        return
    if num_samples != len(whole["key"]):
        state.unsolved.append(f"{path}: says {num_samples} samples, {len(whole['key'])} are there; {again}")
        return
    state.actions.append(f"{path}: manifest hash put right, since runs or marks were found anew")
    if not state.is_dry_run:
        report["manifest_hash"] = rows_hash
        write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
