"""Options and printing that several commands share."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity import catalog
from infraredcity.progress import Progress

_Command = TypeVar("_Command", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def where_clips_are(command: _Command) -> _Command:
    """Adds --clips-dir and --clips."""
    command = click.option(
        "--clips", "clips_file", type=FILE, help="TOML file of [clips.<id>] tables with path or paths (see README)."
    )(command)
    return click.option("--clips-dir", type=FOLDER, help="Folder of files named <clip_id>.<ext>.")(command)


def load_catalog(clips_dir: Path | None, clips_file: Path | None) -> catalog.Catalog:
    """The catalogue as the options say; INFRAREDCITY_CLIPS when they say nothing."""
    return catalog.load(clips_file=clips_file, clips_dir=clips_dir)


json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON on stdout.")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, default=str))


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


def format_bytes(size_bytes: int) -> str:
    """Bytes for people: 31.3 MB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
