"""Rewrite the files that describe the shards of a data set, and set damaged shards aside so that they can be made again.

Nothing is guessed. A sidecar is rewritten from the index; index, clips.json and gaps.json of an extracted clip are rewritten from
its segment records, which hold all of them exactly. A damaged shard is set aside as `<name>.damaged`, the index no longer lists it,
and the record of its segment is deleted, so that the same `extract` makes that segment again. Other sets are made again by the
command that made them.

While a folder is changed it has no clips.json, so that no reader takes it for complete. After a kill at any moment, the same
command continues.
"""

import hashlib
import itertools
import shutil
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from infraredcity.checks.expected import (
    MANIFEST_NAMES,
    clips_problems,
    dali_problem,
    manifest_problem,
    wids_problem,
)
from infraredcity.checks.findings import Findings
from infraredcity.checks.index import check_columns, check_gaps
from infraredcity.checks.sets import blocks_below, check_set
from infraredcity.checks.shards import ShardResult, check_shard
from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import sets_of, write_manifest
from infraredcity.datasets.folder import ShardFolder, open_folder, write_folder
from infraredcity.datasets.gaps import GAPS_NAME, Gap, gaps_to_bytes, read_gaps
from infraredcity.datasets.walk import JOB_NAME, part_names
from infraredcity.errors import ManifestError, OutputError
from infraredcity.extraction import segment_record
from infraredcity.extraction.finish import merge
from infraredcity.extraction.job import read_skipped
from infraredcity.extraction.segment_record import SegmentHead
from infraredcity.extraction.segments import count_segments
from infraredcity.extraction.spec import JobSpec, read_spec
from infraredcity.files.atomic import fsync_folder, write_atomic
from infraredcity.files.lock import lock_folder
from infraredcity.files.records import opened
from infraredcity.files.temporary import TEMPORARY_PREFIX, is_temporary, remove_temporaries
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards import index_file, sidecars
from infraredcity.shards.names import is_shard_name

_LOST = "lost with a damaged shard; extract the clip again"
DAMAGED_SUFFIX = ".damaged"
_ASIDE_NAME = f"{TEMPORARY_PREFIX}repair-{clip_facts.CLIPS_NAME}"
"""clips.json while a folder is changed; an extraction that makes the folder again removes it."""
_MAKERS = {"shards.json": "shard", "lite.json": "make-lite", "import.json": "import"}
"""The command that makes a set with such a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Frames of a clip that are in no shard any more, and how to get them back."""

    part: str
    clip_id: str
    first_frame: int
    last_frame: int
    """The last of them, included."""
    num_frames: int
    what_to_do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What repair did, or would do."""

    folder: str
    """The data set."""
    num_parts: int
    """Parts that were looked at."""
    num_samples: int
    """Samples that are there afterwards."""
    actions: tuple[str, ...]
    """What was changed, a line each; empty where nothing was wrong."""
    lost: tuple[Loss, ...]
    """What must be made again."""
    unsolved: tuple[str, ...]
    """What is still wrong, and what to do about it."""
    notes: tuple[str, ...]
    """Remarks that need no action."""
    is_dry_run: bool
    """Whether nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part(ShardFolder):
    """A part on a local disk; remote parts are not repaired."""

    path: Path


@dataclass(slots=True)
class _State:
    is_dry_run: bool
    actions: list[str] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    unsolved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_samples: int = 0


def repair(root: Path, *, dry_run: bool = False, on_progress: OnProgress | None = None) -> RepairReport:
    """Rewrite what describes the shards of a data set, and set damaged shards aside so that they can be made again.

    Args:
        root: A part, a data set, or a folder of data sets.
        dry_run: Only say what would be done.
        on_progress: Called with the parts that were looked at.

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
    ticker = Ticker("parts", len(names), on_progress)
    for place, members in sets_of(root, names).items():
        with _locked(root / place, is_dry_run=dry_run) if place is not None else nullcontext():
            for name in members:
                with _locked(root / name, is_dry_run=dry_run) if name != place else nullcontext():
                    try:
                        _repair_part(root, name, state)
                    except OSError as error:
                        reason = (error.strerror or str(error)).lower()
                        raise OutputError(
                            f"{root / name}: cannot be repaired: {reason}; see to that and run it again"
                        ) from error
                ticker.add()
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


def _locked(folder: Path, *, is_dry_run: bool) -> AbstractContextManager[None]:
    return nullcontext() if is_dry_run else lock_folder(folder)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A part whose index can be trusted, and what the check of each of its shards found."""

    part: _Part
    results: dict[str, ShardResult]
    damaged: frozenset[str]
    """The shards that are missing or have another sha256 than was written down."""


