"""Write one page about a run that opens offline: synchronised videos, stills, curves, numbers, commands.

`page.html.j2` holds the markup and its text, `page.css` the style, `page.js` the script that synchronises the videos.
"""

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import read_whole
from infraredcity.report.template import data_uri, fill_page
from roma.config.compare import departures
from roma.errors import EvaluationError
from roma.evaluation.evaluate import EvalReport, read_report
from roma.evaluation.measures import MEASURES
from roma.evaluation.targets import Target, judge
from roma.training.metrics import read_metrics
from roma.training.run_folder import SAMPLES
from roma.training.sealed_file import SNAPSHOT_NAME
from roma.training.snapshot import Snapshot, load_snapshot

_GRID_NAME = re.compile(r"step-\d+\.png")
_MAX_EMBEDDED_BYTES = 1 << 30

_LABELS = {
    "translated": "translated",
    "infrared": "infrared, untranslated",
    "reinhard": "reinhard, infrared with day colour statistics",
    "mean_day": "mean_day, always the same picture",
    "truth": "truth",
}


def write_page(
    page: Path,
    run: Path,
    *,
    evaluation: Path | None = None,
    videos: Sequence[tuple[str, Path]] = (),
    commands: Sequence[str] = (),
    title: str = "Night infrared as day",
) -> None:
    """Write a self-contained HTML page about a run.

    Args:
        page: The file to write.
        run: The run's folder.
        evaluation: Folder that `roma evaluate` wrote, for pictures beside the truth and their scores.
        videos: Captions and mp4 files of the same moments, embedded unchanged and played in step: input, translated, truth.
        commands: Commands that give the same result.
        title: Heading of the page.

    Raises:
        CheckpointError: The run has no snapshot.
        EvaluationError: The evaluation or a video cannot be read.
    """
    snapshot = load_snapshot(run / SNAPSHOT_NAME)
    config = snapshot.config
    lines = read_metrics(run)
    report = read_report(evaluation) if evaluation is not None else None
    page_text = fill_page(
        Path(__file__).parent,
        sources="img-src data:; media-src data:",
        has_script=bool(videos),
        title=title,
        summary=_summary(snapshot),
        videos=[(caption, _video_uri(path)) for caption, path in videos],
        evaluation=_evaluation(evaluation, report) if evaluation is not None and report is not None else None,
        measures=MEASURES,
        departures=departures(config),
        curves=[_curve(name, [(line["step"], line[name]) for line in lines if name in line]) for name in _names(lines)],
        grid=_last_grid(run),
        is_held_out=bool(config.data.held_out),
        commands=commands,
    )
    write_atomic(page, page_text.encode())


def score_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """Tabulate all methods with all measures: the headings, then a row for each method, its name first."""
    rows: list[tuple[str, ...]] = [("", *(measure.heading for measure in MEASURES))]
    for name, scores in report.methods:
        rows.append((name, *(_shown(measure.name, scores[measure.name]) for measure in MEASURES)))
    return rows


