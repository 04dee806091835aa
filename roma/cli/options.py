"""What the commands of roma share: paths as options, and how errors become a line and an exit code."""

import io
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from infraredcity.errors import InfraredCityError
from infraredcity.files.urls import shown, shown_in
from infraredcity.installation import install_command
from infraredcity.showing import visible_lines
from roma.errors import RomaError

_LIKE_A_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""Also with the one slash that a path has of `https://`; a single letter is a drive."""


class _HereType(click.Path):
    """A file or folder here; a URL is refused, and not taken for a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that the value names."""
        if isinstance(value, str) and _LIKE_A_URL.match(value):
            url = shown(_LIKE_A_URL.sub(r"\1://", value, count=1))
            self.fail(f"must be a {self.name} here, got {url}; copy it first", param, ctx)
        return super().convert(value, param, ctx)


FILE = _HereType(dir_okay=False, path_type=Path)
FOLDER = _HereType(file_okay=False, path_type=Path)
FILE_OR_FOLDER = _HereType(path_type=Path)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON on stdout.")


class FrameCounter:
    """Says every few seconds how many frames are done."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Say it, if a few seconds passed or all are done."""
        now_s = time.monotonic()
        if done == total or now_s - self._last_s > 5:
            self._last_s = now_s
            click.echo(f"{done} of {total} {self._what}", err=True)


def exit_code(command: Callable[[], object]) -> int:
    """Run a command of click that is not in standalone mode; its errors become lines without secrets, and a code."""
    rank = os.environ.get("RANK", "0")
    code: object = 0
    try:
        code = command()
    except (RomaError, InfraredCityError) as error:
        told = visible_lines(shown_in(str(error)))
        click.echo(f"Error: {told}" if rank == "0" else f"Error (rank {rank}): {told}", err=True)
        code = 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("roma", "infraredcity"):
            raise
        click.echo(f"Error: roma needs {error.name}, which is not installed; run: {install_command('train')}", err=True)
        code = 1
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(visible_lines(shown_in(text.getvalue())), nl=False, err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    return code if isinstance(code, int) else 0


def check_domains(infrared: tuple[str, ...], visible: tuple[str, ...]) -> None:
    """UsageError where a domain is not named."""
    for name, sources in (("infrared", infrared), ("visible", visible)):
        if not sources:
            raise click.UsageError(f"Missing --{name}: name shards or pictures, such as 'lite/city/{name}-train/*.tar'")
