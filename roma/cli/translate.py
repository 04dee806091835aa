"""Define `roma translate`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infraredcity.command_line import FILE, ProgressLine, json_option, print_json
from infraredcity.files.urls import is_url, shown
from infraredcity.showing import visible
from roma.cli.options import device_option, parse_numbers, parse_tone_range, preparation_options
from roma.inference.choices import ENCODERS, LATE_POLICIES, OUTPUT_KINDS, PICTURE_FORMATS

if TYPE_CHECKING:
    from roma.inference.outputs import Outcome


@click.command("translate")
@click.argument("snapshot", type=FILE)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o", "--out", required=True, help="A video (.mp4, .mkv, .mov), a picture, a folder, or - for y4m on stdout."
)
@click.option(
    "--to",
    "kind",
    type=click.Choice(OUTPUT_KINDS),
    help="What goes into a folder; by default like the input.",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(PICTURE_FORMATS),
    default="png",
    show_default=True,
    help="Of pictures.",
)
@click.option(
    "--codec",
    type=click.Choice(tuple(ENCODERS)),
    default="h264",
    show_default=True,
    help="Of videos; ffv1 has no loss (.mkv), nvenc needs an NVIDIA GPU.",
)
@click.option(
    "--quality", type=click.IntRange(0, 51), default=18, show_default=True, help="Of videos; 0 is best, 51 worst."
)
@click.option("--sound/--no-sound", default=True, show_default=True, help="Whether the sound of a video is copied.")
@click.option("--side-by-side", is_flag=True, help="Put the input to the left of each translation.")
@click.option("--native", is_flag=True, help="Work at the input's own size, not at that of the training.")
@preparation_options
@click.option(
    "--mask", "masks", multiple=True, help="x,y,w,h of burnt-in display text; by default the training's masks."
)
@click.option("--crop", help="x,y,w,h in pixels of the input, cut out first; by default the training's.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First frame of each input.")
@click.option("--stop", type=click.IntRange(1), help="First frame not to take.")
@click.option("--one-recording", is_flag=True, help="The INPUTs are the files of one recording, in this order.")
@click.option(
    "--raw", help="What - holds, where it has no header: WIDTHxHEIGHT:FORMAT@FPS such as 640x512:gray16le@25."
)
@click.option(
    "--late",
    type=click.Choice(LATE_POLICIES),
    help="Frames that come faster than they are translated: only the newest counts, or none is lost. By default drop for live "
    "sources, wait for a pipe.",
)
@click.option(
    "--stall",
    "stall_s",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Seconds without a frame after which a live source counts as stalled.",
)
@click.option("--preview", type=FILE, help="A .jpg that shows the newest picture while the command works.")
@click.option("--overwrite", is_flag=True, help="Make anew what lies in the folder of outputs.")
@device_option
@json_option
@click.pass_context
def translate_command(
    context: click.Context,
    /,
    snapshot: Path,
    inputs: tuple[str, ...],
    out: str,
    kind: str | None,
    image_format: str,
    codec: str,
    quality: int,
    sound: bool,
    side_by_side: bool,
    native: bool,
    polarity: str | None,
    tone: str | None,
    tone_range: str | None,
    masks: tuple[str, ...],
    crop: str | None,
    start: int,
    stop: int | None,
    one_recording: bool,
    raw: str | None,
    late: str | None,
    stall_s: float,
    preview: Path | None,
    overwrite: bool,
    device: str,
    as_json: bool,
) -> None:
    """Show infrared INPUTs by day with SNAPSHOT, prepared as in its training.

    An INPUT is a video (a file or a URL), a picture, a folder of either, shards, a live source (rtsp://..., /dev/video0), or - for
    a pipe of y4m or raw pictures. Videos keep their size, frame count, times, rotation and sound. In a folder of outputs, what is
    there already is not made again, and an input that fails does not keep the others from being translated (exit code 3).
    """
    import torch  # noqa: F401  # first, so that who lacks it is told to install all of roma

    from infraredcity.video.live import RawFormat
    from roma.inference.job import TranslateOptions
    from roma.inference.outputs import OutputOptions, plan_outputs, sha256_of, translate_all
    from roma.inference.sinks import VideoOptions
    from roma.inference.sources import SourceOptions, find_inputs
    from roma.inference.translator import open_translator
    from roma.world.memory import keep_freed_memory
    from roma.world.world import device_of

    if stop is not None and stop <= start:
        raise click.BadParameter(f"must be above --start {start}, got {stop}", param_hint="--stop")
    try:
        raw_format = None if raw is None else RawFormat.parse(raw)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--raw") from error
    how = TranslateOptions(
        native=native,
        side_by_side=side_by_side,
        polarity=polarity,  # type: ignore[arg-type]  # click checks these
        tone=tone,  # type: ignore[arg-type]
        tone_range=parse_tone_range(tone, tone_range),
        masks=tuple(parse_numbers(mask, 4, "--mask") for mask in masks) or None,
        crop=None if crop is None else parse_numbers(crop, 4, "--crop"),
    )
    options = OutputOptions(
        kind=kind,  # type: ignore[arg-type]
        image_format=image_format,  # type: ignore[arg-type]
        video=VideoOptions(codec=codec, quality=quality),  # type: ignore[arg-type]
        with_sound=sound,
        preview=preview,
        overwrite=overwrite,
    )
    sources = SourceOptions(
        start=start,
        stop=stop,
        raw=raw_format,
        late=late,  # type: ignore[arg-type]
        stall_s=stall_s,
        is_one_recording=one_recording,
    )
    outputs = plan_outputs(find_inputs(inputs, is_one_recording=one_recording), out, options)
    keep_freed_memory()
    translator = open_translator(snapshot, device_of(device))

    def say(outcome: "Outcome") -> None:
        report = outcome.report
        name = visible(str(outcome.output.path or "stdout"))
        if report is None:
            click.echo(f"Error: {visible(outcome.error)}", err=True)
        elif not outcome.is_new:
            click.echo(f"{name}: there already", err=True)
        else:
            missing = f", {report.num_missing} could not be read" if report.num_missing else ""
            click.echo(f"{name}: {report.num_frames} frames, {report.width_px}x{report.height_px}{missing}", err=True)
            for note in report.notes:
                click.echo(f"{name}: {visible(note)}", err=True)

    folder = Path(out) if outputs[0].name else None
    outcomes = translate_all(
        translator,
        outputs,
        folder,
        snapshot_sha256=sha256_of(snapshot),
        how=how,
        sources=sources,
        options=options,
        on_progress=ProgressLine(),
        on_outcome=say,
    )
    if as_json:
        facts = [
            {
                "inputs": [shown(text) if is_url(text) else text for text in each.output.inputs],
                "is_new": each.is_new,
                "error": each.error,
            }
            | ({} if each.report is None else asdict(each.report))
            for each in outcomes
        ]
        print_json(facts)
    failed = sum(each.report is None for each in outcomes)
    if failed:
        click.echo(
            f"{failed} of {len(outcomes)} inputs failed; give the command again when their cause is gone", err=True
        )
        context.exit(3)
