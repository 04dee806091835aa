"""Define `roma report`."""

from pathlib import Path

import click

from infraredcity.command_line import FILE, FOLDER


@click.command("report")
@click.argument("run", type=FOLDER)
@click.option("--evaluation", type=FOLDER, help="Folder that `roma evaluate` wrote, for scores, targets and stills.")
@click.option("--input", "source", type=FILE, help="The infrared mp4, the first of the synchronised videos.")
@click.option("--translated", type=FILE, help="The mp4 that `roma translate` made of it.")
@click.option("--truth", type=FILE, help="An mp4 of the true day frames of the same moments.")
@click.option("--title", default="Night infrared as day", show_default=True, help="Heading of the page.")
@click.option("-o", "--out", type=FILE, required=True, help="The page to write.")
def report_command(
    run: Path, evaluation: Path | None, source: Path | None, translated: Path | None, truth: Path | None, title: str, out: Path
) -> None:  # fmt: skip
    """Write one page about RUN that opens offline: synchronised videos, stills, scores, targets, curves."""
    from roma.report.page import write_page

    named = (("Infrared", source), ("Translated", translated), ("Truth", truth))
    videos = [(caption, path) for caption, path in named if path is not None]
    write_page(out, run, evaluation=evaluation, videos=videos, title=title)
    click.echo(f"{out}: written", err=True)
