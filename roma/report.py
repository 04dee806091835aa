"""A run as one page that opens offline: the pictures, the video, the curves, the numbers and the commands that made them."""

import base64
import html
import string
from collections.abc import Sequence
from pathlib import Path

from infraredcity.storage import write_atomic
from roma.checkpoint import SNAPSHOT_NAME, Snapshot, load_snapshot
from roma.config import departures, from_json
from roma.errors import EvaluationError
from roma.evaluate import EvalReport, read_report
from roma.metrics import read_metrics
from roma.trainer import SAMPLES

_PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
.triples { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; }
.triples img, video, .grid { width: 100%; height: auto; }
video { max-height: 420px; background: #000; }
.triples span { font-weight: 600; } pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; } svg { width: 100%; height: auto; }
</style></head><body>
<h1>$title</h1>
<p>$summary</p>
$videos
$evaluation
<h2>Training curves</h2>
<div class="curves">$curves</div>
$samples
$commands
</body></html>
""")


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
        videos: Captions and mp4 files to embed.
        commands: What the reader can type to get the same.
        title: Heading of the page.

    Raises:
        CheckpointError: The run has no snapshot.
        EvaluationError: The evaluation or a video cannot be read.
    """
    snapshot = load_snapshot(run / SNAPSHOT_NAME)
    lines = read_metrics(run)
    report = read_report(evaluation) if evaluation is not None else None
    parts = {
        "title": html.escape(title),
        "summary": html.escape(_summary(snapshot)),
        "videos": "".join(_video(caption, path) for caption, path in videos),
        "evaluation": _evaluation(evaluation, report) if evaluation is not None and report is not None else "",
        "curves": "".join(
            _curve(name, [(line["step"], line[name]) for line in lines if name in line]) for name in _names(lines)
        ),
        "samples": _samples(run),
        "commands": f"<h2>Commands</h2><pre>{html.escape(chr(10).join(commands))}</pre>" if commands else "",
    }
    write_atomic(page, _PAGE.substitute(parts).encode())


def _summary(snapshot: Snapshot) -> str:
    config = from_json(snapshot.config, where="snapshot")
    departs = departures(config)
    text = f"Preset {snapshot.preset}, {snapshot.step} steps, seed {config.seed}, {snapshot.size_px}x{snapshot.size_px} pixels."
    return text + (f" Departs from the published method in: {', '.join(departs)}." if departs else "")


def _names(lines: Sequence[dict[str, float | int]]) -> list[str]:
    names: dict[str, None] = {}
    for line in lines:
        names.update(dict.fromkeys(name for name in line if name != "step"))
    return list(names)


def _curve(name: str, points: Sequence[tuple[int | float, int | float]]) -> str:
    """One small chart as SVG: the values over the steps, with their smallest and largest named."""
    width, height, left, bottom = 320, 160, 46, 20
    points = [(float(step), float(value)) for step, value in points]
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    span_x, span_y = max(max(steps) - min(steps), 1), (high - low) or 1.0

    def place(step: float, value: float) -> str:
        x = left + (step - min(steps)) / span_x * (width - left - 6)
        y = 6 + (high - value) / span_y * (height - bottom - 12)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(place(step, value) for step, value in points)
    label = html.escape(name)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}: from {values[0]:.4g} to {values[-1]:.4g}">'
        f'<polyline points="{line}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>'
        f'<g fill="currentColor" font-size="11"><text x="0" y="14">{high:.3g}</text>'
        f'<text x="0" y="{height - bottom - 2}">{low:.3g}</text><text x="{left}" y="{height - 4}">{min(steps):.0f}</text>'
        f'<text x="{width - 6}" y="{height - 4}" text-anchor="end">step {max(steps):.0f}</text></g></svg>'
        f"<figcaption>{label}</figcaption></figure>"
    )


def _evaluation(folder: Path, report: EvalReport) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{scores.psnr_db:.2f}</td><td>{scores.ssim:.3f}</td><td>{scores.mae:.1f}</td></tr>"
        for name, scores in (("translated", report.translated), ("infrared itself", report.infrared))
    )
    pictures = "".join(
        f'<img src="{_data_uri(folder / name)}" alt="{kind}, {html.escape(names[0].rpartition("-")[0])}">'
        for names in report.pictures
        for name, kind in zip(names, ("infrared", "translated", "truth"), strict=True)
    )
    left_out = f", {report.num_without_truth} without truth left out" if report.num_without_truth else ""
    return (
        f"<h2>Beside the truth</h2><p>{report.num_frames} frames{left_out}, compared at {report.size_px}x{report.size_px} pixels; "
        f"pretrained weights used: {html.escape(report.weights)}.</p>"
        f"<table><tr><th></th><th>PSNR dB</th><th>SSIM</th><th>MAE of 255</th></tr>{rows}</table>"
        f'<h2>Infrared, translated, truth</h2><div class="triples"><span>infrared</span><span>translated</span><span>truth</span>'
        f"{pictures}</div>"
    )


def _video(caption: str, path: Path) -> str:
    return f'<h2>{html.escape(caption)}</h2><video controls loop muted autoplay playsinline src="{_data_uri(path)}"></video>'


def _samples(run: Path) -> str:
    grids = sorted((run / SAMPLES).glob("step-*.png"))
    if not grids:
        return ""
    return (
        "<h2>Samples at the end</h2><p>Training frames: infrared, translated, and unrelated day frames to compare with.</p>"
        f'<img class="grid" src="{_data_uri(grids[-1])}" alt="sample grid of {grids[-1].stem}">'
    )


def _data_uri(path: Path) -> str:
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read for the page ({error.strerror})") from error
    return f"data:{kinds[path.suffix]};base64,{base64.b64encode(data).decode('ascii')}"
