"""What one pass over a file's packets tells of its frames, and when to decode it once because packets alone do not tell.

A packet is not always a frame: VP8 has packets that show nothing, other codecs send fields or "not coded" pictures as packets of
their own. A file's clock need not run once: recordings are joined with `cat`, and some packets have no time. So the pass looks at
pictures on its way (the first ones in a row, then key frames all over the file), and a file about which anything is in doubt is
decoded from start to end: then frames are what the decoder shows, in its order.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.files.path import AnyPath
from infraredcity.video.container import OpenVideo, decoder_of, ffmpeg_log, opened, other_streams, reason_of
from infraredcity.video.damage import Damage
from infraredcity.video.types import MAX_REORDER_FRAMES, NO_TIME, VideoInfo, reorder_of

try:
    import av
    import av.logging
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

_ONE_PACKET_A_FRAME = (
    *("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "mjpeg", "png"),
    *("ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "prores", "dnxhd", "dvvideo"),
)
"""Codecs of which a packet is a frame, as far as the first pictures and `_doubt` find nothing else; others are decoded once."""
_HALVES = frozenset(["h264"])
"""Codecs whose two fields may be packets of their own, in containers that FFmpeg does not cut into packets itself."""
_CUT_BY_FFMPEG = frozenset(["mpegts", "mpeg", "h264"])
_BEGIN_ANYWHERE = frozenset(["mpegts", "mpeg", "h264", "hevc", "mpegvideo"])
"""Streams that are cut where one likes. Other containers begin with a key frame; where that does not decode, it is damaged."""
_NOT_CODED_BYTES = 16
"""An MPEG-4 picture that says "as before" has about eight bytes (ISO 14496-2, 6.2.5: vop_coded is 0)."""
_DROP_UNSAID = frozenset(["mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4"])
"""Codecs whose decoders drop what makes no sense to them (a zeroed packet) without a word."""
_HEAD_PACKETS = 32
_NUM_LOOKS = 16
_LOOK_EACH_FRAMES = 25
_LOOK_EACH_OF_HEAD = 4
_GLANCE_PX = 160
_HOLE = re.compile(rb"(?<!\0)\0{8,}[^\0\1]")
_HOLE_OR_END = re.compile(rb"(?<!\0)\0{8,}([^\0\1]|\Z)")
_KNOW_THEIR_REFERENCES = frozenset(["h264", "hevc"])
_MISSING_REFERENCES = ("Frame num gap", "Could not find ref with POC")
"""What FFmpeg's decoders of these two say when they miss a picture, the first at debug level alone."""
_MOST_JUMPS = 1000
_MEETING = range(-3, 2)
"""Packets around the first one of a new recording; a parser holds back one, and MPEG-TS another."""
_READ_AHEAD_S = 5.0
"""How far FFmpeg reads ahead at most when it opens a file; what it complains of then stands anywhere in there."""
_NEUTRAL_CHROMA = 128
_CHROMA_SLACK = 4
_PQ, _HLG = 16, 18
"""ITU-T H.273, transfer characteristics of BT.2100."""


def scan(path: AnyPath, *, stream: int | None = None) -> VideoInfo:
    """Demux a file once, look at some of its pictures, and decode it once more where packets do not tell its frames.

    Args:
        path: The file, here or behind a URL.
        stream: Number of the stream to take; None takes the first one that holds moving pictures, of at least half as many packets
            as the fullest, and those in which it goes on.

    Raises:
        VideoDecodeError: The file is missing, is no video, or has no such stream.
        RemoteError: It is remote, and its bytes do not come.
    """
    # Behind bytes that make no sense the demuxer goes on with whatever looks like a packet, and says so in its log alone.
    with ffmpeg_log() as log, opened(path) as file:
        complaint = next((text.strip() for text in _of_video(file, log)), None)
        by_stream, failure = _demuxed(file, log)
        taken = _taken(path, file, by_stream, stream)
        return _described(path, file, by_stream, taken, failure=failure, complaint_ahead=complaint)


def _of_video(file: OpenVideo, log: Sequence[Any]) -> list[str]:
    """What is said in FFmpeg's log, but for what decoders of sound say when FFmpeg looks at their first packets."""
    sound = {
        stream.codec_context.name for stream in file.container.streams.audio if getattr(stream, "codec_context", None)
    }
    return [text for _, who, text in log if who not in sound]


