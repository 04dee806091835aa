"""The plan of an extraction (plan.jsonl): some clips, cut into parts that any machines can do in any order.

The first line holds the job specs of the clips and the segment at which each part begins. The other lines, one for each segment in
the order of the parts, follow from it: they are for people and schedulers, and a part reads only the first line. The same clips and
options give the same bytes on any machine; nothing in it is a time, a host, or a credential.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infraredcity.clips import Clip
from infraredcity.errors import OutputError
from infraredcity.extraction.segments import count_frames, count_segments, segment_of
from infraredcity.extraction.spec import JobSpec
from infraredcity.files.atomic import open_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.records import MAX_RECORD_BYTES, opened, parse_json

PLAN_NAME = "plan.jsonl"
FORMAT = "infraredcity-plan-1"
_LINES_AT_ONCE = 10_000
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one frame of a clip costs: bytes on disk, and seconds of one core."""

    frame_bytes: float
    frame_core_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedClip:
    """One clip of a plan."""

    spec: JobSpec
    """Its job spec."""
    locations: tuple[str, ...]
    """Where its files were when it was planned, without credentials."""
    expected_frames: int | None
    """Frames of the whole clip according to the catalogue; None where it does not state them."""
    estimate: Estimate
    """What a frame costs."""

    @property
    def clip_id(self) -> str:
        """Return the clip's id."""
        return self.clip.clip_id

    @property
    def num_segments(self) -> int:
        """Count the segments of the clip, one shard each."""
        return count_segments(self.spec.num_frames, self.spec.config)

    @property
    def num_frames(self) -> int:
        """Count the frames that are to be written."""
        return count_frames(self.spec.num_frames, self.spec.config)

    def frames_before(self, number: int) -> int:
        """Count the frames of the segments before the one of a number."""
        return min(number * self.spec.config.frames_per_shard, self.num_frames)

    @property
    def clip(self) -> Clip:
        """Return the clip as the catalogue had it, without its files."""
        return self.spec.clip


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """Neighbouring segments of one clip, half-open."""

    clip_id: str
    first_segment: int
    stop_segment: int

    @property
    def numbers(self) -> range:
        """Return the numbers of the segments."""
        return range(self.first_segment, self.stop_segment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Work in parts; part p of N takes the segments whose middle frame falls into the p-th N-th of the cost."""

    clips: tuple[PlannedClip, ...]
    """The clips in the order of the work."""
    num_parts: int
    """N."""
    starts: tuple[int, ...]
    """For each part, and behind the last, its first segment among those of all clips."""

    @property
    def num_segments(self) -> int:
        """Count the segments of all clips."""
        return sum(clip.num_segments for clip in self.clips)

    @property
    def num_frames(self) -> int:
        """Count the frames that are to be written."""
        return sum(clip.num_frames for clip in self.clips)

    @property
    def size_bytes(self) -> int:
        """Estimate the bytes on disk."""
        return round(sum(clip.num_frames * clip.estimate.frame_bytes for clip in self.clips))

    @property
    def core_s(self) -> float:
        """Estimate the seconds of one core."""
        return round(sum(clip.num_frames * clip.estimate.frame_core_s for clip in self.clips), 1)

    @property
    def num_ranks(self) -> int:
        """Count the ranks of a training that can each have a shard of its own of every modality."""
        num_shards: Counter[str] = Counter()
        for clip in self.clips:
            num_shards[clip.clip.modality] += clip.num_segments
        return min(num_shards.values())

    def __getitem__(self, clip_id: str) -> PlannedClip:
        """Return the clip of an id, which is one of the plan."""
        return next(clip for clip in self.clips if clip.clip_id == clip_id)

    def segment_ranges(self, part: int | None) -> tuple[SegmentRange, ...]:
        """Return the segments of a part, one range a clip; those of all parts for None."""
        first, stop = (0, self.num_segments) if part is None else (self.starts[part], self.starts[part + 1])
        found: list[SegmentRange] = []
        before = 0
        for clip in self.clips:
            inside = (max(first - before, 0), min(stop - before, clip.num_segments))
            if inside[0] < inside[1]:
                found.append(SegmentRange(clip_id=clip.clip_id, first_segment=inside[0], stop_segment=inside[1]))
            before += clip.num_segments
        return tuple(found)

    def parts_of(self, clip_id: str, numbers: Iterable[int]) -> set[int]:
        """Return the parts that some segments of a clip belong to."""
        before = 0
        for clip in self.clips:
            if clip.clip_id == clip_id:
                break
            before += clip.num_segments
        return {bisect_right(self.starts, before + number) - 1 for number in numbers}

    @property
    def identity(self) -> str:
        """Return the sha256 of the plan's facts, in hexadecimal; the lines of segments follow from them."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            "num_parts": self.num_parts,
            "starts": list(self.starts),
            "clips": [
                {
                    "claim": clip.spec.to_json(),
                    "locations": list(clip.locations),
                    "expected_frames": clip.expected_frames,
                    "frame_bytes": clip.estimate.frame_bytes,
                    "frame_core_s": clip.estimate.frame_core_s,
                }
                for clip in self.clips
            ],
        }


