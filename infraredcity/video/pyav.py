"""PyAV, the decoder that splitting trusts: read in order it is exact on every class of file we know (see `scan`).

Every packet carries its number through the decoder, and the scan knows which frame each one shows. A listed frame that never comes
out is a missing one, and a frame that was never listed is an error; neither passes unseen. Behind a seek a packet is known by its
time, and by the packet before it where several share one.

One thread decodes. FFmpeg's frame threads lose good frames around damage, a cut file's last ones without a word (measured: 2 of
20), and now and then the flag of a damaged frame (1 of 3). Encoding takes more time than decoding, so on two cores nothing is lost
by it, and on more of them workers share the clip.
"""

import threading
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np

from infraredcity.clips import ColorMode
from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.video.container import decoder_of, ffmpeg_log, opened, reason_of
from infraredcity.video.damage import Damage
from infraredcity.video.decoders import Decoder
from infraredcity.video.types import NO_TIME, FrameRange, OnFrame, VideoInfo

try:
    import av
    import av.filter
    import av.logging
    from av.codec.hwaccel import HWAccel, hwdevices_available
    from av.video.reformatter import ColorRange
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

# A seek lands on the key frame at or before its target, and around an open GOP or B-frames that may still be too late for
# the target itself; 12 frames earlier it never was in 80 seeks over every container but MPEG-TS, which is read from the start.
_SEEK_MARGIN_FRAMES = 12
_MAX_UNKNOWN_FRAMES = 8
_SAY_IT_IN_THEIR_LOG = ("mjpeg", "hevc")
"""Codecs whose decoders tell damage in warnings alone; where they have threads, some are not heard."""
_DAMAGE_IN_LOG = ("overread", "error y=", "error count", "mjpeg_decode_dc", "Skipping invalid undecodable NALU")
"""These warnings; others come of whole files too, such as "EOI missing" of cameras that leave it out."""
# Formats whose first plane is 8-bit luma.
_LUMA_FIRST = frozenset(
    ["gray", "nv12", "nv21"]
    + [f"{kind}{chroma}p" for kind in ("yuv", "yuvj") for chroma in (410, 411, 420, 422, 440, 444)]
)
# ITU-R BT.601-7, 2.5.1: luma 16 is black and 235 white; here 0 and 255.
_BLACK, _WHITE = 16, 235
_thread = threading.local()


def why_not(info: VideoInfo, device: str) -> str | None:
    """PyAV reads everything on the CPU, and on a GPU what NVDEC can decode."""
    if device == "cpu":
        return None
    if info.is_deep:
        return f"NVDEC does not decode {info.pixel_format}"
    return cuda_error(_device_index(device), info.codec)


def cuda_error(device_index: int = 0, codec: str = "h264") -> str | None:
    """What keeps PyAV from NVDEC, or None when a decoder can be had; PyAV's own wheels carry it for Linux and Windows."""
    if "cuda" not in hwdevices_available():
        return "this build of PyAV has no NVDEC; install the wheel from PyPI (pip install av)"
    try:
        _hwaccel(device_index).create(av.Codec(codec, "r"))
    except (av.FFmpegError, RuntimeError, NotImplementedError, ValueError) as error:
        return f"no NVDEC for {codec} on GPU {device_index} ({reason_of(error)}); an NVIDIA driver must be installed"
    return None


def _hwaccel(device_index: int) -> HWAccel:
    return HWAccel("cuda", device=str(device_index), allow_software_fallback=False)


def _device_index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


@dataclass(frozen=True, slots=True, eq=False)
class PyavFrame:
    """One decoded frame; see `types.Decoded`."""

    frame_index: int
    pts: int
    is_suspect: bool
    frame: Any
    """PyAV's frame."""
    is_deep: bool = False
    """Whether its luma are counts, see `VideoInfo.is_deep`."""

    def picture(self, color: ColorMode) -> np.ndarray:
        """See `types.Decoded.picture`. 8-bit luma is brought to full range as it lies there; the rest goes through swscale."""
        name = self.frame.format.name
        if self.is_deep:
            counts = _first_plane(self.frame, 1, ">u2" if name.endswith("be") else "<u2")
            return counts.astype(np.uint16, copy=False)
        if color == "rgb":
            return _first_plane(_converted(self.frame, "rgb24"), 3)
        if name not in _LUMA_FIRST:
            return _first_plane(_converted(self.frame, "gray"), 1)
        luma = _first_plane(self.frame, 1)
        is_full_range = name.startswith(("yuvj", "gray")) or self.frame.color_range == ColorRange.JPEG
        return luma if is_full_range else _full_range(luma)

    def planes(self) -> bytes:
        """The planes as the codec stores them, one after the other, without the padding at the end of lines."""
        return b"".join(
            bytes(line[: _line_bytes(self.frame, number)])
            for number, plane in enumerate(self.frame.planes)
            for line in _lines(plane)
        )

    def at(self, frame_index: int, pts: int) -> "PyavFrame":
        """See `types.Decoded.at`."""
        return replace(self, frame_index=frame_index, pts=pts)


