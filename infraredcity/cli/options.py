"""Options and printing that several commands share."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity import clips
from infraredcity.files import traffic, urls
from infraredcity.files.path import AnyPath, any_path, is_remote
from infraredcity.progress import Progress
from infraredcity.showing import format_bytes

_Command = TypeVar("_Command", bound=Callable[..., Any])
_TRAFFIC_BEFORE = "infraredcity.traffic_before"


class _HereType(click.Path):
    """A file or folder here; a URL is refused, and not taken for a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that the value names."""
        if isinstance(value, str) and urls.is_url(value):
            self.fail(f"must be a {self.name} here, got {urls.shown(value)}; copy it first", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = _HereType(file_okay=False, path_type=Path)
FILE = _HereType(dir_okay=False, path_type=Path)


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


json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON on stdout.")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, default=str))


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


class ProgressLine:
    """Draws Progress reports on stderr: one line that is rewritten on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, *, every_s: float = 5.0) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = every_s
        self._begun: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def __call__(self, progress: Progress) -> None:
        """Draw one report."""
        now = time.monotonic()
        begun, first_done = self._begun.setdefault(progress.what, (now, progress.done))
        is_last = progress.done == progress.total
        if not self._is_terminal and not is_last and now - self._last_line < self._every_s:
            return
        self._last_line = now
        new = progress.done - first_done
        rate = new / (now - begun) if now > begun else 0.0
        of_total = "" if progress.total is None else f" of {progress.total:,}"
        speed = f", {rate:,.0f}/s" if rate >= 1 else ""
        left = ""
        if progress.total is not None and rate > 0 and not is_last:
            left = f", {(progress.total - progress.done) / rate:,.0f} s left"
        line = f"{progress.what} {progress.done:,}{of_total}{speed}{left}"
        if self._is_terminal:
            click.echo(f"\r{line:<100.100}", nl=is_last, err=True)
        else:
            click.echo(line, err=True)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height: "256" is (256, 256), "320x256" is (320, 256), the rest is a usage error."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected N or WIDTHxHEIGHT, got {text!r}", param_hint="--size")
    return int(parts[0]), int(parts[-1])
