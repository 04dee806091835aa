"""Define `infraredcity report`: one page about a data set, and the same numbers as JSON."""

from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.cli.options import FOLDER_OR_URL, print_traffic, traffic_facts
from infraredcity.command_line import FILE, ProgressLine, json_option, print_json
from infraredcity.datasets.dataset import open_dataset
from infraredcity.files.path import AnyPath
from infraredcity.report import measure, measure_pixels
from infraredcity.report.page import all_problems, write_page


@click.command("report")
@click.argument("folder", metavar="DIR", type=FOLDER_OR_URL)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="The page to write.  [default: DIR/report.html, or ./report.html where DIR is a URL; none with --json]",
)
@click.option(
    "--thumbnails",
    "num_thumbnails",
    type=click.IntRange(0, measure_pixels.MAX_THUMBNAILS),
    default=measure_pixels.MAX_THUMBNAILS,
    show_default=True,
    help="Largest number of thumbnails on the contact sheets.",
)
@json_option
def report_command(folder: AnyPath, output: Path | None, num_thumbnails: int, as_json: bool) -> None:
    """Write one page about DIR that opens offline: counts, levels, motion, gaps, duplicates, leakage, contact sheets.

    DIR holds extracted clips, a Lite set, or shards that shard and reshard wrote. Missing shards and damaged pictures are listed.
    DIR may be a URL, such as s3://bucket/shards: only the indexes and the pictures that the page needs are read.
    """
    parts = open_dataset(folder)
    progress = ProgressLine()
    numbers = measure.measure_dataset(folder, parts, on_progress=progress)
    if as_json:
        print_json({"folder": str(folder), **asdict(numbers), **traffic_facts()})
        if output is None:
            click.echo(f"{folder}: {numbers.num_samples:,} samples, {_problems(numbers.num_problems)}", err=True)
            print_traffic()
            return
    sheets = measure_pixels.make_sheets(folder, parts, numbers, num_thumbnails=num_thumbnails, on_progress=progress)
    page = output or (folder if isinstance(folder, Path) else Path()) / "report.html"
    write_page(page, numbers, sheets)
    num_problems = numbers.num_problems - len(numbers.problems) + len(all_problems(numbers, sheets))
    summary = f"{numbers.num_samples:,} samples, {len(sheets.thumbnails):,} thumbnails, {_problems(num_problems)}"
    click.echo(f"{page}: {summary}", err=True)
    print_traffic()


def _problems(num_problems: int) -> str:
    words = "1 problem" if num_problems == 1 else f"{num_problems or 'no'} problems"
    return f"{words}, listed in it" if num_problems else words
