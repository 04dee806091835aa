"""The command `infraredcity`: one file per family of commands, each parses, calls the library and prints.

stdout is data, stderr is for people. Exit codes: 0 done, 1 error, 2 usage, 3 partial and resumable, 4 count mismatch, 5 complete
with named gaps, 130 and 143 on SIGINT and SIGTERM.
"""

import io
import logging
import signal
import sys
from types import FrameType

import click

from infraredcity.cli import clips, export, extract, lite, monitor, plan, report, sample, select, verify
from infraredcity.cli.options import note_traffic
from infraredcity.command_line import exit_code_of
from infraredcity.errors import InfraredCityError
from infraredcity.files.urls import shown_in
from infraredcity.showing import visible_lines


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="infraredcity")
@click.pass_context
def cli(context: click.Context, /) -> None:
    """Long night-infrared clips to verified WebDataset shards."""
    note_traffic(context)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)


cli.add_command(sample.sample_command)
cli.add_command(clips.clips_command)
cli.add_command(clips.probe_command)
cli.add_command(clips.doctor_command)
cli.add_command(extract.extract_command)
cli.add_command(plan.plan_command)
cli.add_command(plan.status_command)
cli.add_command(plan.finalize_command)
cli.add_command(lite.make_lite_command)
cli.add_command(select.select_command)
cli.add_command(select.shard_command)
cli.add_command(select.reshard_command)
cli.add_command(verify.verify_command)
cli.add_command(verify.repair_command)
cli.add_command(report.report_command)
cli.add_command(monitor.monitor_command)
cli.add_command(export.export_group)
cli.add_command(export.import_command)


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that what is open is closed and temporary files go."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit; the one place where our errors become a line and an exit code."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(exit_code_of(lambda: _run(arguments)))


def _run(arguments: list[str] | None) -> int:
    code: object = 0
    try:
        code = cli.main(args=arguments, prog_name="infraredcity", standalone_mode=False)
    except InfraredCityError as error:
        click.echo(f"Error: {visible_lines(shown_in(str(error)))}", err=True)
        code = 1
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        click.echo(visible_lines(shown_in(text.getvalue())), nl=False, err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped; the same command continues from here.", err=True)
        code = 130
    except _Terminated:
        click.echo("Stopped; the same command continues from here.", err=True)
        code = 143
    return code if isinstance(code, int) else 0
