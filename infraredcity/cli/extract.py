"""Define `infraredcity extract`: clips to shards, whole clips or one part of a plan."""

import errno
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from infraredcity.cli.options import FILE_OR_URL, FOLDER_OR_URL, catalog_of, print_traffic, traffic_facts
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
"""Where the number of the part comes from without --part: a SLURM array, a Kubernetes indexed Job, torchrun or MPI."""


@click.command("extract")
@which_clips
@click.option(
    "--out",
    type=FOLDER_OR_URL,
    help="Folder or URL that gets one folder per clip.  [default: shards, or the plan's folder]",
)
@click.option("--plan", "plan_file", type=FILE_OR_URL, help="Do one part of this plan, written by `infraredcity plan`.")
@click.option("--part", type=click.IntRange(0),
              help=f"Number of the part of --plan; by default the first of {', '.join(_PART_VARIABLES)} that is set, and all "
                   "parts with --executor ray.")  # fmt: skip
@extraction_settings
@click.option(
    "--strict", "is_strict", is_flag=True, help="Treat damage as an error: exit 1, and do not finish the clip."
)
@click.option("--deadline", "deadline_s", type=click.FloatRange(0, min_open=True), default=DEADLINE_S, show_default=True,
              help="Seconds without a frame after which a decoder counts as stuck.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=None,
              help="Processes that decode, each with its own encoding threads; by default chosen for the number of cores. "
                   "0 decodes in this process, without a deadline.")  # fmt: skip
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Decode in local processes, or in tasks on a Ray cluster whose nodes reach the clips and --out.")  # fmt: skip
@click.option(
    "--ray-address",
    default=None,
    help="Address of the cluster, such as auto or HOST:PORT.  [default: RAY_ADDRESS]",
)
@click.option(
    "--ray-gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="Share of a GPU that each task gets."
)
@click.option(
    "--ray-in-flight",
    type=click.IntRange(1),
    default=None,
    help="Number of tasks at a time.  [default: the cores of the cluster]",
)
@click.option("--overwrite", is_flag=True, help="Delete an earlier extraction of these clips and start again.")
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

    The same command continues where it was stopped, and does nothing when all is done. An error in one clip does not stop the
    next clips. Exit codes: 0 done; 5 complete, with gaps that are listed; 4 the frame count differs from the catalogue; 3 partial,
    run the same command again; 1 an error that running it again does not fix. A part ends with 0 when its segments are done.
    """
    ray = _ray(executor, workers, ray_address, ray_gpus, ray_in_flight)
    if plan_file is not None:
        if clip_ids or all_clips or video is not None or is_strict or overwrite:
            raise click.UsageError(
                "--plan already names the clips and settings; leave out --clip, --all, --video, --strict and --overwrite"
            )
        _refuse_settings(click.get_current_context())
        _do_part(plan_file, part, out, clips_dir, clips_file, workers, ray, deadline_s, as_json)
        return
    if part is not None:
        raise click.UsageError("--part needs --plan")
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
            status = _status_of_error(error)
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
    print_traffic()
    if as_json:
        print_json({"reports": rows, **traffic_facts()})
    sys.exit(exit_code([str(row["status"]) for row in rows]))


def _ray(
    executor: str, workers: int | None, address: str | None, num_gpus: float, max_in_flight: int | None
) -> "Executor | None":
    if executor == "local":
        if address is not None or num_gpus or max_in_flight is not None:
            raise click.UsageError("--ray-address, --ray-gpus and --ray-in-flight go with --executor ray")
        return None
    if workers is not None:
        raise click.UsageError("--workers counts local processes; with --executor ray use --ray-in-flight")
    if num_gpus > 1 and not num_gpus.is_integer():
        raise click.UsageError(f"--ray-gpus must be at most 1 or a whole number of GPUs, got {num_gpus:g}")
    from infraredcity.extraction.executors.ray import RayExecutor

    return RayExecutor(address=address, num_gpus=num_gpus, max_in_flight=max_in_flight)


def _refuse_settings(context: click.Context) -> None:
    """Refuse options that the plan already decides; they would be ignored silently."""
    for parameter in context.command.params:
        if (
            parameter.name in SETTING_NAMES
            and context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
        ):
            raise click.UsageError(
                f"{parameter.opts[-1]} is already set by the plan; leave it out, or make another plan"
            )


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
    print_traffic()
    if as_json:
        print_json({**asdict(report), **traffic_facts()})


def part_number(part: int | None, environment: Mapping[str, str]) -> int:
    """Return the number of the part to do: the option, else the scheduler's variable; a usage error without either."""
    if part is not None:
        return part
    for name in _PART_VARIABLES:
        value = environment.get(name)
        if value:
            if not value.isdecimal():
                raise click.UsageError(f"{name} is {value!r}, expected the number of a part; pass --part")
            return int(value)
    raise click.UsageError(f"--part is missing; pass it, or set one of {', '.join(_PART_VARIABLES)}")


_EXIT_CODES = {"done": 0, "gaps": 5, "count": 4}
"""The exit code for each status of a clip that was finished."""
_SAME_FOR_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that the next clip would meet too: a full disk, a full quota, a read-only disk."""
_SEVERITY = (0, 5, 4)


def exit_code(statuses: list[str]) -> int:
    """Return the exit code for the statuses of all clips: 0, 1, 3, 4 or 5."""
    if "partial" in statuses:
        return 3
    if not _EXIT_CODES.keys() >= {*statuses}:
        return 1
    return max((_EXIT_CODES[status] for status in statuses), key=_SEVERITY.index)


def _status_of_error(error: InfraredCityError) -> str:
    """Return the status of a clip that ended with an error: "partial" when the same command can continue, else "error"."""
    if isinstance(error, OutputError) and error.errno in _SAME_FOR_ALL:
        return "error" if error.errno == errno.EROFS else "partial"  # space can be freed; a disk stays read-only
    is_passing = isinstance(error, RemoteError) and not isinstance(error, RemoteMissingError | RemoteRefusedError)
    return "partial" if is_passing or error.is_resumable else "error"


def status_of(report: ExtractReport) -> str:
    """Return the status of a finished clip: "done", "gaps" or "count"."""
    if not report.has_expected_count:
        return "count"
    return "gaps" if report.gaps else "done"


def report_line(report: ExtractReport) -> str:
    """Format a report for people, with a line for each gap."""
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
        line += f"\n{report.clip}: sizes differ: {sizes} frames; no window spans a change; --size brings all frames to one size"
    if report.tone is not None:
        line += f"\n{report.clip}: tone: counts {report.tone.low} to {report.tone.high} are levels 0 to 255"
    for phrase in report.suspect:
        line += f"\n{report.clip}: suspect: {phrase}"
    for phrase in report.notes:
        line += f"\n{report.clip}: note: {phrase}"
    return line
