"""The page about a data set: one HTML file that opens offline, from the numbers and thumbnails of `report`.

A pure function: the same report gives the same bytes. Everything stands in the page itself: style, script, pictures. A strict
Content-Security-Policy allows just these by their hashes, so nothing that a data set says of itself can load or run anything.
Without JavaScript the page lacks the filter, the keys and the larger view, nothing else. All text from data is escaped, marks
of writing direction too.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from infraredcity.datasets.similarity import Leakage
from infraredcity.files.atomic import write_atomic
from infraredcity.report import charts
from infraredcity.report.charts import format_time
from infraredcity.report.facts import (
    MARKS,
    Breakdown,
    ClipReport,
    DatasetReport,
    Problem,
    Sheets,
    Thumbnail,
)
from infraredcity.report.measure import FRAMES_PER_CLIP, LEAKAGE_SAMPLES, MAX_LISTED, NUM_BINS
from infraredcity.report.style import SCRIPT, STYLE
from infraredcity.shards.names import key_of
from infraredcity.showing import in_page, policy_hash

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
"""Thumbnails below one heading; what is far from the screen is not laid out, group by group."""


def write_page(path: Path, report: DatasetReport, sheets: Sheets) -> None:
    """Write the page.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
    """
    write_atomic(path, page_html(report, sheets).encode())


def page_html(report: DatasetReport, sheets: Sheets) -> str:
    """The page's HTML."""
    sections = [
        ("counts", "Counts", _counts(report, sheets)),
        ("published", "Beside the published counts", _published(report)),
        ("breaks", "Gaps, runs and marks", _breaks(report)),
        ("duplicates", "Duplicates", _duplicates(report)),
        ("leakage", "From train to test", _leakage(report, sheets)),
        ("levels", "Levels and motion", _levels(report)),
        ("shards", "Shards", _shards(report)),
        ("sheets", "Contact sheets", _contact_sheets(report, sheets)),
        ("method", "How this was measured", _method(report, sheets)),
    ]
    if all_problems(report, sheets):
        sections.insert(0, ("problems", "Problems", _problems(report, sheets)))
    contents = "".join(f'<li><a href="#{name}">{in_page(title)}</a></li>' for name, title, _ in sections)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{in_page(title)}</h2>{content}</section>'
        for name, title, content in sections
    )
    title = _title(report)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{policy_hash(STYLE)}'; script-src '{policy_hash(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{in_page(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f"{_header(report, sheets, title)}\n"
        f'<div class="layout"><nav aria-label="Contents"><h2 class="nav-title">Contents</h2><ul>{contents}</ul></nav>\n'
        f'<main id="main" tabindex="-1">{body}</main></div>\n'
        f"<footer><p>Written by infraredcity {in_page(report.library_version)} with <code>infraredcity report</code>. "
        "The same data gives the same page.</p></footer>\n"
        f"{_VIEWER}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def leakage_words(leak: Leakage) -> list[str]:
    """What a finding of leakage means, one sentence each."""
    compared = f"Each of the {leak.num_test:,} {leak.modality} test samples was compared with every {leak.modality} train sample."
    if leak.num_near:
        share = 100 * leak.num_near / leak.num_test
        verb = "looks" if leak.num_near == 1 else "look"
        near = (
            f"{leak.num_near:,} of them ({share:.1f} %) {verb} nearly the same as some train sample: at most {leak.near_bits} of "
            "64 bits of their perceptual hashes differ. A score on these tells little of how a model does on what it has not seen."
        )
    else:
        near = (
            f"None of them looks nearly the same as a train sample, which would be at most {leak.near_bits} of 64 bits of their "
            "perceptual hashes."
        )
    bits = "1 bit" if leak.distance_bits == 1 else f"{leak.distance_bits} bits"
    return [compared, near, f"The closest pair differs in {bits}."]


# The viewer holds a copy of a thumbnail that the script puts there; it is empty and closed without the script.
_VIEWER = (
    '<dialog id="viewer" aria-labelledby="viewer-title"><div class="bar"><h2 id="viewer-title">Thumbnail</h2>'
    '<button type="button" data-do="close">Close</button></div><div class="stage"><figure></figure><dl></dl></div>'
    '<div class="bar"><button type="button" data-do="back">Previous</button><output id="viewer-place"></output>'
    '<button type="button" data-do="next">Next</button></div>'
    '<p class="note">Left and right arrow keys move, Escape closes.</p></dialog>'
)


def _title(report: DatasetReport) -> str:
    scenes = [count.name for count in next(each for each in report.breakdowns if each.by == "scene").counts]
    told = ", ".join(scenes[:4]) + (f" and {len(scenes) - 4} more" if len(scenes) > 4 else "")
    return f"{_TITLES[report.kind]}: {told}" if told else _TITLES[report.kind]


def _header(report: DatasetReport, sheets: Sheets, title: str) -> str:
    num_problems = len(all_problems(report, sheets))
    if num_problems:
        verdict = f'<p class="verdict bad"><a href="#problems">{_num(num_problems, "problem")} found</a>.</p>'
    else:
        verdict = (
            '<p class="verdict">No problem was found in what was looked at.</p>'
            '<p class="note"><code>infraredcity verify</code> reads every byte; this page does not.</p>'
        )
    tiles = [
        ("Samples", f"{report.num_samples:,}"),
        ("Clips", f"{len(report.clips):,}"),
        ("Parts", f"{len(report.parts):,}"),
        ("Shards", f"{report.shards.num_shards:,}"),
        ("Size", format_bytes(report.size_bytes)),
    ]
    facts = [("Manifest hash", f"<code>{in_page(report.manifest_hash)}</code>")]
    if report.made:
        facts.append(("Made with", in_page(report.made)))
    facts.append(("Pictures", in_page(", ".join(report.image_formats))))
    return (
        f'<header><p class="eyebrow">InfraredCity data set report</p><h1>{in_page(title)}</h1>'
        f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)}</dl>'
        f'<dl class="facts">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)}</dl>'
        f"{verdict}</header>"
    )


def all_problems(report: DatasetReport, sheets: Sheets) -> list[Problem]:
    """The problems of measuring, then those that only the thumbnails met."""
    known = {problem.message for problem in report.problems}
    return [*report.problems, *(problem for problem in sheets.problems if problem.message not in known)]


def _problems(report: DatasetReport, sheets: Sheets) -> str:
    problems = all_problems(report, sheets)
    of_sheets = {problem.message: problem.num_frames for problem in sheets.problems}
    rows = [
        (
            in_page(problem.message),
            f"{problem.num_frames if problem in report.problems else 0:,}",
            f"{of_sheets.get(problem.message, 0):,}",
        )
        for problem in problems[:MAX_LISTED]
    ]
    total = report.num_problems + len(problems) - len(report.problems)
    return (
        "<p>What they kept from being read is left out below, and counted here. Every sample stays in the counts: "
        "these come from the index.</p>"
        + _table(
            f"{_listed(len(rows), total, 'problem')} and the reads that each spoiled.",
            ("Problem", "Measures", "Thumbnails"),
            rows,
            is_wide=True,
            kind="messages",
        )
    )


def _counts(report: DatasetReport, sheets: Sheets) -> str:
    middles: dict[str, Thumbnail] = {}
    for clip in report.clips:
        of_clip = [each for each in sheets.thumbnails if each.clip_id == clip.clip_id]
        if of_clip:
            middles[clip.clip_id] = of_clip[len(of_clip) // 2]
    rows = []
    for number, clip in enumerate(report.clips):
        middle = middles.get(clip.clip_id)
        name = f"<span>{in_page(clip.clip_id)}</span>"
        if middle is not None:
            picture = f'<img class="mini" src="{_data_uri(middle)}" alt="" width="48" height="40">'
            name = f'<a class="clip" href="#sheet-{number}">{picture}{name}</a>'
        rows.append(
            (
                name,
                in_page(clip.modality),
                in_page(clip.time_of_day),
                in_page(clip.scene),
                in_page(clip.weather),
                f"{clip.num_samples:,}",
                f"{clip.clip_frames:,}",
                f"{clip.frame_step:,}",
                ", ".join(f"{width}&times;{height}" for width, height in clip.picture_sizes),
                f"{format_time(clip.first_s)} &ndash; {format_time(clip.last_s)}",
                format_bytes(clip.size_bytes),
            )
        )
    heading = (
        "Clip", "Modality", "Time of day", "Scene", "Weather", "Samples", "Clip frames", "Frame step", "Pixels", "Time in the clip",
        "Pictures",
    )  # fmt: skip
    clips = _table(
        "Samples by clip; clip frames are those of the whole clip, one sample was taken every frame step.",
        heading,
        rows,
        is_wide=True,
        kind="clips",
    )
    parts = _table(
        "Samples by part, the folders of shards.",
        ("Part", "Split", "Samples", "Shards", "Size"),
        [
            (
                in_page("the set's own folder" if part.name == "." else part.name),
                in_page(part.split),
                f"{part.num_samples:,}",
                f"{part.num_shards:,}",
                format_bytes(part.size_bytes),
            )
            for part in report.parts
        ],
        is_wide=True,
        num_text=2,
    )
    breakdowns = "".join(_breakdown(report, each) for each in report.breakdowns)
    return f'{clips}<div class="cards">{breakdowns}</div>{parts}'


def _breakdown(report: DatasetReport, breakdown: Breakdown) -> str:
    whole = max(1, report.num_samples)
    rows = [(in_page(count.name), f"{count.num:,}", f"{100 * count.num / whole:.1f} %") for count in breakdown.counts]
    return _table(f"By {breakdown.by}", (breakdown.by.capitalize(), "Samples", "Share"), rows)


def _published(report: DatasetReport) -> str:
    if not report.published:
        return (
            "<p>There is nothing published to compare with: this is no set of extracted clips and no Lite set in which one of "
            "the nine clips of InfraredCity occurs.</p>"
        )
    rows = [
        (
            in_page(each.name),
            f"{each.expected:,}",
            f"{each.found:,}",
            f"{each.difference:+,}" if each.difference else "0",
            in_page(each.says),
        )
        for each in report.published
    ]
    what = "frames of the whole release" if report.kind == "extracted" else "frames of InfraredCity-Lite"
    table = _table(
        f"Published {what} (arXiv 2204.12367) and the samples here.",
        ("What", "Published", "Here", "Difference", "In words"),
        rows,
        is_wide=True,
        kind="words-last",
    )
    num_same = sum(each.difference == 0 for each in report.published)
    return f"<p>{num_same:,} of {len(report.published):,} counts are as published.</p>{table}"


def _breaks(report: DatasetReport) -> str:
    rows = [
        (
            in_page(clip.clip_id),
            f"{clip.num_gaps:,}",
            f"{clip.num_missing:,}",
            f"{clip.num_suspect:,}",
            f"{clip.num_repeats:,}",
            f"{clip.num_frozen:,}",
            f"{clip.num_duplicates:,}",
            f"{clip.runs.num_runs:,}",
            f"{clip.runs.shortest:,} / {clip.runs.median:,} / {clip.runs.longest:,}",
        )
        for clip in report.clips
    ]
    heading = (
        "Clip", "Gaps", "Missing frames", "Suspect", "Repeats", "Frozen", "Duplicates", "Runs", "Samples a run: least/median/most",
    )  # fmt: skip
    meanings = "".join(
        f'<div><dt><span class="mark">{_SIGNS[mark]} {mark}</span></dt><dd>{_MARK_WORDS[mark]}</dd></div>'
        for mark in MARKS
    )
    parts = [
        "<p>A run is a stretch of samples in which each follows the one before by exactly one frame step; windows for training "
        "never reach over its ends. Gaps are frames that could not be had when the clip was extracted.</p>",
        f'<dl class="meanings">{meanings}</dl>',
        _table("What is missing, marked and broken, by clip.", heading, rows, is_wide=True),
    ]
    notes = [(clip.clip_id, note) for clip in report.clips for note in clip.suspect]
    if notes:
        items = "".join(f"<li>{in_page(clip_id)}: {in_page(note)}</li>" for clip_id, note in notes)
        parts.append(f"<h3>What the scans of the clips found</h3><ul>{items}</ul>")
    parts += [_gaps(report), _run_breaks(report)]
    return "".join(parts)


def _gaps(report: DatasetReport) -> str:
    if not report.gaps:
        return "<p>No gap is named.</p>"
    rows = [
        (
            in_page(gap.clip),
            f"{gap.first_frame:,}",
            f"{gap.last_frame:,}",
            f"{gap.num_frames:,}",
            in_page(gap.reason),
        )
        for gap in report.gaps
    ]
    table = _table(
        _listed(len(rows), sum(clip.num_gaps for clip in report.clips), "gap") + ", as gaps.json names them.",
        ("Clip", "First frame", "Last frame", "Frames", "Reason"),
        rows,
        is_wide=True,
        kind="words-last",
    )
    return f"<h3>Gaps</h3>{table}"


def _run_breaks(report: DatasetReport) -> str:
    causes: dict[str, int] = {}
    for clip in report.clips:
        for cause in clip.runs.causes:
            causes[cause.name] = causes.get(cause.name, 0) + cause.num
    if not causes:
        return "<p>No run is broken: within a part every clip is one.</p>"
    told = ", ".join(f"{causes[name]:,} because of {name}" for name in sorted(causes))
    rows = [
        (in_page(each.after_key), in_page(each.before_key), in_page(each.cause))
        for clip in report.clips
        for each in clip.runs.breaks
    ]
    table = _table(
        _listed(len(rows), sum(causes.values()), "break") + " between runs.",
        ("After", "Before", "Because of"),
        rows,
        is_wide=True,
        num_text=2,
        kind="words-last",
    )
    return f"<h3>Breaks between runs</h3><p>{in_page(told)}.</p>{_details('The breaks one by one', table)}"


def _duplicates(report: DatasetReport) -> str:
    found = report.duplicates
    if not found.num_samples:
        return "<p>No sample names another one that shows the same. Near-duplicates are looked for by <code>make-lite</code>.</p>"
    near = found.num_samples - found.num_repeats
    verb = "is" if near == 1 else "are"
    rows = [
        (
            in_page("the set's own folder" if each.part == "." else each.part),
            in_page(each.first_key),
            in_page(each.last_key),
            f"{each.num_samples:,}",
            f"{each.num_repeats:,}",
            in_page(each.of_key),
        )
        for each in found.stretches
    ]
    table = _table(
        _listed(len(rows), found.num_stretches, "stretch") + " of samples in a row that name another one.",
        ("Part", "First", "Last", "Samples", "Repeats", "Shows what this shows"),
        rows,
        is_wide=True,
        num_text=3,
        kind="words-last",
    )
    one = found.num_samples == 1
    if found.num_stretches > 12:
        table = _details(f"The stretches one by one ({found.num_stretches:,})", table)
    return (
        f"<p>{_num(found.num_samples, 'sample')} of {report.num_samples:,} {'names' if one else 'name'} another one in the column "
        f"dup_of: {_num(found.num_repeats, 'repeat')} of the sample before, and {near:,} that {verb} nearly the same as a sample "
        f"of another run. None was dropped; <code>infraredcity shard --where dup_of=</code> does so.</p>{table}"
    )


def _leakage(report: DatasetReport, sheets: Sheets) -> str:
    check = report.leakage
    if not check.is_measured:
        return f"<p>Not measured: {in_page(check.why_not)}.</p>"
    pictures = {test.key: (test, train) for test, train in sheets.closest}
    parts = []
    for leak in check.found:
        says = "".join(f"<p>{in_page(sentence)}</p>" for sentence in leakage_words(leak))
        pair = pictures.get(leak.test_key)
        if pair is None:
            shown = f"<p>It is {in_page(leak.test_key)} (test) and {in_page(leak.train_key)} (train).</p>"
        else:
            shown = "".join(
                f'<figure><img src="{_data_uri(each)}" width="{2 * each.width_px}" height="{2 * each.height_px}" '
                f'alt="{role} sample {in_page(each.key)}"><figcaption><b>{role}</b> {in_page(each.key)}<br>'
                f"{format_time(each.time_s)}</figcaption></figure>"
                for role, each in (("test", pair[0]), ("train", pair[1]))
            )
            shown = f'<div class="pair">{shown}</div>'
        parts.append(f'<h3>{in_page(leak.modality.capitalize())}</h3><div class="leak"><div>{says}</div>{shown}</div>')
    return (
        "".join(parts)
        + '<p class="note">The hashes compare pixels, not what they mean: 0 bits is the same picture as far as a hash can tell, '
        "and unrelated scenes are seldom closer than 10 bits. Against a camera that never moves no guard gap helps; against a "
        "moving one it does.</p>"
    )


def _levels(report: DatasetReport) -> str:
    clips = "".join(_clip_charts(clip) for clip in report.clips)
    return (
        "<p>Levels run from 0, black, to 255, white, of the gray picture. Motion is the mean absolute difference of two "
        "neighbouring samples, one frame step apart, in levels: near 0 nothing moves, or the camera has frozen.</p>"
        + clips
    )


def _clip_charts(clip: ClipReport) -> str:
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
    name = in_page(clip.clip_id)
    told = "".join(f'<p class="note">{in_page(note)}</p>' for note in notes)
    charts = f"{_histogram(clip)}{_means(clip)}{_motion(clip)}"
    return f'<article class="clip-charts"><h3>{name}</h3>{told}<div class="charts">{charts}</div></article>'


def _histogram(clip: ClipReport) -> str:
    levels = clip.levels
    caption = f"<b>Levels</b> of {_looked_at(levels.num_frames, levels.num_unreadable, 'frame')}"
    if not levels.num_frames:
        return _no_chart(caption)
    width = 256 // NUM_BINS
    whole = sum(levels.bins)
    says = (
        f"Levels of {clip.clip_id}: 1 % of the pixels reach at most {levels.low}, half at most {levels.median}, 99 % at most "
        f"{levels.high}."
    )
    marks = [("1 %", levels.low), ("median", levels.median), ("99 %", levels.high)]
    svg = charts.histogram(levels.bins, marks=[(name, place + 0.5) for name, place in marks], stop=256, says=says)
    rows = [
        (f"{number * width} &ndash; {number * width + width - 1}", f"{count:,}", f"{100 * count / whole:.2f} %")
        for number, count in enumerate(levels.bins)
    ]
    table = _table(f"Pixels by level, {clip.clip_id}.", ("Levels", "Pixels", "Share"), rows)
    caption += f". Dashed: 1 % at {levels.low}, median {levels.median}, 99 % at {levels.high}"
    return _figure(svg, caption, table, len(rows))


def _means(clip: ClipReport) -> str:
    levels = clip.levels
    caption = f"<b>Mean level over time</b>, {_looked_at(levels.num_frames, levels.num_unreadable, 'frame')}"
    if not levels.num_frames:
        return _no_chart(caption)
    low, high = min(levels.means), max(levels.means)
    says = (
        f"Mean level of {clip.clip_id} over time: between {low:.1f} and {high:.1f}, from {format_time(levels.times_s[0])} to "
        f"{format_time(levels.times_s[-1])}."
    )
    rows = [(format_time(time_s), f"{mean:.1f}") for time_s, mean in zip(levels.times_s, levels.means, strict=True)]
    table = _table(f"Mean level over time, {clip.clip_id}.", ("Time", "Mean level"), rows)
    caption += f". Between {low:.1f} and {high:.1f}"
    return _figure(charts.line(levels.times_s, levels.means, says=says), caption, table, len(rows))


def _motion(clip: ClipReport) -> str:
    motion = clip.motion
    caption = f"<b>Motion over time</b>, {_looked_at(motion.num_pairs, motion.num_unreadable, 'pair')}"
    if not motion.num_pairs:
        return _no_chart(caption)
    says = (
        f"Motion of {clip.clip_id} over time: median {motion.median:.1f} levels, at most {motion.largest:.1f}, from "
        f"{format_time(motion.times_s[0])} to {format_time(motion.times_s[-1])}."
    )
    rows = [
        (format_time(time_s), f"{value:.2f}") for time_s, value in zip(motion.times_s, motion.differences, strict=True)
    ]
    table = _table(f"Motion over time, {clip.clip_id}.", ("Time", "Mean difference"), rows)
    caption += f". Median {motion.median:.1f}, at most {motion.largest:.1f} levels"
    return _figure(
        charts.line(motion.times_s, motion.differences, from_zero=True, says=says), caption, table, len(rows)
    )


def _looked_at(num: int, num_unreadable: int, noun: str) -> str:
    return _num(num, noun) + (f" ({num_unreadable:,} more could not be read)" if num_unreadable else "")


def _no_chart(caption: str) -> str:
    return f'<figure class="chart empty"><figcaption>{caption}. Nothing to show.</figcaption></figure>'


def _figure(svg: str, caption: str, table: str, num_rows: int) -> str:
    details = _details(f"The numbers ({num_rows})", table)
    return f'<figure class="chart"><figcaption>{caption}.</figcaption>{svg}{details}</figure>'


def _shards(report: DatasetReport) -> str:
    sizes = report.shards
    if not sizes.num_shards:
        return "<p>There is none.</p>"
    table = _table(
        f"{_num(sizes.num_shards, 'shard')}: what the smallest, the median and the largest hold.",
        ("", "Smallest", "Median", "Largest"),
        [
            ("Samples", f"{sizes.samples_smallest:,}", f"{sizes.samples_median:,}", f"{sizes.samples_largest:,}"),
            (
                "Bytes",
                format_bytes(sizes.bytes_smallest),
                format_bytes(sizes.bytes_median),
                format_bytes(sizes.bytes_largest),
            ),
        ],
        is_wide=True,
    )
    ends = (format_bytes(sizes.bytes_smallest), format_bytes(sizes.bytes_largest))
    svg = charts.bars(
        ends,
        [each.num_shards for each in sizes.bins],
        says=f"Number of shards by size, from {ends[0]} to {ends[1]}, in {_num(len(sizes.bins), 'bin')}.",
    )
    rows = [(f"{each.start_bytes:,} &ndash; {each.stop_bytes:,}", f"{each.num_shards:,}") for each in sizes.bins]
    numbers = _table("Shards by size.", ("Bytes", "Shards"), rows)
    chart = _figure(svg, f"<b>Shards by size</b>, from {ends[0]} to {ends[1]}", numbers, len(rows))
    return f'{table}<div class="charts">{chart}</div>'


def _contact_sheets(report: DatasetReport, sheets: Sheets) -> str:
    if not sheets.thumbnails:
        return "<p>Left out: no thumbnail was asked for, or none could be made.</p>"
    splits = sorted({each.split for each in sheets.thumbnails})
    marks = [mark for mark in MARKS if any(mark in each.marks for each in sheets.thumbnails)]
    by_clip: dict[str, list[tuple[int, Thumbnail]]] = {}
    for number, each in enumerate(sheets.thumbnails):
        by_clip.setdefault(each.clip_id, []).append((number, each))
    shown = [clip for clip in report.clips if clip.clip_id in by_clip]
    body = "".join(
        _sheet(clip, number, by_clip[clip.clip_id], shows_split=len(splits) > 1)
        for number, clip in enumerate(report.clips)
        if clip.clip_id in by_clip
    )
    left_out = [clip.clip_id for clip in report.clips if clip.clip_id not in by_clip]
    note = f'<p class="note">Without a thumbnail: {in_page(", ".join(left_out))}.</p>' if left_out else ""
    filters = _select("filter-clip", "Clip", [("", "all")] + [(clip.clip_id, clip.clip_id) for clip in shown])
    if marks:
        wanted = [("", "all"), ("any", "marked"), *((mark, mark) for mark in marks), ("none", "not marked")]
        filters += _select("filter-mark", "Mark", wanted)
    if len(splits) > 1:
        filters += _select("filter-split", "Split", [("", "all")] + [(split, split) for split in splits])
    num = len(sheets.thumbnails)
    return (
        f"<p>{_num(num, 'thumbnail')} of {report.num_samples:,} samples, spread evenly over the samples of each clip by time; up "
        "to a quarter of a clip's go to marked samples.</p>"
        f'{note}<div id="filter" role="group" aria-label="Filter the thumbnails" hidden>{filters}'
        f'<output id="filter-count">{num:,} shown</output>'
        '<p class="note">Arrow keys move within a clip, Enter enlarges.</p></div>' + body
    )


def _select(name: str, label: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{in_page(value)}">{in_page(word)}</option>' for value, word in choices)
    return f'<label for="{name}">{label} <select id="{name}">{options}</select></label>'


def _sheet(clip: ClipReport, number: int, thumbnails: Sequence[tuple[int, Thumbnail]], *, shows_split: bool) -> str:
    groups = []
    for start in range(0, len(thumbnails), _GROUP):
        group = thumbnails[start : start + _GROUP]
        begin, end = format_time(group[0][1].time_s), format_time(group[-1][1].time_s)
        items = "".join(_thumbnail(place, each, shows_split=shows_split) for place, each in group)
        groups.append(f'<div class="group"><h4>{begin} &ndash; {end}</h4><ul class="thumbs">{items}</ul></div>')
    name = in_page(clip.clip_id)
    return (
        f'<section class="sheet" id="sheet-{number}" aria-labelledby="sheet-{number}-title" data-clip="{name}">'
        f'<h3 id="sheet-{number}-title">{name}</h3><p class="note">{len(thumbnails):,} of {_num(clip.num_samples, "sample")}, '
        f"{in_page(clip.modality)}, {in_page(clip.time_of_day)}</p>{''.join(groups)}</section>"
    )


def _thumbnail(number: int, each: Thumbnail, *, shows_split: bool) -> str:
    stem = key_of(each.clip_id, 0).rstrip("0")
    marks = "".join(f'<span class="mark">{_SIGNS[mark]} {mark}</span>' for mark in each.marks)
    split = f' <span class="split">{in_page(each.split)}</span>' if shows_split else ""
    facts = {
        "key": each.key,
        "clip": each.clip_id,
        "frame": f"{each.frame_index:,}",
        "time": f"{format_time(each.time_s)} (pts {each.pts})",
        "run": str(each.run_id),
        "part": each.part,
        "split": each.split,
        "shard": each.shard,
        "bytes": f"{each.size_bytes:,}",
        "marks": " ".join(each.marks),
        "dup": each.dup_of,
    }
    data = "".join(f' data-{name}="{in_page(value)}"' for name, value in facts.items() if value)
    shape = "".join(f" is-{mark}" for mark in each.marks)
    return (
        f'<li id="t{number}"><a class="thumb{shape}" href="#t{number}"{data}><img src="{_data_uri(each)}" width="{each.width_px}" '
        f'height="{each.height_px}" alt="{in_page(each.clip_id)} at {format_time(each.time_s)}" decoding="async">'
        f'<span class="key"><span class="vh">{in_page(stem)}</span>{in_page(each.key.removeprefix(stem))}</span>'
        f'<span class="time">{format_time(each.time_s)}{split}</span>{marks}</a></li>'
    )


def _method(report: DatasetReport, sheets: Sheets) -> str:
    num_frames = sum(clip.levels.num_frames for clip in report.clips)
    num_pairs = sum(clip.motion.num_pairs for clip in report.clips)
    lost = (
        sum(clip.levels.num_unreadable for clip in report.clips),
        sum(clip.motion.num_unreadable for clip in report.clips),
    )
    num_compared = sum(part.num_samples for part in report.parts if part.split in ("train", "test"))
    rows = [
        ("Counts, marks, gaps, runs, duplicates, shard sizes", f"{report.num_samples:,} samples", "0", "all, from the indexes"),
        (
            "Levels",
            _num(num_frames, "frame"),
            f"{lost[0]:,}",
            f"at most {FRAMES_PER_CLIP} a clip, spread evenly over its samples",
        ),
        (
            "Motion",
            _num(num_pairs, "pair"),
            f"{lost[1]:,}",
            f"at most {FRAMES_PER_CLIP} pairs a clip, spread evenly over those that are neighbours",
        ),
        (
            "From train to test",
            _num(num_compared, "sample") if report.leakage.is_measured else "none",
            "0" if report.leakage.is_measured else "-",
            f"all test and train samples, of sets with at most {LEAKAGE_SAMPLES:,}",
        ),
        (
            "Thumbnails",
            _num(len(sheets.thumbnails) + 2 * len(sheets.closest), "frame"),
            f"{sheets.num_unreadable:,}",
            "dealt to the clips as evenly as their samples allow",
        ),
    ]  # fmt: skip
    return _table(
        "How many each measure looked at.",
        ("Measure", "Looked at", "Could not be read", "Which"),
        [tuple(map(in_page, row)) for row in rows],
        is_wide=True,
        kind="words-last",
    )


def _table(
    caption: str,
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    is_wide: bool = False,
    num_text: int = 1,
    kind: str = "",
) -> str:
    """A table whose cells are markup already; the first cell of each row is its heading.

    Args:
        caption: What it shows.
        heading: Heads of the columns; an empty one is a plain cell.
        rows: Cells.
        is_wide: Whether it scrolls by itself where the screen is narrow.
        num_text: So many columns on the left hold words rather than numbers.
        kind: Class for what is special about it.
    """
    heads = "".join(f'<th scope="col">{in_page(name)}</th>' if name else "<td></td>" for name in heading)
    body = "".join(
        f'<tr><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>' for cells in rows
    )
    classes = f"text-{num_text} {kind}".strip()
    table = (
        f'<table class="{classes}"><caption><span>{in_page(caption)}</span></caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    if not is_wide:
        return table
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{in_page(caption)}">{table}</div>'


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{in_page(summary)}</summary>{content}</details>"


def _listed(num_shown: int, num: int, noun: str) -> str:
    """What a list holds: "12 gaps", or "The first 200 of 1,234 gaps"."""
    return _num(num, noun) if num_shown >= num else f"The first {num_shown:,} of {_num(num, noun)}"


def _num(num: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{num:,} {noun if num == 1 else plural}"


def format_bytes(size_bytes: int) -> str:
    """Bytes for people: 31.3 MB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _data_uri(thumbnail: Thumbnail) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(thumbnail.jpeg).decode('ascii')}"
