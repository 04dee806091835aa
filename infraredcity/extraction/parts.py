"""Extraction on many machines: plan the work, do one part, see what is outstanding, merge.

Everybody shares the output folder (a disk or an object store) and nothing else. A part needs the plan and the clips; it talks to no
other part. Two that do the same segment write the same bytes, so a part may run twice, or twice at once. No clock decides anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from infraredcity.clips import Clip
from infraredcity.errors import OutputError
from infraredcity.extraction import plan_file, segment_record
from infraredcity.extraction.config import DEADLINE_S, ExtractConfig
from infraredcity.extraction.estimate import estimate
from infraredcity.extraction.executors.local import Executor, LocalExecutor
from infraredcity.extraction.finish import ExtractReport, merge
from infraredcity.extraction.job import (
    bind_folder,
    join_job,
    open_job,
    pending,
    read_skipped,
    remove_leftovers,
)
from infraredcity.extraction.plan_file import PLAN_NAME, Plan, PlannedClip
from infraredcity.extraction.segment_record import SegmentHead
from infraredcity.extraction.segments import frames_ticker
from infraredcity.extraction.spec import read_spec
from infraredcity.files.lock import lock_folder
from infraredcity.files.path import AnyPath, RemotePath, any_path, sizes_in
from infraredcity.progress import OnProgress, Ticker


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What a run of one part ended with.

    Attributes:
        part: Its number; None for all parts.
        num_parts: How many the plan has.
        num_segments: Segments of the part, all of which are done.
        num_frames: Frames that they cover.
        new_frames: Frames written by this run.
        size_bytes: Bytes of their shards or files.
        num_missing: Frames that could not be had, or were left out; `finalize` names them.
    """

    part: int | None
    num_parts: int
    num_segments: int
    num_frames: int
    new_frames: int
    size_bytes: int
    num_missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipStatus:
    """How far a clip of a plan is: all its segments, those that are done, and those that are outstanding, such as "0-3,7"."""

    clip: str
    num_segments: int
    num_done: int
    outstanding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a plan is.

    Attributes:
        folder: Where its output lies.
        num_parts: Parts of the plan.
        num_segments: Segments of the plan.
        num_done: Those that are done.
        outstanding_parts: Parts with a segment that is not done, ascending.
        array: These as a job array takes them, such as "0-3,7"; empty when all is done.
        clips: The same by clip.
    """

    folder: str
    num_parts: int
    num_segments: int
    num_done: int
    outstanding_parts: tuple[int, ...]
    array: str
    clips: tuple[ClipStatus, ...]


def make_plan(
    clips: Sequence[Clip],
    config: ExtractConfig,
    out: AnyPath,
    *,
    num_parts: int,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Plan:
    """Plan the extraction of some clips in parts: scan them, bind their folders below `out`, write `out`/plan.jsonl.

    Planning again with other parts keeps what is done; segments are the same however they are dealt. A clip that is being extracted
    there without a plan is refused.

    Args:
        clips: The clips, with their files.
        config: What to write.
        out: Folder that all parts will share.
        num_parts: How many parts.
        overwrite: Delete what stands in the folders of these clips.
        on_progress: Told of clips scanned.

    Raises:
        InfraredCityError: As `job.prepare`; OutputError when there are fewer segments than parts.
    """
    with lock_folder(out):  # until the plan stands, which extraction without one respects
        planned: list[PlannedClip] = []
        ticker = Ticker("clips scanned", len(clips), on_progress)
        ticker.add(0)
        for clip in clips:
            planned.append(_planned(clip, config, out, overwrite=overwrite))
            ticker.add()
        try:
            plan = plan_file.cut(planned, num_parts)
        except ValueError as error:
            raise OutputError(
                f"{out / PLAN_NAME}: {error}; use fewer --parts or a smaller --frames-per-shard"
            ) from error
        plan_file.write(plan, out / PLAN_NAME)
        return plan


def _planned(clip: Clip, config: ExtractConfig, out: AnyPath, *, overwrite: bool) -> PlannedClip:
    """Bind a clip's folder; fail where an extraction without a plan holds its lock. The lock of `out` keeps new ones out."""
    with lock_folder(out / clip.clip_id), LocalExecutor(1) as local:
        job = bind_folder(local.fit_tone(open_job(clip, config, out, overwrite=overwrite)))
        spec = read_spec(job.folder)  # perhaps of an earlier plan, when the clip's file had another name
        assert spec is not None
        return PlannedClip(
            spec=spec,
            locations=tuple(_location(path) for path in clip.paths),
            expected_frames=clip.expected_frames,
            estimate=estimate(job),
        )


