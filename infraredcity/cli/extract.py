"""`infraredcity extract`: clips to shards, whole or one part of a plan."""

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from infraredcity.cli.options import FILE_OR_URL, FOLDER_OR_URL, catalog_of, tell_traffic, traffic_told
from infraredcity.cli.settings import SETTING_NAMES, chosen_clips, config_of, extraction_settings, which_clips
from infraredcity.clips import CLIPS_VARIABLE
from infraredcity.command_line import ProgressLine, json_option, print_json
from infraredcity.errors import InfraredCityError, OutputError, RemoteError, RemoteMissingError, RemoteRefusedError
from infraredcity.extraction.config import DEADLINE_S
from infraredcity.extraction.finish import ExtractReport
from infraredcity.files.path import AnyPath
from infraredcity.showing import format_bytes, visible_lines

if TYPE_CHECKING:
    from infraredcity.extraction.executors.local import Executor

_PART_VARIABLES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK")
"""Where a part's number is looked up when --part does not say it: a SLURM array, a Kubernetes indexed Job, torchrun or MPI."""


@click.command("extract")
@which_clips
@click.option(
    "--out",
    type=FOLDER_OR_URL,
    help="Gets one folder per clip; a folder or a URL. [default: shards, or the plan's folder]",
)
@click.option("--plan", "plan_file", type=FILE_OR_URL, help="Do a part of this plan, which `infraredcity plan` wrote.")
@click.option("--part", type=click.IntRange(0),
              help=f"Which part of --plan; by default what {', '.join(_PART_VARIABLES)} says, the first that is set, and all with "
                   "--executor ray.")  # fmt: skip