def decode(
    info: VideoInfo, frames: FrameRange, *, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
) -> Iterator[PyavFrame]:
    """The asked frames, decoded in order; see `decoders.DecodeFile`.

    Raises:
        VideoDecodeError: The file changed since it was scanned, or shows frames that its packets did not announce.
        RemoteError: It is remote, and its bytes do not come.
    """
    for frame in _Reader(info, frames, device, avoid, on_frame).frames(frames.start_frame, frames.stop_frame):
        if frame.frame_index in frames:
            yield frame


_Event = tuple[int, Any]
"""A frame's index and the decoded frame; or the index of a packet that could not be decoded (-1: not known) and None."""


class _Reader:
    """Frames of one file in order, and what is known of its damage."""

    def __init__(
        self, info: VideoInfo, wanted: FrameRange, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
    ) -> None:
        self._info = info
        self._wanted = wanted
        # Where each n-th frame is asked for and nothing is in doubt, those on which no other leans need not be decoded.
        self._is_sparse = wanted.step > 1 and info.is_timed and not info.counted_by and not info.suspect
        self._hwaccel = None if device == "cpu" else _hwaccel(_device_index(device))
        self._avoid = sorted(avoid)
        self._on_frame = on_frame
        slack = 0 if info.is_timed else info.reorder_frames
        self._damage = Damage(info.decode_order, info.keyframes, info.suspect_ranges, slack=slack)
        self._frames_of_packet: dict[int, list[int]] = {}
        for packet, frame in zip(info.frame_packets.tolist(), info.decode_order.tolist(), strict=True):
            self._frames_of_packet.setdefault(packet, []).append(frame)
        times = info.packet_pts.tolist()
        num_of_time = Counter(times)
        self._packet_at = {
            time: number for number, time in enumerate(times) if num_of_time[time] == 1 and time != NO_TIME
        }
        self._is_key = np.zeros(info.num_frames, bool)
        self._is_key[info.keyframes] = True
        # Damage shows when its frame comes out, and reaches back to frames that came out before but were stored behind it.
        self._num_held = info.reorder_frames + 1
        self._place = 0

    def frames(self, start: int, stop: int) -> Iterator[PyavFrame]:
        """The frames from `start` to before `stop` that can be had."""
        self._place = start
        while self._place < stop:
            ends = [end for first, end in self._avoid if first <= self._place < end]
            if ends:  # what hung the decoder is not shown to it again: these frames stay missing
                self._place = ends[0]
                continue
            wall = min((first for first, _ in self._avoid if first > self._place), default=self._info.num_frames)
            for frame in self._passage(self._place, wall, is_damaged=self._damage.covers(self._place)):
                self._place = frame.frame_index + 1
                if frame.frame_index >= stop:
                    return
                yield frame

    def _passage(self, start: int, wall: int, *, is_damaged: bool) -> Iterator[PyavFrame]:
        """The frames from `start` to before `wall`, or to where the damaged part begins or ends; sets `_place` to that end.

        Around damage FFmpeg fills in what its picture buffers held before, and goes on writing into pictures that it gave away. So
        a damaged part gets a decoder of its own, entered before its first frame wherever reading began, and every picture is copied
        at once: then they are the same each time.
        """
        anchor = self._damage.start_of(start) if is_damaged else start
        for number, frame in self._in_order(anchor, wall, is_copied=is_damaged):
            if number < start:
                continue
            if self._turns(number, is_damaged):
                self._place = number
                return
            is_suspect = self._damage.covers(number)
            yield PyavFrame(number, int(self._info.pts[number]), is_suspect, frame, self._info.is_deep)
        self._place = max(start, wall)

    def _in_order(self, anchor: int, wall: int, *, is_copied: bool) -> Iterator[tuple[int, Any]]:
        """Frames from a key frame at or before `anchor` on, each held until what was stored behind it has come out as well."""
        held: list[tuple[int, Any]] = []
        expected = -1
        for number, frame in self._landed(anchor, wall):
            if expected < 0:
                expected = min(number, anchor) if number >= 0 else 0
            if frame is None:
                self._damage.add(number if number >= 0 else min(expected, self._info.num_frames - 1))
                continue
            if number < expected:  # shown twice, or after its turn
                continue
            if frame.is_corrupt and (frame.opaque or (-1,))[0] not in self._info.whole_packets:
                self._damage.add(number)
            for early, _ in held:
                if early > number:  # the decoder knows the order, so that one's time is wrong
                    self._damage.mark(early, early + 1)
            insort(held, (number, _detached(frame) if is_copied else frame), key=itemgetter(0))
            if len(held) > self._num_held:
                expected = self._after(held[0][0], expected)
                yield held.pop(0)
        for number, frame in held:
            expected = self._after(number, expected)
            yield number, frame
        self._after(min(wall, self._info.num_frames), expected)

    def _after(self, number: int, expected: int) -> int:
        """The frame behind `number`; those that were expected before it and did not come are lost."""
        for missing in range(max(expected, 0), number):
            if not self._is_sparse or missing in self._wanted:
                self._damage.add(missing)
        return number + 1

    def _turns(self, number: int, is_damaged: bool) -> bool:
        """Whether a passage ends before this frame; what cannot be entered in the middle is read on as it was begun."""
        is_suspect = self._damage.covers(number)
        return is_suspect != is_damaged and (is_suspect or self._info.is_seekable)

    def _landed(self, target: int, wall: int) -> Iterator[_Event]:
        """Events from a sound key frame at or before `target` on, or from the file's beginning."""
        entrance = max((end for _, end in self._avoid if end <= target), default=None)
        seeks: list[int] = []
        if self._info.is_seekable:
            near = target - _SEEK_MARGIN_FRAMES
            seeks = [place for place in (near, self._key_before(near) - _SEEK_MARGIN_FRAMES) if place > 0]
        if entrance is not None:
            seeks = [place for place in seeks if self._key_before(place) >= entrance]
        for seek_to in seeks:
            events = self._session(seek_to, wall)
            for number, frame in events:
                if frame is not None and number <= target and self._is_sound_key(number, frame):
                    yield number, frame
                    yield from events
                    return
                if number >= target:  # the seek landed too late, or its key frame cannot be decoded
                    break
        yield from self._session(None, wall, entrance=entrance)

    def _is_sound_key(self, number: int, frame: Any) -> bool:
        """Whether decoding may begin at a frame: the decoder itself calls it a key frame, and not only its packet."""
        return bool(self._is_key[number] and frame.key_frame and not frame.is_corrupt)

    def _key_before(self, frame_index: int) -> int:
        """The last key frame at or before a frame; 0 when there is none."""
        keys = self._info.keyframes
        place = int(np.searchsorted(keys, frame_index, side="right")) - 1
        return int(keys[place]) if place >= 0 else 0

    def _session(self, seek_to: int | None, wall: int, *, entrance: int | None = None) -> Iterator[_Event]:
        """Open the file, seek, decode; no packet before `entrance` nor from that of frame `wall` on is shown to the decoder."""
        info = self._info
        with opened(info.path, self._hwaccel) as whole:
            file = whole.chosen(info.streams)
            target = entrance if entrance is not None and info.is_seekable else seek_to
            try:
                if target is not None:
                    file.seek(int(info.pts[target]))
            except av.FFmpegError:  # a file without the table that seeking needs
                if entrance is None:
                    return
            packets = file.packets_in_turn()
            is_logged = info.codec in _SAY_IT_IN_THEIR_LOG
            codec = decoder_of(file.streams[0], is_logged=is_logged)
            # A seek that the container cannot do leaves the reader somewhere; then only times tell where that is.
            packet_number = -1 if target is None else None
            num_shown: Counter[int] = Counter()
            before = -1
            num_unknown = 0
            is_inside = entrance is None
            is_readable = True
            while is_readable:
                try:
                    packet = next(packets, None)
                except av.FFmpegError:  # the scan named this as damage; what the decoder still holds is good
                    packet = None
                number = -1
                if packet is not None:
                    packet_number = self._number_of(packet, packet_number)
                    if packet_number is None:
                        continue
                    packet.opaque = (packet_number,)  # PyAV keeps these by identity: a tuple of its own for each packet
                    number = self._frames_of_packet.get(packet_number, [-1])[0]
                is_inside = is_inside or number == entrance
                is_readable = packet is not None and number < wall
                if is_readable and not is_inside:
                    continue
                if self._is_sparse:
                    codec.skip_frame = "DEFAULT" if number < 0 or number in self._wanted else "NONREF"
                decoded: list[Any] = []
                if packet is not None and packet.stream.codec_context is not codec:  # the video goes on in this one
                    with suppress(av.FFmpegError):
                        decoded += codec.decode(None)
                    codec = decoder_of(packet.stream, is_logged=is_logged)
                log: list[Any] = []
                try:
                    if is_logged:
                        with ffmpeg_log(av.logging.WARNING) as log:
                            decoded += codec.decode(packet if is_readable else None)
                    else:
                        decoded += codec.decode(packet if is_readable else None)
                except av.EOFError:  # flushed before
                    return
                except av.FFmpegError:
                    # Its frame stays missing, and whoever asked for it names it as a gap. Where the scan decoded the file, a packet
                    # without a frame is one that leans on what stands before the file's beginning: nothing is missing.
                    # What makes a packet undecodable may have begun in the one before, whose picture need not show it.
                    if number >= 0 or not info.counted_by:
                        if before >= 0:
                            yield before, None
                        yield number, None
                if number >= 0 and any(text.startswith(_DAMAGE_IN_LOG) for _, _, text in log):
                    yield number, None
                before = number
                for frame in decoded:
                    (shown_by,) = frame.opaque or (-1,)
                    frames = self._frames_of_packet.get(shown_by, [])
                    if num_shown[shown_by] == len(frames):
                        num_unknown += 1
                        self._check_unknown(frame, num_unknown)
                        continue
                    index = frames[num_shown[shown_by]]
                    num_shown[shown_by] += 1
                    self._on_frame(index)
                    yield index, frame

    def _number_of(self, packet: Any, before: int | None) -> int | None:
        """A packet's number in the file, by its time or by the packet before it; None where neither tells."""
        by_time = self._packet_at.get(packet.pts)
        if by_time is not None:
            return by_time
        return None if before is None else before + 1

    def _check_unknown(self, frame: Any, count: int) -> None:
        if count > _MAX_UNKNOWN_FRAMES or len(self._info.suspect) == 0:
            raise VideoDecodeError(
                f"{self._info.path}: decoding shows a frame at pts {frame.pts} that the scan did not find; "
                "the file changed while it was read, or its index is wrong: remux it, then try again"
            )


