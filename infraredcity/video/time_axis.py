"""Put frames on one axis of time in a file whose clock restarts, or of which some have no time."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from infraredcity.video.decode_once import ShownFrame
from infraredcity.video.types import MAX_REORDER_FRAMES


def starts_of_recordings(
    shown: Sequence[ShownFrame], known: Sequence[int | None], starts_of_streams: Sequence[int]
) -> list[int]:
    """Find the rows at which a recording begins: the first one, those of another stream, and those where the clock goes back.

    A key frame that is shown before its time begins a new recording; another frame does so where it comes before its time by more
    than reordering can explain. Everything else that goes back is a frame that damage put into a wrong place.
    """
    if not shown:
        return []
    step = _usual_step(known)
    starts = [0]
    last_row, last_packet = -1, -1
    last: int | None = None
    for row, (each, time) in enumerate(zip(shown, known, strict=True)):
        if any(last_packet < first <= each.packet for first in starts_of_streams):
            starts.append(row)
            last, last_row, last_packet = None, row, each.packet
        if time is None or each.is_lost:
            continue
        if last is not None and time < last and each.packet > last_packet:
            keys = [between for between in range(last_row + 1, row + 1) if shown[between].is_key]
            if keys or time < last - MAX_REORDER_FRAMES * step:
                starts.append(keys[-1] if keys else row)
                last = None
        last = time if last is None else max(last, time)
        last_row, last_packet = row, max(last_packet, each.packet)
    return starts


def _usual_step(known: Sequence[int | None]) -> int:
    """Return the median length of a frame, from frames whose times are known."""
    rows = [row for row, time in enumerate(known) if time is not None]
    if len(rows) < 2:
        return 1
    times = np.array([known[row] for row in rows], np.int64)
    return max(1, round(float(np.median(np.diff(times) / np.diff(rows)))))


def on_one_axis(known: Sequence[int | None], starts: Sequence[int], *, shares_times: bool) -> tuple[np.ndarray, bool]:
    """Return i64 [N] times in which every recording begins where the one before it ends, and whether any is the file's own.

    A frame without a time follows the one before it by the usual step, and where that leaves no room, at an equal share of it. So
    a pause stays where the file has it.
    """
    step = _usual_step(known)
    times = np.zeros(len(known), np.int64)
    bounds = [*starts, len(known)]
    end: int | None = None
    for start, stop in pairwise(bounds):
        part = _filled(known[start:stop], step, shares_times=shares_times)
        if end is not None and len(part) and part.min() <= end:
            part = part - part.min() + end + step
        times[start:stop] = part
        end = int(part.max()) if len(part) else end
    return times, any(time is not None for time in known)


def _filled(known: Sequence[int | None], step: int, *, shares_times: bool) -> np.ndarray:
    rows = [row for row, time in enumerate(known) if time is not None]
    if not rows:
        return np.arange(len(known), dtype=np.int64) * step
    if len(rows) == len(known) and not shares_times:
        return np.array(known, np.int64)
    times = np.zeros(len(known), np.int64)
    times[rows] = _straightened(np.array(rows), np.array([known[row] for row in rows], np.int64), step)
    for row in range(rows[0] - 1, -1, -1):
        times[row] = times[row + 1] - step
    for before, behind in pairwise(rows):
        room, num_steps = int(times[behind] - times[before]), behind - before
        for row in range(before + 1, behind):
            share = round(room * (row - before) / num_steps)
            times[row] = times[before] + (min(share, step * (row - before)) if room > 0 else 0)
    for row in range(rows[-1] + 1, len(known)):
        times[row] = times[row - 1] + step
    return times


def _straightened(rows: np.ndarray, times: np.ndarray, step: int) -> np.ndarray:
    """Return i64 [N] times, with those corrected that the demuxer gave to a neighbour.

    MPEG-PS has one time for several frames, and FFmpeg now and then gives it to the frame before. Such a frame is off by about one
    step where those around it are not; a lost frame or a pause moves all that follow.
    """
    offsets = times - step * rows
    padded = np.pad(offsets, 2, mode="edge")
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    is_off = (np.abs(offsets - usual) > 0.5 * step) & (np.abs(offsets - usual) < 1.5 * step)
    return np.where(is_off, np.rint(usual + step * rows), times).astype(np.int64)
