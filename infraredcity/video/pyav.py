"""Decode with PyAV, which is exact on every class of file we know as long as it reads in order (see `scan`).

Every packet carries its number through the decoder, and the scan knows which frame each one shows. A listed frame that never comes
out is a missing one, and a frame that was never listed is an error; neither passes unseen. Behind a seek a packet is known by its
time, and by the packet before it where several share one.

One thread decodes. FFmpeg's frame threads lose good frames around damage, a cut file's last ones without a word (measured: 2 of
20), and now and then the flag of a damaged frame (1 of 3). Encoding takes more time than decoding, so on two cores nothing is lost
by it, and on more of them workers share the clip.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from operator import itemgetter
from typing import Any

import numpy as np

from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.video.container import LOG_WARNING, FFmpegError, OpenVideo, decoder_of, ffmpeg_log, opened, reason_of
from infraredcity.video.damage import Damage
from infraredcity.video.decoders import Decoder
from infraredcity.video.pyav_frame import PyavFrame, detached
from infraredcity.video.types import NO_TIME, FrameRange, OnFrame, VideoInfo

try:
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

# A seek lands on the key frame at or before its target, and around an open GOP or B-frames that may still be too late for
# the target itself; 12 frames earlier it never was in 80 seeks over every container but MPEG-TS, which is read from the start.
_SEEK_MARGIN_FRAMES = 12
_MAX_UNKNOWN_FRAMES = 8
_DAMAGE_ONLY_IN_LOG = ("mjpeg", "hevc")
"""Codecs whose decoders tell some damage only in warnings; those of a decoder's own threads would not come into the log."""
_DAMAGE_IN_LOG = ("overread", "error y=", "error count", "mjpeg_decode_dc", "Skipping invalid undecodable NALU")
"""These warnings; others come of whole files too, such as "EOI missing" of cameras that leave it out."""


def why_not(info: VideoInfo, device: str) -> str | None:
    """Say why PyAV must not be used: it reads everything on the CPU, and on a GPU what NVDEC can decode."""
    if device == "cpu":
        return None
    if info.is_deep:
        return f"NVDEC does not decode {info.pixel_format}"
    return cuda_error(_device_index(device), info.codec)


def cuda_error(device_index: int = 0, codec: str = "h264") -> str | None:
    """Say what keeps PyAV from NVDEC, None if nothing does; PyAV's own wheels carry it for Linux and Windows."""
    if "cuda" not in hwdevices_available():
        return "this build of PyAV has no NVDEC; install the wheel from PyPI (pip install av)"
    try:
        _hwaccel(device_index).create(av.Codec(codec, "r"))
    except (FFmpegError, RuntimeError, NotImplementedError, ValueError) as error:
        return f"no NVDEC for {codec} on GPU {device_index} ({reason_of(error)}); an NVIDIA driver must be installed"
    return None


def _hwaccel(device_index: int) -> HWAccel:
    return HWAccel("cuda", device=str(device_index), allow_software_fallback=False)


