"""Options and output that several commands of infraredcity share."""

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


class _PathOrUrl(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.5
    """A URL, or a local file or folder that is checked as click does."""

    def __init__(self, local: click.Path) -> None:
        self._local = local
        self.name = f"{local.name}|url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AnyPath:
        """Return the path, local or remote."""
        path = any_path(value)
        if is_remote(path):
            return path
        return Path(self._local.convert(value, param, ctx))  # type: ignore[arg-type]  # it is one, as FILE and FOLDER ask for


FOLDER_OR_URL = _PathOrUrl(FOLDER)
FILE_OR_URL = _PathOrUrl(FILE)
ANY_OR_URL = _PathOrUrl(click.Path(path_type=Path))
"""A path that is checked later, with a better message."""


def where_clips_are(command: _Command) -> _Command:
    """Add --clips-dir and --clips."""
    command = click.option(
        "--clips", "clips_file", type=FILE_OR_URL,
        help="TOML file of [clips.<id>] tables with path or paths (docs/own-clips.md).",
    )(command)  # fmt: skip
    return click.option("--clips-dir", type=FOLDER_OR_URL, help="Folder of files named <clip_id>.<ext>.")(command)


def catalog_of(clips_dir: AnyPath | None, clips_file: AnyPath | None) -> clips.Catalog:
    """Load the catalogue that the options name, or INFRAREDCITY_CLIPS without them."""
    return clips.load_catalog(clips_file=clips_file, clips_dir=clips_dir)


def note_traffic(context: click.Context) -> None:
    """Remember the traffic of the process when its command begins."""
    context.meta[_TRAFFIC_BEFORE] = traffic.traffic()


def _moved() -> traffic.Traffic:
    """Return the traffic of this process since the command began."""
    before: traffic.Traffic = click.get_current_context().meta[_TRAFFIC_BEFORE]
    return traffic.traffic() - before


def print_traffic() -> None:
    """Print on stderr how much the command received from and sent to remote machines, if anything."""
    moved = _moved()
    if moved.num_requests == 0:
        return
    received = f"{format_bytes(moved.received_bytes)} from"
    sent = f"{format_bytes(moved.sent_bytes)} to"
    ways = [way for way, size_bytes in ((received, moved.received_bytes), (sent, moved.sent_bytes)) if size_bytes]
    requests = "1 request" if moved.num_requests == 1 else f"{moved.num_requests:,} requests"
    click.echo(f"moved {' and '.join(ways or [received])} other machines in {requests}", err=True)


def traffic_facts() -> dict[str, Any]:
    """Return the traffic for JSON; empty without any."""
    moved = _moved()
    return {"traffic": asdict(moved)} if moved.num_requests else {}


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Parse a width and height: "256" is (256, 256), "320x256" is (320, 256); a usage error otherwise."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected N or WIDTHxHEIGHT, got {text!r}", param_hint="--size")
    return int(parts[0]), int(parts[-1])
