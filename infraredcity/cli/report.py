"""`infraredcity report`: one page about a data set, and the same numbers as JSON."""

from dataclasses import asdict
from pathlib import Path

import click

from infraredcity import report, report_page
from infraredcity.cli.options import FILE, FOLDER, ProgressLine, json_option, print_json
from infraredcity.dataset import open_dataset


@click.command("report")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("-o", "--output", type=FILE, help="The page to write.  [default: DIR/report.html; none with --json]")
@click.option(
    "--thumbnails",
    "num_thumbnails",
    type=click.IntRange(0, report.MAX_THUMBNAILS),
    default=report.MAX_THUMBNAILS,
    show_default=True,
    help="Thumbnails on the contact sheets, at most.",
)
@json_option
def report_command(folder: Path, output: Path | None, num_thumbnails: int, as_json: bool) -> None:
    """Write one page about DIR that opens offline: counts, levels, motion, gaps, duplicates, leakage, contact sheets.

    DIR holds extracted clips, a Lite set, or shards that shard and reshard wrote. Missing shards and damaged pictures are named.
    """
    parts = open_dataset(folder)
    progress = ProgressLine()
    numbers = report.measure(folder, parts, on_progress=progress)
    if as_json:
        print_json({"folder": str(folder), **asdict(numbers)})
        if output is None:
            click.echo(f"{folder}: {numbers.num_samples:,} samples, {_problems(numbers.num_problems)}", err=True)
            return
    sheets = report.make_sheets(folder, parts, numbers, num_thumbnails=num_thumbnails, on_progress=progress)
    page = output or folder / "report.html"
    report_page.write(page, numbers, sheets)
    num_problems = numbers.num_problems - len(numbers.problems) + len(report_page.all_problems(numbers, sheets))
    told = f"{numbers.num_samples:,} samples, {len(sheets.thumbnails):,} thumbnails, {_problems(num_problems)}"
    click.echo(f"{page}: {told}", err=True)


def _problems(num_problems: int) -> str:
    told = "1 problem" if num_problems == 1 else f"{num_problems or 'no'} problems"
    return f"{told}, named in it" if num_problems else told
