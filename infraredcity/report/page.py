"""Write the page about a data set: one HTML file that opens offline, from the numbers and thumbnails of `measure`.

`page.html.j2` holds the markup and its text, `page.css` the style, `page.js` a filter, arrow keys between thumbnails and a larger
view. This module computes what the template cannot. The same report gives the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infraredcity.datasets.similarity import Leakage
from infraredcity.files.atomic import write_atomic
from infraredcity.report import charts
from infraredcity.report.facts import MARKS, ClipReport, DatasetReport, Problem, ShardSizes, Sheets, Thumbnail
from infraredcity.report.measure import FRAMES_PER_CLIP, LEAKAGE_SAMPLES, MAX_LISTED
from infraredcity.report.measure_pixels import NUM_BINS
from infraredcity.report.template import fill_page
from infraredcity.shards.names import key_of
from infraredcity.showing import format_bytes, format_time

_TITLES = {
    "lite": "Lite set",
    "extracted": "Extracted clips",
    "selection": "Selection of samples",
    "other": "Data set",
}
_SIGNS = {"suspect": "!", "repeat": "=", "frozen": "‖", "duplicate": "≈"}
_MARK_WORDS = {
    "suspect": "follows damage in the clip's file",
    "repeat": "the same picture as the sample before",
    "frozen": "hardly differs from the sample before",
    "duplicate": "nearly the same as a sample of another run",
}
_GROUP = 48
"""Thumbnails below one heading; a browser lays out only the groups near the screen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    """A chart with its caption and its numbers as a table."""

    name: str
    """What it shows, in a word or two."""
    caption: str
    """Text after the name in the caption."""
    svg: str | None = None
    """The drawing; None where nothing could be read."""
    title: str = ""
    """Caption of the table."""
    heading: Sequence[str] = ()
    """Headings of the table's columns."""
    rows: Sequence[tuple[str, ...]] = ()
    """Its cells."""


def write_page(path: Path, report: DatasetReport, sheets: Sheets) -> None:
    """Write the page.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        MissingExtraError: jinja2 is not installed.
    """
    write_atomic(path, page_html(report, sheets).encode())