def target_rows(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """Tabulate the targets: the headings, then a row for each; its last cell says whether it is met and by how much."""
    rows: list[tuple[str, ...]] = [("target", "asked", "reached", "bound", "result")]
    for target in targets:
        by = _shown(target.measure, abs(target.value - target.bound))
        value, bound = (_shown(target.measure, number) for number in (target.value, target.bound))
        rows.append((target.name, target.asked, value, bound, f"{'met' if target.met else 'missed'} by {by}"))
    return rows


def left_out(report: EvalReport) -> list[str]:
    """List what the evaluation could not measure and what it would need, one sentence each."""
    found = []
    if report.num_without_truth:
        found.append(f"{report.num_without_truth} frames without truth were left out.")
    if not report.visible:
        found.append("reinhard and mean_day were left out: they need day frames (--visible).")
    if not report.flow:
        found.append("The warping error was left out: it needs flows (--flow).")
    return found


def _shown(measure: str, value: float | None) -> str:
    decimals = next(known.decimals for known in MEASURES if known.name == measure)
    return "-" if value is None else f"{value:.{decimals}f}"


def _summary(snapshot: Snapshot) -> str:
    config = snapshot.config
    side = config.data.crop_size_px
    return f"Preset {config.preset}, {snapshot.step} steps, seed {config.seed}, {side}x{side} pixels."


def _names(lines: Sequence[dict[str, float | int]]) -> list[str]:
    names: dict[str, None] = {}
    for line in lines:
        names.update(dict.fromkeys(name for name in line if name != "step"))
    return list(names)


def _curve(name: str, points: Sequence[tuple[int | float, int | float]]) -> dict[str, Any]:
    """Lay out one small chart: the values over the steps, with their smallest and largest named."""
    width, height, left, bottom = 320, 160, 46, 20
    steps = [float(step) for step, _ in points]
    values = [float(value) for _, value in points]
    low, high = min(values), max(values)
    span_x, span_y = max(max(steps) - min(steps), 1), (high - low) or 1.0

    def place(step: float, value: float) -> str:
        x = left + (step - min(steps)) / span_x * (width - left - 6)
        y = 6 + (high - value) / span_y * (height - bottom - 12)
        return f"{x:.1f},{y:.1f}"

    return {
        "name": name,
        "width": width,
        "height": height,
        "left": left,
        "bottom": bottom,
        "first": f"{values[0]:.4g}",
        "last": f"{values[-1]:.4g}",
        "least": f"{low:.3g}",
        "most": f"{high:.3g}",
        "points": " ".join(map(place, steps, values)),
        "first_step": f"{min(steps):.0f}",
        "last_step": f"{max(steps):.0f}",
    }


def _evaluation(folder: Path, report: EvalReport) -> dict[str, Any]:
    """Lay out the stills beside the truth, the scores of all methods, and which targets are met."""
    stills = []
    for names in report.pictures:
        uris = [_picture_uri(folder / name) for name in names]
        stills.append((names[0].rpartition("-")[0], list(zip(("infrared", "translated", "truth"), uris, strict=True))))
    heading, *rows = score_rows(report)
    side = report.size_px
    day = f" Day statistics of {report.num_day_frames} frames." if report.num_day_frames else ""
    flow = f" Warping over {report.num_flow_pairs} pairs of frames." if report.num_flow_pairs else ""
    targets = judge(report)
    target_heading, *of_targets = target_rows(targets)
    return {
        "stills": stills,
        "caption": f"Means over {report.num_frames} frames, compared at {side}x{side} pixels.{day}{flow}",
        "heading": heading,
        "methods": [(name, _LABELS[name], cells) for name, *cells in rows],
        "notes": " ".join([*left_out(report), f"Pretrained weights used by the measures: {report.weights}."]),
        "targets": list(zip([target.met for target in targets], of_targets, strict=True)),
        "target_heading": target_heading,
        "num_met": sum(target.met for target in targets),
    }


def _last_grid(run: Path) -> dict[str, str] | None:
    grids = sorted(path for path in (run / SAMPLES).glob("step-*.png") if _GRID_NAME.fullmatch(path.name))
    return {"uri": _picture_uri(grids[-1]), "name": grids[-1].stem} if grids else None


def _picture_uri(path: Path) -> str:
    """Embed a picture that roma wrote; links are refused, since the maker of the folder could point them at any file."""
    return _embedded(path, "image/png", follow_links=False)


def _video_uri(path: Path) -> str:
    if path.suffix.lower() != ".mp4":
        raise EvaluationError(f"{path}: the page shows .mp4 videos; convert it first")
    return _embedded(path, "video/mp4", follow_links=True)


def _embedded(path: Path, kind: str, *, follow_links: bool) -> str:
    try:
        data = read_whole(path, _MAX_EMBEDDED_BYTES, follow_links=follow_links)
    except OSError as error:
        reason = "a link, expected a file" if error.errno == errno.ELOOP else error.strerror
        raise EvaluationError(f"{path}: cannot be read for the page ({reason})") from error
    return data_uri(data, kind)
