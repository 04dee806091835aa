"""Define `roma evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.command_line import FILE, FILE_OR_FOLDER, FOLDER, ProgressLine, json_option
from roma.cli.options import device_option, parse_tone_range, preparation_options


@click.command("evaluate")
@click.argument("snapshot", type=FILE)
@click.option("--infrared", multiple=True, help="Infrared shards or pictures: a folder or a quoted pattern.")
@click.option("--video", type=FILE, help="An infrared video, instead of shards.")
@click.option(
    "--truth",
    type=FILE_OR_FOLDER,
    required=True,
    help="True day frames of the same moments: a folder of <clip_id>.mp4 for --infrared, a video for --video.",
)
@click.option(
    "--visible",
    multiple=True,
    help="Shards or pictures of the day frames of the training, for the baselines reinhard and mean_day.",
)
@click.option(
    "--flow",
    type=FOLDER,
    help="Optical flow to the next frame, for the warping error: KITTI-2015 PNGs named <frame index, six digits>.png; for "
    "--infrared in one folder per clip id.",
)
@click.option(
    "--out", type=FOLDER, default=Path("evaluation"), show_default=True, help="Folder for evaluation.json and pictures."
)
@preparation_options
@device_option
@json_option
def evaluate_command(
    snapshot: Path, infrared: tuple[str, ...], video: Path | None, truth: Path, visible: tuple[str, ...], flow: Path | None,
    out: Path, polarity: str | None, tone: str | None, tone_range: str | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Compare translations and simple baselines with the truth, and check the demo's targets.

    Measures PSNR, SSIM, MAE, edges, colours and, with flows, flicker. The baselines are the infrared itself and, with --visible,
    the infrared in the colour statistics of the day frames (reinhard) and the mean day picture (mean_day).
    """
    from roma.evaluation.evaluate import evaluate_shards, evaluate_video
    from roma.evaluation.targets import judge
    from roma.inference.job import TranslateOptions
    from roma.inference.translator import open_translator
    from roma.report.page import left_out, score_rows, target_rows
    from roma.world.world import device_of

    if bool(infrared) == (video is not None):
        raise click.UsageError("name what to translate: either --infrared or --video")
    how = TranslateOptions(
        polarity=polarity,  # type: ignore[arg-type]  # click checks these
        tone=tone,  # type: ignore[arg-type]
        tone_range=parse_tone_range(tone, tone_range),
    )
    translator = open_translator(snapshot, device_of(device))
    progress = ProgressLine()
    if video is not None:
        report = evaluate_video(
            translator, video, truth, out, visible=visible, flow=flow, how=how, on_progress=progress
        )
    else:
        report = evaluate_shards(
            translator, infrared, truth, out, visible=visible, flow=flow, how=how, on_progress=progress
        )
    targets = judge(report)
    if as_json:
        click.echo(json.dumps(asdict(report) | {"targets": [asdict(target) for target in targets]}, indent=1))
    else:
        rows = score_rows(report)
        _print_table(rows, "<" + ">" * (len(rows[0]) - 1))
        click.echo()
        _print_table(target_rows(targets), "<<>><")
    for sentence in left_out(report):
        click.echo(sentence, err=True)
    pairs = f", {report.num_flow_pairs} pairs with flow" if report.flow else ""
    met = sum(target.met for target in targets)
    click.echo(
        f"{report.num_frames} frames{pairs}, at {report.size_px}x{report.size_px}; {met} of {len(targets)} targets met; {out}",
        err=True,
    )


def _print_table(rows: Sequence[Sequence[str]], align: str) -> None:
    """Print rows of one length in columns, each aligned left (<) or right (>)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())
