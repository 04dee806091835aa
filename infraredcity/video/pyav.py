"""PyAV, the decoder that splitting trusts: read in order it is exact on every class of file we know (see `probe`).

Frames are named by their pts: the scan lists the pts of every packet that will be shown, and a frame's index is its place in that
list. A listed pts that never comes out is a missing frame, one that was never listed is an error; neither passes unseen. Where
packets have no times of their own, or share them, frames are counted from the file's start instead.

One thread decodes. FFmpeg's frame threads lose good frames around damage, a cut file's last ones without a word (measured: 2 of
20), and now and then the flag of a damaged frame (1 of 3). Encoding takes more time than decoding, so on two cores nothing is lost
by it, and on more of them workers share the clip.
"""

import hashlib
import threading
from bisect import insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from infraredcity.catalog import ColorMode
from infraredcity.errors import MissingExtraError, RemoteError, VideoDecodeError
from infraredcity.places import FarPath, Place
from infraredcity.video.far import FarVideo
from infraredcity.video.frames import (
    DEEP_GRAY,
    MAX_REORDER_FRAMES,
    Damage,
    FrameRange,
    OnFrame,
    VideoInfo,
    reorder_of,
)

try:
    import av
    import av.filter
    import av.logging
    from av.codec.hwaccel import HWAccel, hwdevices_available
    from av.container import Flags
    from av.video.reformatter import ColorRange
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# A seek lands on the key frame at or before its target, and around an open GOP or B-frames that may still be too late for
# the target itself; 12 frames earlier it never was in 80 seeks over every container but MPEG-TS, which is read from the start.
_SEEK_MARGIN_FRAMES = 12
_MAX_UNKNOWN_FRAMES = 8
# How far FFmpeg reads ahead at most when it opens a file; what it complains of then stands anywhere in there.
_READ_AHEAD_S = 5.0
# Formats whose first plane is 8-bit luma.
_LUMA_FIRST = frozenset(
    ["gray", "nv12", "nv21"]
    + [f"{kind}{chroma}p" for kind in ("yuv", "yuvj") for chroma in (410, 411, 420, 422, 440, 444)]
)
# ITU-R BT.601-7, 2.5.1: luma 16 is black and 235 white; here 0 and 255.
_BLACK, _WHITE = 16, 235
_NEUTRAL_CHROMA = 128
_CHROMA_SLACK = 4
_thread = threading.local()