def _described(
    path: AnyPath,
    file: OpenVideo,
    by_stream: "dict[int, _Packets]",
    taken: tuple[int, ...],
    *,
    failure: str | None,
    complaint_ahead: str | None,
) -> VideoInfo:
    """Put together what is known of a file; `complaint_ahead` came while it was opened, of any place that FFmpeg looked at then."""
    streams = [by_stream[index] for index in taken]
    stream = file.chosen(taken[:1]).streams[0]
    packets = [packet for each in streams for packet in each.packets]
    looks = _Looks.of_all([each.looks for each in streams])
    fps = Fraction(stream.average_rate or stream.guessed_rate or 0)
    doubt = _doubt(file.container, stream, streams, packets)
    if doubt:
        logger.info("%s: %s, so it is decoded once to count its frames", path, doubt)
        table = _decoded(path, streams, packets, looks, fps)
    else:
        table = _from_packets(packets)
    codec = stream.codec_context
    place_in_table = np.searchsorted(table.packet_numbers, np.arange(len(packets) + 1))  # shown packets before each one
    corrupt = [
        int(table.decode_order[row])
        for row, number in enumerate(table.packet_numbers.tolist())
        if packets[number].is_corrupt and number not in table.whole_packets
    ]
    wiped = [
        int(frame)
        for frame, number in zip(table.decode_order.tolist(), table.packet_numbers.tolist(), strict=True)
        if packets[number].is_wiped
    ]
    firsts = np.cumsum([0, *(len(each.packets) for each in streams)]).tolist()
    said = {
        first + number: text for each, first in zip(streams, firsts, strict=False) for number, text in each.complaints
    }
    if table.num_headless:  # what leans on a key frame before the beginning makes no sense to the demuxer either
        complaint_ahead = None
        said = {number: text for number, text in said.items() if number > table.packet_numbers[0]}
    complaint = complaint_ahead or next(iter(said.values()), None)
    complaints = [int(place_in_table[number]) for number in said]
    num_hidden = sum(packet.is_discard for packet in packets)
    jumps = _time_jumps(table.times) if table.are_true else []
    jumps = [(frame, lost) for frame, lost in jumps if frame not in table.joins]
    pauses = _pauses(path, streams, table, [frame for frame, _ in jumps], file.container.format.name)
    jumps = [(frame, lost) for frame, lost in jumps if frame not in pauses]
    positions = [packet.pos for packet in packets]
    num_listed, lost_from = (0, None)
    if len(taken) == 1:
        num_listed, lost_from = _lost_packets(file.container, stream, positions, has_complaints=complaint is not None)
    if lost_from is not None:
        lost_from = int(place_in_table[min(lost_from, len(packets))])
    delay = streams[0].delay
    num_there = len(packets)
    suspect = []
    if failure:
        suspect.append(f"demuxing stopped after {num_there - num_hidden} packets: {failure}")
    if complaint is not None:
        suspect.append(f"the demuxer met damaged bytes: {complaint}")
    if num_listed > num_there:
        rest = "" if lost_from is None else f"; frames from {lost_from} on may stand under too small a number"
        suspect.append(f"the file's index lists {num_listed} frames, {num_there} are there{rest}")
    if wiped:
        suspect.append(f"{len(wiped)} packets hold zeros that no encoder writes")
    if corrupt:
        suspect.append(f"{len(corrupt)} packets are marked corrupt")
    if table.num_lost:
        suspect.append(f"{table.num_lost} packets cannot be decoded")
    if table.contradicted is not None:
        first, stop = table.contradicted
        suspect.append(
            f"the times of frames {first} to {stop - 1} contradict the order in which the decoder shows them"
        )
    if jumps:
        where = ", ".join(f"{frame} ({lost} lost)" for frame, lost in jumps[:5]) + (", ..." if jumps[5:] else "")
        suspect.append(f"time jumps before frame {where}: frames were dropped before the file was written")
    return VideoInfo(
        path=path,
        num_frames=len(table.times),
        pts=table.times,
        time_base=_time_base(stream, fps, are_true=table.are_true),
        keyframes=table.keyframes,
        nominal_fps=float(fps),
        height_px=codec.height,
        width_px=codec.width,
        pixel_format=str(codec.pix_fmt),
        codec=codec.name,
        container=file.container.format.name,
        rotation_deg=looks.rotation_deg,
        pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        hdr={_PQ: "PQ", _HLG: "HLG"}.get(looks.transfer, ""),
        num_hidden=num_hidden,
        num_silent=table.num_silent - table.num_headless,
        num_headless=table.num_headless,
        streams=taken,
        other_streams=other_streams(file.container, taken),
        delay_frames=delay,
        counted_by=doubt,
        is_timed=table.is_timed,
        can_seek=not any(packet.has_palette for packet in packets),
        decode_order=table.decode_order,
        frame_packets=table.packet_numbers,
        packet_pts=np.array([NO_TIME if packet.pts is None else packet.pts for packet in packets], np.int64),
        suspect_ranges=_suspect_ranges(
            table.decode_order,
            table.keyframes,
            corrupt,
            [frame for frame, _ in jumps],
            complaints,
            lost_from,
            lost=table.lost,
            wiped=wiped,
            joins=table.joins,
            contradicted=table.contradicted,
            has_complaints=complaint is not None,
            slack=0 if table.is_timed or not delay else MAX_REORDER_FRAMES,
            num_ahead=_frames_within(table, stream, _READ_AHEAD_S) if complaint_ahead is not None else 0,
        ),
        time_jumps=np.array(sorted({*(frame for frame, _ in jumps), *pauses, *table.joins}), np.int64),
        recordings=table.joins,
        pauses=pauses,
        has_color=looks.has_color,
        is_deep=looks.is_deep,
        size_bytes=file.size_bytes,
        packets_sha256=_digest(streams),
        whole_packets=table.whole_packets,
        suspect=tuple(suspect),
    )


