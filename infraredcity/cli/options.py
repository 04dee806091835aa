"""Options and printing that several commands share."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity import clips
from infraredcity.command_line import FILE, FOLDER
from infraredcity.files import traffic
from infraredcity.files.path import AnyPath, any_path, is_remote
from infraredcity.showing import format_bytes

_Command = TypeVar("_Command", bound=Callable[..., Any])
_TRAFFIC_BEFORE = "infraredcity.traffic_before"


class _PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 alone
    """A file or folder here, looked at as click does, or a URL, which is not."""

    def __init__(self, here: click.Path) -> None:
        self._here = here
        self.name = f"{here.name}|url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AnyPath:
        """The place that the value names."""
        named = any_path(value)
        if is_remote(named):
            return named
        return Path(self._here.convert(value, param, ctx))  # type: ignore[arg-type]  # it is one, as FILE and FOLDER ask for


FOLDER_OR_URL = _PlaceType(FOLDER)
FILE_OR_URL = _PlaceType(FILE)
ANY_OR_URL = _PlaceType(click.Path(path_type=Path))
"""For what is looked at later, by who can say what to do about a folder."""


def where_clips_are(command: _Command) -> _Command:
    """Adds --clips-dir and --clips."""
    command = click.option(
        "--clips", "clips_file", type=FILE_OR_URL,
        help="TOML file of [clips.<id>] tables with path or paths (docs/own-clips.md).",
    )(command)  # fmt: skip
    return click.option("--clips-dir", type=FOLDER_OR_URL, help="Folder of files named <clip_id>.<ext>.")(command)


def catalog_of(clips_dir: AnyPath | None, clips_file: AnyPath | None) -> clips.Catalog:
    """The catalogue as the options say; INFRAREDCITY_CLIPS when they say nothing."""
    return clips.load_catalog(clips_file=clips_file, clips_dir=clips_dir)


def note_traffic(context: click.Context) -> None:
    """Note what the process had moved when its command began."""
    context.meta[_TRAFFIC_BEFORE] = traffic.traffic()


def _moved() -> traffic.Traffic:
    """What this process moved since the command began."""
    before: traffic.Traffic = click.get_current_context().meta[_TRAFFIC_BEFORE]
    return traffic.traffic() - before


def tell_traffic() -> None:
    """Say on stderr what the command moved from and to other machines; nothing where that is nothing."""
    moved = _moved()
    if moved.num_requests == 0:
        return
    received = f"{format_bytes(moved.received_bytes)} from"
    sent = f"{format_bytes(moved.sent_bytes)} to"
    ways = [way for way, size_bytes in ((received, moved.received_bytes), (sent, moved.sent_bytes)) if size_bytes]
    requests = "1 request" if moved.num_requests == 1 else f"{moved.num_requests:,} requests"
    click.echo(f"moved {' and '.join(ways or [received])} other machines in {requests}", err=True)


def traffic_told() -> dict[str, Any]:
    """The same for JSON; nothing where nothing was moved."""
    moved = _moved()
    return {"traffic": asdict(moved)} if moved.num_requests else {}


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height: "256" is (256, 256), "320x256" is (320, 256), the rest is a usage error."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected N or WIDTHxHEIGHT, got {text!r}", param_hint="--size")
    return int(parts[0]), int(parts[-1])
