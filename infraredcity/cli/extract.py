"""`infraredcity extract`: clips to shards."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.catalog import CLIPS_VARIABLE, with_video
from infraredcity.cli.options import (
    FILE,
    FOLDER,
    ProgressLine,
    format_bytes,
    json_option,
    load_catalog,
    parse_size,
    print_json,
    where_clips_are,
)
from infraredcity.errors import CatalogError
from infraredcity.extract import ExtractReport
from infraredcity.images import FITS, IMAGE_FORMATS
from infraredcity.plan import TARGETS, ExtractConfig
from infraredcity.video import DECODERS


@click.command("extract")
@click.option("--clip", "clip_ids", multiple=True, help="Clip id of the catalogue; may be given several times.")
@click.option("--all", "all_clips", is_flag=True, help="All clips of the catalogue.")
@where_clips_are
@click.option("--video", type=FILE, help="The file of the one clip that --clip names.")
@click.option("--out", type=FOLDER, default=Path("shards"), show_default=True, help="Gets one folder per clip.")
@click.option(
    "--to", type=click.Choice(TARGETS), default="shards", show_default=True, help="WebDataset tars or image files."
)
@click.option("--format", "image_format", type=click.Choice(IMAGE_FORMATS), default="jpg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of jpg and webp.")
@click.option("--size", help="N or WIDTHxHEIGHT of the stills in pixels; the clip's own by default.")
@click.option(
    "--fit", type=click.Choice(FITS), default="squash", show_default=True, help="How the clip's shape becomes --size."
)
@click.option("--crop", help="x,y,w,h in pixels of the clip, cut out first.")
@click.option("--color", type=click.Choice(["auto", "gray", "rgb"]), default="auto", show_default=True,
              help="auto: gray for infrared clips, rgb for visible ones.")  # fmt: skip
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Take each N-th frame.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First frame to take.")
@click.option("--stop", type=click.IntRange(1), help="First frame not to take.")
@click.option("--frames-per-shard", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--decoder", type=click.Choice(DECODERS), default="auto", show_default=True)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu, or cuda:N with a decord that was built with CUDA."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Decoding processes per clip; each has encoding threads of its own.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Delete an earlier extraction of these clips and start anew.")
@json_option
def extract_command(
    clip_ids: tuple[str, ...],
    all_clips: bool,
    clips_dir: Path | None,
    clips_file: Path | None,
    video: Path | None,
    out: Path,
    size: str | None,
    crop: str | None,
    color: str,
    start: int,
    stop: int | None,
    workers: int,
    overwrite: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Split clips into frames, as shards with index and manifest.

    Running it again goes on where it was stopped, or does nothing.
    """
    from infraredcity.executors.local import extract_clip

    if bool(clip_ids) == all_clips:
        raise click.UsageError("name clips with --clip, or take all with --all")
    if video is not None and len(clip_ids) != 1:
        raise click.UsageError("--video is the file of one clip: name that one with --clip")
    try:
        config = ExtractConfig(
            size=parse_size(size),
            crop=_parse_crop(crop),
            color=None if color == "auto" else color,  # type: ignore[arg-type]  # click.Choice checked it
            start_frame=start,
            stop_frame=stop,
            **settings,  # type: ignore[arg-type]  # the rest of the options, under the config's own names
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    catalogue = load_catalog(clips_dir, clips_file)
    if video is not None:
        catalogue = with_video(catalogue, clip_ids[0], video)
    clips = list(catalogue) if all_clips else [catalogue[clip_id] for clip_id in dict.fromkeys(clip_ids)]
    unnamed = [clip.clip_id for clip in clips if not clip.paths]
    if unnamed:
        raise CatalogError(
            f"no file was named for {', '.join(unnamed)}; pass --clips-dir, --clips or --video, or set {CLIPS_VARIABLE}"
        )
    for clip in clips:
        clip.existing_paths()
    progress = ProgressLine()
    reports = []
    for clip in clips:
        report = extract_clip(clip, config, out, workers=workers, overwrite=overwrite, on_progress=progress)
        reports.append(report)
        click.echo(_line(report), err=True)
    if as_json:
        print_json({"reports": [{**asdict(report), "status": _status(report)} for report in reports]})
    sys.exit(max((_EXIT_CODES[_status(report)] for report in reports), key=_SEVERITY.index))


_EXIT_CODES = {"done": 0, "gaps": 5, "count": 4}
_SEVERITY = (0, 5, 4)


def _status(report: ExtractReport) -> str:
    if not report.has_expected_count:
        return "count"
    return "gaps" if report.gaps else "done"


def _line(report: ExtractReport) -> str:
    what = "nothing left to do" if report.new_frames == 0 else f"{report.new_frames:,} new"
    where = f"{report.num_shards} shards" if report.num_shards else "files"
    line = (
        f"{report.clip}: {report.num_frames:,} frames ({what}) in {where}, {format_bytes(report.size_bytes)}, "
        f"{report.folder}"
    )
    if not report.has_expected_count:
        line += f"\n{report.clip}: the clip holds {report.clip_frames:,} frames, the catalogue expects {report.expected_frames:,}"
    for gap in report.gaps:
        line += f"\n{report.clip}: gap: frames {gap.first_frame} to {gap.last_frame} ({gap.num_frames}): {gap.reason}"
    for phrase in report.suspect:
        line += f"\n{report.clip}: suspect: {phrase}"
    return line


def _parse_crop(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected x,y,w,h in pixels, got {text!r}", param_hint="--crop")
    x, y, width, height = (int(part) for part in parts)
    return x, y, width, height