def _device_index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def decode(
    info: VideoInfo, frames: FrameRange, *, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
) -> Iterator[PyavFrame]:
    """Yield the asked frames, decoded in order; see `decoders.DecodeFile`.

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
    """Frames of one file in order, and what is known of its damage.

    In all methods no packet from that of frame `limit` on is given to the decoder.
    """

    def __init__(
        self, info: VideoInfo, wanted: FrameRange, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
    ) -> None:
        self._info = info
        self._wanted = wanted
        # Where each n-th frame is asked for and nothing is in doubt, those to which no other refers need not be decoded.
        self._is_sparse = wanted.step > 1 and info.is_timed and not info.counted_by and not info.suspect
        self._hwaccel = None if device == "cpu" else _hwaccel(_device_index(device))
        self._avoid = sorted(avoid)
        self._on_frame = on_frame
        self._is_logged = info.codec in _DAMAGE_ONLY_IN_LOG
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
        self._next_frame = 0

    def frames(self, start: int, stop: int) -> Iterator[PyavFrame]:
        """Yield the frames from `start` to before `stop` that can be decoded."""
        self._next_frame = start
        while self._next_frame < stop:
            ends = [end for first, end in self._avoid if first <= self._next_frame < end]
            if ends:  # what hung the decoder is not given to it again: these frames stay missing
                self._next_frame = ends[0]
                continue
            limit = min((first for first, _ in self._avoid if first > self._next_frame), default=self._info.num_frames)
            is_damaged = self._damage.covers(self._next_frame)
            for frame in self._part(self._next_frame, limit, is_damaged=is_damaged):
                self._next_frame = frame.frame_index + 1
                if frame.frame_index >= stop:
                    return
                yield frame

    def _part(self, start: int, limit: int, *, is_damaged: bool) -> Iterator[PyavFrame]:
        """Yield the frames from `start` to where a damaged part begins or ends; set `_next_frame` to that end.

        Around damage FFmpeg fills in what its picture buffers held before, and goes on writing into pictures that it gave away. So
        a damaged part gets a decoder of its own, which begins before its first frame wherever reading began, and every picture is
        copied at once: then they are the same each time.
        """
        anchor = self._damage.start_of(start) if is_damaged else start
        for number, frame in self._in_order(anchor, limit, is_copied=is_damaged):
            if number < start:
                continue
            is_suspect = self._damage.covers(number)
            # Where decoding cannot begin in the middle, one decoder goes on behind a damaged part.
            if is_suspect != is_damaged and (is_suspect or self._info.is_seekable):
                self._next_frame = number
                return
            yield PyavFrame(number, int(self._info.pts[number]), is_suspect, frame, self._info.is_deep)
        self._next_frame = max(start, limit)

    def _in_order(self, anchor: int, limit: int, *, is_copied: bool) -> Iterator[tuple[int, Any]]:
        """Yield frames from a key frame at or before `anchor` on, each after what was stored behind it has come out as well."""
        held: list[tuple[int, Any]] = []
        expected = -1
        for number, frame in self._events(anchor, limit):
            if expected < 0:
                expected = min(number, anchor) if number >= 0 else 0
            if frame is None:
                self._damage.add(number if number >= 0 else min(expected, self._info.num_frames - 1))
                continue
            if number < expected:  # shown twice, or too late
                continue
            if frame.is_corrupt and (frame.opaque or (-1,))[0] not in self._info.whole_packets:
                self._damage.add(number)
            for early, _ in held:
                if early > number:  # the decoder knows the order, so that one's time is wrong
                    self._damage.mark(early, early + 1)
            insort(held, (number, detached(frame) if is_copied else frame), key=itemgetter(0))
            if len(held) > self._num_held:
                self._mark_missing(expected, held[0][0])
                expected = held[0][0] + 1
                yield held.pop(0)
        for number, frame in held:
            self._mark_missing(expected, number)
            expected = number + 1
            yield number, frame
        self._mark_missing(expected, min(limit, self._info.num_frames))

    def _mark_missing(self, expected: int, number: int) -> None:
        """Mark what is damaged because the frames from `expected` to before `number` did not come."""
        for missing in range(max(expected, 0), number):
            if not self._is_sparse or missing in self._wanted:
                self._damage.add(missing)

    def _events(self, target: int, limit: int) -> Iterator[_Event]:
        """Yield events from a sound key frame at or before `target` on, or from the file's beginning."""
        entry = max((end for _, end in self._avoid if end <= target), default=None)
        seeks: list[int] = []
        if self._info.is_seekable:
            near = target - _SEEK_MARGIN_FRAMES
            seeks = [place for place in (near, self._key_before(near) - _SEEK_MARGIN_FRAMES) if place > 0]
        if entry is not None:
            seeks = [place for place in seeks if self._key_before(place) >= entry]
        for seek_to in seeks:
            events = self._decoded(seek_to, limit)
            for number, frame in events:
                if frame is not None and number <= target and self._is_sound_key(number, frame):
                    yield number, frame
                    yield from events
                    return
                if number >= target:  # the seek led too far, or its key frame cannot be decoded
                    break
        yield from self._decoded(None, limit, entry=entry)

    def _is_sound_key(self, number: int, frame: Any) -> bool:
        """Whether decoding may begin at a frame: the decoder itself calls it a key frame, and not only its packet."""
        return bool(self._is_key[number] and frame.key_frame and not frame.is_corrupt)

    def _key_before(self, frame_index: int) -> int:
        """Find the last key frame at or before a frame; 0 when there is none."""
        keys = self._info.keyframes
        place = int(np.searchsorted(keys, frame_index, side="right")) - 1
        return int(keys[place]) if place >= 0 else 0

    def _decoded(self, seek_to: int | None, limit: int, *, entry: int | None = None) -> Iterator[_Event]:
        """Open the file, seek, decode; give the decoder no packet before that of frame `entry`."""
        info = self._info
        with opened(info.path, self._hwaccel) as whole:
            file = whole.chosen(info.streams)
            target = entry if entry is not None and info.is_seekable else seek_to
            try:
                if target is not None:
                    file.seek(int(info.pts[target]))
            except FFmpegError:  # a file without the table that seeking needs
                if entry is None:
                    return
            codec = decoder_of(file.streams[0], is_logged=self._is_logged)
            num_shown: Counter[int] = Counter()
            num_unknown = 0
            before = -1
            is_inside = entry is None
            for number, packet in self._numbered(file, is_at_start=target is None):
                is_inside = is_inside or number == entry
                is_over = packet is None or number >= limit
                if not is_over and not is_inside:
                    continue
                if self._is_sparse:
                    codec.skip_frame = "DEFAULT" if number < 0 or number in self._wanted else "NONREF"
                frames: list[Any] = []
                if packet is not None and packet.stream.codec_context is not codec:  # the video goes on in this one
                    with suppress(FFmpegError):
                        frames += codec.decode(None)
                    codec = decoder_of(packet.stream, is_logged=self._is_logged)
                is_damaged = False
                try:
                    with self._log_of_decoder() as log:
                        frames += codec.decode(None if is_over else packet)
                    is_damaged = any(text.startswith(_DAMAGE_IN_LOG) for _, _, text in log)
                except av.EOFError:  # flushed before
                    return
                except FFmpegError:
                    # Its frame stays missing, and the caller names it as a gap. Where the scan decoded the file, a packet without
                    # a frame is one that refers to what was before the file's beginning: nothing is missing.
                    # What makes a packet undecodable may have begun in the one before, whose picture need not show it.
                    if number >= 0 or not info.counted_by:
                        if before >= 0:
                            yield before, None
                        yield number, None
                if number >= 0 and is_damaged:
                    yield number, None
                before = number
                for frame in frames:
                    (shown_by,) = frame.opaque or (-1,)
                    indices = self._frames_of_packet.get(shown_by, [])
                    if num_shown[shown_by] == len(indices):
                        num_unknown += 1
                        self._check_unknown(frame, num_unknown)
                        continue
                    index = indices[num_shown[shown_by]]
                    num_shown[shown_by] += 1
                    self._on_frame(index)
                    yield index, frame
                if is_over:
                    return

    def _numbered(self, file: OpenVideo, *, is_at_start: bool) -> Iterator[tuple[int, Any]]:
        """Yield each packet with the first frame that it shows (-1: none), and None at the end of the file.

        A seek that the container cannot do leaves the reader somewhere; then only times tell where that is.
        """
        packets = file.packets_in_turn()
        packet_number = -1 if is_at_start else None
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # the scan named this as damage; what the decoder still holds is good
                packet = None
            if packet is None:
                yield -1, None
                return
            by_time = self._packet_at.get(packet.pts)
            if by_time is not None:
                packet_number = by_time
            elif packet_number is not None:
                packet_number += 1
            else:
                continue
            packet.opaque = (packet_number,)  # PyAV keeps these by identity: a tuple of its own for each packet
            yield self._frames_of_packet.get(packet_number, [-1])[0], packet

    def _log_of_decoder(self) -> AbstractContextManager[list[tuple[int, str, str]]]:
        """Collect FFmpeg's warnings where only they tell damage; it costs a little."""
        return ffmpeg_log(LOG_WARNING) if self._is_logged else nullcontext([])

    def _check_unknown(self, frame: Any, count: int) -> None:
        if count > _MAX_UNKNOWN_FRAMES or len(self._info.suspect) == 0:
            raise VideoDecodeError(
                f"{self._info.path}: decoding shows a frame at pts {frame.pts} that the scan did not find; "
                "the file changed while it was read, or its index is wrong: remux it, then try again"
            )


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
