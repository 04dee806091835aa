"""The command `roma`: pretrain, train, translate, evaluate, report.

stdout is data, stderr is for people. Exit codes: 0 done, 1 error, 2 usage, 130 and 143 on SIGINT and SIGTERM.
"""

import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from infraredcity.installation import install_command
from roma.cli.options import FILE, FILE_OR_FOLDER, FOLDER, exit_code

if TYPE_CHECKING:
    import torch


class _Commands(click.Group):
    """`pretrain` and `train` have their options beside code that needs torch; without torch they are listed all the same."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), "pretrain", "train"})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            if cmd_name == "pretrain":
                from roma.cli.pretrain import pretrain_command

                return pretrain_command
            if cmd_name == "train":
                from roma.cli.train import train_command

                return train_command
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        return super().get_command(ctx, cmd_name)


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    def explain() -> None:
        raise error

    text = f"Needs {error.name}: {install_command('train')}."
    return click.Command(
        name, callback=explain, help=text, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
    )


_device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_json = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON on stdout.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="infraredcity")
def cli() -> None:
    """Night infrared video as daytime colour video: train the translator and run it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # the log files of a run get more
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[handler])


@cli.command("translate")
@click.argument("snapshot", type=FILE)
@click.argument("video", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="The mp4 to write.")
@click.option("--side-by-side", is_flag=True, help="Put the input to the left of each translation.")
@click.option("--native", is_flag=True, help="Work at the video's own size, not at the square of the training.")
@_device
@_json
def translate_command(
    snapshot: Path, video: Path, out: Path, side_by_side: bool, native: bool, device: str, as_json: bool
) -> None:
    """Translate the infrared VIDEO with SNAPSHOT, keeping its size, frame count and timing."""
    from roma.inference.translator import open_translator, translate_video

    report = translate_video(
        open_translator(snapshot, _torch_device(device)),
        video,
        out,
        side_by_side=side_by_side,
        native=native,
        on_frames=_Counter("frames translated"),
    )
    if as_json:
        click.echo(json.dumps(asdict(report), indent=1))
    missing = f", {report.num_missing} frames of the input could not be decoded" if report.num_missing else ""
    click.echo(f"{out}: {report.num_frames} frames, {report.width_px}x{report.height_px}{missing}", err=True)


@cli.command("evaluate")
@click.argument("snapshot", type=FILE)
@click.option("--infrared", multiple=True, help="Infrared shards or pictures: a folder or a quoted pattern.")
@click.option("--video", type=FILE, help="An infrared video, instead of shards.")
@click.option(
    "--truth",
    type=FILE_OR_FOLDER,
    required=True,
    help="Day frames of the same moments: a folder of <clip_id>.mp4 for --infrared, a video for --video.",
)
@click.option(
    "--visible",
    multiple=True,
    help="Shards or pictures of the day frames trained on, for the baselines reinhard and mean_day.",
)
@click.option(
    "--flow",
    type=FOLDER,
    help="Flows to the next frame, for the warping error: KITTI-2015 PNGs named <frame index, six digits>.png, for "
    "--infrared in a folder per clip id.",
)
@click.option(
    "--out", type=FOLDER, default=Path("evaluation"), show_default=True, help="Gets evaluation.json and pictures."
)
@_device
@_json
def evaluate_command(
    snapshot: Path, infrared: tuple[str, ...], video: Path | None, truth: Path, visible: tuple[str, ...], flow: Path | None,
    out: Path, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Compare translations with the truth, beside simple baselines, and judge them by the demo's targets.

    Measures PSNR, SSIM, MAE, edges, colours and, with flows, flicker. The baselines are the infrared itself and, with --visible,
    the infrared in the colour statistics of the day frames (reinhard) and the mean day picture (mean_day).
    """
    from roma.evaluation.evaluate import evaluate_shards, evaluate_video
    from roma.evaluation.targets import judge
    from roma.inference.translator import open_translator
    from roma.report.page import left_out, score_rows, target_rows

    if bool(infrared) == (video is not None):
        raise click.UsageError("name what to translate with --infrared or with --video")
    translator = open_translator(snapshot, _torch_device(device))
    progress = _Counter("frames compared")
    if video is not None:
        report = evaluate_video(translator, video, truth, out, visible=visible, flow=flow, on_frames=progress)
    else:
        report = evaluate_shards(translator, infrared, truth, out, visible=visible, flow=flow, on_frames=progress)
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


@cli.command("report")
@click.argument("run", type=FOLDER)
@click.option("--evaluation", type=FOLDER, help="Folder that `roma evaluate` wrote, for scores, targets and stills.")
@click.option("--input", "source", type=FILE, help="The infrared mp4, the first of the videos that play in step.")
@click.option("--translated", type=FILE, help="The mp4 that `roma translate` made of it.")
@click.option("--truth", type=FILE, help="An mp4 of the true day frames of the same moments.")
@click.option("--title", default="Night infrared as day", show_default=True, help="Heading of the page.")
@click.option("-o", "--out", type=FILE, required=True, help="The page to write.")
def report_command(
    run: Path, evaluation: Path | None, source: Path | None, translated: Path | None, truth: Path | None, title: str, out: Path
) -> None:  # fmt: skip
    """Write one page about RUN that opens offline: videos in step, stills, scores, targets, curves."""
    from roma.report.page import write_page

    named = (("Infrared", source), ("Translated", translated), ("Truth", truth))
    videos = [(caption, path) for caption, path in named if path is not None]
    write_page(out, run, evaluation=evaluation, videos=videos, title=title)
    click.echo(f"{out}: written", err=True)


def _print_table(rows: Sequence[Sequence[str]], align: str) -> None:
    """Rows of one length in columns, each to the left (<) or to the right (>)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


class _Counter:
    """Tells how far a long command is, every few seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done == total or now_s - self._last_s > 5:
            self._last_s = now_s
            click.echo(f"{done} of {total} {self._what}", err=True)


def _torch_device(name: str) -> "torch.device":
    import torch

    from roma.errors import DistributedError

    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise DistributedError(
            "--device cuda: torch finds no CUDA device here; use --device cpu or a CUDA build of torch"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that temporary files go."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    from infraredcity import streams

    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(streams.run(lambda: _run(arguments)))


def _run(arguments: list[str] | None) -> int:
    try:
        return exit_code(lambda: cli.main(args=arguments, prog_name="roma", standalone_mode=False))
    except _Terminated:
        return 143