def cut_plan(clips: Sequence[PlannedClip], num_parts: int) -> Plan:
    """Make the plan that gives each part about the same work, in neighbouring segments.

    Args:
        clips: At least one.
        num_parts: At least 1 and at most the number of segments.

    Raises:
        ValueError: There are fewer segments than parts.
    """
    num_segments = sum(clip.num_segments for clip in clips)
    if not 1 <= num_parts <= num_segments:
        raise ValueError(f"parts must be 1 to {num_segments}, one segment of a clip each at least, got {num_parts}")
    total_s = sum(clip.num_frames * clip.estimate.frame_core_s for clip in clips)
    starts = [0]
    before_s, before = 0.0, 0
    for clip in clips:
        for number in range(clip.num_segments):
            middle = (clip.frames_before(number) + clip.frames_before(number + 1)) / 2
            part = int((before_s + middle * clip.estimate.frame_core_s) / total_s * num_parts)
            segment = before + number
            # No part stays empty: enough segments are left for those behind, and each one before has its own.
            part = min(max(part, num_parts - (num_segments - segment)), len(starts), num_parts - 1, segment)
            if part == len(starts):
                starts.append(segment)
        before_s += clip.num_frames * clip.estimate.frame_core_s
        before += clip.num_segments
    return Plan(clips=tuple(clips), num_parts=num_parts, starts=(*starts, num_segments))


def write_plan(plan: Plan, path: AnyPath) -> None:
    """Write plan.jsonl; the same bytes for the same plan.

    Raises:
        OutputError: The disk is full or the folder cannot be written.
        RemoteError: `path` is remote, and the file could not be sent.
    """
    digest = hashlib.sha256()
    for lines in _blocks(plan):
        digest.update(lines)
    header = {
        "format": FORMAT,
        "plan": plan.identity,
        "num_segments": plan.num_segments,
        "num_frames": plan.num_frames,
        "size_bytes": plan.size_bytes,
        "core_s": plan.core_s,
        "num_shards": plan.num_segments,
        "num_ranks": plan.num_ranks,
        "segments_sha256": digest.hexdigest(),
        **plan.facts(),
    }
    with open_atomic(path, keep_same=True) as file:
        file.write(_line(header))
        for lines in _blocks(plan):
            file.write(lines)


def check_segment_lines(path: AnyPath) -> None:
    """Check that the lines of segments are those that the first line states; OutputError if not."""
    digest = hashlib.sha256()
    with opened(path) as file:
        expected = parse_json(file.readline(MAX_RECORD_BYTES))["segments_sha256"]
        while data := file.read(_READ_BYTES):
            digest.update(data)
    if digest.hexdigest() != expected:
        raise OutputError(
            f"{path}: its lines of segments were changed or cut (sha256 {digest.hexdigest()[:12]}, expected {expected[:12]}); "
            "make the plan again"
        )


def read_plan(path: AnyPath) -> Plan:
    """Read a plan from the first line of its file.

    Raises:
        OutputError: It is missing, damaged or of another format.
        RemoteError: `path` is remote and cannot be read.
    """
    try:
        with opened(path) as file:
            return _parsed(file.readline(MAX_RECORD_BYTES), str(path))
    except FileNotFoundError as error:
        raise OutputError(f'{path}: no plan; make one with "infraredcity plan"') from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise OutputError(f"{path}: damaged, or not a plan ({error}); make it again") from error


def segment_lines(plan: Plan, part: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of plan.jsonl for the segments of a part."""
    for segments in plan.segment_ranges(part):
        clip = plan[segments.clip_id]
        spec, estimate = clip.spec, clip.estimate
        for number in segments.numbers:
            segment = segment_of(clip.clip_id, spec.num_frames, spec.config, number)
            frames = segment.frames
            yield {
                "part": part,
                "clip": clip.clip_id,
                "segment": number,
                "start_frame": frames.start_frame,
                "stop_frame": frames.stop_frame,
                "num_frames": len(frames),
                "shard": segment.shard,
                "size_bytes": round(len(frames) * estimate.frame_bytes),
                "core_s": round(len(frames) * estimate.frame_core_s, 3),
            }


def array_expression(parts: Sequence[int]) -> str:
    """Write part numbers, ascending, as job arrays take them: "0-3,7,9-12"."""
    runs: list[list[int]] = []
    for part in parts:
        if runs and runs[-1][1] + 1 == part:
            runs[-1][1] = part
        else:
            runs.append([part, part])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _blocks(plan: Plan) -> Iterator[bytes]:
    """Yield the lines of all segments, many at once."""
    lines: list[bytes] = []
    for part in range(plan.num_parts):
        for segment in segment_lines(plan, part):
            lines.append(_line(segment))
            if len(lines) == _LINES_AT_ONCE:
                yield b"".join(lines)
                lines = []
    yield b"".join(lines)


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, separators=(",", ":")) + "\n").encode()


def _parsed(header: bytes, name: str) -> Plan:
    values = parse_json(header)
    if values["format"] != FORMAT:
        raise ValueError(f"format is {values['format']!r}, this version reads {FORMAT!r}")
    plan = Plan(
        clips=tuple(
            PlannedClip(
                spec=JobSpec.from_json(clip["claim"], where=name),
                locations=tuple(clip["locations"]),
                expected_frames=clip["expected_frames"],
                estimate=Estimate(frame_bytes=clip["frame_bytes"], frame_core_s=clip["frame_core_s"]),
            )
            for clip in values["clips"]
        ),
        num_parts=values["num_parts"],
        starts=tuple(values["starts"]),
    )
    if (
        len(plan.starts) != plan.num_parts + 1
        or plan.starts[-1] != plan.num_segments
        or plan.identity != values["plan"]
    ):
        raise ValueError("its first line was changed")
    return plan