def _converted(frame: Any, pixel_format: str) -> Any:
    """The frame in another format, bit for bit as ffmpeg itself converts it.

    PyAV's `reformat` looks at a frame's interlacing and chroma place, which the scale filter does not: interlaced, 10-bit and
    odd-sized frames differed by up to 134 levels. Each thread has a filter graph of its own, since one for every frame is slow.
    """
    kind = (pixel_format, frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
    if getattr(_thread, "kind", None) != kind:
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        steps = (
            source,
            graph.add("scale", "flags=bicubic"),
            graph.add("format", pixel_format),
            graph.add("buffersink"),
        )
        for before, after in pairwise(steps):
            before.link_to(after)
        graph.configure()
        _thread.graph, _thread.kind = graph, kind
    if frame.pts is None:
        frame.pts = 0
    _thread.graph.push(frame)
    return _thread.graph.pull()


def _detached(frame: Any) -> Any:
    """A copy of a frame that shares no memory with the decoder."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for number, (source, target) in enumerate(zip(frame.planes, copy.planes, strict=True)):
        used = _line_bytes(frame, number)
        _lines(target)[:, :used] = _lines(source)[:, :used]
    copy.pts, copy.color_range, copy.colorspace = frame.pts, frame.color_range, frame.colorspace
    return copy


def _lines(plane: Any) -> np.ndarray:
    """A plane's memory as u8 [lines, bytes of a line with its padding]."""
    return np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, -1)