@dataclass(frozen=True, slots=True)
class _Packet:
    """What is kept of a packet."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_corrupt: bool
    is_discard: bool
    pos: int | None
    size: int
    has_palette: bool
    is_wiped: bool


@dataclass(slots=True)
class _Looks:
    """What the pictures show that were looked at."""

    num_looked: int = 0
    num_false_keys: int = 0
    has_color: bool = False
    is_interlaced: bool = False
    bits: int = 0
    has_luma_alone: bool = True
    rotation_deg: int = 0
    transfer: int = 0

    def add(self, frame: Any) -> None:
        """Look at a picture."""
        if self.num_looked == 0:
            self.rotation_deg = int(frame.rotation)
            self.transfer = int(frame.color_trc)
        self.num_looked += 1
        self.is_interlaced |= frame.interlaced_frame
        first = [component for component in frame.format.components if component.plane == 0]
        self.bits = max(self.bits, first[0].bits)
        self.has_luma_alone = self.has_luma_alone and len(first) == 1 and first[0].bits <= 16
        self.has_color = self.has_color or _has_color(frame)

    @property
    def is_deep(self) -> bool:
        """Whether pictures are counts of more than 8 bits, in a plane of their own."""
        return self.bits > 8 and self.has_luma_alone and not self.has_color

    @classmethod
    def of_all(cls, several: "Sequence[_Looks]") -> "_Looks":
        """What the pictures of several streams show; with no picture at all, nobody knows that it is gray."""
        first = several[0]
        return cls(
            num_looked=sum(each.num_looked for each in several),
            num_false_keys=sum(each.num_false_keys for each in several),
            has_color=any(each.has_color for each in several) or first.num_looked == 0,
            is_interlaced=any(each.is_interlaced for each in several),
            bits=max(each.bits for each in several),
            has_luma_alone=all(each.has_luma_alone for each in several),
            rotation_deg=first.rotation_deg,
            transfer=first.transfer,
        )


@dataclass(slots=True, eq=False)
class _Packets:
    """The packets of one stream, and what a decoder shows of some on the way: the first ones, then key frames here and there."""

    stream: "VideoStream"
    size_bytes: int
    packets: list[_Packet] = field(default_factory=list)
    looks: _Looks = field(default_factory=_Looks)
    digest: Any = field(default_factory=hashlib.sha256)
    complaints: list[tuple[int, str]] = field(default_factory=list)
    delay: int = 0
    shown_by_head: list[int] = field(default_factory=list)
    num_head: int = 0
    is_head_over: bool = False
    num_bytes: int = 0
    next_look: float = 0.0

    def __post_init__(self) -> None:
        decoder_of(self.stream, is_heard=True)

    def add(self, packet: Any) -> None:
        """Take the stream's next packet."""
        self.packets.append(
            _Packet(
                packet.pts,
                packet.dts,
                packet.is_keyframe,
                packet.is_corrupt,
                packet.is_discard,
                packet.pos,
                packet.size,
                packet.has_sidedata("palette"),
                _is_wiped(packet, self.stream.codec_context),
            )
        )
        self.digest.update(packet)
        self.num_bytes += packet.size
        if not self.is_head_over:
            self._look_at_head(packet)
        elif packet.is_keyframe and self.num_bytes / self.size_bytes >= self.next_look:
            self._look_at_key(packet)

    @property
    def kind(self) -> tuple[str, int, int]:
        """Codec, width and height."""
        codec = self.stream.codec_context
        return codec.name, codec.width, codec.height

    @property
    def begin(self) -> int:
        """Where in the file the first packet stands, in bytes; 0 where the container does not say."""
        return min((packet.pos for packet in self.packets if packet.pos is not None), default=0)

    @property
    def end(self) -> int:
        """Where in the file the last packet stands."""
        return max((packet.pos for packet in self.packets if packet.pos is not None), default=0)

    def complain(self, complaints: Sequence[str]) -> None:
        """Remember that the demuxer complained of what stands before the next packet, if it did."""
        if complaints:
            self.complaints.append((len(self.packets), complaints[0].strip()))

    def end_head(self) -> None:
        """Take what the decoder still holds of the first packets."""
        if self.is_head_over:
            return
        self.is_head_over = True
        self._show(None)
        self.stream.codec_context.flush_buffers()
        self.next_look = self.num_bytes / self.size_bytes + 1 / _NUM_LOOKS

    def _look_at_head(self, packet: Any) -> None:
        number = len(self.packets) - 1
        packet.opaque = (number,)  # PyAV keeps these by identity: a tuple of its own for each packet
        had_none = not self.shown_by_head
        self._show(packet)
        if had_none and self.shown_by_head:
            self.delay = sum(not each.is_discard for each in self.packets[:-1])
        self.num_head = len(self.packets)
        if self.num_head == _HEAD_PACKETS:
            self.end_head()

    def _show(self, packet: Any) -> None:
        try:
            shown: list[Any] = list(self.stream.codec_context.decode(packet))
            for frame in shown:
                if len(self.shown_by_head) % _LOOK_EACH_OF_HEAD == 0:
                    self.looks.add(frame)
                self.shown_by_head.extend(frame.opaque or ())
        except av.FFmpegError:  # damage, which decoding will meet again and mark
            pass

    def _look_at_key(self, packet: Any) -> None:
        """Decode a key frame alone: where that shows none, it leans on others, as in a recording with periodic intra refresh."""
        codec = self.stream.codec_context
        self.next_look = self.num_bytes / self.size_bytes + 1 / _NUM_LOOKS
        try:
            frames = list(codec.decode(packet))
            frames += codec.decode(None)
        except av.FFmpegError:
            return
        finally:
            codec.flush_buffers()
        for frame in frames:
            self.looks.add(frame)
        if not packet.is_discard and not any(frame.key_frame for frame in frames):
            self.looks.num_false_keys += 1


