"""What the commands of roma share: common options, and the exit codes and messages of errors."""

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
    """Run a click command outside standalone mode and return its exit code; print errors as one line without secrets."""
    rank = os.environ.get("RANK", "0")
    code: object = 0
    try:
        code = command()
    except (RomaError, InfraredCityError) as error:
        message = visible_lines(shown_in(str(error)))
        click.echo(f"Error: {message}" if rank == "0" else f"Error (rank {rank}): {message}", err=True)
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
    """Raise a UsageError where a domain is not named."""
    for name, sources in (("infrared", infrared), ("visible", visible)):
        if not sources:
            raise click.UsageError(f"Missing --{name}: name shards or pictures, such as 'lite/city/{name}-train/*.tar'")
