"""Define `infraredcity export` and `infraredcity import`: descriptions and folder layouts of other programs."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity.command_line import FILE, FOLDER, ProgressLine, json_option, print_json
from infraredcity.export import croissant, hf_card, release_export, release_import
from infraredcity.export.about import About
from infraredcity.export.release_export import DOUBLE_FORMATS, PAIRS, DoubleFormat, Pairs, ReleaseReport
from infraredcity.export.release_import import ImportReport
from infraredcity.export.release_layout import KINDS, Kind
from infraredcity.export.release_read import FRAME_FORMATS, FrameFormat

_Command = TypeVar("_Command", bound=Callable[..., None])

OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Also replace files that this command did not write, or write beside them."
)
OUTPUT = click.option("-o", "--output", type=FILE, help="File to write.  [default: in DIR]")


def about_options(command: _Command) -> _Command:
    """Add the options for facts that cannot be read from a data set: name, licence, creators and so on."""
    for option in (
        click.option("--cite-as", help="How to cite it, best as BibTeX."),
        click.option("--creator", "creators", multiple=True, help="Who made it; may be given several times."),
        click.option("--license", help="Its licence, as a URL or an SPDX identifier.  [default: none is stated]"),
        click.option("--url", help="Its web address."),
        click.option("--description", help="What it is, in a few sentences.  [default: the counts]"),
        click.option("--name", help="Name of the data set.  [default: that of DIR]"),
    ):
        command = option(command)
    return command


@click.group("export")
def export_group() -> None:
    """Describe a data set for other programs, or write its frames in the folder layout of the published Lite."""


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
        click.echo(f"Croissant also asks for: {', '.join(described.missing)}; give them as options", err=True)
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
        click.echo('the card says "license: unknown"; set it with --license', err=True)
    _note_output(folder, output)


@export_group.command("release")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--to", type=FOLDER, required=True, help="Folder to write.")
@click.option("--kind", type=click.Choice([*KINDS, "both"]), default="both", show_default=True,
              help="Single frames, pairs of consecutive frames side by side (Double), or both.")  # fmt: skip
@click.option("--pairs", type=click.Choice(PAIRS), default="overlapping", show_default=True,
              help="Pairs in Double: all pairs of consecutive frames, or each frame in one pair only.")  # fmt: skip
@click.option("--format", "double_format", type=click.Choice(DOUBLE_FORMATS), default=DOUBLE_FORMATS[0], show_default=True,
              help="Format of the pictures of Double; those of Single are copied byte for byte.")  # fmt: skip
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
    """Write the frames of DIR in the folder layout of the published Lite."""
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
        click.echo(f"the paths in {output} are relative to {folder}; put it there to use it", err=True)


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
            f"Warning: {report.num_foreign_files:,} files in these folders are not from this export; training would read them too",
            err=True,
        )
    state = "written" if report.is_new else "nothing to do"
    click.echo(f"{report.folder}: {report.num_pictures:,} pictures, {state}", err=True)


@click.command("import")
@click.argument("folder", metavar="RELEASE", type=FOLDER)
@click.option("--layout", type=click.Choice(["release"]), required=True, help="The layout of the published Lite.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the new data set.")
@click.option("--kind", type=click.Choice(KINDS), help="What to read.  [default: Single if it exists, else Double]")
@click.option(
    "--fps",
    type=click.FloatRange(0.01, 100_000),
    help="Frames per second.  [default: the value in release.json, else 25]",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True,
              help="Difference between the frame numbers of consecutive pictures.")  # fmt: skip
@click.option("--format", "frame_format", type=click.Choice(FRAME_FORMATS), default=FRAME_FORMATS[0], show_default=True,
              help="Format of the halves of Double; the pictures of Single are copied byte for byte.")  # fmt: skip
@click.option("--renumber", is_flag=True,
              help="Give the pictures of each clip new numbers, train before test, when all folders count from 0.")  # fmt: skip
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
    renumber: bool,
    samples_per_shard: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the pictures of a published Lite as shards with index, manifest and runs.

    RELEASE holds the folders Single or Double, or is one of them. The pictures of Single are copied byte for byte. Whatever does
    not fit the layout is an error: other files, names without a number, a number that occurs twice in a clip (unless --renumber
    is given), several picture sizes or formats, the folder testB.
    """
    report = release_import.import_release(
        folder,
        out,
        kind=kind,
        fps=fps,
        frame_step=every,
        frame_format=frame_format,
        renumber=renumber,
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
        click.echo(f"{report.num_shared:,} visible pictures are in two weather folders; each was written once")