def _demuxed(file: OpenVideo, log: list[Any]) -> tuple[dict[int, _Packets], str | None]:
    """The packets of each stream, and why demuxing stopped before the end, if it did."""
    by_stream = {stream.index: _Packets(stream, file.size_bytes) for stream in file.streams}
    failure = None
    latest = next(iter(by_stream.values()))
    del log[:]
    try:
        for packet in file.packets():
            latest = by_stream[packet.stream_index]
            latest.complain(_of_video(file, log))
            latest.add(packet)
            del log[:]  # what a decoder says, not the demuxer
    except av.FFmpegError as error:
        failure = reason_of(error)
    latest.complain(_of_video(file, log))  # of what stood behind the last packet that could be found
    for each in by_stream.values():
        each.end_head()
    return by_stream, failure


def _taken(path: AnyPath, file: OpenVideo, by_stream: dict[int, _Packets], asked: int | None) -> tuple[int, ...]:
    """Numbers of the streams to read, in the order in which they begin."""
    if asked is not None:
        if asked not in by_stream:
            there = ", ".join(map(str, by_stream))
            raise VideoDecodeError(f"{path}: has no video stream {asked} that can be decoded; there is {there}")
        return (asked,)
    most = max(len(each.packets) for each in by_stream.values())
    first = next(each for each in by_stream.values() if 2 * len(each.packets) >= most)
    chain = [first]
    # A program that is given another PID goes on as another stream of the same kind, which begins where the first one ends.
    is_in_programs = file.container.format.name == "mpegts"
    alike = [each for each in by_stream.values() if is_in_programs and each.packets and each.kind == first.kind]
    for each in sorted(alike, key=lambda each: each.begin):
        if each.begin > chain[-1].end:
            chain.append(each)
    for each in sorted(alike, key=lambda each: each.end, reverse=True):
        if each.end < chain[0].begin:
            chain.insert(0, each)
    return tuple(each.stream.index for each in chain)


def _digest(streams: Sequence[_Packets]) -> str:
    if len(streams) == 1:
        return str(streams[0].digest.hexdigest())
    return hashlib.sha256(b"".join(each.digest.digest() for each in streams)).hexdigest()


