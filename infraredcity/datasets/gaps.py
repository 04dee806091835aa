"""gaps.json: the frames of an extracted clip that are in no shard, as ranges with a reason each."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from infraredcity.errors import ManifestError
from infraredcity.files.path import AnyPath
from infraredcity.files.records import converted, read_json

GAPS_NAME = "gaps.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Frames of a clip that are in no shard."""

    clip: str
    """The clip's id."""
    first_frame: int
    """Index of the first frame in the clip."""
    last_frame: int
    """Index of the last frame; it is missing too."""
    num_frames: int
    """Frames that are missing: of every n-th frame from the first to the last."""
    reason: str
    """Why they are missing, for people."""


def gaps_to_bytes(gaps: Iterable[Gap]) -> bytes:
    """Return the bytes of gaps.json."""
    return (json.dumps([asdict(gap) for gap in gaps], indent=1) + "\n").encode()


def read_gaps(folder: AnyPath) -> list[Gap]:
    """Read gaps.json of a folder of shards.

    Raises:
        ManifestError: It is missing or damaged.
    """
    path = folder / GAPS_NAME
    try:
        gaps = [converted(gap, Gap) for gap in read_json(path)]
        if any(not 0 <= gap.first_frame <= gap.last_frame for gap in gaps):
            raise ValueError("a gap ends before it begins")
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(f"{path}: missing or damaged ({error}); run the same extract command again") from error
    return gaps
