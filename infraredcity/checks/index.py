"""Check an index: its own order and runs, and whether clips.json and gaps.json agree with it; no shard is read."""

import numpy as np

from infraredcity.checks.expected import asked_frames, clips_problems
from infraredcity.checks.findings import Found
from infraredcity.datasets import clip_facts
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.gaps import GAPS_NAME, read_gaps
from infraredcity.datasets.walk import JOB_NAME
from infraredcity.errors import ManifestError
from infraredcity.files.path import AnyPath
from infraredcity.shards import index_file


def check_columns(part: ShardFolder, found: Found) -> None:
    """Check order, keys and runs."""
    index = part.index
    for number, clip_id in enumerate(index.clips):
        rows = np.flatnonzero(index.clip == number)
        frames = index.frame_index[rows]
        not_ascending = np.flatnonzero(np.diff(frames) <= 0)
        if len(not_ascending):
            row = int(rows[not_ascending[0] + 1])
            found(index.key(row), "order", f"{part.path}: {index.key(row)} comes after a later frame in the index")
        step = index.frame_steps[number]
        if step != part.clips[clip_id].frame_step:
            found(
                index_file.INDEX_NAME,
                "frame-step",
                f"{part.path}: the index says that {clip_id} has every {step}th frame, clips.json every "
                f"{part.clips[clip_id].frame_step}th",
            )
        apart = np.flatnonzero((np.diff(index.run_id[rows]) == 0) & (np.diff(frames) % step != 0))
        if len(apart):
            row = int(rows[apart[0] + 1])
            found(
                index.key(row),
                "run",
                f"{part.path}: {index.key(row)} is not a multiple of {step} frames from the one before it",
            )
        if len(rows) and int(np.diff(index.run_id[rows]).min(initial=0)) < 0:
            found(index_file.INDEX_NAME, "run", f"{part.path}: the runs of {clip_id} are not in order")


def check_clips(part: ShardFolder, found: Found) -> None:
    """Check that clips.json counts what the index marks."""
    for problem in clips_problems(part):
        found(clip_facts.CLIPS_NAME, "count", f"{part.path / clip_facts.CLIPS_NAME}: {problem}")


def check_gaps(part: ShardFolder, found: Found) -> None:
    """Check that samples and gaps are together the frames that were asked for."""
    for number, clip_id in enumerate(part.index.clips):
        frames = part.index.frame_index[part.index.clip == number]
        check_coverage(part.path, part.clips[clip_id], frames, found)


def check_coverage(folder: AnyPath, facts: ClipFacts, frames: np.ndarray, found: Found) -> None:
    """Check that each frame that was asked for is a sample or in a named gap; only extract writes gaps.json."""
    path = folder / GAPS_NAME
    if not path.exists() and not (folder / JOB_NAME).exists():
        return
    step = facts.frame_step
    try:
        gaps = [gap for gap in read_gaps(folder) if gap.clip == facts.clip_id]
        in_gaps = [range(gap.first_frame, gap.last_frame + 1, step) for gap in gaps]
        again = "run the same extract command again"
        if any(gap.last_frame >= facts.clip_frames for gap in gaps):
            raise ManifestError(f"{path}: a gap ends after the clip's last frame; {again}")
        if [len(gap_frames) for gap_frames in in_gaps] != [gap.num_frames for gap in gaps]:
            raise ManifestError(f"{path}: a gap's frame count is wrong; {again}")
    except ManifestError as error:
        found(GAPS_NAME, "gaps", str(error))
        return
    asked = asked_frames(facts)
    num_expected = len(asked)
    if len(frames) + sum(map(len, in_gaps)) != num_expected:
        found(
            GAPS_NAME,
            "count",
            f"{folder}: {len(frames)} samples and {sum(map(len, in_gaps))} frames in {GAPS_NAME}, expected {num_expected} "
            "together; extract again",
        )
        return
    covered = np.sort(np.concatenate([frames, *map(np.array, in_gaps)]))
    expected = np.array(asked)
    if not np.array_equal(covered, expected):
        frame = int(expected[np.flatnonzero(covered != expected)[0]])
        found(
            GAPS_NAME,
            "gaps",
            f"{folder}: samples and {GAPS_NAME} together are not the frames that were asked for, from frame {frame} on; extract "
            "again",
        )