def _repair_part(root: Path, name: str, state: _State) -> None:
    folder = root / name
    with suppress(ManifestError):
        if any(facts.extraction.get("to") == "frames" for facts in _read_clips(folder)[0].values()):
            state.notes.append(
                f"{folder}: holds plain image files, which repair does not change; extract the clip again"
            )
            return
    if _is_unfinished(folder):
        state.unsolved.append(f"{folder}: extraction is not finished; run the same extract command again")
        return
    job = _job_of(folder)
    records = _records_of(folder, job)
    try:
        checked = _check(root, name, records, state)
    except ManifestError as error:
        if job is None or len(records) < count_segments(job.num_frames, job.config):
            state.unsolved.append(f"{error}; it cannot be rebuilt: {_how_to_make_again(folder, name)}")
            return
        state.actions.append(f"{folder}: index, manifest, clips.json and gaps.json rebuilt from the segment records")
        if state.is_dry_run:
            state.num_samples += sum(head.shard.num_samples for head in records.values() if head.shard is not None)
            return
        _begin(folder)
        merge(folder, job, skipped=read_skipped(folder), expected_frames=None, new_frames=0)
        try:
            checked = _check(root, name, records, state)
        except ManifestError as error_after:
            state.unsolved.append(f"{error_after}; extract the clip again with --overwrite")
            return
    _write(root, checked, records, state)


def _is_unfinished(folder: Path) -> bool:
    """Return whether an extraction began and has not ended, of which gaps.json is the first sign."""
    names = (GAPS_NAME, index_file.INDEX_NAME, *MANIFEST_NAMES, clip_facts.CLIPS_NAME)
    return (folder / JOB_NAME).is_file() and not any((folder / name).is_file() for name in names)


def _read_clips(folder: Path) -> tuple[dict[str, ClipFacts], str]:
    """Read clips.json, or what a repair that was killed set aside."""
    if (folder / clip_facts.CLIPS_NAME).is_file() or not (folder / _ASIDE_NAME).is_file():
        return clip_facts.read_folder(folder)
    with TemporaryDirectory() as elsewhere:
        shutil.copyfile(folder / _ASIDE_NAME, Path(elsewhere) / clip_facts.CLIPS_NAME)
        return clip_facts.read_folder(Path(elsewhere))


def _job_of(folder: Path) -> JobSpec | None:
    with suppress(OutputError):
        return read_spec(folder)
    return None


def _records_of(folder: Path, job: JobSpec | None) -> dict[int, SegmentHead]:
    """Read what the segment records of this job say of their shards, by number; damaged ones and those of others are left out."""
    if job is None:
        return {}
    numbers = sorted(segment_record.list_records(folder))
    heads = dict(segment_record.read_heads(folder, numbers))
    return {
        number: head
        for number, head in heads.items()
        if head is not None
        and head.job_identity == job.identity
        and (head.shard is None or is_shard_name(head.shard.name))
    }


def _check(root: Path, name: str, records: Mapping[int, SegmentHead], state: _State) -> _Checked:
    """Open a part and read its shards.

    Raises:
        ManifestError: Index or clips.json are missing or damaged, or say other things than a whole shard or a segment record.
    """
    folder = root / name
    clips, split = _read_clips(folder)
    index, stored_hash = index_file.load_with_hash(folder)
    path = folder / index_file.INDEX_NAME
    if stored_hash != index.samples_hash():
        raise ManifestError(f"{path}: its rows are not those it was written with")
    if not {*index.clips} <= clips.keys():
        raise ManifestError(f"{folder / clip_facts.CLIPS_NAME}: lacks clips that the index has")
    part = _Part(path=folder, name=name, index=index, clips=clips, split=split)
    hashes = {info.name: info.sha256 for info in index.shards}
    for head in records.values():
        if head.shard is not None and hashes.get(head.shard.name) != head.shard.sha256:
            raise ManifestError(f"{path}: says another sha256 of {head.shard.name} than its segment record")
    renamed = _rename_back(part, hashes, state)
    results, damaged = {}, set()
    for number, rows in enumerate(index.rows_by_shard()):
        info = index.shards[number]
        if state.is_dry_run and info.name in renamed:
            results[info.name] = ShardResult(len(rows))
            continue
        results[info.name] = result = check_shard(part, number, rows, frozenset())
        if result.sha256 != info.sha256:
            damaged.add(info.name)
        # A picture that never decoded is what was written; all else in a whole shard is wrong in index or clips.json.
        wrong = [message for _, problem, message in result.findings if problem != "undecodable"]
        if result.sha256 == info.sha256 and wrong:
            raise ManifestError(wrong[0])
    problems: list[str] = []
    check_columns(part, lambda _where, _problem, message: problems.append(message))
    if problems:
        raise ManifestError(problems[0])
    # A repair that was killed may have named the lost frames already.
    if not _gaps_fit(part) and not _gaps_fit(_without(part, damaged)):
        raise ManifestError(f"{folder / GAPS_NAME}: samples and gaps together are not the frames that were asked for")
    return _Checked(part, results, frozenset(damaged))