def _location(path: AnyPath) -> str:
    return str(path) if isinstance(path, RemotePath) else str(path.resolve())


def open_plan(path: AnyPath, out: AnyPath) -> Plan:
    """The plan of `path`, after seeing to it that `out` is the folder of this plan and of no other.

    Raises:
        OutputError: There is no plan, it is damaged, or `out` holds another one.
    """
    plan = plan_file.read(path)
    there = out / PLAN_NAME
    if str(there) == str(path):
        return plan
    if not there.exists():
        plan_file.write(plan, there)
    elif (other := plan_file.read(there)).identity != plan.identity:
        raise OutputError(
            f"{path}: is another plan ({plan.num_parts} parts, {plan.identity[:12]}) than {there} ({other.num_parts} parts, "
            f"{other.identity[:12]}); use that one, or another --out"
        )
    return plan


def run_part(
    plan: Plan,
    part: int | None,
    clips: dict[str, Clip],
    out: AnyPath,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    deadline_s: float = DEADLINE_S,
    on_progress: OnProgress | None = None,
) -> PartReport:
    """Do what is not done of one part, or of all; others may do other parts, or the same, at the same time.

    Args:
        plan: From `open_plan`.
        part: 0 to `plan.num_parts` - 1; None for all.
        clips: Clips whose files are elsewhere than where they were planned, by id.
        out: The folder that all parts share.
        workers: Processes that decode, see `LocalExecutor`.
        executor: Who writes the segments; None for `workers` processes here.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
        on_progress: Told of frames done.

    Raises:
        InfraredCityError: As `job.join` and writing do; OutputError when the plan has no such part.
    """
    if part is not None and not 0 <= part < plan.num_parts:
        raise OutputError(f"part {part}: the plan has {plan.num_parts} parts, 0 to {plan.num_parts - 1}")
    jobs = [
        join_job(
            _with_files(plan[stretch.clip_id], clips),
            plan[stretch.clip_id].spec,
            out,
            range(stretch.first_segment, stretch.stop_segment),
        )
        for stretch in plan.stretches(part)
    ]
    todo = [pending(job) for job in jobs]
    everything = [segment for job in jobs for segment in job.segments]
    what = "all parts" if part is None else f"part {part}"
    ticker = frames_ticker(f"{what}: frames", everything, [segment for some in todo for segment in some], on_progress)
    with LocalExecutor(workers) as local:
        for job, some in zip(jobs, todo, strict=True):
            if some:
                (executor or local)(job, some, deadline_s=deadline_s, on_frames=ticker.add)
    heads: list[SegmentHead] = []
    for job in jobs:
        for number, head in segment_record.read_heads(job.folder, [segment.number for segment in job.segments]):
            if head is None:
                raise OutputError(
                    f"{segment_record.record_path(job.folder, number)}: was written and is not seen here; see whether "
                    f"{out} is one folder for all machines, then run the part again"
                )
            heads.append(head)
    return PartReport(
        part=part,
        num_parts=plan.num_parts,
        num_segments=len(everything),
        num_frames=sum(len(segment.frames) for segment in everything),
        new_frames=ticker.added,
        size_bytes=sum(head.shard.size_bytes for head in heads if head.shard is not None),
        num_missing=sum(head.num_missing for head in heads),
    )