def _first_plane(frame: Any, channels: int, sample: str = "u1") -> np.ndarray:
    """A view of the frame's first plane as [H, W, C], without the padding at the end of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, sample).reshape(plane.height, -1)
    return lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _full_range(luma: np.ndarray) -> np.ndarray:
    """round(255 (Y - 16) / 219), clipped to 0..255, for u8 [H, W, 1]; half the time of a table."""
    import cv2

    gain = 255 / (_WHITE - _BLACK)
    above_black: Any = _BLACK
    found: np.ndarray = cv2.convertScaleAbs(cv2.max(luma, above_black), alpha=gain, beta=-gain * _BLACK)
    return found.reshape(luma.shape)


def _line_bytes(frame: Any, plane_number: int) -> int:
    """Bytes of one line of a plane, without padding."""
    components = [component for component in frame.format.components if component.plane == plane_number]
    if not frame.format.is_planar or not components:
        return int(frame.width * frame.format.padded_bits_per_pixel // 8)
    sample_bytes = sum(-(-component.bits // 8) for component in components)
    return int(frame.planes[plane_number].width * sample_bytes)


DECODER = Decoder(
    name="pyav",
    libraries={},  # every run needs av, to scan
    can_start_anywhere=True,
    auto_devices=("cpu", "cuda"),
    exact_on="every file read in order",
    instead="--device cpu",
    why_not=why_not,
    why_no_gpu=cuda_error,
    decode=decode,
)