def _doubt(
    container: "InputContainer", stream: "VideoStream", streams: Sequence[_Packets], packets: Sequence[_Packet]
) -> str:
    """Why packets do not tell the frames of a file; "" where they do."""
    shown = [packet for packet in packets if not packet.is_discard]
    codec = stream.codec_context.name
    head = streams[0]
    if not shown:
        return ""
    if len(streams) > 1:
        return "its video goes on in another stream"
    if codec not in _ONE_PACKET_A_FRAME:
        return f"a packet of {codec} need not be a frame"
    if container.format.name == "mpeg" and codec in _KNOW_THEIR_REFERENCES:
        return f"MPEG-PS has one time for several frames of {codec}"
    if any(packet.pts is None for packet in shown):
        return "some of its packets have no time"
    if len({packet.pts for packet in shown}) < len(shown):
        return "some of its packets share a time"
    keys = [packet.pts for packet in shown if packet.is_key and packet.pts is not None]
    clock = [packet.dts for packet in packets if packet.dts is not None]
    if sorted(keys) != keys or sorted(clock) != clock:
        return "its clock does not run once from start to end"
    if codec == "mpeg4" and any(packet.size <= _NOT_CODED_BYTES for packet in shown):
        return "some of its packets are too small to hold a picture"
    expected = [number for number, packet in enumerate(packets[: head.num_head]) if not packet.is_discard]
    if sorted(head.shown_by_head) != expected:
        return f"its first {len(expected)} packets show {len(head.shown_by_head)} pictures"
    if head.looks.num_false_keys:
        return "some of its key frames lean on other frames (periodic intra refresh)"
    if codec in _HALVES and head.looks.is_interlaced and container.format.name not in _CUT_BY_FFMPEG:
        return "its pictures are interlaced, and a packet may hold half of one"
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The frames of a file.

    Attributes:
        times: i64 [N], ascending.
        decode_order: i64 [N], frame index of each packet that shows one, in the order of the file.
        packet_numbers: i64 [N], beside it, the number of that packet among those of the video.
        keyframes: i64 [K], frame indices.
        is_timed: See `VideoInfo`.
        are_true: Whether times are the file's own at all, or frames are just counted.
        joins: Frames at which another recording begins.
        lost: Frames whose packet cannot be decoded.
        whole_packets: See `VideoInfo`.
        contradicted: Half-open stretch of frames among which times go back where the decoder goes on; None where they never do.
        num_silent: Packets that show nothing, without being hidden or damaged.
        num_headless: Those of them at the beginning that lean on a key frame before it.
    """

    times: np.ndarray
    decode_order: np.ndarray
    packet_numbers: np.ndarray
    keyframes: np.ndarray
    is_timed: bool
    are_true: bool
    joins: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    whole_packets: tuple[int, ...] = ()
    contradicted: tuple[int, int] | None = None
    num_silent: int = 0
    num_headless: int = 0

    @property
    def num_lost(self) -> int:
        """Frames whose packet cannot be decoded."""
        return len(self.lost)


def _from_packets(packets: Sequence[_Packet]) -> _Table:
    """Each packet that is not hidden is a frame, and each has a time of its own."""
    numbers = np.array([number for number, packet in enumerate(packets) if not packet.is_discard], np.int64)
    pts = np.array([packets[number].pts for number in numbers.tolist()], np.int64)
    order = np.argsort(np.argsort(pts, kind="stable"))
    is_key = np.array([packets[number].is_key for number in numbers.tolist()], bool)
    return _Table(
        times=np.sort(pts),
        decode_order=order.astype(np.int64),
        packet_numbers=numbers,
        keyframes=np.sort(order[is_key]).astype(np.int64),
        is_timed=True,
        are_true=True,
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """One frame as decoding shows it, or fails to (`is_lost`)."""

    packet: int
    pts: int | None
    dts: int | None
    is_key: bool
    is_lost: bool = False


def _decoded(
    path: AnyPath, streams: Sequence[_Packets], packets: Sequence[_Packet], looks: _Looks, fps: Fraction
) -> _Table:
    """The frames that a decoder shows, in its order, from the first packet on."""
    shown: list[_Shown] = []
    failed: set[int] = set()
    num_fed = 0
    with ffmpeg_log() as log, opened(path) as whole:
        container = whole.container.format.name
        for number, frames, has_failed in _decode_in_order(whole.chosen([each.stream.index for each in streams]), log):
            if has_failed:
                failed.add(number)
            for frame in frames:
                opaque = frame.opaque or (number,)
                shown.append(_Shown(opaque[0], frame.pts, frame.dts, frame.key_frame and packets[opaque[0]].is_key))
                if len(shown) % _LOOK_EACH_FRAMES == 0:
                    looks.add(frame)
            num_fed = number + 1
    came = {each.packet for each in shown}
    without = [number for number in range(num_fed) if number not in came and not packets[number].is_discard]
    headless: set[int] = set()
    if packets and not packets[0].is_key and came and container in _BEGIN_ANYWHERE:
        headless = {number for number in without if number < min(came)}
    doubtful = failed | {number for number, packet in enumerate(packets) if packet.is_corrupt}
    behind_damage = _behind(doubtful, packets, came)
    drops_unsaid = streams[0].stream.codec_context.name in _DROP_UNSAID
    lost = [
        number
        for number in without
        if number not in headless
        and (number in behind_damage or (drops_unsaid and packets[number].size > _NOT_CODED_BYTES))
    ]
    shown = _with_lost(shown, packets, lost)
    firsts = np.cumsum([len(each.packets) for each in streams]).tolist()[:-1]
    return _table_of(
        shown,
        packets,
        firsts,
        are_shared=container == "mpeg",
        failed=failed,
        num_silent=len(without) - len(lost),
        num_headless=len(headless),
    )


def _behind(damaged: set[int], packets: Sequence[_Packet], came: set[int]) -> set[int]:
    """Packets that are damaged, or follow such a one before the next key frame that is shown: decoders drop some without a word."""
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


def _decode_in_order(file: OpenVideo, log: list[Any]) -> Iterator[tuple[int, list[Any], bool]]:
    """Each packet's number, the frames that come out at it, and whether the decoder or its log complains of it."""
    current: VideoStream | None = None
    number = -1
    packets = file.packets_in_turn()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the scan names this as damage
            packet = None
        if current is not None and (packet is None or packet.stream_index != current.index):
            yield number, _flushed(current), False
        if packet is None:
            return
        if current is None or packet.stream_index != current.index:
            current = packet.stream
            decoder_of(current, is_heard=True)
        number += 1
        packet.opaque = (number,)
        num_complaints = len(log)
        try:
            frames = list(current.codec_context.decode(packet))
            yield number, frames, len(log) > num_complaints
        except av.FFmpegError:
            yield number, [], True
        del log[:]


