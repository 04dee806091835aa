"""What the commands of roma share: common options, and the exit codes and messages of errors."""

import io
import os
from collections.abc import Callable
from typing import Any

import click

from infraredcity.errors import InfraredCityError
from infraredcity.files.urls import shown_in
from infraredcity.installation import install_command
from infraredcity.showing import visible_lines
from infraredcity.stills.framing import POLARITY_CHOICES
from roma.errors import RomaError
from roma.inference.choices import TONE_CHOICES

device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


_PREPARATION = (
    click.option(
        "--polarity",
        type=click.Choice(POLARITY_CHOICES),
        help="How the input shows heat; turned around where the training shows it the other way. invert turns in any case.",
    ),
    click.option(
        "--tone",
        type=click.Choice(TONE_CHOICES),
        help="How counts of more than 8 bits become levels; by default as in the training. running follows the last seconds.",
    ),
    click.option("--tone-range", help="LOW,HIGH for --tone fixed: the counts that become black and white."),
)


def preparation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how the input is prepared: `polarity`, `tone` and `tone_range`."""
    for option in reversed(_PREPARATION):
        command = option(command)
    return command


def parse_tone_range(tone: str | None, tone_range: str | None) -> Any:
    """Read LOW,HIGH, which goes with the tone "fixed"; None without it.

    Raises:
        click.UsageError: One is given without the other.
        click.BadParameter: It is not LOW,HIGH, or LOW is not below HIGH.
    """
    if (tone == "fixed") != (tone_range is not None):
        raise click.UsageError("--tone fixed goes with --tone-range LOW,HIGH, and no other tone does")
    if tone_range is None:
        return None
    low, high = parse_numbers(tone_range, 2, "--tone-range")
    if low >= high:
        raise click.BadParameter(f"LOW must be below HIGH, got {tone_range}", param_hint="--tone-range")
    return low, high


def parse_numbers(text: str, count: int, option: str) -> Any:
    """Read whole numbers with commas between them.

    Raises:
        click.BadParameter: It is anything else.
    """
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdigit() for part in parts):
        form = "LOW,HIGH" if count == 2 else "x,y,w,h"
        raise click.BadParameter(f"expected {form}, got {text!r}", param_hint=option)
    return tuple(map(int, parts))


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
