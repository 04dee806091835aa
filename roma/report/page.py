"""A run as one page that opens offline: the videos in step, the stills, the curves, the numbers and the commands behind them."""

import base64
import errno
import html
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import read_whole
from infraredcity.showing import in_page, policy_hash
from roma.config.schema import TrainConfig, departures, from_json
from roma.errors import EvaluationError
from roma.evaluation.evaluate import EvalReport, read_report
from roma.evaluation.targets import Target, judge
from roma.training.checkpoint import SNAPSHOT_NAME, Snapshot, load_snapshot
from roma.training.metrics import read_metrics
from roma.training.trainer import SAMPLES


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is shown.

    Attributes:
        name: Field of `roma.evaluation.evaluate.Scores`.
        heading: Name and unit, short.
        decimals: Digits behind the point.
        says: What it tells, for people.
    """

    name: str
    heading: str
    decimals: int
    says: str


MEASURES = (
    Measure(name="psnr_db", heading="PSNR dB", decimals=2, says="likeness pixel by pixel; more is better"),
    Measure(name="ssim", heading="SSIM", decimals=3, says="likeness of local structure, 1 at most; more is better"),
    Measure(name="mae", heading="MAE", decimals=1, says="mean error in levels of 255; less is better"),
    Measure(name="edge_correlation", heading="edges", decimals=3,
            says="correlation of gradient magnitudes with the truth's, 1 at most; more is better"),
    Measure(name="ab_distance", heading="a*b* dist", decimals=1,
            says="distance of colours from the truth's in CIELAB a*, b*; less is better"),
    Measure(name="chroma", heading="chroma", decimals=1, says="colourfulness in CIELAB; best near the truth's"),
    Measure(name="warping_error", heading="warping", decimals=5,
            says="mean square between a frame and the next one moved back onto it, values in [0, 1]; best near the truth's"),
)  # fmt: skip

_GRID_NAME = re.compile(r"step-\d+\.png")
_MAX_EMBEDDED_BYTES = 1 << 30

_LABELS = {
    "translated": "translated",
    "infrared": "infrared, as it is",
    "reinhard": "reinhard, the infrared in day statistics",
    "mean_day": "mean_day, always the same picture",
    "truth": "truth",
}

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --met: light-dark(#166534, #86efac); --missed: light-dark(#9a3412, #fdba74); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1160px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 10px; margin-top: 1.2rem; }
figure { margin: 0; } figcaption { font-size: .9rem; } .row figcaption { font-weight: 600; }
video, .grid, svg { width: 100%; height: auto; } video { display: block; background: #000; }
.stills { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.stills div { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; } .stills img { width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; } caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, .targets :is(:nth-child(2), :nth-child(5)) { text-align: left; }
tbody th { font-weight: 400; } .ours th { font-weight: 700; }
.met { color: var(--met); } .missed { color: var(--missed); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; } dd { margin: 0; }
dt { font-weight: 600; } pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
"""

_PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title><style>$style</style></head><body>
<main>
<h1>$title</h1>
<p>$summary</p>
$videos
$stills
$scores
$targets
$departures
<h2>Training curves</h2>
<div class="curves">$curves</div>
$samples
$commands
</main>
$script
</body></html>
""")

# The videos move as one: what is done to one of them is done to all, and the first one sets the time. `moved` holds those that
# the script itself is seeking, so that their events are not taken for the user's.
_SCRIPT = """
const videos = [...document.querySelectorAll(".row video")], moved = new Set();
const others = (video) => videos.filter((other) => other !== video);
const bring = (video, time) => {
  if (!video.seeking && time < video.duration) { moved.add(video); video.currentTime = time; }
};
const tell = () => { document.getElementById("unplayable").hidden = false; };
for (const video of videos) {
  if (video.error) tell();  // it may have failed while the page was still being read
  video.addEventListener("error", tell);
  video.addEventListener("play", () => others(video).forEach((other) => other.play().catch(() => {})));
  video.addEventListener("pause", () => others(video).forEach((other) => other.pause()));
  video.addEventListener("ratechange", () => others(video).forEach((other) => { other.playbackRate = video.playbackRate; }));
  video.addEventListener("seeking", () => {
    if (!moved.has(video)) others(video).forEach((other) => bring(other, video.currentTime));
  });
  video.addEventListener("seeked", () => moved.delete(video));
}
videos[0].addEventListener("timeupdate", () => {
  for (const other of others(videos[0])) {
    if (Math.abs(other.currentTime - videos[0].currentTime) > 0.12) bring(other, videos[0].currentTime);
  }
});
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of videos) { video.autoplay = false; video.pause(); }
}
"""


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
        videos: Captions and mp4 files of the same moments, embedded as they are and played in step: input, translated, truth.
        commands: What the reader can type to get the same.
        title: Heading of the page.

    Raises:
        CheckpointError: The run has no snapshot.
        EvaluationError: The evaluation or a video cannot be read.
    """
    snapshot = load_snapshot(run / SNAPSHOT_NAME)
    config = from_json(snapshot.config, where="snapshot")
    lines = read_metrics(run)
    report = read_report(evaluation) if evaluation is not None else None
    parts = {
        "policy": html.escape(_policy(has_script=bool(videos))),
        "style": _STYLE,
        "title": in_page(title),
        "summary": in_page(_summary(snapshot, config)),
        "videos": _videos(videos),
        "stills": _stills(evaluation, report) if evaluation is not None and report is not None else "",
        "scores": _scores(report) if report is not None else "",
        "targets": _targets(judge(report)) if report is not None else "",
        "departures": _departures(config),
        "curves": "".join(
            _curve(name, [(line["step"], line[name]) for line in lines if name in line]) for name in _names(lines)
        ),
        "samples": _samples(run, is_held_out=bool(config.data.held_out)),
        "commands": f'<h2>Commands</h2><pre tabindex="0">{chr(10).join(map(in_page, commands))}</pre>'
        if commands
        else "",
        "script": f"<script>{_SCRIPT}</script>" if videos else "",
    }
    write_atomic(page, _PAGE.substitute(parts).encode())


def score_rows(report: EvalReport) -> list[tuple[str, ...]]:
    """A table of all methods with all measures: the headings, then a row for each method, its name first."""
    rows: list[tuple[str, ...]] = [("", *(measure.heading for measure in MEASURES))]
    for name, scores in report.methods:
        rows.append((name, *(_shown(measure.name, getattr(scores, measure.name)) for measure in MEASURES)))
    return rows


def target_rows(targets: Sequence[Target]) -> list[tuple[str, ...]]:
    """A table of targets: the headings, then a row for each, whose last cell says whether it is met and by how much."""
    rows: list[tuple[str, ...]] = [("target", "asked", "reached", "bound", "result")]
    for target in targets:
        by = _shown(target.measure, abs(target.value - target.bound))
        value, bound = (_shown(target.measure, number) for number in (target.value, target.bound))
        rows.append((target.name, target.asked, value, bound, f"{'met' if target.met else 'missed'} by {by}"))
    return rows


def left_out(report: EvalReport) -> list[str]:
    """What the evaluation could not measure, and what it would need, one sentence each."""
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


def _summary(snapshot: Snapshot, config: TrainConfig) -> str:
    side = snapshot.size_px
    return f"Preset {snapshot.preset}, {snapshot.step} steps, seed {config.seed}, {side}x{side} pixels."


def _departures(config: TrainConfig) -> str:
    departs = departures(config)
    if not departs:
        return ""
    items = "".join(f"<li><code>{in_page(name)}</code></li>" for name in departs)
    return f"<h2>Departures from the published method</h2><ul>{items}</ul>"


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
    label = in_page(name)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}: from {values[0]:.4g} to {values[-1]:.4g}">'
        f'<polyline points="{line}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>'
        f'<g fill="currentColor" font-size="11"><text x="0" y="14">{high:.3g}</text>'
        f'<text x="0" y="{height - bottom - 2}">{low:.3g}</text><text x="{left}" y="{height - 4}">{min(steps):.0f}</text>'
        f'<text x="{width - 6}" y="{height - 4}" text-anchor="end">step {max(steps):.0f}</text></g></svg>'
        f"<figcaption>{label}</figcaption></figure>"
    )


def _videos(videos: Sequence[tuple[str, Path]]) -> str:
    if not videos:
        return ""
    figures = "".join(
        f'<figure><video controls autoplay loop muted playsinline aria-label="{in_page(caption)}" src="{_video_uri(path)}">'
        f"This browser shows no video; the stills show the same.</video><figcaption>{in_page(caption)}</figcaption></figure>"
        for caption, path in videos
    )
    return (
        f'<div class="row" role="group" aria-label="The same moments, playing in step">{figures}</div>'
        '<p id="unplayable" role="status" hidden>This browser cannot play H.264 video; the stills show the same.</p>'
    )


