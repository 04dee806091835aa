"""Define `infraredcity export` and `infraredcity import`: descriptions and layouts that other programs know."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity.command_line import FILE, FOLDER, ProgressLine, json_option, print_json
from infraredcity.export import croissant, hf_card, release_export, release_import
from infraredcity.export.about import About
from infraredcity.export.release_export import DOUBLE_FORMATS, PAIRS, DoubleFormat, Pairs, ReleaseReport
from infraredcity.export.release_import import FRAME_FORMATS, FrameFormat, ImportReport
from infraredcity.export.release_layout import KINDS, Kind

_Command = TypeVar("_Command", bound=Callable[..., None])

OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace, or write among, files that this command did not write."
)
OUTPUT = click.option("-o", "--output", type=FILE, help="Another file than in DIR.")


def about_options(command: _Command) -> _Command:
    """Add what only people know of a data set, for formats that describe one."""
    for option in (
        click.option("--cite-as", help="How to cite it, best as BibTeX."),
        click.option("--creator", "creators", multiple=True, help="Who made it; may be given several times."),
        click.option("--license", help="Its licence, by address or identifier; none is claimed without it."),
        click.option("--url", help="Where it can be found."),
        click.option("--description", help="What it is, in a few sentences.  [default: what was counted]"),
        click.option("--name", help="Name of the data set.  [default: that of DIR]"),
    ):
        command = option(command)
    return command


@click.group("export")
def export_group() -> None:
    """Describe a data set for other programs, or write its frames in the folders of the published Lite."""


@export_group.command("croissant")
@click.argument("folder", metavar="DIR", type=FOLDER)
@about_options
@click.option("--data-version", help="Its version, MAJOR.MINOR.PATCH.")
@click.option("--date-published", help="Day of its publication, as 2026-01-31.")
@OUTPUT
@OVERWRITE
@json_option
def croissant_command(
    folder: Path,
    data_version: str | None,
    date_published: str | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **facts: Any,
) -> None:
    """Write DIR/croissant.json, Croissant 1.0 JSON-LD."""
    about = _about(version=data_version, date_published=date_published, **facts)
    described = croissant.write(folder, about, output=output, overwrite=overwrite)
    if as_json:
        print_json(asdict(described))
    else:
        click.echo(f"{described.path}: {described.num_samples:,} samples in {described.num_shards:,} shards")
    if described.missing:
        click.echo(f"Croissant asks for more, which only people know: {', '.join(described.missing)}", err=True)
    _note_output(folder, output)


@export_group.command("hf-card")
@click.argument("folder", metavar="DIR", type=FOLDER)
@about_options
@OUTPUT
@OVERWRITE
@json_option
def hf_card_command(folder: Path, output: Path | None, overwrite: bool, as_json: bool, **facts: Any) -> None:
    """Write DIR/README.md, a dataset card that datasets.load_dataset(DIR) reads."""
    about = _about(version=None, date_published=None, **facts)
    written = hf_card.write(folder, about, output=output, overwrite=overwrite)
    if as_json:
        print_json(asdict(written))
    else:
        click.echo(f"{written.path}: {written.num_samples:,} samples, configs {', '.join(written.configs)}")
    if about.license is None:
        click.echo('the card says "license: unknown"; --license states one', err=True)
    _note_output(folder, output)


@export_group.command("release")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--to", type=FOLDER, required=True, help="Folder to write.")
@click.option("--kind", type=click.Choice([*KINDS, "both"]), default="both", show_default=True,
              help="Single frames, pairs of neighbours side by side (Double), or both.")  # fmt: skip
@click.option("--pairs", type=click.Choice(PAIRS), default="overlapping", show_default=True,
              help="Pairs in Double: every two neighbours, or each frame once.")  # fmt: skip
@click.option("--format", "double_format", type=click.Choice(DOUBLE_FORMATS), default=DOUBLE_FORMATS[0], show_default=True,
              help="How Double's pictures are written; Single's bytes are copied.")  # fmt: skip
@OVERWRITE
@json_option
def release_command(
    folder: Path,
    to: Path,
    kind: str,
    pairs: Pairs,
    double_format: DoubleFormat,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the frames of DIR in the folders of the published Lite."""
    kinds: tuple[Kind, ...] = KINDS if kind == "both" else tuple(each for each in KINDS if each == kind)
    done = release_export.export(
        folder,
        to,
        kinds=kinds,
        pairs=pairs,
        double_format=double_format,
        overwrite=overwrite,
        on_progress=ProgressLine(),
    )
    _print_release(done, as_json)


