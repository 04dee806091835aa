"""Build the table of a file's frames: their times, their packets, the key frames, and where recordings join."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infraredcity.video.decode_once import Decoding
from infraredcity.video.packets import Packet
from infraredcity.video.time_axis import on_one_axis, starts_of_recordings

_MEETING = range(-3, 2)
"""Packets around the first one of a new recording; a parser holds back one, and MPEG-TS another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameTable:
    """The frames of a file."""

    times: np.ndarray
    """i64 [N], ascending."""
    decode_order: np.ndarray
    """i64 [N], frame index of each packet that shows one, in the order of the file."""
    packet_numbers: np.ndarray
    """i64 [N], beside it, the number of that packet among those of the video."""
    keyframes: np.ndarray
    """i64 [K], frame indices."""
    is_timed: bool
    """See `VideoInfo`."""
    are_true: bool
    """Whether times are the file's own at all, or frames are only counted."""
    joins: tuple[int, ...] = ()
    """Frames at which another recording begins."""
    lost: tuple[int, ...] = ()
    """Frames whose packet cannot be decoded."""
    whole_packets: tuple[int, ...] = ()
    """See `VideoInfo`."""
    contradicted: tuple[int, int] | None = None
    """Half-open range of frames among which times go back where the decoder goes on; None where they never do."""
    num_silent: int = 0
    """Packets that show nothing, without being hidden or damaged."""
    num_headless: int = 0
    """Those of them at the beginning that refer to a key frame before it."""


def table_from_packets(packets: Sequence[Packet]) -> FrameTable:
    """Take each packet that is not hidden for a frame with a time of its own."""
    numbers = np.array([number for number, packet in enumerate(packets) if not packet.is_discard], np.int64)
    pts = np.array([packets[number].pts for number in numbers.tolist()], np.int64)
    order = np.argsort(np.argsort(pts, kind="stable"))
    is_key = np.array([packets[number].is_key for number in numbers.tolist()], bool)
    return FrameTable(
        times=np.sort(pts),
        decode_order=order.astype(np.int64),
        packet_numbers=numbers,
        keyframes=np.sort(order[is_key]).astype(np.int64),
        is_timed=True,
        are_true=True,
    )


def table_from_decoding(
    decoding: Decoding, packets: Sequence[Packet], starts_of_streams: Sequence[int], *, shares_times: bool
) -> FrameTable:
    """Put what decoding showed on one axis of time.

    Args:
        decoding: What it showed.
        packets: The packets of the video.
        starts_of_streams: Packets at which the video goes on in another stream.
        shares_times: Whether the container has one time for several frames.
    """
    shown = decoding.shown
    has_pts = any(each.pts is not None for each in shown)
    # Where packets have no presentation times (AVI), a frame has the decoding time of the packet that releases it.
    # Source: FFmpeg's best_effort_timestamp, which ffmpeg itself uses.
    known = [each.pts if has_pts else each.dts for each in shown]
    starts = starts_of_recordings(shown, known, starts_of_streams)
    times, are_true = on_one_axis(known, starts, shares_times=shares_times)
    if not are_true:
        times = np.arange(len(shown), dtype=np.int64)
    order = np.argsort(times, kind="stable")  # damage may show frames in a wrong order; the rest ascends already
    numbers = np.array([shown[row].packet for row in order.tolist()], np.int64)
    by_packet = np.argsort(numbers, kind="stable")
    frame_of = np.empty(len(shown), np.int64)
    frame_of[order] = np.arange(len(shown))
    is_key = np.array([shown[row].is_key for row in order.tolist()], bool)
    back = np.flatnonzero(np.diff(times) < 0)
    contradicted = [*frame_of[back].tolist(), *frame_of[back + 1].tolist()]
    is_timed = has_pts and all(each.pts is not None for each in shown) and len(starts) <= 1
    # Where two recordings meet, the demuxer takes a packet that ends or begins there for a broken one; the decoder knows better.
    meeting = {shown[start].packet + near for start in starts[1:] for near in _MEETING}
    return FrameTable(
        times=times[order],
        decode_order=by_packet.astype(np.int64),
        packet_numbers=numbers[by_packet],
        keyframes=np.flatnonzero(is_key).astype(np.int64),
        is_timed=is_timed and len(set(known)) == len(known),
        are_true=are_true,
        joins=tuple(int(frame_of[start]) for start in starts[1:]),
        lost=tuple(sorted(int(frame_of[row]) for row, each in enumerate(shown) if each.is_lost)),
        whole_packets=tuple(
            sorted(n for n in meeting - decoding.failed if 0 <= n < len(packets) and packets[n].is_corrupt)
        ),
        contradicted=(min(contradicted), max(contradicted) + 1) if contradicted else None,
        num_silent=decoding.num_silent,
        num_headless=decoding.num_headless,
    )