def scan(path: Place) -> VideoInfo:
    """Demux `path` once, and decode its first picture.

    Raises:
        VideoDecodeError: The file is missing, is no video, or has no video stream.
        RemoteError: It is far, and its bytes do not come.
    """
    # Behind bytes that make no sense the demuxer goes on with whatever looks like a packet, and says so in its log alone.
    with _demuxer_log() as log, _opened(path) as file:
        num_complaints = len(log)
        is_damaged_ahead = num_complaints > 0
        container, stream = file.container, file.stream
        codec = stream.codec_context
        shown: list[tuple[int | None, int | None, bool, bool]] = []
        places: list[int | None] = []
        complaints: list[int] = []
        num_hidden = 0
        digest = hashlib.sha256()
        damage: str | None = None
        try:
            for packet in file.packets():
                if packet.size == 0:  # the flush packet at the end
                    continue
                digest.update(packet)
                if packet.is_discard:
                    num_hidden += 1
                    continue
                if len(log) > num_complaints:
                    num_complaints = len(log)
                    complaints.append(len(shown))
                shown.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_corrupt))
                places.append(packet.pos)
        except av.FFmpegError as error:
            damage = f"demuxing stopped after {len(shown)} packets: {_reason(error)}"
        if len(log) > num_complaints:  # of what stood behind the last packet that could be found
            complaints.append(len(shown))
        complaint = log[0][2].strip() if log else None
        first = _first_picture(file)
        times = _times(shown, first.delay)
        decode_order = np.argsort(np.argsort(times.of_packets, kind="stable"))
        is_key = np.array([key for _, _, key, _ in shown], bool)
        keyframes = np.sort(decode_order[is_key])
        corrupt = [int(index) for index, (_, _, _, bad) in zip(decode_order, shown, strict=True) if bad]
        jumps = _time_jumps(times.of_frames)
        num_listed, lost_from = _lost_packets(container, stream, places, has_complaints=complaint is not None)
        suspect = []
        if damage:
            suspect.append(damage)
        if complaint is not None:
            suspect.append(f"the demuxer met damaged bytes: {complaint}")
        if num_listed > len(shown) + num_hidden:
            rest = "" if lost_from is None else f"; frames from {lost_from} on may stand under too small a number"
            suspect.append(f"the file's index lists {num_listed} frames, {len(shown) + num_hidden} are there{rest}")
        if corrupt:
            suspect.append(f"{len(corrupt)} packets are marked corrupt")
        if jumps:
            where = ", ".join(f"{frame} ({lost} lost)" for frame, lost in jumps[:5]) + (", ..." if jumps[5:] else "")
            suspect.append(f"time jumps before frame {where}: frames were dropped before the file was written")
        fps = stream.average_rate or stream.guessed_rate or 0
        return VideoInfo(
            path=path,
            num_frames=len(shown),
            pts=times.of_frames,
            time_base=_time_base(stream, times, Fraction(fps)),
            keyframes=keyframes.astype(np.int64),
            nominal_fps=float(fps),
            height_px=codec.height,
            width_px=codec.width,
            pixel_format=str(codec.pix_fmt),
            codec=codec.name,
            container=container.format.name,
            rotation_deg=first.rotation_deg,
            num_hidden=num_hidden,
            num_video_streams=len(container.streams.video),
            delay_frames=first.delay,
            is_timed=times.are_names,
            decode_order=decode_order.astype(np.int64),
            suspect_ranges=_suspect_ranges(
                decode_order,
                keyframes,
                corrupt,
                [frame for frame, _ in jumps],
                complaints,
                lost_from,
                has_complaints=complaint is not None,
                slack=0 if times.are_names or not first.delay else MAX_REORDER_FRAMES,
                num_ahead=_frames_within(times, stream, _READ_AHEAD_S) if is_damaged_ahead else 0,
            ),
            time_jumps=np.array([frame for frame, _ in jumps], np.int64),
            has_color=first.has_color,
            size_bytes=file.size_bytes,
            packets_sha256=digest.hexdigest(),
            suspect=tuple(suspect),
        )


def key_frame_sizes(info: VideoInfo) -> list[tuple[int, int]]:
    """Width and height of all key frames, each size once, in the order they come: packets do not tell when the size changes."""
    sizes: dict[tuple[int, int], None] = {}
    with _opened(info.path) as file:
        file.stream.codec_context.skip_frame = "NONKEY"
        with suppress(av.FFmpegError):
            for packet in file.packets():
                for frame in packet.decode():
                    sizes[frame.width, frame.height] = None
    return list(sizes)


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
        return f"no NVDEC for {codec} on GPU {device_index} ({_reason(error)}); an NVIDIA driver must be installed"
    return None


def _hwaccel(device_index: int) -> HWAccel:
    return HWAccel("cuda", device=str(device_index), allow_software_fallback=False)


def _device_index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


@dataclass(frozen=True, slots=True, eq=False)
class PyavFrame:
    """One decoded frame; see `frames.Decoded`."""

    frame_index: int
    pts: int
    is_suspect: bool
    frame: Any
    """PyAV's frame."""

    def picture(self, color: ColorMode) -> np.ndarray:
        """See `frames.Decoded.picture`. 8-bit luma is brought to full range as it lies there; the rest goes through swscale."""
        name = self.frame.format.name
        if name.startswith(DEEP_GRAY):
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
        """See `frames.Decoded.at`."""
        return PyavFrame(frame_index, pts, self.is_suspect, self.frame)