def page_html(report: DatasetReport, sheets: Sheets) -> str:
    """Fill the page's template."""
    problems = all_problems(report, sheets)
    of_sheets = {problem.message: problem.num_frames for problem in sheets.problems}
    by_clip: dict[str, list[tuple[int, Thumbnail]]] = {}
    for number, each in enumerate(sheets.thumbnails):
        by_clip.setdefault(each.clip_id, []).append((number, each))
    splits = sorted({each.split for each in sheets.thumbnails})
    pictures = {test.key: (("test", test), ("train", train)) for test, train in sheets.closest}
    causes: dict[str, int] = {}
    for cause in (cause for clip in report.clips for cause in clip.runs.causes):
        causes[cause.name] = causes.get(cause.name, 0) + cause.num
    return fill_page(
        Path(__file__).parent,
        sources="img-src data:",
        report=report,
        sheets=sheets,
        title=_title(report),
        problems=problems,
        problem_rows=[
            (
                problem.message,
                problem.num_frames if problem in report.problems else 0,
                of_sheets.get(problem.message, 0),
            )
            for problem in problems[:MAX_LISTED]
        ],
        middles={clip_id: of_clip[len(of_clip) // 2][1] for clip_id, of_clip in by_clip.items()},
        num_as_published=sum(each.difference == 0 for each in report.published),
        marks=MARKS,
        signs=_SIGNS,
        mark_words=_MARK_WORDS,
        scan_notes=[(clip.clip_id, note) for clip in report.clips for note in clip.suspect],
        causes=dict(sorted(causes.items())),
        breaks=[each for clip in report.clips for each in clip.runs.breaks],
        leaks=[(leak, leakage_words(leak), pictures.get(leak.test_key)) for leak in report.leakage.found],
        clip_charts=[
            (clip.clip_id, _level_notes(clip), [_histogram(clip), _means(clip), _motion(clip)]) for clip in report.clips
        ],
        shard_chart=_shard_chart(report.shards) if report.shards.num_shards else None,
        without_thumbnail=[clip.clip_id for clip in report.clips if clip.clip_id not in by_clip],
        filters=_filters(report, sheets, splits),
        shows_split=len(splits) > 1,
        clip_sheets=[
            (number, clip, key_of(clip.clip_id, 0).rstrip("0"), len(of_clip), _groups(of_clip))
            for number, clip in enumerate(report.clips)
            if (of_clip := by_clip.get(clip.clip_id))
        ],
        method_rows=_method_rows(report, sheets),
        listed=_listed,
        count=_count,
        time_range=lambda first_s, last_s: f"{format_time(first_s)} \u2013 {format_time(last_s)}",
    )


def leakage_words(leak: Leakage) -> list[str]:
    """Say what a finding of leakage means, one sentence each."""
    compared = f"Each of the {leak.num_test:,} {leak.modality} test samples was compared with every {leak.modality} train sample."
    if leak.num_near:
        share = 100 * leak.num_near / leak.num_test
        verb = "looks" if leak.num_near == 1 else "look"
        near = (
            f"{leak.num_near:,} of them ({share:.1f} %) {verb} nearly the same as some train sample: at most {leak.near_bits} of "
            "64 bits of their perceptual hashes differ. A score on these says little about how a model does on new frames."
        )
    else:
        near = (
            f"None of them looks nearly the same as a train sample, which would be at most {leak.near_bits} of 64 bits of their "
            "perceptual hashes."
        )
    bits = "1 bit" if leak.distance_bits == 1 else f"{leak.distance_bits} bits"
    return [compared, near, f"The closest pair differs in {bits}."]


def all_problems(report: DatasetReport, sheets: Sheets) -> list[Problem]:
    """List the problems of measuring, then those that only the thumbnails had."""
    known = {problem.message for problem in report.problems}
    return [*report.problems, *(problem for problem in sheets.problems if problem.message not in known)]


def _title(report: DatasetReport) -> str:
    scenes = [count.name for count in next(each for each in report.breakdowns if each.by == "scene").counts]
    named = ", ".join(scenes[:4]) + (f" and {len(scenes) - 4} more" if len(scenes) > 4 else "")
    return f"{_TITLES[report.kind]}: {named}" if named else _TITLES[report.kind]


def _level_notes(clip: ClipReport) -> list[str]:
    notes = []
    if clip.stretch is not None:
        notes.append(
            f"Stills of 16 bits: count {clip.stretch.low:,} is shown black and {clip.stretch.high:,} white, the 0.5th and 99.5th "
            "percentile of the frames looked at; levels, motion and thumbnails are of that."
        )
    if clip.tone is not None:
        notes.append(
            f"Extracted from more than 8 bits: count {clip.tone.low:,} became black, {clip.tone.high:,} white."
        )
    if clip.is_inverted:
        notes.append("Levels were turned around at extraction, so that hot is where cold was.")
    return notes


def _histogram(clip: ClipReport) -> _Chart:
    levels = clip.levels
    caption = f" of {_looked_at(levels.num_frames, levels.num_unreadable, 'frame')}"
    if not levels.num_frames:
        return _Chart(name="Levels", caption=caption)
    width = 256 // NUM_BINS
    whole = sum(levels.bins)
    marks = [("1 %", levels.low), ("median", levels.median), ("99 %", levels.high)]
    return _Chart(
        name="Levels",
        caption=f"{caption}. Dashed: 1 % at {levels.low}, median {levels.median}, 99 % at {levels.high}",
        svg=charts.histogram(
            levels.bins,
            marks=[(name, place + 0.5) for name, place in marks],
            stop=256,
            says=f"Levels of {clip.clip_id}: 1 % of the pixels reach at most {levels.low}, half at most {levels.median}, 99 % at "
            f"most {levels.high}.",
        ),
        title=f"Pixels by level, {clip.clip_id}.",
        heading=("Levels", "Pixels", "Share"),
        rows=[
            (f"{number * width} \u2013 {number * width + width - 1}", f"{count:,}", f"{100 * count / whole:.2f} %")
            for number, count in enumerate(levels.bins)
        ],
    )


def _means(clip: ClipReport) -> _Chart:
    levels = clip.levels
    caption = f", {_looked_at(levels.num_frames, levels.num_unreadable, 'frame')}"
    if not levels.num_frames:
        return _Chart(name="Mean level over time", caption=caption)
    low, high = min(levels.means), max(levels.means)
    times = f"from {format_time(levels.times_s[0])} to {format_time(levels.times_s[-1])}"
    return _Chart(
        name="Mean level over time",
        caption=f"{caption}. Between {low:.1f} and {high:.1f}",
        svg=charts.line(
            levels.times_s,
            levels.means,
            says=f"Mean level of {clip.clip_id} over time: between {low:.1f} and {high:.1f}, {times}.",
        ),
        title=f"Mean level over time, {clip.clip_id}.",
        heading=("Time", "Mean level"),
        rows=[(format_time(time_s), f"{mean:.1f}") for time_s, mean in zip(levels.times_s, levels.means, strict=True)],
    )


def _motion(clip: ClipReport) -> _Chart:
    motion = clip.motion
    caption = f", {_looked_at(motion.num_pairs, motion.num_unreadable, 'pair')}"
    if not motion.num_pairs:
        return _Chart(name="Motion over time", caption=caption)
    times = f"from {format_time(motion.times_s[0])} to {format_time(motion.times_s[-1])}"
    return _Chart(
        name="Motion over time",
        caption=f"{caption}. Median {motion.median:.1f}, at most {motion.largest:.1f} levels",
        svg=charts.line(
            motion.times_s,
            motion.differences,
            from_zero=True,
            says=f"Motion of {clip.clip_id} over time: median {motion.median:.1f} levels, at most {motion.largest:.1f}, {times}.",
        ),
        title=f"Motion over time, {clip.clip_id}.",
        heading=("Time", "Mean difference"),
        rows=[
            (format_time(time_s), f"{value:.2f}")
            for time_s, value in zip(motion.times_s, motion.differences, strict=True)
        ],
    )


def _looked_at(num: int, num_unreadable: int, noun: str) -> str:
    return _count(num, noun) + (f" ({num_unreadable:,} more could not be read)" if num_unreadable else "")


def _shard_chart(sizes: ShardSizes) -> _Chart:
    ends = (format_bytes(sizes.bytes_smallest), format_bytes(sizes.bytes_largest))
    return _Chart(
        name="Shards by size",
        caption=f", from {ends[0]} to {ends[1]}",
        svg=charts.bars(
            ends,
            [each.num_shards for each in sizes.bins],
            says=f"Number of shards by size, from {ends[0]} to {ends[1]}, in {_count(len(sizes.bins), 'bin')}.",
        ),
        title="Shards by size.",
        heading=("Bytes", "Shards"),
        rows=[(f"{each.start_bytes:,} \u2013 {each.stop_bytes:,}", f"{each.num_shards:,}") for each in sizes.bins],
    )


def _filters(
    report: DatasetReport, sheets: Sheets, splits: Sequence[str]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """List the filters of the thumbnails: id, label and choices; a single choice makes no filter."""
    shown = {each.clip_id for each in sheets.thumbnails}
    clips = [(clip.clip_id, clip.clip_id) for clip in report.clips if clip.clip_id in shown]
    filters = [("filter-clip", "Clip", [("", "all"), *clips])]
    marks = [(mark, mark) for mark in MARKS if any(mark in each.marks for each in sheets.thumbnails)]
    if marks:
        filters.append(("filter-mark", "Mark", [("", "all"), ("any", "marked"), *marks, ("none", "not marked")]))
    if len(splits) > 1:
        filters.append(("filter-split", "Split", [("", "all"), *((split, split) for split in splits)]))
    return filters


def _groups(thumbnails: Sequence[tuple[int, Thumbnail]]) -> list[Sequence[tuple[int, Thumbnail]]]:
    return [thumbnails[start : start + _GROUP] for start in range(0, len(thumbnails), _GROUP)]


def _method_rows(report: DatasetReport, sheets: Sheets) -> list[tuple[str, ...]]:
    num_frames = sum(clip.levels.num_frames for clip in report.clips)
    num_pairs = sum(clip.motion.num_pairs for clip in report.clips)
    lost = (
        sum(clip.levels.num_unreadable for clip in report.clips),
        sum(clip.motion.num_unreadable for clip in report.clips),
    )
    num_compared = sum(part.num_samples for part in report.parts if part.split in ("train", "test"))
    return [
        ("Counts, marks, gaps, runs, duplicates, shard sizes", f"{report.num_samples:,} samples", "0", "all, from the indexes"),
        (
            "Levels",
            _count(num_frames, "frame"),
            f"{lost[0]:,}",
            f"at most {FRAMES_PER_CLIP} a clip, spread evenly over its samples",
        ),
        (
            "Motion",
            _count(num_pairs, "pair"),
            f"{lost[1]:,}",
            f"at most {FRAMES_PER_CLIP} pairs a clip, spread evenly over those that are neighbours",
        ),
        (
            "From train to test",
            _count(num_compared, "sample") if report.leakage.is_measured else "none",
            "0" if report.leakage.is_measured else "-",
            f"all test and train samples, of sets with at most {LEAKAGE_SAMPLES:,}",
        ),
        (
            "Thumbnails",
            _count(len(sheets.thumbnails) + 2 * len(sheets.closest), "frame"),
            f"{sheets.num_unreadable:,}",
            "dealt to the clips as evenly as their samples allow",
        ),
    ]  # fmt: skip


def _listed(num_shown: int, num: int, noun: str) -> str:
    """Say what a list holds: "12 gaps", or "The first 200 of 1,234 gaps"."""
    return _count(num, noun) if num_shown >= num else f"The first {num_shown:,} of {_count(num, noun)}"


def _count(num: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{num:,} {noun if num == 1 else plural}"
