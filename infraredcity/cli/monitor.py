"""Define `infraredcity monitor`: the state of the loaders of a training run, rank by rank."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from infraredcity.command_line import FOLDER, json_option, print_json
from infraredcity.loader import monitor
from infraredcity.showing import format_bytes

_HEADINGS = (
    "rank", "written", "position", "frames/s", "MB/s", "read", "decode", "wait", "cache", "fetched", "replaced", "bad",
)  # fmt: skip


@click.command("monitor")
@click.argument("folder", metavar="DIR", type=FOLDER)
@json_option
def monitor_command(folder: Path, as_json: bool) -> None:
    """Print how fast each rank's loader is and what it waits for; DIR is the `loader` folder of a run.

    read and decode: shares of the decoding threads' time. wait: share of the consumer's time. cache: share of remote reads that
    the disk cache served. fetched: bytes read from remote machines. A rank that wrote long ago has stopped or hangs.
    """
    ranks = monitor.read(folder)
    if as_json:
        print_json([{"written": written, **asdict(facts)} for written, facts in ranks])
        return
    now = time.time()
    rows = [
        (
            f"{facts.rank}/{facts.world_size}",
            f"{max(now - written, 0):.0f} s ago",
            f"{facts.position:,}",
            f"{facts.frames_per_s:,.0f}",
            f"{facts.megabytes_per_s:.1f}",
            f"{facts.read_share:.0%}",
            f"{facts.decode_share:.0%}",
            f"{facts.wait_share:.0%}",
            _hit_share(facts),
            format_bytes(facts.fetched_bytes),
            f"{facts.replaced:,}",
            f"{facts.bad_samples:,}",
        )
        for written, facts in ranks
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    for row in (_HEADINGS, *rows):
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _hit_share(facts: monitor.LoaderFacts) -> str:
    reads = facts.cache_hits + facts.cache_misses
    return f"{facts.cache_hits / reads:.0%}" if reads else "-"
