"""Decode a file once from start to end: which packet shows which frame, and which packets cannot be decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infraredcity.files.path import AnyPath
from infraredcity.video.container import FFmpegError, OpenVideo, decoder_of, ffmpeg_log, opened
from infraredcity.video.doubt import NOT_CODED_BYTES
from infraredcity.video.packets import Packet, VideoPackets
from infraredcity.video.types import MAX_REORDER_FRAMES

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_BEGIN_ANYWHERE = frozenset(["mpegts", "mpeg", "h264", "hevc", "mpegvideo"])
"""Streams that are cut where one likes. Other containers begin with a key frame; where that does not decode, it is damaged."""
_DROP_SILENTLY = frozenset(["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4"])
"""Codecs whose decoders drop what makes no sense to them (a zeroed packet) without a word."""
_LOOK_EACH_FRAMES = 25


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """One frame as decoding shows it, or fails to (`is_lost`)."""

    packet: int
    pts: int | None
    dts: int | None
    is_key: bool
    is_lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What decoding a file from start to end shows."""

    shown: list[ShownFrame]
    """The frames in the order in which they come out, and among them those whose packets cannot be decoded."""
    failed: set[int]
    """Packets of which the decoder complains."""
    num_silent: int
    """Packets that show nothing, without being hidden or damaged."""
    num_headless: int
    """Those of them at the beginning that refer to a key frame before it."""


def decode_once(path: AnyPath, video: VideoPackets, container: str) -> Decoding:
    """Decode a file from its first packet on; look at pictures on the way."""
    packets = video.packets
    shown: list[ShownFrame] = []
    failed: set[int] = set()
    num_decoded = 0
    with ffmpeg_log() as log, opened(path) as file:
        for number, frames, has_failed in decode_in_order(file.chosen(video.indices), log):
            if has_failed:
                failed.add(number)
            for frame in frames:
                (packet,) = frame.opaque or (number,)
                shown.append(ShownFrame(packet, frame.pts, frame.dts, frame.key_frame and packets[packet].is_key))
                if len(shown) % _LOOK_EACH_FRAMES == 0:
                    video.pictures.add(frame)
            num_decoded = number + 1
    came = {each.packet for each in shown}
    without = [number for number in range(num_decoded) if number not in came and not packets[number].is_discard]
    headless: set[int] = set()
    if packets and not packets[0].is_key and came and container in _BEGIN_ANYWHERE:
        headless = {number for number in without if number < min(came)}
    damaged = failed | {number for number, packet in enumerate(packets) if packet.is_corrupt}
    behind_damage = _behind(damaged, packets, came)
    drops_silently = video.codec in _DROP_SILENTLY
    lost = [
        number
        for number in without
        if number not in headless
        and (number in behind_damage or (drops_silently and packets[number].size > NOT_CODED_BYTES))
    ]
    return Decoding(
        shown=_with_lost(shown, packets, lost),
        failed=failed,
        num_silent=len(without) - len(lost),
        num_headless=len(headless),
    )


def decode_in_order(file: OpenVideo, log: list[Any]) -> Iterator[tuple[int, list[Any], bool]]:
    """Yield each packet's number, the frames that come out at it, and whether the decoder or its log complains of it."""
    current: VideoStream | None = None
    number = -1
    packets = file.packets_in_turn()
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:  # the scan names this as damage
            packet = None
        if current is not None and (packet is None or packet.stream_index != current.index):
            yield number, _flushed(current), False
        if packet is None:
            return
        if current is None or packet.stream_index != current.index:
            current = packet.stream
            decoder_of(current, is_logged=True)
        number += 1
        packet.opaque = (number,)
        num_complaints = len(log)
        try:
            frames = list(current.codec_context.decode(packet))
            yield number, frames, len(log) > num_complaints
        except FFmpegError:
            yield number, [], True
        del log[:]


def _flushed(stream: "VideoStream") -> list[Any]:
    """Take what a stream's decoder still holds at its end."""
    try:
        return list(stream.codec_context.decode(None))
    except FFmpegError:
        return []


def _behind(damaged: set[int], packets: Sequence[Packet], came: set[int]) -> set[int]:
    """List the packets that are damaged or follow such a one, up to the next key frame that is shown: decoders drop some."""
    behind: set[int] = set()
    is_behind = False
    for number, packet in enumerate(packets):
        if number in damaged:
            is_behind = True
        elif packet.is_key and number in came:
            is_behind = False
        if is_behind:
            behind.add(number)
    return behind


def _with_lost(shown: Sequence[ShownFrame], packets: Sequence[Packet], lost: Sequence[int]) -> list[ShownFrame]:
    """Insert a frame for each packet that cannot be decoded, where it would have come out."""
    latest = np.maximum.accumulate([each.packet for each in shown] or [0])
    at: dict[int, list[ShownFrame]] = {}
    for number in lost:
        behind = int(np.searchsorted(latest[: len(shown)], number, side="right"))
        pts = packets[number].pts
        near = range(max(0, behind - MAX_REORDER_FRAMES), min(len(shown), behind + MAX_REORDER_FRAMES))
        places = (place for place in near if pts is not None and (time := shown[place].pts) is not None and time > pts)
        at.setdefault(next(places, behind), []).append(ShownFrame(number, pts, None, False, True))
    merged: list[ShownFrame] = []
    for place in range(len(shown) + 1):
        merged += at.get(place, [])
        merged += shown[place : place + 1]
    return merged
