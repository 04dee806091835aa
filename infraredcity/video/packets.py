"""Read the packets of a file's video streams in one pass of the demuxer, and choose the streams that hold the video."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infraredcity.errors import VideoDecodeError
from infraredcity.video.container import FFmpegError, OpenVideo, decoder_of, reason_of
from infraredcity.video.picture_facts import PictureFacts

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_HEAD_PACKETS = 32
_NUM_LOOKS = 16
_LOOK_EACH_OF_HEAD = 4
KNOW_THEIR_REFERENCES = frozenset(["h264", "hevc"])
"""Codecs whose decoders notice that a picture is missing to which others refer; they never write many zeros in a row either."""
_HOLE = re.compile(rb"(?<!\0)\0{8,}[^\0\1]")
_HOLE_OR_END = re.compile(rb"(?<!\0)\0{8,}([^\0\1]|\Z)")


@dataclass(frozen=True, slots=True)
class Packet:
    """What is kept of a packet."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_corrupt: bool
    is_discard: bool
    """Whether an edit list hides it."""
    pos: int | None
    """Where in the file it stands, in bytes; None where the container does not say."""
    size: int
    has_palette: bool
    is_wiped: bool
    """Whether it holds more zeros in a row than its codec ever writes."""


@dataclass(slots=True, eq=False)
class StreamPackets:
    """The packets of one stream, and what a decoder shows of some on the way: the first ones, then key frames here and there."""

    stream: "VideoStream"
    size_bytes: int
    """Size of the file."""
    packets: list[Packet] = field(default_factory=list)
    pictures: PictureFacts = field(default_factory=PictureFacts)
    digest: Any = field(default_factory=hashlib.sha256)
    complaints: list[tuple[int, str]] = field(default_factory=list)
    """Where the demuxer complained: the number of the next packet, and its words."""
    delay: int = 0
    """See `VideoInfo.delay_frames`."""
    shown_by_head: list[int] = field(default_factory=list)
    """Of each picture that the first packets show, the packet that shows it."""
    num_head: int = 0
    """How many first packets were decoded in a row."""
    is_head_over: bool = False
    num_bytes: int = 0
    """Bytes of all packets so far."""
    next_look: float = 0.0
    """Share of the file from which on the next key frame is looked at."""

    def __post_init__(self) -> None:
        decoder_of(self.stream, is_logged=True)

    def add(self, packet: Any) -> None:
        """Take the stream's next packet."""
        self.packets.append(
            Packet(
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
                    self.pictures.add(frame)
                self.shown_by_head.extend(frame.opaque or ())
        except FFmpegError:  # damage, which decoding will meet again and mark
            pass

    def _look_at_key(self, packet: Any) -> None:
        """Decode a key frame without its past: if nothing is shown, it refers to others, as with periodic intra refresh."""
        codec = self.stream.codec_context
        self.next_look = self.num_bytes / self.size_bytes + 1 / _NUM_LOOKS
        try:
            frames = list(codec.decode(packet))
            frames += codec.decode(None)
        except FFmpegError:
            return
        finally:
            codec.flush_buffers()
        for frame in frames:
            self.pictures.add(frame)
        if not packet.is_discard and not any(frame.key_frame for frame in frames):
            self.pictures.num_false_keys += 1


class VideoPackets:
    """The packets of a file's video: those of one stream, or of several where the video goes on in another one.

    Args:
        streams: The streams in the order in which they begin.
    """

    def __init__(self, streams: Sequence[StreamPackets]) -> None:
        self.streams = tuple(streams)
        self.stream = streams[0].stream
        """The stream in which the video begins."""
        self.codec = str(self.stream.codec_context.name)
        self.indices = tuple(each.stream.index for each in streams)
        """Numbers of the streams in the file."""
        self.packets = [packet for each in streams for packet in each.packets]
        self.pictures = PictureFacts.of_all([each.pictures for each in streams])
        self.starts: list[int] = []
        """Number of each stream's first packet."""
        self.complaints: dict[int, str] = {}
        """What the demuxer complained of, by the number of the next packet."""
        start = 0
        for each in streams:
            self.starts.append(start)
            self.complaints |= {start + number: text for number, text in each.complaints}
            start += len(each.packets)

    @property
    def num_hidden(self) -> int:
        """Packets that an edit list hides."""
        return sum(packet.is_discard for packet in self.packets)

    @property
    def sha256(self) -> str:
        """Hash over the bytes of all packets."""
        if len(self.streams) == 1:
            return str(self.streams[0].digest.hexdigest())
        return hashlib.sha256(b"".join(each.digest.digest() for each in self.streams)).hexdigest()


def read_packets(file: OpenVideo, log: list[Any]) -> tuple[dict[int, StreamPackets], str | None]:
    """Read the packets of each stream; return them by the stream's number, and why reading stopped before the end, if it did."""
    by_stream = {stream.index: StreamPackets(stream, file.size_bytes) for stream in file.streams}
    failure = None
    latest = next(iter(by_stream.values()))
    del log[:]
    try:
        for packet in file.packets():
            latest = by_stream[packet.stream_index]
            latest.complain(video_complaints(file, log))
            latest.add(packet)
            del log[:]  # these are a decoder's words, not the demuxer's
    except FFmpegError as error:
        failure = reason_of(error)
    latest.complain(video_complaints(file, log))  # of what stood behind the last packet that could be found
    for each in by_stream.values():
        each.end_head()
    return by_stream, failure


def video_complaints(file: OpenVideo, log: Sequence[Any]) -> list[str]:
    """Take the texts of FFmpeg's log, without those of sound decoders that FFmpeg shows the first packets."""
    sound = {
        stream.codec_context.name for stream in file.container.streams.audio if getattr(stream, "codec_context", None)
    }
    return [text for _, who, text in log if who not in sound]


def choose_streams(file: OpenVideo, by_stream: dict[int, StreamPackets], wanted: int | None) -> VideoPackets:
    """Choose the streams to read; see `scan.scan`.

    Raises:
        VideoDecodeError: There is no stream `wanted`.
    """
    if wanted is not None:
        if wanted not in by_stream:
            there = ", ".join(map(str, by_stream))
            raise VideoDecodeError(f"{file.path}: has no video stream {wanted} that can be decoded; there is {there}")
        return VideoPackets([by_stream[wanted]])
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
    return VideoPackets(chain)


def _is_wiped(packet: Any, codec: Any) -> bool:
    """Whether a packet holds more zeros in a row than its codec ever writes: a hole in the file.

    H.264 and HEVC allow two inside a NAL unit (7.4.1.1, emulation prevention), and where start codes stand before the units any
    number behind one; eight are asked for, since one real file has four. VP8 and VP9 allow any, and have never shown 64.
    """
    if codec.name in ("vp8", "vp9"):
        return bytes(64) in bytes(packet)
    if codec.name not in KNOW_THEIR_REFERENCES or bytes(8) not in (data := bytes(packet)):
        return False
    # avcC and hvcC: a length before each unit, in place of start codes
    has_lengths = (codec.extradata or b"").startswith(b"\1")
    return (_HOLE_OR_END if has_lengths else _HOLE).search(data) is not None
