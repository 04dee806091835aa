"""What the commands of roma share: paths as options, and how errors become a line and an exit code."""

import io
import os
from collections.abc import Callable

import click

from infraredcity.errors import InfraredCityError
from infraredcity.files.urls import shown_in
from infraredcity.installation import install_command
from infraredcity.showing import visible_lines
from roma.errors import RomaError

device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


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