@extraction_settings
@click.option("--strict", "is_strict", is_flag=True, help="Damage is an error: exit 1, nothing finalized.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(0, min_open=True), default=DEADLINE_S, show_default=True,
              help="Seconds after which a decoder that gives no frame counts as stuck.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=None,
              help="Processes that decode, each with encoding threads of its own; as many as suit the cores by default. "
                   "0 decodes in this process, which no deadline watches.")  # fmt: skip
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Who decodes: processes here, or tasks on a Ray cluster, whose nodes see the clips and --out.")  # fmt: skip
@click.option(
    "--ray-address",
    default=None,
    help="The cluster, such as auto or HOST:PORT; RAY_ADDRESS by default.",
)
@click.option(
    "--ray-gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="Share of a GPU that each task gets."
)
@click.option(
    "--ray-in-flight",
    type=click.IntRange(1),
    default=None,
    help="Tasks at a time; as many as the cluster has cores by default.",
)
@click.option("--overwrite", is_flag=True, help="Delete an earlier extraction of these clips and start anew.")
@json_option
def extract_command(
    clip_ids: tuple[str, ...],
    all_clips: bool,
    clips_dir: AnyPath | None,
    clips_file: AnyPath | None,
    video: AnyPath | None,
    out: AnyPath | None,
    plan_file: AnyPath | None,
    part: int | None,
    workers: int | None,
    is_strict: bool,
    deadline_s: float,
    executor: str,
    ray_address: str | None,
    ray_gpus: float,
    ray_in_flight: int | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Split clips into frames, as shards with index and manifest; or do one part of a plan.

    Running it again goes on where it was stopped, or does nothing. Exit codes: 0 done; 5 complete, with gaps that are named; 4
    another count than the catalogue expects; 3 partial, the same command goes on; 1 an error that running it again does not mend.
    Clips behind one with an error are done all the same. A part ends with 0 when its segments are done.
    """
    ray = _ray(executor, workers, ray_address, ray_gpus, ray_in_flight)
    if plan_file is not None:
        if clip_ids or all_clips or video is not None or is_strict or overwrite:
            raise click.UsageError(
                "--plan says which clips and how; leave out --clip, --all, --video, --strict and --overwrite"
            )
        _refuse_settings(click.get_current_context())
        _do_part(plan_file, part, out, clips_dir, clips_file, workers, ray, deadline_s, as_json)
        return
    if part is not None:
        raise click.UsageError("--part is a part of a --plan; name that one too")
    from infraredcity.extraction.extract_clip import extract_clip

    config = config_of(settings)
    clips = chosen_clips(clip_ids, all_clips, clips_dir, clips_file, video)
    progress = ProgressLine()
    rows: list[dict[str, object]] = []
    for number, clip in enumerate(clips):
        try:
            report = extract_clip(
                clip, config, out or Path("shards"), workers=workers, executor=ray, deadline_s=deadline_s, is_strict=is_strict,
                overwrite=overwrite, on_progress=progress,
            )  # fmt: skip
        except InfraredCityError as error:
            click.echo(f"Error: {visible_lines(str(error))}", err=True)
            status = _status_behind(error)
            rows.append({"clip": clip.clip_id, "status": status, "error": str(error)})
            if isinstance(error, OutputError) and error.errno in _SAME_FOR_ALL:
                rows += [{"clip": each.clip_id, "status": "not tried"} for each in clips[number + 1 :]]
                break
            continue
        rows.append({**asdict(report), "status": status_of(report)})
        click.echo(visible_lines(report_line(report)), err=True)
    undone = [f"{row['clip']} ({row['status']})" for row in rows if row["status"] not in _EXIT_CODES]
    if undone and len(clips) > 1:
        click.echo(f"{len(undone)} of {len(clips)} clips are not done: {', '.join(undone)}", err=True)
    tell_traffic()
    if as_json:
        print_json({"reports": rows, **traffic_told()})
    sys.exit(exit_code([str(row["status"]) for row in rows]))


def _ray(
    executor: str, workers: int | None, address: str | None, num_gpus: float, max_in_flight: int | None
) -> "Executor | None":
    if executor == "local":
        if address is not None or num_gpus or max_in_flight is not None:
            raise click.UsageError("--ray-address, --ray-gpus and --ray-in-flight go with --executor ray")
        return None
    if workers is not None:
        raise click.UsageError("--workers are processes here; with --executor ray say --ray-in-flight")
    if num_gpus > 1 and not num_gpus.is_integer():
        raise click.UsageError(f"--ray-gpus is a share of one GPU, or a whole number of them, got {num_gpus:g}")
    from infraredcity.extraction.executors.ray import RayExecutor

    return RayExecutor(address=address, num_gpus=num_gpus, max_in_flight=max_in_flight)


def _refuse_settings(context: click.Context) -> None:
    """What is written stands in the plan: an option for it here would be ignored in silence."""
    for parameter in context.command.params:
        if (
            parameter.name in SETTING_NAMES
            and context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
        ):
            raise click.UsageError(f"{parameter.opts[-1]} stands in the plan; leave it out, or make another plan")


def _do_part(
    path: AnyPath,
    part: int | None,
    out: AnyPath | None,
    clips_dir: AnyPath | None,
    clips_file: AnyPath | None,
    workers: int | None,
    ray: "Executor | None",
    deadline_s: float,
    as_json: bool,
) -> None:
    from infraredcity.extraction.parts import open_plan, run_part

    number = None if ray is not None and part is None else part_number(part, os.environ)
    out = path.parent if out is None else out
    plan = open_plan(path, out)
    is_named = clips_dir is not None or clips_file is not None or CLIPS_VARIABLE in os.environ
    clips = {clip.clip_id: clip for clip in catalog_of(clips_dir, clips_file)} if is_named else {}
    report = run_part(
        plan, number, clips, out, workers=workers, executor=ray, deadline_s=deadline_s, on_progress=ProgressLine()
    )
    what = "nothing left to do" if report.new_frames == 0 else f"{report.new_frames:,} new"
    missing = f", {report.num_missing:,} missing" if report.num_missing else ""
    name = f"all {report.num_parts} parts" if report.part is None else f"part {report.part} of {report.num_parts}"
    click.echo(
        f"{name}: {report.num_frames:,} frames ({what}{missing}) in "
        f"{report.num_segments:,} segments, {format_bytes(report.size_bytes)}, {out}",
        err=True,
    )
    tell_traffic()
    if as_json:
        print_json({**asdict(report), **traffic_told()})


def part_number(part: int | None, environment: Mapping[str, str]) -> int:
    """The part to do: as said, else what the scheduler says; a usage error where nobody says it, or says no number."""
    if part is not None:
        return part
    for name in _PART_VARIABLES:
        told = environment.get(name)
        if told:
            if not told.isdecimal():
                raise click.UsageError(f"{name} is {told!r}, expected the number of a part; pass --part")
            return int(told)
    raise click.UsageError(f"which part? pass --part, or run it where one of {', '.join(_PART_VARIABLES)} is set")


_EXIT_CODES = {"done": 0, "gaps": 5, "count": 4}
"""What a clip that was done to its end makes of the exit code."""
_SAME_FOR_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What goes wrong with one clip and would with the next one: a full disk, a full quota, a disk for reading alone."""
_SEVERITY = (0, 5, 4)


def exit_code(statuses: list[str]) -> int:
    """What the command ends with, by what became of each clip: 0, 1, 3, 4 or 5."""
    if "partial" in statuses:
        return 3
    if not _EXIT_CODES.keys() >= {*statuses}:
        return 1
    return max((_EXIT_CODES[status] for status in statuses), key=_SEVERITY.index)


def _status_behind(error: InfraredCityError) -> str:
    """What became of a clip that ended with an error: "partial" where the same command goes on, else "error"."""
    if isinstance(error, OutputError) and error.errno in _SAME_FOR_ALL:
        return "error" if error.errno == errno.EROFS else "partial"  # room is made in the end, a disk stays read-only
    is_passing = isinstance(error, RemoteError) and not isinstance(error, RemoteMissingError | RemoteRefusedError)
    return "partial" if is_passing or error.is_resumable else "error"


def status_of(report: ExtractReport) -> str:
    """What became of a clip: "done", "gaps" or "count"."""
    if not report.has_expected_count:
        return "count"
    return "gaps" if report.gaps else "done"


def report_line(report: ExtractReport) -> str:
    """A report for people, with a line for each gap."""
    what = "nothing left to do" if report.new_frames == 0 else f"{report.new_frames:,} new"
    where = f"{report.num_shards} shards" if report.num_shards else "files"
    line = (
        f"{report.clip}: {report.num_frames:,} frames ({what}) in {where}, {format_bytes(report.size_bytes)}, "
        f"{report.folder}"
    )
    if not report.has_expected_count:
        line += f"\n{report.clip}: the clip holds {report.clip_frames:,} frames, the catalogue expects {report.expected_frames:,}"
    for gap in report.gaps:
        line += f"\n{report.clip}: gap: frames {gap.first_frame} to {gap.last_frame} ({gap.num_frames}): {gap.reason}"
    marked = [
        f"{count:,} {what}"
        for count, what in (
            (report.num_suspect, "follow damage (suspect)"),
            (report.num_repeats, "repeat the one before"),
            (report.num_frozen, "are frozen"),
        )
        if count
    ]
    if marked:
        line += f"\n{report.clip}: marked: {', '.join(marked)}; no window spans them"
    if len(report.picture_sizes) > 1:
        sizes = ", ".join(f"{size.width}x{size.height} ({size.num_frames:,})" for size in report.picture_sizes)
        line += (
            f"\n{report.clip}: sizes differ: {sizes} frames; no window spans a change, and --size makes all of one size"
        )
    if report.tone is not None:
        line += f"\n{report.clip}: tone: counts {report.tone.low} to {report.tone.high} are levels 0 to 255"
    for phrase in report.suspect:
        line += f"\n{report.clip}: suspect: {phrase}"
    for phrase in report.notes:
        line += f"\n{report.clip}: note: {phrase}"
    return line
