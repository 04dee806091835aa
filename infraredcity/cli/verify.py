"""Define `infraredcity verify` and `infraredcity repair`."""

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.checks.findings import Finding, VerifyReport
from infraredcity.checks.repair import RepairReport, repair
from infraredcity.checks.verify import DECODE_CHOICES, DecodeChoice, verify
from infraredcity.cli.options import FOLDER_OR_URL, print_traffic, traffic_facts
from infraredcity.command_line import FOLDER, ProgressLine, json_option, print_json
from infraredcity.files.path import AnyPath
from infraredcity.showing import format_bytes, visible

_SHOWN_OF_PART = 10
_PARTIAL, _MISMATCH = 3, 4


@click.command("verify")
@click.argument("folder", metavar="DIR", type=FOLDER_OR_URL)
@click.option(
    "--published", is_flag=True, help="Also compare with the published counts of the clips or of the Lite table."
)
@click.option("--decode", type=click.Choice(DECODE_CHOICES), default="sample", show_default=True,
              help="Pictures to decode: all, 32 of each part, or none. All are hashed in any case.")  # fmt: skip
@click.option(
    "--quick",
    is_flag=True,
    help="Read no shard; check only that all exist with the right size, and that indexes and records agree.",
)
@json_option
def verify_command(folder: AnyPath, published: bool, decode: DecodeChoice, quick: bool, as_json: bool) -> None:
    """Check a data set: hashes, counts, order, keys, members, pictures, index, manifest, index files of other readers.

    DIR may be a URL, such as s3://bucket/shards; then every shard is downloaded once, unless --quick is given.
    Exit codes: 0 no problem; 4 problems, with a line for each; 1 there is no data set.
    """
    report = verify(folder, published=published, decode=decode, quick=quick, on_progress=ProgressLine())
    if as_json:
        print_json({**asdict(report), "is_ok": not report.findings, **traffic_facts()})
    else:
        _print(report)
    print_traffic()
    sys.exit(_MISMATCH if report.findings else 0)


@click.command("repair")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@json_option
def repair_command(folder: Path, dry_run: bool, as_json: bool) -> None:
    """Rewrite the files that describe the shards of DIR, and set damaged shards aside so that they can be made again.

    Sidecars are rewritten from the index; index, clips.json and gaps.json of an extracted clip from its segment records. A damaged
    shard is renamed to <name>.damaged and removed from the index; the same extract command makes its segment again. repair does
    not guess: it takes no samples out of damaged shards and no facts from samples, and other sets whose index is lost must be
    made again.
    Exit codes: 0 everything is complete again; 3 samples were lost or a problem is left, with the command to run.
    """
    report = repair(folder, dry_run=dry_run, on_progress=ProgressLine())
    if as_json:
        print_json(asdict(report))
    else:
        _print_repair(report)
    sys.exit(_PARTIAL if report.lost or report.unsolved else 0)


def _print(report: VerifyReport) -> None:
    if report.counts:
        click.echo(f"{'published count':36} {'expected':>9} {'found':>9}")
        for row in report.counts:
            click.echo(
                f"{row.name:36} {row.expected:9,} {row.found:9,}" + ("" if row.expected == row.found else "  differs")
            )
    by_part: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_part.setdefault(finding.part, []).append(finding)
    for part, findings in by_part.items():
        for finding in findings[:_SHOWN_OF_PART]:
            click.echo(visible(f"{finding.problem}: {finding.message}"))
        if len(findings) > _SHOWN_OF_PART:
            rest = Counter(finding.problem for finding in findings[_SHOWN_OF_PART:])
            counts = ", ".join(f"{count:,} {problem}" for problem, count in rest.items())
            click.echo(f"{visible(part)}: and {len(findings) - _SHOWN_OF_PART:,} more ({counts}); --json lists all")
    for note in report.notes:
        click.echo(visible(f"Note: {note}"), err=True)
    verdict = "OK" if not report.findings else f"{len(report.findings):,} problems"
    looked = "no shard read" if report.is_quick else f"{report.num_decoded:,} decoded"
    click.echo(
        f"{report.folder}: {report.num_parts} parts, {report.num_shards:,} shards, {report.num_samples:,} samples, "
        f"{format_bytes(report.size_bytes)}, {looked}: {verdict}"
    )


def _print_repair(report: RepairReport) -> None:
    for action in report.actions:
        click.echo(visible(f"{'would: ' if report.is_dry_run else ''}{action}"))
    for loss in report.lost:
        frames = f"frames {loss.first_frame} to {loss.last_frame} ({loss.num_frames})"
        click.echo(visible(f"lost: {loss.clip_id} {frames}; {loss.what_to_do}"))
    for line in report.unsolved:
        click.echo(visible(f"left: {line}"))
    for note in report.notes:
        click.echo(visible(f"Note: {note}"), err=True)
    done = f"{len(report.actions)} things {'to put' if report.is_dry_run else 'put'} right" if report.actions else ""
    left = f"{len(report.unsolved)} things left" if report.unsolved else ""
    verdict = ", ".join(words for words in (done, left) if words) or "nothing to do"
    click.echo(f"{report.folder}: {report.num_samples:,} samples in {report.num_parts} parts, {verdict}")
