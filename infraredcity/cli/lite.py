"""Define `infraredcity make-lite`: train and test sets drawn from extracted clips."""

from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.cli.options import FOLDER_OR_URL, print_traffic, traffic_facts
from infraredcity.command_line import FILE, ProgressLine, json_option, print_json
from infraredcity.datasets import lite
from infraredcity.datasets.recipe import of_scenes, read_recipe
from infraredcity.datasets.similarity import Leakage
from infraredcity.files.path import AnyPath


@click.command("make-lite")
@click.option(
    "--from",
    "source",
    type=FOLDER_OR_URL,
    default=Path("shards"),
    show_default=True,
    help="Folder or URL that extract wrote the clips to.",
)
@click.option(
    "--out",
    type=FOLDER_OR_URL,
    default=Path("lite"),
    show_default=True,
    help="Folder or URL to write (a URL is not locked).",
)
@click.option("--recipe", type=FILE, help="Your own recipe, in the format of manifests/lite.toml.")
@click.option("--scene", "scenes", multiple=True, help="Only this scene of the recipe; may be given several times.")
@click.option(
    "--scale", default="1", show_default=True, help="Factor in (0, 1] on all counts, for shorter clips; or auto."
)
@click.option("--overwrite", is_flag=True, help="Replace another Lite set in --out.")
@json_option
def make_lite_command(
    source: AnyPath,
    out: AnyPath,
    recipe: Path | None,
    scenes: tuple[str, ...],
    scale: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw the Lite train and test sets from extracted clips; pictures are copied byte for byte."""
    factor: float | str = scale
    if scale != "auto":
        try:
            factor = float(scale)
        except ValueError as error:
            raise click.BadParameter(f"expected a number or auto, got {scale!r}", param_hint="--scale") from error
        if not 0 < factor <= 1:
            raise click.BadParameter(f"must be in (0, 1], got {scale}", param_hint="--scale")
    chosen = read_recipe(recipe)
    if scenes:
        chosen = of_scenes(chosen, scenes)
    report = lite.build(
        source,
        out,
        chosen,
        scale="auto" if factor == "auto" else float(factor),
        overwrite=overwrite,
        on_progress=ProgressLine(),
    )
    if as_json:
        print_json({**asdict(report), **traffic_facts()})
        print_traffic()
        return
    click.echo(f"{'folder':28} {'clip':18} {'weather':9} {'split':6} {'frames':>7} {'runs':>5} {'shards':>6}")
    for row in report.rows:
        click.echo(
            f"{row.folder:28} {row.clip:18} {row.weather:9} {row.split:6} {row.num_frames:7,} {row.num_runs:5,} {row.num_shards:6,}"
        )
    for leak in report.leakage:
        click.echo(_leakage_line(leak))
    if report.duplicate_runs:
        num = sum(run.num_near for run in report.duplicate_runs)
        click.echo(
            f"near-duplicates: {len(report.duplicate_runs):,} runs look almost like an earlier run ({num:,} frames, "
            "marked in dup_of); none was dropped"
        )
    state = "written" if report.is_new else "nothing to do"
    click.echo(
        f"{report.folder}: {report.num_frames:,} frames, scale {report.scale:g}, guard {report.guard_frames} frames, {state}",
        err=True,
    )
    print_traffic()


def _leakage_line(leak: Leakage) -> str:
    closest = f"{leak.test_key} and {leak.train_key} differ in {leak.distance_bits} of 64 bits"
    counts = f"{leak.num_near:,} of {leak.num_test:,}"
    return f"leakage, {leak.modality}: {counts} test frames within {leak.near_bits} bits of a train frame; {closest}"
