"""The types that every decoder shares: the facts of a video, a decoded frame, a range of frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np

from infraredcity.clips import ColorMode
from infraredcity.files.path import AnyPath

_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
OnFrame = Callable[[int], None]
NO_TIME = np.iinfo(np.int64).min
"""The time in `VideoInfo.packet_pts` of a packet without one."""
MAX_REORDER_FRAMES = 16
"""The most frames by which H.264 and HEVC reorder."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoInfo:
    """One video file's facts: from demuxing it, and if its packets do not tell its frames, from decoding it once as well."""

    path: AnyPath
    """The file, local or remote."""
    num_frames: int
    """Frames that a decoder shows, and those that it cannot show because of damage."""
    pts: np.ndarray
    """i64 [num_frames], presentation times in units of `time_base`, ascending; a frame's index is its place here."""
    time_base: Fraction
    """Seconds per unit of pts."""
    keyframes: np.ndarray
    """i64 [K], frame indices of key frames, ascending."""
    nominal_fps: float
    """The rate the container states, in frames per second."""
    height_px: int
    """Height of the decoded picture, before any rotation by a player."""
    width_px: int
    """Width of the decoded picture."""
    pixel_format: str
    """FFmpeg's name of the decoded format, such as "yuv420p"."""
    codec: str
    """FFmpeg's name of the codec, such as "h264"."""
    container: str
    """FFmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2"."""
    rotation_deg: int
    """Rotation that a player would apply, counter-clockwise; we keep the stored picture."""
    pixel_aspect: Fraction
    """Width of a pixel divided by its height, as a player would show it; 1 if the file does not say. We keep the stored pixels."""
    hdr: str
    """"PQ" or "HLG" where levels follow such a curve of high dynamic range; "" elsewhere. We keep the stored levels."""
    num_hidden: int
    """Packets that an edit list hides; they are decoded and not shown."""
    num_silent: int
    """Packets that show no picture of their own, such as VP8's alternate references and second fields."""
    num_headless: int
    """Packets at the beginning that refer to a key frame before the file's beginning, and so cannot be shown."""
    streams: tuple[int, ...]
    """Numbers of the streams that hold the video: one, or several where it goes on in another one in the middle of the file."""
    other_streams: tuple[str, ...]
    """The other video streams of the file, a phrase each, such as "stream 1: h264 640x512; --stream 1 takes it"."""
    delay_frames: int
    """Packets that the decoder takes in before it shows a first frame."""
    counted_by: str
    """Why the file was decoded once to count its frames; "" if its packets tell them."""
    is_timed: bool
    """Whether every frame has a time of its own in the file, and its clock runs once from start to end."""
    can_seek: bool
    """Whether a decoder that starts in the middle has all it needs; a palette, say, comes only with the first packet."""
    decode_order: np.ndarray
    """i64 [num_frames], frame index of each packet that shows one, in the order of the file; ascending but for B-frames."""
    frame_packets: np.ndarray
    """i64 [num_frames], number of that packet among all packets of `streams`; beside `decode_order`."""
    packet_pts: np.ndarray
    """i64 [num_packets], time of each packet as the file has it; `NO_TIME` where it has none."""
    suspect_ranges: np.ndarray
    """i64 [S, 2], half-open ranges of frames that are suspect before anything is decoded."""
    time_jumps: np.ndarray
    """i64 [J], frames before which time jumps, the clock restarts or the stream changes: a recording begins, or frames are lost."""
    recordings: tuple[int, ...]
    """Those of them at which another recording begins: files were joined, so the clock restarts or the stream changes."""
    pauses: tuple[int, ...]
    """Those of them before which the camera paused, or left pictures out, and no frame is lost to which others refer."""
    has_color: bool
    """Whether a picture has chroma that is not neutral, of those looked at all over the file."""
    is_deep: bool
    """Whether its luma are counts, as thermal cameras write: more than 8 bits, and no picture that was looked at has colour."""
    size_bytes: int
    """Size of the file."""
    whole_packets: tuple[int, ...]
    """Packets that the demuxer calls corrupt only because another recording begins there."""
    packets_sha256: str
    """Hash over the bytes of the video packets: the same for the same pictures in a remuxed file."""
    suspect: tuple[str, ...]
    """What is wrong with the file, one phrase each; empty for a sound one."""

    @property
    def is_seekable(self) -> bool:
        """Whether decoding may start by a seek; others are read from their start (MPEG-PS even has other times after a seek)."""
        return self.is_timed and self.can_seek and self.container in _SEEKABLE

    @property
    def has_reordering(self) -> bool:
        """Whether frames are stored in another order than they are shown (B-frames)."""
        return self.reorder_frames > 0

    @property
    def reorder_frames(self) -> int:
        """The most frames that are shown before some frame and decoded after it; the most that can be if times do not tell."""
        if self.is_timed:
            return reorder_of(self.decode_order)
        return MAX_REORDER_FRAMES if self.delay_frames else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What is good to know before the file's frames are used though nothing is wrong, a phrase each."""
        found = []
        if self.counted_by:
            found.append(f"decoded once to count its frames: {self.counted_by}")
        if self.num_silent:
            found.append(f"{self.num_silent} of {len(self.packet_pts)} packets show no picture of their own")
        if self.num_headless:
            found.append(
                f"its first {self.num_headless} packets lean on a key frame that is not in the file, and show nothing"
            )
        if self.recordings:
            found.append(f"another recording begins at frame {_some(self.recordings)}; no window spans that")
        if self.pauses:
            found.append(f"a pause without lost frames before frame {_some(self.pauses)}; no window spans that")
        if self.rotation_deg:
            found.append(f"rotation: players turn its pictures by {self.rotation_deg} degrees; they are kept as stored")
        if self.pixel_aspect != 1:
            aspect = f"{self.pixel_aspect.numerator}:{self.pixel_aspect.denominator}"
            found.append(f"pixel aspect: players show its pixels {aspect} wide; they are kept as stored")
        if self.hdr:
            found.append(f"high dynamic range: its levels follow {self.hdr}; they are kept as stored, which looks flat")
        if len(self.streams) > 1:
            found.append(f"its video goes on in another stream: {_some(self.streams)} are read one behind the other")
        found += [f"not read: {other}" for other in self.other_streams]
        return tuple(found)

    def next_key(self, frame_index: int) -> int:
        """Find the first key frame at or after a frame; num_frames if none follows."""
        place = int(np.searchsorted(self.keyframes, frame_index))
        return int(self.keyframes[place]) if place < len(self.keyframes) else self.num_frames

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's time to one nominal frame after the last one's."""
        if self.num_frames == 0:
            return 0.0
        shown = float((int(self.pts[-1]) - int(self.pts[0])) * self.time_base)
        return shown + (1.0 / self.nominal_fps if self.nominal_fps > 0 else 0.0)


def _some(numbers: Sequence[int]) -> str:
    """Write the first few of some numbers, for people."""
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def reorder_of(decode_order: np.ndarray) -> int:
    """Count the most frames that come after some frame in `decode_order` (i64 [N]) and have a smaller index."""
    later_and_smaller = np.zeros(len(decode_order), np.int64)
    for distance in range(1, min(MAX_REORDER_FRAMES, len(decode_order) - 1) + 1):
        later_and_smaller[:-distance] += decode_order[distance:] < decode_order[:-distance]
    return int(later_and_smaller.max(initial=0))


@runtime_checkable
class Decoded(Protocol):
    """One decoded frame, its pixels still as the codec stores them; conversions are thread-safe and free of the GIL."""

    @property
    def frame_index(self) -> int:
        """0-based index in the clip."""
        ...

    @property
    def pts(self) -> int:
        """Presentation time in units of the clip's time_base."""
        ...

    @property
    def is_suspect(self) -> bool:
        """Whether the frame follows damage and no key frame has come since."""
        ...

    def picture(self, color: ColorMode) -> np.ndarray:
        """Convert to u8 [H, W, C], 0..255 full range, C is 1 for "gray" and 3 for "rgb"; of deep video u16 [H, W, 1] counts."""
        ...

    def at(self, frame_index: int, pts: int) -> "Decoded":
        """Return the same picture with another index and time: those of the clip, for a file that is one of its chunks."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRange:
    """The frames start_frame, start_frame + step, ... below stop_frame."""

    start_frame: int
    stop_frame: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.start_frame < 0 or self.stop_frame < self.start_frame or self.step < 1:
            raise ValueError(f"not a range of frames: {self.start_frame}:{self.stop_frame}:{self.step}")

    def __len__(self) -> int:
        return len(range(self.start_frame, self.stop_frame, self.step))

    def __contains__(self, frame_index: int) -> bool:
        inside = self.start_frame <= frame_index < self.stop_frame
        return inside and (frame_index - self.start_frame) % self.step == 0