def _with_files(planned: PlannedClip, clips: dict[str, Clip]) -> Clip:
    """The planned clip with its files: as named here, else where they were when it was planned."""
    here = clips.get(planned.clip_id)
    paths = here.paths if here is not None and here.paths else tuple(any_path(each) for each in planned.locations)
    return replace(planned.clip, paths=paths, expected_frames=planned.expected_frames)


def status(plan: Plan, out: AnyPath, *, quick: bool = False, on_progress: OnProgress | None = None) -> Status:
    """What is done of a plan and what is outstanding.

    A segment is done when its record can be read, is of this plan, and its shard has the size that the record states.

    Args:
        plan: From `open_plan`.
        out: Its folder.
        quick: Look only at the names of segment records: a segment counts as done when it has one.
        on_progress: Told of segments looked at.

    Raises:
        OutputError: A segment was written under another plan.
        RemoteError: `out` is remote and cannot be listed or read.
    """
    rows: list[ClipStatus] = []
    parts: set[int] = set()
    ticker = Ticker("segments looked at", plan.num_segments, on_progress)
    for clip in plan.clips:
        outstanding: list[int] = []
        for number, is_done in enumerate(_done(clip, out / clip.clip_id, quick=quick)):
            if not is_done:
                outstanding.append(number)
            ticker.add()
        parts |= plan.parts_of(clip.clip_id, outstanding)
        rows.append(
            ClipStatus(
                clip=clip.clip_id,
                num_segments=clip.num_segments,
                num_done=clip.num_segments - len(outstanding),
                outstanding=plan_file.array_expression(outstanding),
            )
        )
    return Status(
        folder=str(out),
        num_parts=plan.num_parts,
        num_segments=plan.num_segments,
        num_done=sum(row.num_done for row in rows),
        outstanding_parts=tuple(sorted(parts)),
        array=plan_file.array_expression(sorted(parts)),
        clips=tuple(rows),
    )


def _done(clip: PlannedClip, folder: AnyPath, *, quick: bool) -> Iterator[bool]:
    """For each segment of a clip, in order, whether it is done."""
    sizes_of_records = segment_record.list_records(folder)
    numbers = range(clip.num_segments)
    if quick:
        yield from (number in sizes_of_records for number in numbers)
        return
    sizes, identity, spec = sizes_in(folder), clip.spec.identity, clip.spec
    found = segment_record.read_heads(
        folder, [number for number in numbers if number in sizes_of_records], sizes_of_records
    )
    for number in numbers:
        head = next(found)[1] if number in sizes_of_records else None
        if head is not None:
            segment_record.check_job(folder, head, identity)
        yield head is not None and segment_record.is_whole(
            folder,
            head,
            clip_id=clip.clip_id,
            clip_frames=spec.num_frames,
            config=spec.config,
            size_of=sizes.get,
        )


def finalize(out: AnyPath, *, on_progress: OnProgress | None = None) -> tuple[Status, list[ExtractReport]]:
    """Merge all parts of the plan in `out` into index, manifest, gaps and sidecars of each clip; again gives the same bytes.

    Args:
        out: The folder that all parts shared.
        on_progress: Told of segments looked at and merged.

    Returns:
        How far the plan is, and a report for each clip; no report, and nothing merged, where a segment is outstanding.

    Raises:
        OutputError: There is no plan, another process is at it, a segment is of another plan, or a count does not agree.
        RemoteError: `out` is remote and cannot be read or written.
    """
    with lock_folder(out):
        plan = open_plan(out / PLAN_NAME, out)
        plan_file.check_segments(out / PLAN_NAME)
        found = status(plan, out, on_progress=on_progress)
        if found.outstanding_parts:
            return found, []
        reports: list[ExtractReport] = []
        ticker = Ticker("segments merged", plan.num_segments, on_progress)
        for clip in plan.clips:
            folder = out / clip.clip_id
            with lock_folder(folder):
                remove_leftovers(folder)
                report = merge(
                    folder,
                    clip.spec,
                    skipped=read_skipped(folder),
                    expected_frames=clip.expected_frames,
                    new_frames=0,
                    on_segments=ticker.add,
                )
            reports.append(report)
        return found, reports
