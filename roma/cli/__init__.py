"""Define the command `roma`: one file per subcommand, which parses, calls the library and prints.

stdout is data, stderr is for people. Exit codes: 0 done, 1 error, 2 usage, 130 and 143 on SIGINT and SIGTERM.
"""

import logging
import signal
import sys
from importlib import import_module
from types import FrameType

import click

from infraredcity.installation import install_command
from roma.cli.options import exit_code

_COMMANDS = ("evaluate", "export", "pretrain", "report", "settings", "train", "translate")


class _Commands(click.Group):
    """Load subcommands when they are called; those that need torch are also listed without it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = import_module(f"{__name__}.{cmd_name}")
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    def explain() -> None:
        raise error

    text = f"Needs {error.name}: {install_command('train')}."
    return click.Command(
        name, callback=explain, help=text, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="infraredcity")
def cli() -> None:
    """Translate night infrared video to daytime colour video: train the translator and run it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # the log files of a run get more
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[handler])


class _Terminated(BaseException):
    """SIGTERM as an exception, so that temporary files are removed."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    from infraredcity.command_line import exit_code_of

    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(exit_code_of(lambda: _run(arguments)))


def _run(arguments: list[str] | None) -> int:
    try:
        return exit_code(lambda: cli.main(args=arguments, prog_name="roma", standalone_mode=False))
    except _Terminated:
        return 143
