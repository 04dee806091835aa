"""Define `roma translate`."""

from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.command_line import FILE, ProgressLine, json_option, print_json
from roma.cli.options import device_option


@click.command("translate")
@click.argument("snapshot", type=FILE)
@click.argument("video", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="The mp4 to write.")
@click.option("--side-by-side", is_flag=True, help="Put the input to the left of each translation.")
@click.option(
    "--native", is_flag=True, help="Run the network at the video's own size, not at the square size of the training."
)
@device_option
@json_option
def translate_command(
    snapshot: Path, video: Path, out: Path, side_by_side: bool, native: bool, device: str, as_json: bool
) -> None:
    """Translate the infrared VIDEO with SNAPSHOT; size, frame count and timing stay the same."""
    from roma.inference.translator import open_translator, translate_video
    from roma.world.world import device_of

    report = translate_video(
        open_translator(snapshot, device_of(device)),
        video,
        out,
        side_by_side=side_by_side,
        native=native,
        on_progress=ProgressLine(),
    )
    if as_json:
        print_json(asdict(report))
    missing = f", {report.num_missing} frames of the input could not be decoded" if report.num_missing else ""
    click.echo(f"{out}: {report.num_frames} frames, {report.width_px}x{report.height_px}{missing}", err=True)
