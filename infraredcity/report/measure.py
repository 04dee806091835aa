"""Measure a data set in numbers and thumbnails: what `infraredcity report` shows.

Counts, marks, runs and sizes come from the indexes and cover every sample. Measures of pixels use a bounded number of pictures,
spread evenly, and report how many: 580,000 samples take little longer than 10,000. Only leakage reads every picture, and is left
out for very large sets; for a remote set it is what make-lite found. A missing shard or a damaged picture is listed as a problem.
"""

import importlib.metadata
from collections.abc import Sequence

import numpy as np

from infraredcity.checks.published import published_rows
from infraredcity.clips import load_catalog
from infraredcity.datasets import clip_facts, lite, select, similarity
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import dataset_hash
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.gaps import GAPS_NAME, Gap, read_gaps
from infraredcity.errors import ImageError, ManifestError, ShardError
from infraredcity.files import path
from infraredcity.files.records import read_json
from infraredcity.progress import OnProgress, Ticker
from infraredcity.report.facts import (
    Break,
    Breakdown,
    ClipReport,
    Count,
    DatasetReport,
    Duplicates,
    DuplicateStretch,
    Kind,
    LeakageCheck,
    PartCount,
    PublishedCount,
    Runs,
    ShardSizes,
    SizeBin,
)
from infraredcity.report.measure_pixels import (
    difference_words,
    fit_stretch,
    lower_median,
    measure_levels,
    measure_motion,
)
from infraredcity.report.samples import (
    ClipSamples,
    FrameReader,
    clips_of,
    column,
    is_named,
    spread,
    times_of,
)
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT, SampleIndex, picture_sizes
from infraredcity.stills.tone import ToneMap

FRAMES_PER_CLIP = 200
"""Frames of a clip that are measured for its levels, and pairs of frames for its motion."""
FRAMES_IN_ALL = 10_000
"""The same over all clips: with more than 50 clips, each gets fewer."""
LEAKAGE_SAMPLES = 100_000
"""In sets with more samples, test is not compared with train: it reads all pictures, and time grows with their square."""
MAX_LISTED = 200
"""Largest number of rows in a list of gaps, breaks, duplicates or problems; all are counted."""
_SIZE_BINS = 10


