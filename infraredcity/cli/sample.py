"""`infraredcity sample`: the built-in street world as nine clips."""

from pathlib import Path

import click

from infraredcity.cli.options import FOLDER, ProgressLine


@click.command("sample")
@click.argument("folder", type=FOLDER)
@click.option("--width", "width_px", type=click.IntRange(64), default=320, show_default=True)
@click.option("--height", "height_px", type=click.IntRange(64), default=256, show_default=True)
@click.option(
    "--frames", "num_frames", type=click.IntRange(2), default=240, show_default=True, help="Per clip, at 25 per second."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed is another town.")
@click.option("--clip", "clip_ids", multiple=True, help="Only this clip; may be given several times.")
def sample_command(
    folder: Path, width_px: int, height_px: int, num_frames: int, seed: int, clip_ids: tuple[str, ...]
) -> None:
    """Write the nine clips of a small made-up town, clips.toml, the true day frames, and a contact sheet."""
    from infraredcity.synthetic import write_sample

    try:
        info = write_sample(
            folder,
            width_px=width_px,
            height_px=height_px,
            num_frames=num_frames,
            seed=seed,
            clip_ids=clip_ids or None,
            on_progress=ProgressLine(),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(
        f"{folder}: {len(info.clip_ids)} clips of {info.num_frames} frames, {info.clips_file}, {info.contact_sheet}",
        err=True,
    )
