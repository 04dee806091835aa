"""Plans of clips that were never filmed, and what extraction in parts left."""

from pathlib import Path
from typing import Any

from infraredcity.clips import Clip
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.plan import Estimate, PlannedClip
from infraredcity.extraction.spec import JobSpec
from infraredcity.files.path import AnyPath, walk

NOT_COMPARED = ("plan.jsonl", ".lock")
"""What extraction in parts leaves beside what one process leaves."""


def spec_of(
    num_frames: int, config: ExtractConfig | None = None, *, clip_id: str = "city_clear", **other: Any
) -> JobSpec:
    """What the extraction of a made-up clip is bound to."""
    clip = Clip(clip_id=clip_id, scene="city", weather="clear", modality="infrared", time_of_day="night")
    source = {
        "name": f"{clip_id}.mp4",
        "size_bytes": 1000,
        "packets_sha256": "ab" * 32,
        "num_frames": num_frames,
        "codec": "h264",
        "pixel_format": "gray",
    }
    values: dict[str, Any] = {
        "clip": clip,
        "config": config or ExtractConfig(),
        "decoder": "pyav",
        "tone": None,
        "sources": (source,),
        "versions": {"av": "1.0"},
        "time_base": "1/25",
        "nominal_fps": 25.0,
        "num_frames": num_frames,
        "frames_sha256": "cd" * 32,
        "break_frames": (0,),
        "is_deep": False,
        "suspect": (),
    }
    return JobSpec(**(values | other))


def planned(spec: JobSpec, *, frame_core_s: float = 1e-3, frame_bytes: float = 5000.0) -> PlannedClip:
    """A clip of a plan."""
    return PlannedClip(
        spec=spec,
        locations=(f"/clips/{spec.clip.clip_id}.mp4",),
        expected_frames=None,
        estimate=Estimate(frame_bytes=frame_bytes, frame_core_s=frame_core_s),
    )


def tree(root: AnyPath) -> dict[str, bytes]:
    """Every file below a folder here or far that extraction in parts and by one process must both leave, temporary ones too."""
    return {
        str((folder / name).relative_to(root)): (folder / name).read_bytes()  # type: ignore[arg-type]
        for folder, _, names in walk(root)
        for name in names
        if name not in NOT_COMPARED
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the files that are not the same in two trees: shorter to read than their bytes."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def times(root: Path) -> dict[str, int]:
    """When each file below a folder was changed, in ns."""
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def expanded(array: str) -> list[int]:
    """The numbers of "0-3,7"."""
    numbers: list[int] = []
    for word in array.strip().split(",") if array.strip() else []:
        first, _, last = word.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