def _flushed(stream: "VideoStream") -> list[Any]:
    """What a stream's decoder still holds at its end."""
    try:
        return list(stream.codec_context.decode(None))
    except av.FFmpegError:
        return []


def _with_lost(shown: Sequence[_Shown], packets: Sequence[_Packet], lost: Sequence[int]) -> list[_Shown]:
    """The frames that are shown, and among them those whose packets cannot be decoded, where these would stand."""
    latest = np.maximum.accumulate([each.packet for each in shown] or [0])
    at: dict[int, list[_Shown]] = {}
    for number in lost:
        behind = int(np.searchsorted(latest[: len(shown)], number, side="right"))
        pts = packets[number].pts
        near = range(max(0, behind - MAX_REORDER_FRAMES), min(len(shown), behind + MAX_REORDER_FRAMES))
        places = (place for place in near if pts is not None and (time := shown[place].pts) is not None and time > pts)
        at.setdefault(next(places, behind), []).append(_Shown(number, pts, None, False, True))
    merged: list[_Shown] = []
    for place in range(len(shown) + 1):
        merged += at.get(place, [])
        merged += shown[place : place + 1]
    return merged


def _table_of(
    shown: Sequence[_Shown],
    packets: Sequence[_Packet],
    firsts: Sequence[int],
    *,
    are_shared: bool,
    failed: set[int],
    num_silent: int,
    num_headless: int,
) -> _Table:
    """Put what decoding showed on one axis of time.

    At the packets `firsts` the video goes on in another stream. `are_shared`: the container has one time for several frames.
    """
    has_pts = any(each.pts is not None for each in shown)
    # Where packets have no presentation times (AVI), a frame has the decoding time of the packet that releases it.
    # Source: FFmpeg's best_effort_timestamp, which ffmpeg itself uses.
    known = [each.pts if has_pts else each.dts for each in shown]
    starts = _starts_of_recordings(shown, known, firsts)
    times, are_true = _on_one_axis(known, starts, are_shared=are_shared)
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
    return _Table(
        times=times[order],
        decode_order=by_packet.astype(np.int64),
        packet_numbers=numbers[by_packet],
        keyframes=np.flatnonzero(is_key).astype(np.int64),
        is_timed=is_timed and len(set(known)) == len(known),
        are_true=are_true,
        joins=tuple(int(frame_of[start]) for start in starts[1:]),
        lost=tuple(sorted(int(frame_of[row]) for row, each in enumerate(shown) if each.is_lost)),
        whole_packets=tuple(sorted(n for n in meeting - failed if 0 <= n < len(packets) and packets[n].is_corrupt)),
        contradicted=(min(contradicted), max(contradicted) + 1) if contradicted else None,
        num_silent=num_silent,
        num_headless=num_headless,
    )


def _starts_of_recordings(shown: Sequence[_Shown], known: Sequence[int | None], firsts: Sequence[int]) -> list[int]:
    """Rows at which a recording begins: the first one, those of another stream, and those where the clock goes back.

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
        if any(last_packet < first <= each.packet for first in firsts):
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
    """The median of a frame's length, from frames whose times are known."""
    rows = [row for row, time in enumerate(known) if time is not None]
    if len(rows) < 2:
        return 1
    times = np.array([known[row] for row in rows], np.int64)
    return max(1, round(float(np.median(np.diff(times) / np.diff(rows)))))


