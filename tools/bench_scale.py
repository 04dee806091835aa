"""How plan, status and finalize grow: `python tools/bench_scale.py --json FILE [--segments 10000 100000 1000000] [--parts 10000]`.

A simulation: the nine clips of the catalogue get frames by number, and no video is decoded. Each measurement is a process of its
own, with start-up and end:

plan       scans are read where they are kept, the work is cut into parts, plan.jsonl is written
nothing    `infraredcity status` while nothing is done
part       `infraredcity extract --plan FILE --part K` of a part that is done: what every part pays before it decodes
quick      `infraredcity status --quick`, all being done
status     `infraredcity status`, all being done
finalize   `infraredcity finalize`

What the parts leave is made in between and is not measured: segment records as `infraredcity.extraction.segment_record` makes them,
`.idx` files, and shards of the right size that hold nothing (no step opens one). One frame per segment is the smallest case, so
that a second of it is nearly all of the segments; one more case has the fewest segments and --more-frames times their frames, for
the cost of a frame.

CPU time (user and system) is the honest figure on a machine that others use as well. Files are in the system's cache, since they
were written just before. "growth" is the CPU time over that of the case before, start-up of the command included, divided by how
many times as many segments there are: 1 is linear, more is worse. The case of 10^6 segments makes 3 * 10^6 files, 8 GB on ext4, and
takes half an hour.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import INFRAREDCITY, Ran, interruptible, machine_facts, machine_line, megabytes, succeed, table

from infraredcity.extraction.job import bind_folder, open_job
from infraredcity.shards import sidecars

if TYPE_CHECKING:
    from infraredcity.clips import Clip
    from infraredcity.extraction.config import ExtractConfig
    from infraredcity.extraction.plan import PlannedClip

FORMAT = "infraredcity-bench-scale-1"
STEPS = ("plan", "nothing", "part", "quick", "status", "finalize")
GROUP_FRAMES = 250
PTS_PER_FRAME = 512
WIDTH_PX, HEIGHT_PX = 640, 512
IMAGE_BYTES, JSON_BYTES = 40_000, 210
SPAN_BYTES = 512 + 40_448 + 512 + 512
"""A sample in a shard: header, image, header, json, in whole blocks."""
GLANCE_PX = 32
_OUTSTANDING = 3


def main() -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file for every single measurement")
    parser.add_argument("--segments", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="ascending")
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--clips", type=int, default=9, help="how many of the catalogue's clips share the segments")
    parser.add_argument("--frames-per-segment", type=int, default=1)
    parser.add_argument("--more-frames", type=int, default=100, help="0 leaves that case out")
    parser.add_argument(
        "--folder", type=Path, help="where files are made, and deleted; the system's for temporary ones"
    )
    arguments = parser.parse_args()
    counts = (*arguments.segments, arguments.parts, arguments.frames_per_segment)
    if min(counts) < 1 or arguments.more_frames < 0 or not 1 <= arguments.clips <= min(9, *arguments.segments):
        parser.error("counts must be at least 1, --more-frames at least 0, --clips at most 9 and a segment each")
    frames = arguments.frames_per_segment
    cases = [(segments, frames) for segments in sorted({*arguments.segments})]
    if arguments.more_frames:
        cases.append((cases[0][0], frames * arguments.more_frames))
    machine = machine_facts()
    with interruptible("bench_scale.py"):
        scratch = Path(tempfile.mkdtemp(prefix="infraredcity-scale-", dir=arguments.folder)).resolve()
        try:
            rows = []
            for segments, frames_per_segment in cases:
                work = scratch / f"{segments}x{frames_per_segment}"
                rows.append(measured(work, segments, frames_per_segment, arguments.parts, arguments.clips))
                say(line_of(rows[-1]))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    result = {"format": FORMAT, "machine": {**machine, "load_average_after": os.getloadavg()[0]}, "cases": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_result(result)


def measured(work: Path, num_segments: int, frames_per_segment: int, num_parts: int, num_clips: int) -> dict[str, Any]:
    """One case as plain values: what it is, and seconds and bytes of each step.

    Args:
        work: A folder that is not there; it is made, and deleted again.
        num_segments: Of all clips together.
        frames_per_segment: Frames of each.
        num_parts: Parts of the plan; less where there are fewer segments.
        num_clips: Clips that share the segments.
    """
    num_parts = min(num_parts, num_segments)
    out = work / "out"
    name = f"{num_segments:,} segments of {frames_per_segment}"
    say(f"{name}: plan")
    steps = {"plan": child("make_plan", str(work), num_segments, frames_per_segment, num_parts, num_clips)}
    say(f"{name}: status")
    steps["nothing"] = succeed(*INFRAREDCITY, "status", out, "--json", ok=(_OUTSTANDING,))
    expect(json.loads(steps["nothing"].stdout), num_done=0, num_segments=num_segments, array=f"0-{num_parts - 1}")
    say(f"{name}: what the parts leave")
    scenery = child("make_scenery", str(out))
    say(f"{name}: a part, status, finalize")
    steps["part"] = succeed(
        *INFRAREDCITY, "extract", "--plan", out / "plan.jsonl", "--part", str(num_parts // 2), "--json"
    )
    expect(json.loads(steps["part"].stdout), new_frames=0, part=num_parts // 2)
    steps["quick"] = succeed(*INFRAREDCITY, "status", out, "--quick", "--json")
    steps["status"] = succeed(*INFRAREDCITY, "status", out, "--json")
    for step in ("quick", "status"):
        expect(json.loads(steps[step].stdout), num_done=num_segments, array="")
    steps["finalize"] = succeed(*INFRAREDCITY, "finalize", out, "--json")
    reports = json.loads(steps["finalize"].stdout)["reports"]
    found = {key: sum(report[key] for report in reports) for key in ("num_shards", "num_frames", "num_frozen")}
    expect(found, num_shards=num_segments, num_frames=num_segments * frames_per_segment, num_frozen=0)
    facts = {
        "num_clips": len(reports),
        "num_segments": num_segments,
        "num_parts": num_parts,
        "num_frames": num_segments * frames_per_segment,
        "plan_bytes": (out / "plan.jsonl").stat().st_size,
        "record_bytes": json.loads(scenery.stdout)["record_bytes"] // num_segments,
        "index_bytes": sum(path.stat().st_size for path in out.glob("*/index.npz")),
        "manifest_bytes": sum(path.stat().st_size for path in out.glob("*/manifest.csv")),
        "scenery_s": round(scenery.wall_s, 3),
    }
    succeed("rm", "-rf", work)  # the memory that this takes would count for each command that this process starts later
    return {**facts, "steps": {step: figures_of(steps[step], num_segments) for step in STEPS}}


def expect(found: dict[str, Any], **expected: object) -> None:
    """End the program where a command says something else than it should: its times would be those of other work."""
    for key, value in expected.items():
        if found[key] != value:
            sys.exit(f"Error: {key} is {found[key]!r}, expected {value!r}")


def figures_of(ran: Ran, num_segments: int) -> dict[str, float]:
    """What one step took."""
    return {
        "wall_s": round(ran.wall_s, 3),
        "cpu_s": round(ran.cpu_s, 3),
        "cpu_us_per_segment": round(ran.cpu_s / num_segments * 1e6, 2),
        "peak_rss_bytes": ran.max_rss_bytes,
    }


def child(function: str, *values: object) -> Ran:
    """How a function of this file ran in a fresh process."""
    code = f"import bench_scale; bench_scale.{function}(*{values!r})"
    return succeed(sys.executable, "-c", code)


def make_plan(work: str, num_segments: int, frames_per_segment: int, num_parts: int, num_clips: int) -> None:
    """Plan clips of so many segments in all below `work`/out, as `infraredcity plan` does, but for the frames that it looks at."""
    from infraredcity.clips import load_catalog
    from infraredcity.extraction.config import ExtractConfig
    from infraredcity.extraction.plan import PLAN_NAME, cut_plan, write_plan

    clips = list(load_catalog(environment={}).clips.values())[:num_clips]
    config = ExtractConfig(frames_per_shard=frames_per_segment, decoder="pyav")
    planned = []
    for number, clip in enumerate(clips):
        segments = num_segments // len(clips) + (number < num_segments % len(clips))
        planned.append(planned_clip(clip, config, Path(work), segments * frames_per_segment))
    write_plan(cut_plan(planned, num_parts), Path(work) / "out" / PLAN_NAME)


def planned_clip(clip: "Clip", config: "ExtractConfig", work: Path, num_frames: int) -> "PlannedClip":
    """A clip with a file that is none, and a kept scan which says that it has so many frames."""
    import numpy as np

    from infraredcity.extraction.plan import Estimate, PlannedClip
    from infraredcity.video import VideoInfo, scan_cache

    path = work / "clips" / f"{clip.clip_id}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{num_frames} frames\n", encoding="utf-8")
    info = VideoInfo(
        path=path,
        num_frames=num_frames,
        pts=np.arange(num_frames) * PTS_PER_FRAME,
        time_base=Fraction(1, 12800),
        keyframes=np.arange(0, num_frames, GROUP_FRAMES),
        nominal_fps=25.0,
        height_px=HEIGHT_PX,
        width_px=WIDTH_PX,
        pixel_format="yuv420p",
        codec="h264",
        container="mov,mp4,m4a,3gp,3g2,mj2",
        rotation_deg=0,
        pixel_aspect=Fraction(1),
        hdr="",
        num_hidden=0,
        num_silent=0,
        num_headless=0,
        streams=(0,),
        other_streams=(),
        delay_frames=0,
        counted_by="",
        is_timed=True,
        can_seek=True,
        decode_order=np.arange(num_frames),
        frame_packets=np.arange(num_frames),
        packet_pts=np.arange(num_frames) * PTS_PER_FRAME,
        suspect_ranges=np.zeros((0, 2), np.int64),
        time_jumps=np.zeros(0, np.int64),
        recordings=(),
        pauses=(),
        has_color=False,
        is_deep=False,
        size_bytes=path.stat().st_size,
        whole_packets=(),
        packets_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        suspect=(),
    )
    out = work / "out"
    scan_cache.save(out / clip.clip_id, info, scan_cache.identify(path))
    job = bind_folder(open_job(replace(clip, paths=(path,), expected_frames=num_frames), config, out))
    estimate = Estimate(frame_bytes=IMAGE_BYTES + 2048.0, frame_core_s=0.0015)
    return PlannedClip(spec=job.make_spec(), locations=(str(path),), expected_frames=num_frames, estimate=estimate)


def make_scenery(out: str) -> None:
    """Make what the parts of a plan leave when all is done; print how many bytes its segment records have."""
    from infraredcity.extraction.plan import PLAN_NAME, read_plan

    folder = Path(out)
    clips = read_plan(folder / PLAN_NAME).clips
    print(json.dumps({"record_bytes": sum(leave(folder / clip.clip_id, clip) for clip in clips)}))


def leave(folder: Path, clip: "PlannedClip") -> int:
    """Make the segment record, the `.idx` and a hollow shard of each segment of a clip; bytes of the segment records."""
    import numpy as np

    from infraredcity.extraction import segment_record
    from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
    from infraredcity.extraction.segments import segment_of
    from infraredcity.shards.index import ShardInfo
    from infraredcity.shards.names import key_of

    spec, identity = clip.spec, clip.spec.identity
    noise = np.random.default_rng(0).integers(0, 256, (GLANCE_PX + 997, GLANCE_PX), np.uint8)
    record_bytes = 0
    for number in range(clip.num_segments):
        segment = segment_of(clip.clip_id, spec.num_frames, spec.config, number)
        frames = list(range(segment.frames.start_frame, segment.frames.stop_frame, segment.frames.step))
        offsets = [SPAN_BYTES * place + 512 for place in range(len(frames))]
        size_bytes = SPAN_BYTES * len(frames) + 1024
        sha256 = [hashlib.sha256(str(frame).encode()).digest() for frame in frames]
        head = SegmentHead(
            job_identity=identity,
            number=number,
            shard=ShardInfo(name=segment.shard, num_samples=len(frames), size_bytes=size_bytes, sha256=sha256[0].hex()),
            num_missing=0,
        )
        rows = SegmentRows(
            columns={
                "frame_index": frames,
                "pts": [frame * PTS_PER_FRAME for frame in frames],
                "offset": offsets,
                "size": [IMAGE_BYTES] * len(frames),
                "span": [SPAN_BYTES] * len(frames),
                "json_size": [JSON_BYTES] * len(frames),
            },
            picture_sizes=[(len(frames), WIDTH_PX, HEIGHT_PX)],
            sha256=b"".join(sha256),
            differences=[None, *(2 + frame % 997 / 1000 for frame in frames[1:])],
            first_glance=noise[frames[0] % 997 :][:GLANCE_PX],
            last_glance=noise[frames[-1] % 997 :][:GLANCE_PX],
            suspect=[],
            missing=[],
            dropped=[],
        )
        samples = [
            (key_of(clip.clip_id, frame), offset, IMAGE_BYTES, JSON_BYTES)
            for frame, offset in zip(frames, offsets, strict=True)
        ]
        record = segment_record.to_bytes(head, rows)
        record_bytes += len(record)
        shard = folder / segment.shard
        shard.touch()
        os.truncate(shard, size_bytes)
        shard.with_suffix(".idx").write_bytes(sidecars.idx_bytes("jpg", samples))
        segment_record.record_path(folder, number).write_bytes(record)
    return record_bytes


def line_of(case: dict[str, Any]) -> str:
    """A case in short."""
    times = ", ".join(f"{step} {figures['wall_s']:.1f} s" for step, figures in case["steps"].items())
    return f"{case['num_segments']:,} segments, {case['num_frames']:,} frames: {times}"


def print_result(result: dict[str, Any]) -> None:
    """A table of each step over the cases."""
    cases = result["cases"]
    rows = []
    for step in STEPS:
        for case, before in zip(cases, [None, *cases[:-1]], strict=True):
            figures = case["steps"][step]
            rows.append(
                {
                    "step": step,
                    "segments": f"{case['num_segments']:,}",
                    "frames": f"{case['num_frames']:,}",
                    "wall": f"{figures['wall_s']:.1f} s",
                    "CPU": f"{figures['cpu_s']:.1f} s",
                    "per segment": f"{figures['cpu_us_per_segment']:,.1f} us",
                    "growth": "" if before is None else growth(step, before, case),
                    "peak memory": megabytes(figures["peak_rss_bytes"]),
                }
            )
    print(table(list(rows[0]), rows))
    print()
    print(machine_line(result["machine"]))


def growth(step: str, before: dict[str, Any], case: dict[str, Any]) -> str:
    """CPU time over that of a case of fewer segments, for each segment; nothing where there are not more of them."""
    more = case["num_segments"] / before["num_segments"]
    if more <= 1:
        return ""
    return f"{case['steps'][step]['cpu_s'] / before['steps'][step]['cpu_s'] / more:.2f}"


def say(text: str) -> None:
    """A line about what goes on, for people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