def decode(
    info: VideoInfo, frames: FrameRange, *, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
) -> Iterator[PyavFrame]:
    """The asked frames, decoded in order; see `frames.Decoder`.

    Raises:
        VideoDecodeError: The file changed since it was scanned, or shows frames that its packets did not announce.
        RemoteError: It is far, and its bytes do not come.
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
        # A frame on which no other leans need not be decoded where only each n-th is asked for and nothing is known to be damaged.
        self._is_sparse = wanted.step > 1 and info.is_timed and not info.suspect
        self._hwaccel = None if device == "cpu" else _hwaccel(_device_index(device))
        self._avoid = sorted(avoid)
        self._on_frame = on_frame
        slack = 0 if info.is_timed else info.reorder_frames
        self._damage = Damage(info.decode_order, info.keyframes, info.suspect_ranges, slack=slack)
        self._index_of_pts = {pts: index for index, pts in enumerate(info.pts.tolist())} if info.is_timed else {}
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
            yield PyavFrame(number, int(self._info.pts[number]), self._damage.covers(number), frame)
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
            if frame.is_corrupt:
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
                if frame is not None and number <= target and self._is_key[number] and not frame.is_corrupt:
                    yield number, frame
                    yield from events
                    return
                if number >= target:  # the seek landed too late, or its key frame cannot be decoded
                    break
        yield from self._session(None, wall, entrance=entrance)

    def _key_before(self, frame_index: int) -> int:
        """The last key frame at or before a frame; 0 when there is none."""
        keys = self._info.keyframes
        place = int(np.searchsorted(keys, frame_index, side="right")) - 1
        return int(keys[place]) if place >= 0 else 0

    def _session(self, seek_to: int | None, wall: int, *, entrance: int | None = None) -> Iterator[_Event]:
        """Open the file, seek, decode; no packet before `entrance` nor from that of frame `wall` on is shown to the decoder."""
        info = self._info
        with _opened(info.path, self._hwaccel) as file:
            file.stream.thread_type = "SLICE"  # see the module's text
            codec = file.stream.codec_context
            try:
                if entrance is not None and info.is_seekable:
                    file.seek(int(info.pts[entrance]))
                elif seek_to is not None:
                    file.seek(int(info.pts[seek_to]))
            except av.FFmpegError:  # a file without the table that seeking needs
                if entrance is None:
                    return
            packets = file.packets()
            counter = None if info.is_timed else _FrameCounter(codec)
            num_unknown = 0
            is_inside = entrance is None
            is_readable = True
            while is_readable:
                try:
                    packet = next(packets, None)
                except av.FFmpegError:  # the scan named this as damage; what the decoder still holds is good
                    packet = None
                number = -1 if packet is None else self._index_of(packet)
                is_inside = is_inside or number == entrance
                is_readable = packet is not None and packet.size > 0 and number < wall
                if is_readable and not is_inside:
                    continue
                if self._is_sparse:
                    codec.skip_frame = "DEFAULT" if number < 0 or number in self._wanted else "NONREF"
                if counter is not None and packet is not None:
                    counter.feed(packet)
                try:
                    decoded = codec.decode(packet if is_readable else None)
                except av.EOFError:  # flushed before
                    return
                except av.FFmpegError:
                    if counter is not None:
                        number = counter.fail()
                    yield number, None  # its frame stays missing, and whoever asked for it names it as a gap
                    continue
                for frame in decoded:
                    if counter is None:
                        index = self._index_of(frame)
                        if index < 0:
                            num_unknown += 1
                            self._check_unknown(frame, num_unknown)
                            continue
                    else:
                        yield from ((lost, None) for lost in counter.lost_before(frame))
                        index = counter.count()
                        if index >= info.num_frames:
                            raise VideoDecodeError(
                                f"{info.path}: decoding shows more than the {info.num_frames} frames of its packets; "
                                "remux it, then try again"
                            )
                    self._on_frame(index)
                    yield index, frame

    def _index_of(self, item: Any) -> int:
        """The index of a packet or a frame by its time; -1 where the scan did not list that."""
        return self._index_of_pts.get(item.pts, -1)

    def _check_unknown(self, frame: Any, count: int) -> None:
        if count > _MAX_UNKNOWN_FRAMES or len(self._info.suspect) == 0:
            raise VideoDecodeError(
                f"{self._info.path}: decoding shows a frame at pts {frame.pts} that the packets did not announce; "
                "the file changed while it was read, or its index is wrong: remux it, then try again"
            )


class _FrameCounter:
    """Numbers for frames without times: the place of each among all packets, those counted whose picture never came.

    A packet that a decoder drops without an error (zeroed MPEG-4) would move all numbers behind it. So each packet carries its
    number through the decoder, and one that has not come out a full reordering later is lost: numbers are right again from there
    on, and the frames between are among those that the loss makes suspect.
    """

    def __init__(self, codec: Any) -> None:
        codec.copy_opaque = True
        self._num_fed = self._num_counted = 0
        self._outstanding: list[int] = []
        self._num_twins = 0

    def feed(self, packet: Any) -> None:
        """The decoder gets this packet next."""
        packet.opaque = (self._num_fed,)  # PyAV keeps these by identity: a tuple of its own for each packet
        if packet.size and not packet.is_discard:
            self._outstanding.append(self._num_fed)
        self._num_fed += 1

    def fail(self) -> int:
        """The last packet cannot be decoded; the number that its frame would have had."""
        if self._outstanding and self._outstanding[-1] == self._num_fed - 1:
            self._outstanding.pop()
        return self.count()

    def lost_before(self, frame: Any) -> list[int]:
        """Numbers of frames that are lost for good now that `frame` comes out."""
        (number,) = frame.opaque or (-1,)
        if number in self._outstanding:
            self._outstanding.remove(number)
        else:  # two pictures in one packet; then another packet is an empty one that stands for the second
            self._num_twins += 1
        lost = []
        while self._outstanding and self._outstanding[0] < number - MAX_REORDER_FRAMES:
            self._outstanding.pop(0)
            if self._num_twins > 0:
                self._num_twins -= 1
            else:
                lost.append(self.count())
        return lost

    def count(self) -> int:
        """The next number."""
        self._num_counted += 1
        return self._num_counted - 1


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


def _time_jumps(pts: np.ndarray) -> list[tuple[int, int]]:
    """Frames before which time jumps in a file of constant rate, and how many frames seem lost there.

    Rounding to the time base moves a constant rate by a few percent; a variable rate spreads wider and has no "jump".
    """
    steps = np.diff(pts)
    if len(steps) == 0:
        return []
    usual = float(np.median(steps))
    if float(np.mean(np.abs(steps - usual) <= 0.1 * usual)) < 0.9:
        return []
    return [(int(place) + 1, max(1, round(steps[place] / usual) - 1)) for place in np.flatnonzero(steps > 1.5 * usual)]


def _frames_within(times: "_Times", stream: "VideoStream", seconds: float) -> int:
    """How many frames are shown within some seconds from the first one's time."""
    if len(times.of_frames) == 0 or not times.are_true or stream.time_base is None:
        return len(times.of_frames)
    return int(np.searchsorted(times.of_frames, times.of_frames[0] + seconds / float(stream.time_base), side="right"))


