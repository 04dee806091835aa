"""Define `infraredcity select`, `shard` and `reshard`: choose samples, and write them as new shards."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from infraredcity.cli.options import FOLDER_OR_URL, print_traffic, traffic_facts
from infraredcity.command_line import FILE, ProgressLine, json_option, print_json
from infraredcity.datasets import manifest, select
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.select import Chosen, Condition, ShardsReport
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.showing import format_bytes

_Command = TypeVar("_Command", bound=Callable[..., Any])
_WHERE = "Condition on a column of the manifest: clip=city_clear,city_day, key=city_*, frame_index>=100, suspect=false, dup_of=."


class _ConditionType(click.ParamType[Condition]):
    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Condition:
        try:
            return Condition.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _what_is_chosen(command: _Command) -> _Command:
    """Add --where, --window and --stride."""
    for option in (
        click.option("--stride", type=click.IntRange(1), default=1, show_default=True,
                     help="Distance between the frames of a window, in samples."),
        click.option("--window", "window_frames", type=click.IntRange(1), default=1, show_default=True,
                     help="Keep only samples that belong to a window of this many frames without a break."),
        click.option("--where", "conditions", type=_ConditionType(), multiple=True,
                     help=_WHERE + " May be given several times; all must hold."),
    ):  # fmt: skip
        command = option(command)
    return command


_OUT = click.option(
    "--out", type=FOLDER_OR_URL, required=True, help="Folder or URL of the new shards (a URL is not locked)."
)
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace another set in --out.")
_DATASET = click.argument("folder", metavar="DIR", type=FOLDER_OR_URL)


@click.command("select")
@_DATASET
@_what_is_chosen
@click.option(
    "-o", "--output", type=FILE, help="Write the manifest of the chosen samples to this .csv or .parquet file."
)
@json_option
def select_command(
    folder: AnyPath,
    conditions: tuple[Condition, ...],
    window_frames: int,
    stride: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Choose samples of DIR by any column of its manifest and by the windows they belong to.

    Without -o and --json the chosen rows are printed as csv. `infraredcity shard --selection FILE` writes them as shards.
    DIR may be a URL, as for shard and reshard.
    """
    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise click.BadParameter(f"must end in .csv or .parquet, got {output.name}", param_hint="-o")
    chosen = select.choose(open_dataset(folder), conditions, window_frames=window_frames, stride=stride)
    rows = select.rows_of_chosen(chosen)
    if output is not None:
        write_atomic(output, manifest.csv_bytes(rows) if output.suffix == ".csv" else manifest.parquet_bytes(rows))
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "where": [str(condition) for condition in conditions],
                "window_frames": window_frames,
                "stride": stride,
                "num_samples": len(rows["key"]),
                "size_bytes": sum(rows["size"]),
                "manifest_hash": manifest.dataset_hash(rows),
                "parts": {each.part.name: len(each.rows) for each in chosen},
                "output": None if output is None else str(output),
                **traffic_facts(),
            }
        )
    elif output is None:
        click.echo(manifest.csv_bytes(rows).decode(), nl=False)
    where = "" if output is None else f", {output}"
    click.echo(f"{len(rows['key']):,} samples of {len(chosen)} parts chosen{where}", err=True)
    print_traffic()


@click.command("shard")
@_DATASET
@_what_is_chosen
@click.option(
    "--selection", "selected", type=FILE, help="Manifest (csv or parquet) of samples of DIR, written by select."
)
@_OUT
@click.option("--samples-per-shard", type=click.IntRange(1), default=1000, show_default=True)
@_OVERWRITE
@json_option
def shard_command(
    folder: AnyPath,
    conditions: tuple[Condition, ...],
    window_frames: int,
    stride: int,
    selected: Path | None,
    out: AnyPath,
    samples_per_shard: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write chosen samples of DIR as new shards; pictures are copied byte for byte."""
    if selected is not None and (conditions or window_frames > 1):
        raise click.UsageError(
            "--selection already names the samples; leave out --where and --window, or run select again"
        )
    parts = open_dataset(folder)
    if selected is not None:
        chosen = select.find_rows(parts, manifest.read(selected))
    else:
        chosen = select.choose(parts, conditions, window_frames=window_frames, stride=stride)
    _write(chosen, folder, out, samples_per_shard=samples_per_shard, overwrite=overwrite, as_json=as_json)


@click.command("reshard")
@_DATASET
@_OUT
@click.option("--samples-per-shard", type=click.IntRange(1), required=True, help="Samples in a full shard.")
@_OVERWRITE
@json_option
def reshard_command(folder: AnyPath, out: AnyPath, samples_per_shard: int, overwrite: bool, as_json: bool) -> None:
    """Write all samples of DIR in shards of another size; samples, manifest hash and training order stay the same."""
    chosen = select.choose(open_dataset(folder))
    _write(chosen, folder, out, samples_per_shard=samples_per_shard, overwrite=overwrite, as_json=as_json)


def _write(
    chosen: Sequence[Chosen], folder: AnyPath, out: AnyPath, *, samples_per_shard: int, overwrite: bool, as_json: bool
) -> None:
    report = select.write(
        chosen, out, samples_per_shard=samples_per_shard, overwrite=overwrite, on_progress=ProgressLine()
    )
    if as_json:
        print_json({**asdict(report), **traffic_facts()})
    else:
        _print_parts(report)
    state = "written" if report.is_new else "nothing to do"
    click.echo(f"{report.folder}: {report.num_samples:,} samples, {state}", err=True)
    print_traffic()


def _print_parts(report: ShardsReport) -> None:
    click.echo(f"{'folder':28} {'samples':>8} {'shards':>6} {'size':>10}")
    for part in report.parts:
        click.echo(f"{part.name:28} {part.num_samples:8,} {part.num_shards:6,} {format_bytes(part.size_bytes):>10}")