def _on_one_axis(known: Sequence[int | None], starts: Sequence[int], *, are_shared: bool) -> tuple[np.ndarray, bool]:
    """i64 [N], times in which every recording goes on where the one before it ends; whether any of them is the file's own.

    A frame without a time follows the one before it by the usual step, and where that leaves no room, at an equal share of it. So
    a pause stays where the file has it.
    """
    step = _usual_step(known)
    times = np.zeros(len(known), np.int64)
    bounds = [*starts, len(known)]
    end: int | None = None
    for start, stop in pairwise(bounds):
        part = _filled(known[start:stop], step, are_shared=are_shared)
        if end is not None and len(part) and part.min() <= end:
            part = part - part.min() + end + step
        times[start:stop] = part
        end = int(part.max()) if len(part) else end
    return times, any(time is not None for time in known)


def _filled(known: Sequence[int | None], step: int, *, are_shared: bool) -> np.ndarray:
    rows = [row for row, time in enumerate(known) if time is not None]
    if not rows:
        return np.arange(len(known), dtype=np.int64) * step
    if len(rows) == len(known) and not are_shared:
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
    """i64 [N], the times of frames without those that the demuxer gave to a neighbour.

    MPEG-PS has one time for several frames, and FFmpeg now and then gives it to the frame before. Such a frame is off by about one
    step where those around it are not; a lost frame or a pause moves all that follow.
    """
    offsets = times - step * rows
    padded = np.pad(offsets, 2, mode="edge")
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    is_off = (np.abs(offsets - usual) > 0.5 * step) & (np.abs(offsets - usual) < 1.5 * step)
    return np.where(is_off, np.rint(usual + step * rows), times).astype(np.int64)


def _has_color(frame: Any) -> bool:
    """Whether a picture has chroma that is not neutral, in more than a hundredth of its places."""
    if frame.format.name.startswith("gray"):
        return False
    width, height = min(frame.width, _GLANCE_PX), min(frame.height, _GLANCE_PX)
    glance = frame.reformat(width, height, format="yuv444p", interpolation="POINT", threads=1)
    spread = [
        np.abs(plane[:height, :width].astype(np.int16) - _NEUTRAL_CHROMA) for plane in map(_lines, glance.planes[1:])
    ]
    return any(float(np.mean(each > _CHROMA_SLACK)) > 0.01 for each in spread)


def _lines(plane: Any) -> np.ndarray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


def _time_jumps(pts: np.ndarray) -> list[tuple[int, int]]:
    """Frames before which time jumps in a file of constant rate, and how many frames seem lost there.

    Rounding to the time base moves a constant rate by a few percent; a variable rate spreads wider and has no "jump".
    """
    steps = np.diff(pts)
    if len(steps) == 0:
        return []
    usual = float(np.median(steps))
    if usual <= 0:  # most frames share their times
        return []
    if float(np.mean(np.abs(steps - usual) <= 0.1 * usual)) < 0.9:
        return []
    return [(int(place) + 1, max(1, round(steps[place] / usual) - 1)) for place in np.flatnonzero(steps > 1.5 * usual)]


def _pauses(
    path: AnyPath, streams: Sequence[_Packets], table: _Table, jumps: Sequence[int], container: str
) -> tuple[int, ...]:
    """Find the jumps of time at which no frame is lost on which others lean: the camera paused, or left pictures out.

    H.264 numbers the pictures that others lean on, and HEVC names those that each one leans on, so their decoders know; of other
    codecs nobody does. A file with very many jumps is not asked.
    """
    if not jumps or len(jumps) > _MOST_JUMPS or streams[0].stream.codec_context.name not in _KNOW_THEIR_REFERENCES:
        return ()
    packet_of = dict(zip(table.decode_order.tolist(), table.packet_numbers.tolist(), strict=True))
    behind = max(packet_of[frame] for frame in jumps) + MAX_REORDER_FRAMES
    logger.info("%s: time jumps, so it is decoded once to see whether frames are lost there", path)
    missing: list[int] = []
    with ffmpeg_log(av.logging.DEBUG) as log, opened(path) as whole:
        for number, _frames, _has_failed in _decode_in_order(
            whole.chosen([each.stream.index for each in streams]), log
        ):
            if any(level <= av.logging.ERROR or text.startswith(_MISSING_REFERENCES) for level, _, text in log):
                missing.append(number)
            if number > behind:
                break
    return tuple(
        frame for frame in jumps if not any(abs(number - packet_of[frame]) <= MAX_REORDER_FRAMES for number in missing)
    )


def _frames_within(table: _Table, stream: "VideoStream", seconds: float) -> int:
    """How many frames are shown within some seconds from the first one's time."""
    if len(table.times) == 0 or not table.are_true or stream.time_base is None:
        return len(table.times)
    return int(np.searchsorted(table.times, table.times[0] + seconds / float(stream.time_base), side="right"))