def _about(**facts: Any) -> About:
    try:
        return About(**facts)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _note_output(folder: Path, output: Path | None) -> None:
    if output is not None and output.resolve().parent != folder.resolve():
        click.echo(f"the paths in {output} start from {folder}: put it there to use it", err=True)


def _print_release(report: ReleaseReport, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(report), "num_pictures": report.num_pictures})
    else:
        click.echo(f"{'folder':42} {'pictures':>9}")
        for row in report.rows:
            click.echo(f"{row.folder:42} {row.num_pictures:9,}")
        for left in report.left_out:
            click.echo(f"left out of {left.kind}: {left.num_frames:,} frames, {left.reason}")
    if report.num_foreign_files:
        click.echo(
            f"Warning: {report.num_foreign_files:,} files in these folders are not of this export; training would read them too",
            err=True,
        )
    state = "written" if report.is_new else "nothing to do"
    click.echo(f"{report.folder}: {report.num_pictures:,} pictures, {state}", err=True)


@click.command("import")
@click.argument("folder", metavar="RELEASE", type=FOLDER)
@click.option("--layout", type=click.Choice(["release"]), required=True, help="The folders of the published Lite.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the new data set.")
@click.option("--kind", type=click.Choice(KINDS), help="What to read.  [default: Single where it is there]")
@click.option(
    "--fps",
    type=click.FloatRange(0.01, 100_000),
    help="Frames per second.  [default: as release.json says, else 25]",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True,
              help="How far the numbers of neighbours in time are apart.")  # fmt: skip
@click.option("--format", "frame_format", type=click.Choice(FRAME_FORMATS), default=FRAME_FORMATS[0], show_default=True,
              help="How the halves of Double are written; Single's bytes are copied.")  # fmt: skip
@click.option(
    "--samples-per-shard", type=click.IntRange(1), default=release_import.SAMPLES_PER_SHARD, show_default=True
)
@click.option("--overwrite", is_flag=True, help="Replace another import in --out.")
@json_option
def import_command(
    folder: Path,
    layout: str,
    out: Path,
    kind: Kind | None,
    fps: float | None,
    every: int,
    frame_format: FrameFormat,
    samples_per_shard: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the pictures of a published Lite's folders as shards with index, manifest and runs.

    RELEASE holds Single or Double, or is one of them. Single's bytes are copied. What does not fit the layout is refused: other
    files, names without a number, numbers that occur twice in a clip, several sizes or formats, testB.
    """
    report = release_import.import_release(
        folder,
        out,
        kind=kind,
        fps=fps,
        frame_step=every,
        frame_format=frame_format,
        samples_per_shard=samples_per_shard,
        overwrite=overwrite,
        on_progress=ProgressLine(),
    )
    if as_json:
        print_json(asdict(report))
    else:
        _print_import(report)
    state = "written" if report.is_new else "nothing to do"
    click.echo(f"{report.folder}: {report.num_frames:,} frames of {report.kind}, {state}", err=True)


def _print_import(report: ImportReport) -> None:
    click.echo(f"{'from':42} {'to':28} {'clip':18} {'frames':>7} {'runs':>6}")
    for row in report.rows:
        click.echo(f"{row.source:42} {row.folder:28} {row.clip:18} {row.num_frames:7,} {row.num_runs:6,}")
    if report.num_shared:
        click.echo(f"{report.num_shared:,} visible pictures are in two weathers and were taken once")
