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
from infraredcity.errors import CatalogError, InfraredCityError, OutputError
from infraredcity.extract import ExtractReport
from infraredcity.images import FITS, IMAGE_FORMATS, POLARITY_CHOICES
from infraredcity.plan import DEADLINE_S, SUSPECT_CHOICES, TARGETS, ExtractConfig
from infraredcity.tone import TONES
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
@click.option("--format", "image_format", type=click.Choice(IMAGE_FORMATS), default="jpg", show_default=True,
              help="png16 keeps all counts of thermal video of more than 8 bits.")  # fmt: skip
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of jpg and webp.")
@click.option("--size", help="N or WIDTHxHEIGHT of the stills in pixels; the clip's own by default.")
@click.option(
    "--fit", type=click.Choice(FITS), default="squash", show_default=True, help="How the clip's shape becomes --size."
)
@click.option("--crop", help="x,y,w,h in pixels of the clip, cut out first.")
@click.option("--mask", "masks", multiple=True,
              help="x,y,w,h of burnt-in display text, filled from around it; may be given several times.")  # fmt: skip
@click.option("--tone", type=click.Choice(TONES),
              help="How counts of more than 8 bits become levels, by one line for the whole clip: its darkest and brightest count, "
                   "its percentiles .5 and 99.5 (where nothing is said), or --tone-range.")  # fmt: skip
@click.option("--tone-range", help="LOW,HIGH for --tone fixed: the counts that become black and white.")
@click.option("--polarity", type=click.Choice(POLARITY_CHOICES),
              help="How infrared stills show heat; by default as the clip does (polarity in clips.toml).")  # fmt: skip
@click.option("--color", type=click.Choice(["auto", "gray", "rgb"]), default="auto", show_default=True,
              help="auto: gray for infrared clips, rgb for visible ones.")  # fmt: skip
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Take each N-th frame.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First frame to take.")
@click.option("--stop", type=click.IntRange(1), help="First frame not to take.")
@click.option("--frames-per-shard", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--decoder", type=click.Choice(DECODERS), default="auto", show_default=True)
@click.option("--device", default="cpu", show_default=True,
              help="cpu, cuda:N (NVDEC through PyAV, or through a decord built with CUDA), or auto for what works.")  # fmt: skip
@click.option("--suspect", type=click.Choice(SUSPECT_CHOICES), default="keep", show_default=True,
              help="Frames that follow damage, up to the next key frame: write and mark them, or leave them out.")  # fmt: skip
@click.option("--strict", "is_strict", is_flag=True, help="Damage is an error: exit 1, nothing finalized.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(0, min_open=True), default=DEADLINE_S, show_default=True,
              help="Seconds after which a decoder that gives no frame counts as stuck.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=None,
              help="Processes that decode, each with encoding threads of its own; as many as suit the cores by default. "
                   "0 decodes in this process, which no deadline watches.")  # fmt: skip
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
    masks: tuple[str, ...],
    tone_range: str | None,
    color: str,
    start: int,
    stop: int | None,
    workers: int | None,
    is_strict: bool,
    deadline_s: float,
    overwrite: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Split clips into frames, as shards with index and manifest.

    Running it again goes on where it was stopped, or does nothing. Exit codes: 0 done; 5 complete, with gaps that are named; 4
    another count than the catalogue expects; 3 partial, the same command goes on; 1 nothing could be done.
    """
    from infraredcity.executors.local import extract_clip

    if bool(clip_ids) == all_clips:
        raise click.UsageError("name clips with --clip, or take all with --all")
    if video is not None and len(clip_ids) != 1:
        raise click.UsageError("--video is the file of one clip: name that one with --clip")
    try:
        config = ExtractConfig(
            size=parse_size(size),
            crop=None if crop is None else _parse_box(crop, "--crop"),
            masks=tuple(_parse_box(mask, "--mask") for mask in masks),
            tone_range=_parse_range(tone_range),
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
    rows: list[dict[str, object]] = []
    for clip in clips:
        try:
            report = extract_clip(
                clip, config, out, workers=workers, deadline_s=deadline_s, is_strict=is_strict, overwrite=overwrite,
                on_progress=progress,
            )  # fmt: skip
        except InfraredCityError as error:
            click.echo(f"Error: {error}", err=True)
            status = "partial" if error.is_resumable else "error"
            rows.append({"clip": clip.clip_id, "status": status, "error": str(error)})
            if isinstance(error, OutputError):  # a full disk or a lock is as full or locked for the next clip
                break
            continue
        rows.append({**asdict(report), "status": _status(report)})
        click.echo(_line(report), err=True)
    if as_json:
        print_json({"reports": rows})
    sys.exit(_exit_code([str(row["status"]) for row in rows]))


_EXIT_CODES = {"done": 0, "gaps": 5, "count": 4}
_SEVERITY = (0, 5, 4)


def _exit_code(statuses: list[str]) -> int:
    if "partial" in statuses or ("error" in statuses and set(statuses) != {"error"}):
        return 3
    if "error" in statuses:
        return 1
    return max((_EXIT_CODES[status] for status in statuses), key=_SEVERITY.index)


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
    marked = [
        f"{count:,} {what}"
        for count, what in (
            (report.num_suspect, "follow damage (suspect)"),
            (report.num_repeats, "repeat the one before"),
            (report.num_frozen, "are frozen"),
        )
        if count
    ]
    if marked:
        line += f"\n{report.clip}: marked: {', '.join(marked)}; no window spans them"
    if report.tone is not None:
        line += f"\n{report.clip}: tone: counts {report.tone.low} to {report.tone.high} are levels 0 to 255"
    for phrase in report.suspect:
        line += f"\n{report.clip}: suspect: {phrase}"
    return line


def _parse_box(text: str, option: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected x,y,w,h in pixels, got {text!r}", param_hint=option)
    x, y, width, height = (int(part) for part in parts)
    return x, y, width, height


def _parse_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected LOW,HIGH in counts, got {text!r}", param_hint="--tone-range")
    return int(parts[0]), int(parts[1])