def _lost_packets(
    container: "InputContainer", stream: "VideoStream", places: Sequence[int | None], *, has_complaints: bool
) -> tuple[int, int | None]:
    """How many frames the file's own index lists (0: it has none), and the first frame whose number lost packets shifted.

    An AVI has no times: its demuxer counts the packets it finds, and one that it cannot find moves all that follow.
    """
    listed = getattr(stream, "index_entries", None)  # PyAV 15
    if container.format.name != "avi" or listed is None:
        return (0 if container.format.name == "avi" else int(stream.frames)), None
    if has_complaints and max(len(listed), len(places)) < stream.frames:  # the index is damaged as well
        return int(stream.frames), 0
    entries = [entry for entry in listed if entry.size > 0]  # an empty chunk says that the picture before it stays
    if len(entries) <= len(places):
        return len(entries), None
    header_bytes = 8
    for number, (entry, place) in enumerate(zip(entries, places, strict=False)):
        if place is not None and place != entry.pos + header_bytes:
            return len(entries), number
    return len(entries), len(places)


def _is_wiped(packet: Any, codec: Any) -> bool:
    """Whether a packet holds more zeros in a row than its codec ever writes: a hole in the file.

    H.264 and HEVC allow two inside a NAL unit (7.4.1.1, emulation prevention), and where start codes stand before the units any
    number behind one; eight are asked for, since one real file has four. VP8 and VP9 allow any, and have never shown 64.
    """
    if codec.name in ("vp8", "vp9"):
        return bytes(64) in bytes(packet)
    if codec.name not in _KNOW_THEIR_REFERENCES or bytes(8) not in (data := bytes(packet)):
        return False
    has_lengths = (codec.extradata or b"")[
        :1
    ] == b"\1"  # avcC and hvcC: a length before each unit, in place of start codes
    return (_HOLE_OR_END if has_lengths else _HOLE).search(data) is not None


def _suspect_ranges(
    decode_order: np.ndarray,
    keyframes: np.ndarray,
    corrupt: Sequence[int],
    jumps: Sequence[int],
    complaints: Sequence[int],
    lost_from: int | None,
    *,
    lost: Sequence[int],
    wiped: Sequence[int],
    joins: Sequence[int],
    contradicted: tuple[int, int] | None,
    has_complaints: bool,
    slack: int,
    num_ahead: int,
) -> np.ndarray:
    """i64 [S, 2]: what follows marked packets, lost ones, and bytes that made no sense.

    A packet that was lost before frame n was stored at most a reordering before it. Nothing leans on it from the next key frame on;
    but the first packet behind senseless bytes is no key frame only because it says so. What is wrong with a packet may have begun
    in the one before. From packet `lost_from` on numbers are wrong. Some of the first `num_ahead` frames are damaged, and nobody
    tells which. A recording that begins with another frame than a key frame leans on what is not there.
    """
    damage = Damage(decode_order, keyframes, slack=slack)
    row_of = np.argsort(decode_order)
    if num_ahead > 0:
        damage.mark(0, num_ahead)
    for packet in complaints:
        for neighbour in decode_order[max(0, packet - 1) : packet + 1].tolist():
            damage.add(neighbour)
    if lost_from is not None and len(decode_order) > 0:
        damage.add(int(decode_order[min(max(0, lost_from - 1), len(decode_order) - 1)]))
        damage.mark(max(0, int(decode_order[lost_from:].min(initial=lost_from)) - slack), len(decode_order))
    for frame in corrupt:
        # And what is missing may have been the beginning of the next.
        packet = int(row_of[frame])
        for neighbour in decode_order[max(0, packet - 1) : packet + 2].tolist():
            damage.add(neighbour)
    for frame in lost:  # what made the packet undecodable may have begun in the one before
        for neighbour in decode_order[max(0, row_of[frame] - 1) : row_of[frame] + 1].tolist():
            damage.add(neighbour)
    for frame in wiped:
        damage.add(frame)
    if contradicted is not None:
        damage.mark(*contradicted)
    is_key = np.isin(np.arange(len(decode_order)), keyframes)
    for frame in joins:
        if not is_key[frame]:
            damage.add(frame)
    reorder = reorder_of(decode_order)
    for frame in jumps:
        for affected in range(max(0, frame - reorder), frame):
            if not is_key[affected]:
                damage.mark(affected, affected + 1)
        if not is_key[frame] or has_complaints:
            damage.add(frame)
    return damage.ranges()


def _time_base(stream: "VideoStream", fps: Fraction, *, are_true: bool) -> Fraction:
    if are_true and stream.time_base is not None:
        return stream.time_base
    return 1 / fps if fps > 0 else Fraction(1, 25)
