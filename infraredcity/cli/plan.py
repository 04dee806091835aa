"""Define `infraredcity plan`, `status` and `finalize`: what comes before, between and after the parts of an extraction."""

import sys
from dataclasses import asdict
from typing import Any

import click

from infraredcity.cli.extract import exit_code, report_line, status_of
from infraredcity.cli.options import FOLDER_OR_URL, print_traffic, traffic_facts
from infraredcity.cli.settings import chosen_clips, config_of, extraction_settings, which_clips
from infraredcity.command_line import ProgressLine, json_option, print_json
from infraredcity.extraction.plan import PLAN_NAME, Plan
from infraredcity.files.path import AnyPath
from infraredcity.showing import format_bytes, visible_lines

_PARTIAL = 3


@click.command("plan")
@which_clips
@click.option(
    "--parts",
    "num_parts",
    type=click.IntRange(1),
    required=True,
    help="Number of parts, such as the tasks of a job array.",
)
@click.option(
    "--out", type=FOLDER_OR_URL, required=True, help="Folder or URL that all parts share; plan.jsonl is written there."
)
@extraction_settings
@click.option("--overwrite", is_flag=True, help="Delete an earlier extraction of these clips in --out and start again.")
@json_option
def plan_command(
    clip_ids: tuple[str, ...],
    all_clips: bool,
    clips_dir: AnyPath | None,
    clips_file: AnyPath | None,
    video: AnyPath | None,
    num_parts: int,
    out: AnyPath,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Split the extraction of clips into parts for many machines, and print its estimated time and size.

    Then run `infraredcity extract --plan OUT/plan.jsonl --part K` for K from 0 to PARTS - 1, on any machines, in any order. See
    what is outstanding with `infraredcity status OUT`, and end with `infraredcity finalize OUT`.
    """
    from infraredcity.extraction.parts import make_plan

    config = config_of(settings)
    if config.device.startswith("cuda:") and config.device != "cuda:0":
        raise click.UsageError(
            f"--device {config.device} is a GPU of one machine, but a plan is for many; use --device cuda, and choose the GPU with "
            "CUDA_VISIBLE_DEVICES where the part runs"
        )
    clips = chosen_clips(clip_ids, all_clips, clips_dir, clips_file, video)
    plan = make_plan(clips, config, out, num_parts=num_parts, overwrite=overwrite, on_progress=ProgressLine())
    print_traffic()
    if as_json:
        print_json({"plan": str(out / PLAN_NAME), **plan_facts(plan), **traffic_facts()})
        return
    for line in plan_lines(plan):
        click.echo(line)
    click.echo(f"{out / PLAN_NAME}")


def plan_lines(plan: Plan) -> list[str]:
    """Format a plan's estimate for people: a table of its clips, and a line about its parts."""
    facts = plan_facts(plan)
    rows = [
        *facts["clips"],
        {"clip": "all", **{name: facts[name] for name in ("num_frames", "num_segments", "size_bytes", "core_s")}},
    ]
    fewest, most = facts["segments_per_part"]
    return [
        f"{'clip':18} {'frames':>12} {'segments':>9} {'disk':>10} {'core time':>10}",
        *(
            f"{row['clip']:18} {row['num_frames']:12,} {row['num_segments']:9,} {format_bytes(row['size_bytes']):>10} "
            f"{format_time(row['core_s']):>10}"
            for row in rows
        ),
        f"{plan.num_parts:,} parts of {fewest:,} to {most:,} segments, the longest about "
        f"{format_time(facts['longest_part_core_s'])} on one core; the shards feed {plan.num_ranks:,} ranks, each with a shard "
        "of every modality",
    ]


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return a plan's estimate as plain values: counts, bytes on disk, seconds of one core."""
    parts = [plan.segment_ranges(part) for part in range(plan.num_parts)]
    counts = [sum(len(segments.numbers) for segments in part) for part in parts]
    cores = [
        sum(
            (plan[s.clip_id].frames_before(s.stop_segment) - plan[s.clip_id].frames_before(s.first_segment))
            * plan[s.clip_id].estimate.frame_core_s
            for s in part
        )
        for part in parts
    ]
    return {
        "identity": plan.identity,
        "num_parts": plan.num_parts,
        "num_segments": plan.num_segments,
        "num_frames": plan.num_frames,
        "size_bytes": plan.size_bytes,
        "core_s": plan.core_s,
        "segments_per_part": [min(counts), max(counts)],
        "longest_part_core_s": round(max(cores), 1),
        "num_ranks": plan.num_ranks,
        "clips": [
            {
                "clip": clip.clip_id,
                "num_frames": clip.num_frames,
                "num_segments": clip.num_segments,
                "size_bytes": round(clip.num_frames * clip.estimate.frame_bytes),
                "core_s": round(clip.num_frames * clip.estimate.frame_core_s, 1),
            }
            for clip in plan.clips
        ],
    }


def format_time(seconds: float) -> str:
    """Format a duration for people: 42 s, 13 min, 5.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


@click.command("status")
@click.argument("folder", type=FOLDER_OR_URL)
@click.option(
    "--quick", is_flag=True, help="Look only at the names of segment records; open neither them nor the shards."
)
@json_option
def status_command(folder: AnyPath, quick: bool, as_json: bool) -> None:
    """Say what is outstanding of the plan in FOLDER; exit 3 while something is.

    stdout gets the parts to run again in the form of a job array, such as 0-3,7; nothing when all is done.
    """
    from infraredcity.extraction.parts import open_plan, status

    plan = open_plan(folder / PLAN_NAME, folder)
    found = status(plan, folder, quick=quick, on_progress=ProgressLine())
    for row in found.clips:
        left = f", outstanding: {row.outstanding}" if row.outstanding else ""
        click.echo(f"{row.clip}: {row.num_done:,} of {row.num_segments:,} segments are done{left}", err=True)
    if found.array:
        click.echo(
            f"{len(found.outstanding_parts):,} of {found.num_parts:,} parts are outstanding: run them again, such as with "
            f"sbatch --array={found.array}",
            err=True,
        )
    print_traffic()
    if as_json:
        print_json({**asdict(found), **traffic_facts()})
    elif found.array:
        click.echo(found.array)
    sys.exit(_PARTIAL if found.array else 0)


@click.command("finalize")
@click.argument("folder", type=FOLDER_OR_URL)
@json_option
def finalize_command(folder: AnyPath, as_json: bool) -> None:
    """Merge the parts of the plan in FOLDER into index, manifest, gaps and sidecars of each clip, and check all counts.

    Run it in one process at a time; it may be repeated. Exit codes: 0 done; 5 complete, with gaps that are listed; 4 a frame count
    differs from the catalogue; 3 something is outstanding, and nothing was merged.
    """
    from infraredcity.extraction.parts import finalize

    found, reports = finalize(folder, on_progress=ProgressLine())
    if found.array:
        click.echo(
            f"{found.num_segments - found.num_done:,} of {found.num_segments:,} segments are outstanding; run parts {found.array} "
            "again, then finalize",
            err=True,
        )
    for report in reports:
        click.echo(visible_lines(report_line(report)), err=True)
    print_traffic()
    rows = [{**asdict(report), "status": status_of(report)} for report in reports]
    if as_json:
        print_json({"status": asdict(found), "reports": rows, **traffic_facts()})
    elif found.array:
        click.echo(found.array)
    sys.exit(_PARTIAL if found.array else exit_code([str(row["status"]) for row in rows]))
