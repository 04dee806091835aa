"""Extract one clip on its own: open its folder, write what is outstanding, and finish index, manifest, gaps and clips.json."""

from infraredcity.clips import Clip
from infraredcity.datasets.clip_facts import CLIPS_NAME
from infraredcity.errors import InfraredCityError, OutputError, VideoDecodeError
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import DEADLINE_S, ExtractConfig
from infraredcity.extraction.executors.local import Executor, LocalExecutor
from infraredcity.extraction.finish import ExtractReport, gaps_of, merge
from infraredcity.extraction.job import ExtractJob, any_done, bind_folder, open_job, pending, remove_leftovers
from infraredcity.extraction.plan import PLAN_NAME
from infraredcity.extraction.segments import frames_ticker
from infraredcity.extraction.spec import read_spec
from infraredcity.files.lock import is_locked, lock_folder
from infraredcity.files.path import AnyPath
from infraredcity.progress import OnProgress


def extract_clip(
    clip: Clip,
    config: ExtractConfig,
    out: AnyPath,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    deadline_s: float = DEADLINE_S,
    is_strict: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Extract one clip to `out`/<clip_id> and finish it; go on where an earlier run stopped, or do nothing.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip; a remote one must have one writer, since stores have no locks.
        workers: Processes that decode, see `LocalExecutor`.
        executor: Writes the segments; None for `workers` processes here.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.
        is_strict: Whether damage is an error, and nothing is finished.
        overwrite: Delete an earlier extraction of the clip first.
        on_progress: Called with the frames done.

    Raises:
        InfraredCityError: As `open_job`, writing and `merge` raise; OutputError when worker processes die again and again, or the
            folder holds a plan; VideoDecodeError when decord is stuck, or the clip is damaged and `is_strict`.
    """
    local = LocalExecutor(workers)
    folder = out / clip.clip_id
    _check_unplanned(out)
    with lock_folder(folder):
        # Whoever plans holds `out` until the plan is written, and takes this lock too, so what these two checks find stays true
        # until this lock is free. In the other order a plan could be written between them.
        _check_not_being_planned(out)
        _check_unplanned(out)
        is_bound = False
        try:
            if executor is None and (overwrite or not (folder / CLIPS_NAME).exists()):
                local.start_worker()
            job = open_job(clip, config, out, overwrite=overwrite)
            remove_leftovers(folder)
            if is_strict and job.video.suspect:
                raise VideoDecodeError(f"{job.video.suspect[0]}; --strict takes no damaged clip")
            job = bind_folder(local.fit_tone(job, deadline_s=deadline_s))
            is_bound = True
            todo = pending(job)
            ticker = frames_ticker(f"{clip.clip_id}: frames", job.segments, todo, on_progress)
            if todo:
                job = (executor or local)(job, todo, deadline_s=deadline_s, on_frames=ticker.add)
            local.end()  # their memory, before the index of a long clip takes its own
            if is_strict:
                is_bound = False  # running again would end the same way
                _check_whole(job)
            spec = read_spec(folder)  # perhaps of an earlier run, when the clip's file had another name
            assert spec is not None
            return merge(
                folder, spec, skipped=job.skipped, expected_frames=clip.expected_frames, new_frames=ticker.added
            )
        except InfraredCityError as error:
            error.is_resumable = is_bound and any_done(folder)
            raise
        finally:
            local.end()
            remove_leftovers(folder)  # what a worker had open when it was ended


def _check_unplanned(out: AnyPath) -> None:
    if (out / PLAN_NAME).exists():
        raise OutputError(
            f"{out}: holds a plan, whose parts may be under way; extract with --plan {out / PLAN_NAME}, or choose another --out"
        )


def _check_not_being_planned(out: AnyPath) -> None:
    if is_locked(out):
        raise OutputError(
            f"{out}: is being planned (or repaired as a whole); wait for that run to end, or choose another --out"
        )


def _check_whole(job: ExtractJob) -> None:
    """Check that no frame of the finished segments is missing or suspect; VideoDecodeError if one is."""
    numbers = [segment.number for segment in job.segments]
    missing: list[int] = []
    suspects: list[int] = []
    for _, rows in segment_record.read_all(job.folder, numbers):
        missing += rows.missing
        suspects += rows.suspect
    gaps = gaps_of(job.make_spec(), missing, frozenset(), job.skipped)
    if gaps:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {sum(gap.num_frames for gap in gaps)} frames are missing, first {gaps[0].first_frame} to "
            f"{gaps[0].last_frame} ({gaps[0].reason}); --strict takes no damaged clip"
        )
    if suspects:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {len(suspects)} frames follow damage, the first is {suspects[0]}; "
            "--strict takes no damaged clip"
        )