def _rename_back(part: _Part, hashes: Mapping[str, str], state: _State) -> set[str]:
    """Give shards that were renamed their names back: tars that the index does not name, with the sha256 of a missing one."""
    renamed = set()
    missing = {sha256: shard for shard, sha256 in hashes.items() if not (part.path / shard).is_file()}
    others = sorted(path for path in part.path.glob("*.tar") if path.name not in hashes and not is_temporary(path))
    for path in others if missing else ():
        with opened(path) as file:
            shard = missing.pop(hashlib.file_digest(file, "sha256").hexdigest(), None)
        if shard is None:
            continue
        renamed.add(shard)
        state.actions.append(f"{path}: renamed to {shard}, which it is")
        if not state.is_dry_run:
            _begin(part.path)
            path.rename(part.path / shard)
            fsync_folder(part.path)
    return renamed


def _begin(folder: Path) -> None:
    """Remove clips.json, the sign of a complete folder, before something in it is changed."""
    path = folder / clip_facts.CLIPS_NAME
    if path.is_file():
        path.replace(folder / _ASIDE_NAME)
        fsync_folder(folder)


def _write(root: Path, checked: _Checked, records: Mapping[int, SegmentHead], state: _State) -> None:
    """Set damaged shards aside, and rewrite what describes the others where it differs."""
    part = checked.part
    whole = _without(part, checked.damaged)
    state.num_samples += len(whole.index)
    losses = _losses(part, checked.damaged)
    state.lost += losses
    gone = {number for number, head in records.items() if head.shard is not None and head.shard.name in checked.damaged}
    for shard in sorted(checked.damaged):
        is_there = (part.path / shard).is_file()
        what = f"set aside as {_aside(part.path / shard).name}" if is_there else "is gone"
        state.actions.append(f"{part.path / shard}: {what}, left out of the index")
    gaps = _gaps(part, whole, losses)
    wrong = _wrong_sidecars(whole, checked, gaps)
    if wrong:
        state.actions.append(f"{part.path}: rebuilt {', '.join(wrong)}")
    leftovers = [path for path in part.path.iterdir() if is_temporary(path) and path.name != _ASIDE_NAME]
    if leftovers:
        state.actions.append(f"{part.path}: removed {len(leftovers)} temporary files of a run that was killed")
    if state.is_dry_run:
        return
    if wrong or checked.damaged:
        _begin(part.path)
        for shard in sorted(checked.damaged):
            path = part.path / shard
            if path.is_file():
                path.rename(_aside(path))
                fsync_folder(part.path)
            path.with_suffix(".idx").unlink(missing_ok=True)
        for number in sorted(gone):
            segment_record.record_path(part.path, number).unlink(missing_ok=True)
        if gaps is not None:
            write_atomic(part.path / GAPS_NAME, gaps)
        if len(whole.index):
            write_folder(root, part.name, whole.index, whole.clips, split=whole.split)
    elif (part.path / _ASIDE_NAME).is_file() and not (part.path / clip_facts.CLIPS_NAME).is_file():
        (part.path / _ASIDE_NAME).replace(part.path / clip_facts.CLIPS_NAME)
    remove_temporaries(part.path)
    fsync_folder(part.path)


def _gaps(part: _Part, whole: _Part, losses: Sequence[Loss]) -> bytes | None:
    """Write gaps.json with the frames that are lost now; None where it needs no change."""
    if _gaps_fit(whole):
        return None
    lost = [
        Gap(
            clip=loss.clip_id,
            first_frame=loss.first_frame,
            last_frame=loss.last_frame,
            num_frames=loss.num_frames,
            reason=_LOST,
        )
        for loss in losses
    ]
    return gaps_to_bytes(sorted([*read_gaps(part.path), *lost], key=lambda gap: (gap.clip, gap.first_frame)))


