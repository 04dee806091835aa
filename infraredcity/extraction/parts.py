"""Extract on many machines: plan the work, run one part, report what is outstanding, merge.

All machines share the output folder (a disk or an object store) and nothing else. A part needs the plan and the clips, and talks
to no other part. Two that write the same segment write the same bytes, so a part may run twice, or twice at once; no clock
decides anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from infraredcity.clips import Clip
from infraredcity.errors import OutputError
from infraredcity.extraction import segment_record
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
from infraredcity.extraction.plan import (
    PLAN_NAME,
    Plan,
    PlannedClip,
    array_expression,
    check_segment_lines,
    cut_plan,
    read_plan,
    write_plan,
)
from infraredcity.extraction.segment_record import SegmentHead
from infraredcity.extraction.segments import frames_ticker
from infraredcity.extraction.spec import read_spec
from infraredcity.files.lock import lock_folder
from infraredcity.files.path import AnyPath, RemotePath, any_path, sizes_in
from infraredcity.progress import OnProgress, Ticker


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """The result of running one part."""

    part: int | None
    """Its number; None for all parts."""
    num_parts: int
    """Parts of the plan."""
    num_segments: int
    """Segments of the part, all of which are done."""
    num_frames: int
    """Frames in these segments."""
    new_frames: int
    """Frames written by this run."""
    size_bytes: int
    """Bytes of their shards or files."""
    num_missing: int
    """Frames that could not be decoded, or were left out; `finalize` names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipStatus:
    """What is done of one clip of a plan."""

    clip: str
    """The clip's id."""
    num_segments: int
    """Segments of the clip."""
    num_done: int
    """Those that are done."""
    outstanding: str
    """Those that are not, such as "0-3,7"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is done of a plan."""

    folder: str
    """Where its output is."""
    num_parts: int
    """Parts of the plan."""
    num_segments: int
    """Segments of the plan."""
    num_done: int
    """Those that are done."""
    outstanding_parts: tuple[int, ...]
    """Parts with a segment that is not done, ascending."""
    array: str
    """These as a job array takes them, such as "0-3,7"; empty when all is done."""
    clips: tuple[ClipStatus, ...]
    """The same by clip."""


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

    Planning again with another number of parts keeps what is done. A clip that is being extracted there without a plan is refused.

    Args:
        clips: The clips, with their files.
        config: What to write.
        out: Folder that all parts will share.
        num_parts: How many parts.
        overwrite: Delete what is in the folders of these clips.
        on_progress: Called with the clips scanned.

    Raises:
        InfraredCityError: As `open_job` raises; OutputError when there are fewer segments than parts.
    """
    with lock_folder(out):  # until the plan is written, which an extraction without one respects
        planned: list[PlannedClip] = []
        ticker = Ticker("clips scanned", len(clips), on_progress)
        ticker.add(0)
        for clip in clips:
            planned.append(_planned(clip, config, out, overwrite=overwrite))
            ticker.add()
        try:
            plan = cut_plan(planned, num_parts)
        except ValueError as error:
            raise OutputError(
                f"{out / PLAN_NAME}: {error}; use fewer --parts or a smaller --frames-per-shard"
            ) from error
        write_plan(plan, out / PLAN_NAME)
        return plan


def _planned(clip: Clip, config: ExtractConfig, out: AnyPath, *, overwrite: bool) -> PlannedClip:
    """Bind a clip's folder to its job; fail where an extraction without a plan holds its lock. The lock of `out` stops new ones."""
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
    """Read the plan of `path`, and copy it to `out`, which must be the folder of this plan and of no other.

    Raises:
        OutputError: The plan is missing or damaged, or `out` holds another one.
    """
    plan = read_plan(path)
    copy = out / PLAN_NAME
    if str(copy) == str(path):
        return plan
    if not copy.exists():
        write_plan(plan, copy)
    elif (other := read_plan(copy)).identity != plan.identity:
        raise OutputError(
            f"{path}: is another plan ({plan.num_parts} parts, {plan.identity[:12]}) than {copy} ({other.num_parts} parts, "
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
    """Write what is outstanding of one part, or of all; other machines may run other parts, or the same, at the same time.

    Args:
        plan: From `open_plan`.
        part: 0 to `plan.num_parts` - 1; None for all.
        clips: Clips whose files are not where they were when planned, by id.
        out: The folder that all parts share.
        workers: Processes that decode, see `LocalExecutor`.
        executor: Writes the segments; None for `workers` processes here.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
        on_progress: Called with the frames done.

    Raises:
        InfraredCityError: As `join_job` and writing raise; OutputError when the plan has no such part.
    """
    if part is not None and not 0 <= part < plan.num_parts:
        raise OutputError(f"part {part}: the plan has {plan.num_parts} parts, 0 to {plan.num_parts - 1}")
    jobs = [
        join_job(_with_files(plan[segments.clip_id], clips), plan[segments.clip_id].spec, out, segments.numbers)
        for segments in plan.segment_ranges(part)
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
                    f"{segment_record.record_path(job.folder, number)}: was written and cannot be read here; check that "
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
    """Return the planned clip with its files: as named here, else where they were when it was planned."""
    here = clips.get(planned.clip_id)
    paths = here.paths if here is not None and here.paths else tuple(any_path(each) for each in planned.locations)
    return replace(planned.clip, paths=paths, expected_frames=planned.expected_frames)


def status(plan: Plan, out: AnyPath, *, quick: bool = False, on_progress: OnProgress | None = None) -> Status:
    """Report what is done of a plan and what is outstanding.

    A segment is done when its record can be read, is of this plan, and its shard has the size that the record states.

    Args:
        plan: From `open_plan`.
        out: Its folder.
        quick: Look only at the names of segment records: a segment counts as done when it has one.
        on_progress: Called with the segments checked.

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
                outstanding=array_expression(outstanding),
            )
        )
    return Status(
        folder=str(out),
        num_parts=plan.num_parts,
        num_segments=plan.num_segments,
        num_done=sum(row.num_done for row in rows),
        outstanding_parts=tuple(sorted(parts)),
        array=array_expression(sorted(parts)),
        clips=tuple(rows),
    )


def _done(clip: PlannedClip, folder: AnyPath, *, quick: bool) -> Iterator[bool]:
    """Yield for each segment of a clip, in order, whether it is done."""
    records = segment_record.list_records(folder)
    numbers = range(clip.num_segments)
    if quick:
        yield from (number in records for number in numbers)
        return
    sizes, identity, spec = sizes_in(folder), clip.spec.identity, clip.spec
    found = segment_record.read_heads(folder, [number for number in numbers if number in records], records)
    for number in numbers:
        head = next(found)[1] if number in records else None
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
    """Merge all parts of the plan in `out` into index, manifest, gaps and sidecars of each clip; twice gives the same bytes.

    Args:
        out: The folder that all parts shared.
        on_progress: Called with the segments checked and merged.

    Returns:
        What is done of the plan, and a report for each clip; no report, and nothing merged, where a segment is outstanding.

    Raises:
        OutputError: There is no plan, another process holds its lock, a segment is of another plan, or a count does not agree.
        RemoteError: `out` is remote and cannot be read or written.
    """
    with lock_folder(out):
        plan = open_plan(out / PLAN_NAME, out)
        check_segment_lines(out / PLAN_NAME)
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