def _stills(folder: Path, report: EvalReport) -> str:
    kinds = ("infrared", "translated", "truth")
    figures = []
    for names in report.pictures:
        moment = in_page(names[0].rpartition("-")[0])
        pictures = "".join(
            f'<img src="{_picture_uri(folder / name)}" alt="{kind}, {moment}">'
            for name, kind in zip(names, kinds, strict=True)
        )
        figures.append(f"<figure><div>{pictures}</div><figcaption>{moment}</figcaption></figure>")
    return f'<h2>Stills: infrared, translated, truth</h2><div class="stills">{"".join(figures)}</div>'


def _scores(report: EvalReport) -> str:
    heading, *rows = score_rows(report)
    side = report.size_px
    day = f" Day statistics of {report.num_day_frames} frames." if report.num_day_frames else ""
    flow = f" Warping over {report.num_flow_pairs} pairs of frames." if report.num_flow_pairs else ""
    caption = f"Means over {report.num_frames} frames, compared at {side}x{side} pixels.{day}{flow}"
    body = "".join(
        f'<tr{" class=ours" if name == "translated" else ""}><th scope="row">{in_page(_LABELS[name])}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    notes = " ".join([*left_out(report), f"Pretrained weights used by the measures: {report.weights}."])
    says = "".join(f"<dt>{measure.heading}</dt><dd>{in_page(measure.says)}</dd>" for measure in MEASURES)
    return f"<h2>Beside the truth</h2>{_table('scores', caption, heading, body)}<p>{in_page(notes)}</p><dl>{says}</dl>"


def _targets(targets: Sequence[Target]) -> str:
    if not targets:
        return ""
    heading, *rows = target_rows(targets)
    body = "".join(
        f'<tr><th scope="row">{in_page(name)}</th><td>{in_page(asked)}</td><td>{value}</td><td>{bound}</td>'
        f'<td class="{"met" if target.met else "missed"}">{result}</td></tr>'
        for target, (name, asked, value, bound, result) in zip(targets, rows, strict=True)
    )
    caption = f"{sum(target.met for target in targets)} of {len(targets)} met."
    return f"<h2>Targets</h2>{_table('targets', caption, heading, body)}"


def _table(kind: str, caption: str, heading: Sequence[str], body: str) -> str:
    caption = in_page(caption)
    cells = "".join(f'<th scope="col">{in_page(name)}</th>' if name else "<td></td>" for name in heading)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table class="{kind}"><caption>{caption}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _samples(run: Path, *, is_held_out: bool) -> str:
    grids = sorted(path for path in (run / SAMPLES).glob("step-*.png") if _GRID_NAME.fullmatch(path.name))
    if not grids:
        return ""
    return (
        f"<h2>Samples at the end</h2><p>{'Held-out' if is_held_out else 'Training'} frames: infrared, translated, and unrelated "
        "day frames to compare with.</p>"
        f'<img class="grid" src="{_picture_uri(grids[-1])}" alt="sample grid of {in_page(grids[-1].stem)}">'
    )


def _policy(*, has_script: bool) -> str:
    """Just this style and this script, and what stands in the page: nothing of a stranger can load or run anything."""
    script = f"script-src '{policy_hash(_SCRIPT)}'; " if has_script else ""
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{policy_hash(_STYLE)}'; {script}base-uri 'none'; "
        "form-action 'none'"
    )


def _picture_uri(path: Path) -> str:
    """A picture that roma wrote into a folder; whoever made the folder could have a link to any file there."""
    return _data_uri(path, "image/png", follow_links=False)


def _video_uri(path: Path) -> str:
    if path.suffix.lower() != ".mp4":
        raise EvaluationError(f"{path}: the page shows .mp4 videos; convert it first")
    return _data_uri(path, "video/mp4", follow_links=True)


def _data_uri(path: Path, kind: str, *, follow_links: bool) -> str:
    try:
        data = read_whole(path, _MAX_EMBEDDED_BYTES, follow_links=follow_links)
    except OSError as error:
        reason = "a link, expected a file" if error.errno == errno.ELOOP else error.strerror
        raise EvaluationError(f"{path}: cannot be read for the page ({reason})") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
