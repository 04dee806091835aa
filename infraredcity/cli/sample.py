"""Define `infraredcity sample`: the built-in street world as nine clips."""

from pathlib import Path
from typing import Literal

import click

from infraredcity.command_line import FOLDER, ProgressLine


@click.command("sample")
@click.argument("folder", type=FOLDER)
@click.option("--width", "width_px", type=click.IntRange(64), default=320, show_default=True)
@click.option("--height", "height_px", type=click.IntRange(64), default=256, show_default=True)
@click.option("--frames", "num_frames", type=click.IntRange(2), default=240, show_default=True, help="Per clip.")
@click.option("--fps", type=click.IntRange(1), default=25, show_default=True,
              help="Frames per second; a lower rate shows a longer time in the same number of frames.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Each seed gives another town.")
@click.option(
    "--polarity",
    type=click.Choice(["white-hot", "black-hot"]),
    default="white-hot",
    show_default=True,
    help="How the infrared clips show heat.",
)
@click.option(
    "--flow", is_flag=True, help="Also write flow/: optical flow from each frame to the next, as PNGs of KITTI 2015."
)
@click.option(
    "--boxes", is_flag=True, help="Also write boxes/: boxes and tracks of the objects in each frame, as JSON of COCO."
)
@click.option(
    "--raw16", is_flag=True, help="Also write raw16/: the infrared clips as 16-bit counts, 100 per kelvin, lossless."
)
@click.option("--clip", "clip_ids", multiple=True, help="Only this clip; may be given several times.")
def sample_command(
    folder: Path,
    width_px: int,
    height_px: int,
    num_frames: int,
    fps: int,
    seed: int,
    polarity: Literal["white-hot", "black-hot"],
    flow: bool,
    boxes: bool,
    raw16: bool,
    clip_ids: tuple[str, ...],
) -> None:
    """Write the nine clips of a small made-up town, clips.toml, the true day frames, and a contact sheet.

    Options add more truth: optical flow, boxes of objects, the counts of the infrared sensor.
    """
    from infraredcity.synthetic import write_sample

    try:
        info = write_sample(
            folder,
            width_px=width_px,
            height_px=height_px,
            num_frames=num_frames,
            fps=fps,
            seed=seed,
            polarity=polarity,
            flow=flow,
            boxes=boxes,
            raw16=raw16,
            clip_ids=clip_ids or None,
            on_progress=ProgressLine(),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(
        f"{folder}: {len(info.clip_ids)} clips of {info.num_frames} frames, {info.clips_file}, {info.contact_sheet}",
        err=True,
    )