@contextmanager
def _demuxer_log() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's error messages (level, who, text) while the block runs; without threads of its own, as demuxing is."""
    before, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as log:
            yield log
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(before)


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


def _suspect_ranges(
    decode_order: np.ndarray,
    keyframes: np.ndarray,
    corrupt: Sequence[int],
    jumps: Sequence[int],
    complaints: Sequence[int],
    lost_from: int | None,
    *,
    has_complaints: bool,
    slack: int,
    num_ahead: int,
) -> np.ndarray:
    """i64 [S, 2]: what follows marked packets, lost ones, and bytes that made no sense.

    A packet that was lost before frame n was stored at most a reordering before it. Nothing leans on it from the next key frame on;
    but the first packet behind senseless bytes is no key frame only because it says so. What is wrong with a packet may have begun
    in the one before. From packet `lost_from` on numbers are wrong. Some of the first `num_ahead` frames are damaged, and nobody
    tells which.
    """
    damage = Damage(decode_order, keyframes, slack=slack)
    if num_ahead > 0:
        damage.mark(0, num_ahead)
    for packet in complaints:
        for neighbour in decode_order[max(0, packet - 1) : packet + 1].tolist():
            damage.add(neighbour)
    if lost_from is not None:
        damage.mark(max(0, int(decode_order[lost_from:].min(initial=lost_from)) - slack), len(decode_order))
    for frame in corrupt:
        # And what is missing may have been the beginning of the next.
        packet = int(np.flatnonzero(decode_order == frame)[0])
        for neighbour in decode_order[max(0, packet - 1) : packet + 2].tolist():
            damage.add(neighbour)
    is_key = np.isin(np.arange(len(decode_order)), keyframes)
    reorder = reorder_of(decode_order)
    for frame in jumps:
        for affected in range(max(0, frame - reorder), frame):
            if not is_key[affected]:
                damage.mark(affected, affected + 1)
        if not is_key[frame] or has_complaints:
            damage.add(frame)
    return damage.ranges()


@dataclass(frozen=True, slots=True)
class _FirstPicture:
    """What only a decoded picture tells."""

    rotation_deg: int = 0
    has_color: bool = True
    delay: int = 0
    """Packets that the decoder takes in before the one that makes it show a frame."""