def _gaps_fit(part: _Part) -> bool:
    problems: list[str] = []
    check_gaps(part, lambda _where, _problem, message: problems.append(message))
    return not problems


def _aside(path: Path) -> Path:
    """Return a new name for a damaged shard in the same folder: not that of a shard or of another file."""
    for number in itertools.count(1):
        target = path.with_name(path.name + DAMAGED_SUFFIX + ("" if number == 1 else f"-{number}"))
        if not target.exists():
            return target
    raise AssertionError


def _without(part: _Part, damaged: Set[str]) -> _Part:
    """Leave the samples of some shards out of the index."""
    kept = [number for number, info in enumerate(part.index.shards) if info.name not in damaged]
    index = part.index.take(np.flatnonzero(np.isin(part.index.shard, kept)))
    shards = tuple(part.index.shards[number] for number in kept)
    return replace(part, index=replace(index, shards=shards, shard=np.searchsorted(kept, index.shard).astype(np.int32)))


def _losses(part: _Part, damaged: Set[str]) -> list[Loss]:
    """List the frames of the damaged shards as ranges, with what makes them again."""
    index = part.index
    numbers = [number for number, info in enumerate(index.shards) if info.name in damaged]
    is_lost = np.isin(index.shard, numbers)
    losses = []
    for number, clip_id in enumerate(index.clips):
        frames = index.frame_index[is_lost & (index.clip == number)]
        for frames_in_a_row in np.split(frames, np.flatnonzero(np.diff(frames) != index.frame_steps[number]) + 1):
            if len(frames_in_a_row):
                losses.append(
                    Loss(
                        part=part.name,
                        clip_id=clip_id,
                        first_frame=int(frames_in_a_row[0]),
                        last_frame=int(frames_in_a_row[-1]),
                        num_frames=len(frames_in_a_row),
                        what_to_do=_how_to_make_again(part.path, part.name, clip_id),
                    )
                )
    return losses


def _how_to_make_again(folder: Path, name: str, clip_id: str = "") -> str:
    """Say which command makes the shards of a part again."""
    if (folder / JOB_NAME).is_file():
        return f'run the same "infraredcity extract --clip {clip_id or folder.name}" again'
    for record, command in _MAKERS.items():
        if any((place / record).is_file() for place in (folder, *folder.parents[: len(Path(name).parts)])):
            return f'run the same "infraredcity {command}" again, with --overwrite'
    return "copy its shards again"


def _wrong_sidecars(part: _Part, checked: _Checked, gaps: bytes | None) -> list[str]:
    """Name the files that describe the shards and are not as expected."""
    wrong = [index_file.INDEX_NAME] if checked.damaged else []
    if next(clips_problems(part), None) is not None or checked.damaged:
        wrong.append(clip_facts.CLIPS_NAME)
    wrong += [
        name for name in MANIFEST_NAMES if manifest_problem(part.path / name, lambda: blocks_below([part], part.name))
    ]
    if wids_problem(part) is not None:
        wrong.append(sidecars.WIDS_NAME)
    for number, rows in enumerate(part.index.rows_by_shard()):
        shard = part.index.shards[number].name
        json_sizes = checked.results[shard].json_sizes
        if json_sizes is not None and dali_problem(part, number, rows, json_sizes) is not None:
            wrong.append(Path(shard).with_suffix(".idx").name)
    if gaps is not None:
        wrong.append(GAPS_NAME)
    return wrong


def _repair_set(root: Path, place: str, members: Sequence[str], state: _State) -> None:
    """Rewrite the manifest of a whole set from its parts; name what else is wrong with the set."""
    folder = root / place
    if state.is_dry_run and any(action.startswith(str(root / name)) for name in members for action in state.actions):
        return  # the parts are not yet what the manifest has to say of them
    names = part_names(folder)
    try:
        parts = [open_folder(folder, name) for name in names]
    except ManifestError as error:
        state.unsolved.append(f"{folder}: its manifest was not rebuilt ({error}); {_how_to_make_again(folder, place)}")
        return
    if names != ["."]:
        wrong = [name for name in MANIFEST_NAMES if manifest_problem(folder / name, lambda: blocks_below(parts, "."))]
        state.actions += [f"{folder}: rebuilt {name}" for name in wrong]
        if wrong and not state.is_dry_run:
            write_manifest(folder, parts)
    findings = Findings()
    check_set(folder, ".", parts, names, findings, is_quick=True)
    state.unsolved += [finding.message for finding in findings.findings]
