"""Find where time jumps in a file, and whether frames were lost there or the camera paused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infraredcity.files.path import AnyPath
from infraredcity.video.container import LOG_DEBUG, LOG_ERROR, ffmpeg_log, opened
from infraredcity.video.decode_once import decode_in_order
from infraredcity.video.frame_table import FrameTable
from infraredcity.video.packets import KNOW_THEIR_REFERENCES, VideoPackets
from infraredcity.video.types import MAX_REORDER_FRAMES

logger = logging.getLogger(__name__)

_MISSING_REFERENCES = ("Frame num gap", "Could not find ref with POC")
"""What FFmpeg's decoders of H.264 and HEVC say when they miss a picture, the first at debug level only."""
_MOST_JUMPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeJumps:
    """Frames before which time jumps, except where recordings join."""

    losses: dict[int, int]
    """Frames before which others were lost, and how many seem lost there."""
    pauses: tuple[int, ...]
    """Frames before which the camera paused, or left pictures out."""


def find_time_jumps(path: AnyPath, video: VideoPackets, table: FrameTable) -> TimeJumps:
    """Find where time jumps; may decode the file once to tell losses from pauses."""
    jumps = _jumps(table.times) if table.are_true else {}
    for join in table.joins:
        jumps.pop(join, None)
    pauses = _pauses(path, video, table, list(jumps))
    return TimeJumps(losses={frame: lost for frame, lost in jumps.items() if frame not in pauses}, pauses=pauses)


def _jumps(pts: np.ndarray) -> dict[int, int]:
    """Find the frames before which time jumps in a file of constant rate, and how many frames seem lost there.

    Rounding to the time base moves a constant rate by a few percent; a variable rate spreads wider and has no "jump".
    """
    steps = np.diff(pts)
    if len(steps) == 0:
        return {}
    usual = float(np.median(steps))
    if usual <= 0:  # most frames share their times
        return {}
    if float(np.mean(np.abs(steps - usual) <= 0.1 * usual)) < 0.9:
        return {}
    places = np.flatnonzero(steps > 1.5 * usual).tolist()
    return {place + 1: max(1, round(steps[place] / usual) - 1) for place in places}


def _pauses(path: AnyPath, video: VideoPackets, table: FrameTable, jumps: Sequence[int]) -> tuple[int, ...]:
    """Find the jumps at which no frame is lost to which others refer.

    H.264 numbers the pictures to which others refer, and HEVC names those to which each one refers, so their decoders know;
    those of other codecs do not. A file with very many jumps is not decoded for this.
    """
    if not jumps or len(jumps) > _MOST_JUMPS or video.codec not in KNOW_THEIR_REFERENCES:
        return ()
    packet_of = dict(zip(table.decode_order.tolist(), table.packet_numbers.tolist(), strict=True))
    behind = max(packet_of[frame] for frame in jumps) + MAX_REORDER_FRAMES
    logger.info("%s: time jumps, so it is decoded once to see whether frames are lost there", path)
    missing: list[int] = []
    with ffmpeg_log(LOG_DEBUG) as log, opened(path) as file:
        for number, _frames, _has_failed in decode_in_order(file.chosen(video.indices), log):
            if any(level <= LOG_ERROR or text.startswith(_MISSING_REFERENCES) for level, _, text in log):
                missing.append(number)
            if number > behind:
                break
    return tuple(
        frame for frame in jumps if not any(abs(number - packet_of[frame]) <= MAX_REORDER_FRAMES for number in missing)
    )
