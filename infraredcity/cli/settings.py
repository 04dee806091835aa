"""The options for what extraction writes; `extract` and `plan` share them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from infraredcity.cli.options import ANY_OR_URL, catalog_of, parse_size, where_clips_are
from infraredcity.clips import Clip, with_video
from infraredcity.extraction.config import SUSPECT_CHOICES, TARGETS, ExtractConfig
from infraredcity.files.path import AnyPath
from infraredcity.stills.formats import DEFAULT_FORMAT, IMAGE_FORMATS
from infraredcity.stills.framing import FITS, POLARITY_CHOICES
from infraredcity.stills.tone import TONES
from infraredcity.video import DECODERS

_Command = TypeVar("_Command", bound=Callable[..., Any])
_CLIPS = (
    click.option("--clip", "clip_ids", multiple=True, help="Clip id of the catalogue; may be given several times."),
    click.option("--all", "all_clips", is_flag=True, help="All clips of the file of --clips, else of the catalogue."),
    where_clips_are,
    click.option("--video", type=ANY_OR_URL, help="Path or URL of the one clip that --clip names."),
)
_SETTINGS = (
    click.option(
        "--to", type=click.Choice(TARGETS), default="shards", show_default=True, help="WebDataset tars or image files."
    ),
    click.option(
        "--format",
        "image_format",
        type=click.Choice(IMAGE_FORMATS),
        default=DEFAULT_FORMAT,
        show_default=True,
        help="png16 keeps the counts of thermal video of more than 8 bits.",
    ),
    click.option(
        "--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Quality of jpg and webp."
    ),
    click.option("--size", help="Size of the stills in pixels, N or WIDTHxHEIGHT.  [default: the clip's size]"),
    click.option(
        "--fit",
        type=click.Choice(FITS),
        default="squash",
        show_default=True,
        help="How a clip of another shape is brought to --size.",
    ),
    click.option("--crop", help="Box x,y,w,h in pixels of the clip, cut out first."),
    click.option(
        "--mask",
        "masks",
        multiple=True,
        help="Box x,y,w,h of burnt-in text, filled from the pixels around it; may be given several times.",
    ),
    click.option(
        "--tone",
        type=click.Choice(TONES),
        help="How counts of more than 8 bits become levels, the same for the whole clip: from its darkest to its brightest count, "
        "from percentile .5 to 99.5 (the default), or --tone-range.",
    ),
    click.option("--tone-range", help="LOW,HIGH for --tone fixed: the counts that become black and white."),
    click.option(
        "--polarity",
        type=click.Choice(POLARITY_CHOICES),
        help="How infrared stills show heat.  [default: as the clip, see polarity in clips.toml]",
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "gray", "rgb"]),
        default="auto",
        show_default=True,
        help="auto: gray for infrared clips, rgb for visible ones.",
    ),
    click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Take every N-th frame."),
    click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First frame to take."),
    click.option("--stop", type=click.IntRange(1), help="First frame not to take."),
    click.option("--frames-per-shard", type=click.IntRange(1), default=1000, show_default=True),
    click.option("--stream", type=click.IntRange(0), help="Number of the video stream to take, as listed by probe."),
    click.option("--decoder", type=click.Choice(DECODERS), default="auto", show_default=True),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="cpu, cuda:N (NVDEC through PyAV, or a decord built with CUDA), or auto: the best that works, kept for the whole clip "
        "also when another machine continues it.",
    ),
    click.option(
        "--suspect",
        type=click.Choice(SUSPECT_CHOICES),
        default="keep",
        show_default=True,
        help="Frames after damage, up to the next key frame: write and mark them, or leave them out.",
    ),
)
SETTING_NAMES = ("to", "image_format", "quality", "size", "fit", "crop", "masks", "tone", "tone_range", "polarity", "color",
                 "every", "start", "stop", "frames_per_shard", "stream", "decoder", "device", "suspect")  # fmt: skip
"""The parameters that `extraction_settings` adds."""


def which_clips(command: _Command) -> _Command:
    """Add --clip, --all, --clips-dir, --clips and --video; see `chosen_clips`."""
    for option in reversed(_CLIPS):
        command = option(command)
    return command


def extraction_settings(command: _Command) -> _Command:
    """Add the options of ExtractConfig; see `config_of`."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


def chosen_clips(
    clip_ids: Sequence[str],
    all_clips: bool,
    clips_dir: AnyPath | None,
    clips_file: AnyPath | None,
    video: AnyPath | None,
) -> list[Clip]:
    """Return the clips that the options of `which_clips` name, after checking that their files exist.

    Raises:
        CatalogError: A clip is not in the catalogue, or one of its files is not given or does not exist.
        RemoteError: A remote file or folder cannot be reached.
    """
    if bool(clip_ids) == all_clips:
        raise click.UsageError("name clips with --clip, or take all with --all")
    if video is not None and len(clip_ids) != 1:
        raise click.UsageError("--video is the file of one clip; name that clip with --clip")
    catalogue = catalog_of(clips_dir, clips_file)
    if video is not None:
        catalogue = with_video(catalogue, clip_ids[0], video)
    clips = catalogue.asked_for() if all_clips else [catalogue[clip_id] for clip_id in dict.fromkeys(clip_ids)]
    catalogue.check_files(clips)
    return clips


def config_of(settings: dict[str, Any]) -> ExtractConfig:
    """Build the config from the parameters of `extraction_settings`; a usage error where they do not fit together."""
    plain = dict(settings)
    size, crop, masks = plain.pop("size"), plain.pop("crop"), plain.pop("masks")
    color, start, stop = plain.pop("color"), plain.pop("start"), plain.pop("stop")
    try:
        return ExtractConfig(
            size=parse_size(size),
            crop=None if crop is None else _parse_box(crop, "--crop"),
            masks=tuple(_parse_box(mask, "--mask") for mask in masks),
            tone_range=_parse_range(plain.pop("tone_range")),
            color=None if color == "auto" else color,
            start_frame=start,
            stop_frame=stop,
            **plain,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


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
