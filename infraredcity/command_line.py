"""What the commands of both packages share: local paths as options, JSON on stdout, progress on stderr, broken output streams."""

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from infraredcity.files.urls import is_url, shown
from infraredcity.progress import Progress
from infraredcity.showing import visible

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""Also matches the single slash that a Path keeps of `https://`; one letter is a drive, not a scheme."""


class _LocalPath(click.Path):
    """A local file or folder; a URL is refused instead of being taken for a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if isinstance(value, str) and (is_url(value) or _SCHEME.match(value)):
            url = shown(_SCHEME.sub(r"\1://", value, count=1))
            self.fail(f"must be a local {self.name}, got {url}; copy it first", param, ctx)
        return super().convert(value, param, ctx)


FILE = _LocalPath(dir_okay=False, path_type=Path)
FOLDER = _LocalPath(file_okay=False, path_type=Path)
FILE_OR_FOLDER = _LocalPath(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON on stdout.")


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, default=str))


class ProgressLine:
    """Draw Progress reports on stderr: on a terminal one line that is rewritten, elsewhere a new line every few seconds."""

    def __init__(self, *, every_s: float = 5.0) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def __call__(self, progress: Progress) -> None:
        """Draw one report."""
        now = time.monotonic()
        started, first_done = self._started.setdefault(progress.what, (now, progress.done))
        is_last = progress.done == progress.total
        if not self._is_terminal and not is_last and now - self._last_line < self._every_s:
            return
        self._last_line = now
        new = progress.done - first_done
        rate = new / (now - started) if now > started else 0.0
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


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 1, and one line on stderr, where the system refuses a file or the output.

    An OSError is a fact about this machine, such as a full disk or a name that is too long; other exceptions pass through. Standard
    streams that are closed, full or a broken pipe never cause a traceback.
    """
    _open_closed_streams()
    try:
        try:
            code = command()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        code = 1
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                sys.stderr.write(f"Error: {_describe(error)}\n")
                sys.stderr.flush()
    finally:
        _abandon_unwritable_streams()
    return code


def _describe(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    where = "" if error.filename is None else f"{visible(os.fsdecode(error.filename))}: "
    return f"{where}{reason}"


def _open_closed_streams() -> None:
    """Open streams that the shell closed (`2>&-`) on the null device; else the next file gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 -- open as long as the process


def _abandon_unwritable_streams() -> None:
    """Drop what cannot be written; Python would try again at exit and print a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