def measure_dataset(
    root: path.AnyPath, parts: Sequence[ShardFolder], *, on_progress: OnProgress | None = None
) -> DatasetReport:
    """Measure the numbers of a data set.

    Args:
        root: The data set's folder.
        parts: Its parts, from `dataset.open_dataset`.
        on_progress: Gets the number of frames measured.
    """
    clips = clips_of(parts)
    per_clip = min(FRAMES_PER_CLIP, max(2, FRAMES_IN_ALL // max(1, len(clips))))
    total = sum(
        min(per_clip, len(clip.row)) + 2 * min(per_clip, int(np.count_nonzero(clip.has_next))) for clip in clips
    )
    reader = FrameReader(root, parts, what="report: frames", total=total, on_progress=on_progress)
    for error in reader.bad_shards.values():
        reader.add_problem(error)
    kind, made = _kind(root, parts, reader)
    gaps = _gaps(parts, reader)
    num_listed = 0
    reports = []
    for clip in clips:
        report = _clip_report(clip, reader, gaps, per_clip=per_clip, num_breaks=MAX_LISTED - num_listed)
        num_listed += len(report.runs.breaks)
        reports.append(report)
    manifest_hash = dataset_hash(parts)
    leakage = _leakage(root, parts, reader, manifest_hash, on_progress)
    infos = [info for part in parts for info in part.index.shards]
    problems = reader.problems
    return DatasetReport(
        kind=kind,
        made=made,
        library_version=_version(),
        manifest_hash=manifest_hash,
        image_formats=tuple(sorted({part.index.image_format for part in parts})),
        num_samples=sum(len(part.index) for part in parts),
        size_bytes=sum(info.size_bytes for info in infos),
        parts=tuple(
            PartCount(
                name=part.name,
                split=part.split,
                num_samples=len(part.index),
                num_shards=len(part.index.shards),
                size_bytes=sum(info.size_bytes for info in part.index.shards),
            )
            for part in parts
        ),
        clips=tuple(reports),
        breakdowns=_breakdowns(parts),
        published=_published(kind, parts),
        gaps=tuple(gaps[:MAX_LISTED]),
        duplicates=_duplicates(parts),
        leakage=leakage,
        shards=shard_sizes([info.num_samples for info in infos], [info.size_bytes for info in infos]),
        num_frames_read=reader.num_read,
        num_problems=len(problems),
        problems=problems[:MAX_LISTED],
    )


def shard_sizes(num_samples: Sequence[int], sizes_bytes: Sequence[int]) -> ShardSizes:
    """Summarize the sizes of shards, from the samples and bytes of each; all 0 for no shard."""
    if not sizes_bytes:
        num_samples, sizes_bytes, num_shards = [0], [0], 0
    else:
        num_shards = len(sizes_bytes)
    smallest, largest = min(sizes_bytes), max(sizes_bytes)
    num_bins = min(_SIZE_BINS, max(1, largest - smallest))
    edges = [smallest + (largest - smallest) * number // num_bins for number in range(num_bins + 1)]
    places = np.minimum(np.searchsorted(edges, sizes_bytes, side="right") - 1, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins).tolist()
    return ShardSizes(
        num_shards=num_shards,
        samples_smallest=min(num_samples),
        samples_median=lower_median(num_samples),
        samples_largest=max(num_samples),
        bytes_smallest=smallest,
        bytes_median=lower_median(sizes_bytes),
        bytes_largest=largest,
        bins=tuple(
            SizeBin(start_bytes=start, stop_bytes=stop, num_shards=count)
            for start, stop, count in zip(edges[:-1], edges[1:], counts, strict=True)
            if num_shards
        ),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("infraredcity")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def _kind(root: path.AnyPath, parts: Sequence[ShardFolder], reader: FrameReader) -> tuple[Kind, str]:
    path = root / lite.REPORT_NAME
    if path.is_file():
        try:
            made = read_json(path)["report"]
            made = (
                f"recipe {made['recipe']}, scale {float(made['scale']):g}, guard of {int(made['guard_frames'])} frames"
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reader.add_problem(f"{path}: damaged, or its set is not finished ({error}); make the set again")
            made = ""
        return "lite", made
    if (root / select.REPORT_NAME).is_file():
        return "selection", ""
    if all((part.path / GAPS_NAME).is_file() for part in parts):
        return "extracted", ""
    return "other", ""


def _gaps(parts: Sequence[ShardFolder], reader: FrameReader) -> list[Gap]:
    """Read all gaps that the parts' gaps.json name."""
    found: list[Gap] = []
    for part in parts:
        if (part.path / GAPS_NAME).is_file():
            try:
                found += read_gaps(part.path)
            except ManifestError as error:
                reader.add_problem(str(error))
    return found


def _clip_report(
    clip: ClipSamples, reader: FrameReader, gaps: Sequence[Gap], *, per_clip: int, num_breaks: int
) -> ClipReport:
    parts, facts = reader.parts, clip.facts
    marks = column(parts, clip, "mark")
    is_repeat = (marks & REPEAT) != 0
    of_clip = [gap for gap in gaps if gap.clip == facts.clip_id]
    ends = times_of(parts, clip.places(np.array([0, len(clip.row) - 1])), facts)
    chosen = clip.places(spread(len(clip.row), per_clip))
    stretch = fit_stretch(reader, chosen)
    return ClipReport(
        **facts.description(),
        frame_step=facts.frame_step,
        clip_frames=facts.clip_frames,
        is_inverted=facts.is_inverted,
        suspect=tuple(facts.suspect),
        tone=_tone(facts, reader),
        parts=tuple(parts[number].name for number in np.unique(clip.part).tolist()),
        num_samples=len(clip.row),
        picture_sizes=tuple(picture_sizes(*(column(parts, clip, name) for name in ("width", "height")))),
        size_bytes=int(column(parts, clip, "size").sum()),
        first_s=ends[0],
        last_s=ends[1],
        num_suspect=int(np.count_nonzero(marks & SUSPECT)),
        num_repeats=int(np.count_nonzero(is_repeat)),
        num_frozen=int(np.count_nonzero(marks & FROZEN)),
        num_duplicates=int(np.count_nonzero(is_named(parts, clip) & ~is_repeat)),
        num_gaps=len(of_clip),
        num_missing=sum(gap.num_frames for gap in of_clip),
        runs=_runs(parts, clip, num_breaks),
        stretch=stretch,
        levels=measure_levels(reader, facts, chosen, stretch),
        motion=measure_motion(reader, facts, clip, stretch, per_clip),
    )


def _tone(facts: ClipFacts, reader: FrameReader) -> ToneMap | None:
    if facts.tone is None:
        return None
    try:
        return ToneMap.from_json(facts.tone)
    except ValueError as error:
        reader.add_problem(f"{clip_facts.CLIPS_NAME}: clip {facts.clip_id}: {error}; extract the clip again")
        return None


def _runs(parts: Sequence[ShardFolder], clip: ClipSamples, num_breaks: int) -> Runs:
    lengths: list[int] = []
    causes: dict[str, int] = {}
    breaks: list[Break] = []
    for number in np.unique(clip.part).tolist():
        alone = parts[number].index.take(np.sort(clip.row[clip.part == number]))
        starts, sizes = alone.stretches().T.tolist()
        lengths += sizes
        for start in starts[1:]:
            cause = _cause(alone, start)
            causes[cause] = causes.get(cause, 0) + 1
            breaks.append(Break(after_key=alone.key(start - 1), before_key=alone.key(start), cause=cause))
    return Runs(
        num_runs=len(lengths),
        shortest=min(lengths),
        median=lower_median(lengths),
        longest=max(lengths),
        causes=tuple(Count(name=cause, num=causes[cause]) for cause in sorted(causes)),
        breaks=tuple(sorted(breaks, key=lambda each: each.after_key)[: max(0, num_breaks)]),
    )


def _cause(index: SampleIndex, row: int) -> str:
    """Say why a row does not follow the row before it; see `index.run_ids`."""
    step = index.frame_steps[int(index.clip[row])]
    if int(index.frame_index[row] - index.frame_index[row - 1]) != step:
        return "frames between that are not in the set"
    before, after = int(index.mark[row - 1]), int(index.mark[row])
    if (before ^ after) & SUSPECT:
        return "suspect frames that begin or end"
    if (before | after) & (REPEAT | FROZEN):
        return "a repeat or a frozen frame"
    return "a break in the recording"


def _groups(parts: Sequence[ShardFolder]) -> list[tuple[ShardFolder, ClipFacts, int]]:
    """List each clip of each part with the number of its samples."""
    return [
        (part, part.clips[clip_id], count)
        for part in parts
        for clip_id, count in zip(
            part.index.clips, np.bincount(part.index.clip, minlength=len(part.index.clips)).tolist(), strict=True
        )
    ]


def _breakdowns(parts: Sequence[ShardFolder]) -> tuple[Breakdown, ...]:
    by: dict[str, dict[str, int]] = {}
    for part, facts, count in _groups(parts):
        words = {
            "modality": facts.modality,
            "time of day": facts.time_of_day,
            "split": part.split,
            "scene": facts.scene,
            "weather": facts.weather,
        }
        for name, value in words.items():
            counts = by.setdefault(name, {})
            counts[value] = counts.get(value, 0) + count
    return tuple(
        Breakdown(by=name, counts=tuple(Count(name=value, num=counts[value]) for value in sorted(counts)))
        for name, counts in by.items()
    )


def _published(kind: Kind, parts: Sequence[ShardFolder]) -> tuple[PublishedCount, ...]:
    nine = {clip.clip_id for clip in load_catalog(environment={})}
    if not any(facts.clip_id in nine for _, facts, _ in _groups(parts)) or (kind != "extracted" and kind != "lite"):
        return ()
    return tuple(
        PublishedCount(
            name=row.name,
            expected=row.expected,
            found=row.found,
            difference=row.found - row.expected,
            says=difference_words(row.expected, row.found),
        )
        for row in published_rows(kind, parts)
        if row.expected
    )


def _duplicates(parts: Sequence[ShardFolder]) -> Duplicates:
    num_samples = num_repeats = num_stretches = 0
    stretches: list[DuplicateStretch] = []
    for part in parts:
        index = part.index
        named = index.dup_of != b""
        is_repeat = named & ((index.mark & REPEAT) != 0)
        num_samples += int(np.count_nonzero(named))
        num_repeats += int(np.count_nonzero(is_repeat))
        goes_on = named[1:] & named[:-1] & (np.diff(index.clip) == 0)
        starts = np.flatnonzero(named & ~np.concatenate([[False], goes_on]))
        stops = np.flatnonzero(named & ~np.concatenate([goes_on, [False]])) + 1
        num_stretches += len(starts)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            if len(stretches) == MAX_LISTED:
                break
            stretches.append(
                DuplicateStretch(
                    part=part.name,
                    first_key=index.key(start),
                    last_key=index.key(stop - 1),
                    num_samples=stop - start,
                    num_repeats=int(np.count_nonzero(is_repeat[start:stop])),
                    of_key=index.dup_of[start].decode("ascii", "replace"),
                )
            )
    return Duplicates(
        num_samples=num_samples, num_repeats=num_repeats, num_stretches=num_stretches, stretches=tuple(stretches)
    )


def _leakage(
    root: path.AnyPath,
    parts: Sequence[ShardFolder],
    reader: FrameReader,
    manifest_hash: str,
    on_progress: OnProgress | None,
) -> LeakageCheck:
    splits: dict[str, set[str]] = {}
    for part, facts, count in _groups(parts):
        if count:
            splits.setdefault(facts.modality, set()).add(part.split)
    if not any(of_modality >= {"train", "test"} for of_modality in splits.values()):
        return LeakageCheck(
            is_measured=False, found=(), why_not="no modality has both train and test parts, so nothing can leak"
        )
    compared = [part for part in parts if part.split in ("train", "test")]
    total = sum(len(part.index) for part in compared)
    if total > LEAKAGE_SAMPLES:
        return LeakageCheck(
            is_measured=False,
            found=(),
            why_not=f"{total:,} samples are more than the {LEAKAGE_SAMPLES:,} that are compared; report on a selection of them",
        )
    if isinstance(root, path.RemotePath):
        on_record = _leakage_on_record(root, manifest_hash)
        if on_record is None:
            return LeakageCheck(
                is_measured=False,
                found=(),
                why_not="all pictures would have to be downloaded; run report on the machine that has them, or on a copy",
            )
        return LeakageCheck(is_measured=True, found=on_record, why_not="")
    ticker = Ticker("report: compared", total, on_progress)
    try:
        found = similarity.find(compared, on_samples=ticker.add).leakage
    except (ShardError, ImageError) as error:
        reader.add_problem(error)
        return LeakageCheck(is_measured=False, found=(), why_not="a picture could not be read; see the problems")
    return LeakageCheck(is_measured=True, found=found, why_not="")


def _leakage_on_record(root: path.AnyPath, manifest_hash: str) -> tuple[similarity.Leakage, ...] | None:
    """Read the leakage that make-lite found; None where the set's pictures have changed since."""
    try:
        record = read_json(root / lite.REPORT_NAME)["report"]
        if record["manifest_hash"] != manifest_hash:
            return None
        return tuple(similarity.Leakage(**each) for each in record["leakage"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # no Lite set, or a problem that `_kind` noted
