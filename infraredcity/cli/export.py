"""`infraredcity export` and `infraredcity import`: descriptions and layouts that other programs know."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource

from infraredcity.cli.options import FILE, FOLDER, ProgressLine, json_option, print_json
from infraredcity.export import croissant, hf_card, release_export, release_import
from infraredcity.export.about import About
from infraredcity.export.release_export import DOUBLE_FORMATS, PAIRS, DoubleFormat, Pairs, ReleaseReport
from infraredcity.export.release_import import FRAME_FORMATS, FrameFormat, ImportReport
from infraredcity.export.release_layout import KINDS, Kind

_ABOUT = ("name", "description", "url", "license", "creators", "cite_as", "data_version", "date_published")
_ALLOWED = {
    "--croissant": {*_ABOUT, "output"},
    "--hf-card": {*_ABOUT, "output"} - {"data_version", "date_published"},
    "--layout release": {"to", "kind", "pairs", "double_format"},
}
"""Options that a form takes, beside --overwrite and --json."""
_SHOWN_SKIPPED = 5


@click.command("export")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--croissant", "as_croissant", is_flag=True, help="Write DIR/croissant.json, Croissant 1.0 JSON-LD.")
@click.option(
    "--hf-card",
    "as_card",
    is_flag=True,
    help="Write DIR/README.md, a dataset card that datasets.load_dataset(DIR) reads.",
)
@click.option("--layout", type=click.Choice(["release"]), help="Write the folders of the published Lite to --to.")
@click.option("-o", "--output", type=FILE, help="Another file than in DIR, with --croissant or --hf-card.")
@click.option("--name", help="Name of the data set.  [default: that of DIR]")
@click.option("--description", help="What it is, in a few sentences.  [default: what was counted]")
@click.option("--url", help="Where it can be found.")
@click.option("--license", help="Its licence, by address or identifier; none is claimed without it.")
@click.option("--creator", "creators", multiple=True, help="Who made it; may be given several times.")
@click.option("--cite-as", help="How to cite it, best as BibTeX.")
@click.option("--data-version", help="Its version, MAJOR.MINOR.PATCH.")
@click.option("--date-published", help="Day of its publication, as 2026-01-31.")
@click.option("--to", type=FOLDER, help="Folder for --layout release.")
@click.option("--kind", type=click.Choice([*KINDS, "both"]), default="both", show_default=True,
              help="Single frames, pairs of neighbours side by side (Double), or both.")  # fmt: skip
@click.option("--pairs", type=click.Choice(PAIRS), default="overlapping", show_default=True,
              help="Pairs in Double: every two neighbours, or each frame once.")  # fmt: skip
@click.option("--format", "double_format", type=click.Choice(DOUBLE_FORMATS), default="jpg", show_default=True,
              help="How Double's pictures are written; Single's bytes are copied.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace, or write among, what stands there and is of somebody else.")
@json_option
@click.pass_context
def export_command(
    context: click.Context,
    folder: Path,
    as_croissant: bool,
    as_card: bool,
    layout: str | None,
    output: Path | None,
    name: str | None,
    description: str | None,
    url: str | None,
    license: str | None,
    creators: tuple[str, ...],
    cite_as: str | None,
    data_version: str | None,
    date_published: str | None,
    to: Path | None,
    kind: str,
    pairs: Pairs,
    double_format: DoubleFormat,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Describe DIR for other programs, or write its frames in the folders of the published Lite.

    One of --croissant, --hf-card and --layout release says what.
    """
    forms = (as_croissant, as_card, layout is not None)
    if sum(forms) != 1:
        raise click.UsageError("say what to write with one of --croissant, --hf-card and --layout release")
    form = list(_ALLOWED)[forms.index(True)]
    _check_options(context, form)
    if layout is not None:
        if to is None:
            raise click.UsageError("--layout release needs --to, the folder to write")
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
        return
    try:
        about = About(
            name=name,
            description=description,
            url=url,
            license=license,
            creators=creators,
            cite_as=cite_as,
            version=data_version,
            date_published=date_published,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_croissant:
        described = croissant.write(folder, about, output=output, overwrite=overwrite)
        if as_json:
            print_json(asdict(described))
        else:
            click.echo(f"{described.path}: {described.num_samples:,} samples in {described.num_shards:,} shards")
        if described.missing:
            click.echo(f"Croissant asks for more, which only people know: {', '.join(described.missing)}", err=True)
    else:
        written = hf_card.write(folder, about, output=output, overwrite=overwrite)
        if as_json:
            print_json(asdict(written))
        else:
            click.echo(f"{written.path}: {written.num_samples:,} samples, configs {', '.join(written.configs)}")
        if about.license is None:
            click.echo('the card says "license: unknown"; --license states one', err=True)
    if output is not None and output.resolve().parent != folder.resolve():
        click.echo(f"the paths in {output} start from {folder}: put it there to use it", err=True)


def _check_options(context: click.Context, form: str) -> None:
    """Usage error for an option that another form takes."""
    others = set().union(*_ALLOWED.values()) - _ALLOWED[form]
    for param in context.command.params:
        given = context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
        if given and param.name in others:
            raise click.UsageError(f"{param.opts[-1]} says nothing to {form}")


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
            f"Warning: {report.num_foreign_files:,} files in these folders are of somebody else; training would read them too",
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
    help="Frames per second.  [default: what release.json tells, else 25]",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True,
              help="How far the numbers of neighbours in time are apart.")  # fmt: skip
@click.option("--format", "frame_format", type=click.Choice(FRAME_FORMATS), default="png", show_default=True,
              help="How the halves of Double are written; Single's bytes are copied.")  # fmt: skip
@click.option(
    "--samples-per-shard", type=click.IntRange(1), default=release_import.SAMPLES_PER_SHARD, show_default=True
)
@click.option("--overwrite", is_flag=True, help="Replace another import that stands in --out.")
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

    RELEASE holds Single or Double, or is one of them. Single's bytes are copied.
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
    _warn_of_skipped(report)
    state = "written" if report.is_new else "nothing to do"
    click.echo(f"{report.folder}: {report.num_frames:,} frames of {report.kind}, {state}", err=True)


def _print_import(report: ImportReport) -> None:
    click.echo(f"{'from':42} {'to':28} {'clip':18} {'frames':>7} {'runs':>6}  index")
    for row in report.rows:
        click.echo(f"{row.source:42} {row.folder:28} {row.clip:18} {row.num_frames:7,} {row.num_runs:6,}  {row.order}")
    if report.num_shared:
        click.echo(f"{report.num_shared:,} visible pictures stand in two weathers and were taken once")
    for shift in report.shifts:
        click.echo(
            f"{shift.source}: {shift.added:,} added to its numbers, which other folders of {shift.clip} have too"
        )


def _warn_of_skipped(report: ImportReport) -> None:
    by_reason = Counter(skipped.reason for skipped in report.skipped)
    for reason, count in by_reason.most_common():
        names: Sequence[str] = [skipped.path for skipped in report.skipped if skipped.reason == reason]
        more = (
            ""
            if count <= _SHOWN_SKIPPED
            else f" and {count - _SHOWN_SKIPPED:,} more, named in {release_import.IMPORT_NAME}"
        )
        click.echo(f"skipped, {reason}: {', '.join(names[:_SHOWN_SKIPPED])}{more}", err=True)