def _first_picture(file: "_OpenVideo") -> _FirstPicture:
    try:
        file.seek(0, by_stream=False)
        num_packets = 0
        for packet in file.packets():
            decoded = file.stream.codec_context.decode(packet if packet.size else None)
            if decoded:
                delay = num_packets if packet.size else 0  # a flush shows frames at the times of their own packets
                return _FirstPicture(int(decoded[0].rotation), _has_color(decoded[0]), delay)
            num_packets += not packet.is_discard
    except RemoteError:
        raise
    except (av.FFmpegError, OSError):
        return _FirstPicture()
    return _FirstPicture()


def _has_color(frame: Any) -> bool:
    if frame.format.name.startswith("gray"):
        return False
    chroma = frame.reformat(format="yuv444p", threads=1).planes[1:]
    spread = [np.abs(np.frombuffer(memoryview(plane), np.uint8).astype(np.int16) - _NEUTRAL_CHROMA) for plane in chroma]
    return any(float(np.mean(each > _CHROMA_SLACK)) > 0.01 for each in spread)


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of a file: of its packets in their order, of its frames in theirs; whether a frame can be named by its time."""

    of_packets: np.ndarray
    of_frames: np.ndarray
    are_names: bool
    are_true: bool


def _times(shown: Sequence[tuple[int | None, int | None, bool, bool]], delay: int) -> _Times:
    """Frames have the times of their packets. Where packets have none (AVI), the frame that a packet releases has its dts.

    Source: FFmpeg's best_effort_timestamp, which ffmpeg itself uses; behind the last packet times go on by the last step.
    """
    pts = [packet[0] for packet in shown]
    dts = [packet[1] for packet in shown]
    if None not in pts:
        known = np.array(pts, np.int64)
        return _Times(known, np.sort(known), len(np.unique(known)) == len(known), True)
    if None in dts:
        numbers = np.arange(len(shown))
        return _Times(numbers, numbers, False, False)
    released = np.array(dts, np.int64)
    step = int(released[-1] - released[-2]) if len(released) > 1 else 1
    behind = released[-1] + step * np.arange(1, delay + 1)
    return _Times(np.arange(len(shown)), np.concatenate([released[delay:], behind]), False, True)


@dataclass(frozen=True, slots=True)
class _OpenVideo:
    """An open file and its first video stream; each call that makes FFmpeg read looks behind it whether the network failed."""

    container: "InputContainer"
    stream: "VideoStream"
    size_bytes: int
    far: FarVideo | None

    def packets(self) -> Iterator[Any]:
        """The stream's packets from here on; the last one is empty, to flush the decoder."""
        packets = self.container.demux(self.stream)
        while True:
            with _network(self.far):
                packet = next(packets, None)
            if packet is None:
                return
            yield packet

    def seek(self, offset: int, *, by_stream: bool = True) -> None:
        """Go to the key frame at or before a time, in units of the stream, or else of FFmpeg."""
        with _network(self.far):
            self.container.seek(offset, stream=self.stream if by_stream else None, backward=True)


@contextmanager
def _opened(path: Place, hwaccel: HWAccel | None = None) -> Iterator[_OpenVideo]:
    far = FarVideo(path) if isinstance(path, FarPath) else None
    if far is None and not path.is_file():
        raise VideoDecodeError(f"{path}: no such video file")
    size_bytes = path.stat().st_size if far is None else far.size_bytes
    if size_bytes == 0:
        raise VideoDecodeError(f"{path}: the file is empty; copy the clip again")
    try:
        with _network(far):
            container = av.open(far or str(path), mode="r", hwaccel=hwaccel)
    except RemoteError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise VideoDecodeError(
            f"{path}: not a video that can be opened ({_reason(error)}); copy it again or re-mux it"
        ) from error
    with container:
        made_up_times: Any = Flags.gen_pts.value
        container.flags &= ~made_up_times  # what FFmpeg fills in is wrong for AVI with B-frames
        if not container.streams.video:
            raise VideoDecodeError(f"{path}: holds no video stream")
        yield _OpenVideo(container, container.streams.video[0], size_bytes, far)


@contextmanager
def _network(far: FarVideo | None) -> Iterator[None]:
    """Raise what kept the bytes of a far file from coming, in place of whatever FFmpeg made of it."""
    try:
        yield
    finally:
        if far is not None and far.failure is not None:
            raise far.failure


def _time_base(stream: "VideoStream", times: _Times, fps: Fraction) -> Fraction:
    if times.are_true and stream.time_base is not None:
        return stream.time_base
    return 1 / fps if fps > 0 else Fraction(1, 25)


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
