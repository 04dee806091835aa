"""Video in: facts about a clip's files, and its frames by their true index, behind one door per decoder library.

A clip may be one file or a recording in chunks. `ClipVideo` numbers the frames of all chunks through, and gives each a time on
one axis: a chunk's first frame follows the one before it by one nominal frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from infraredcity.catalog import ColorMode
from infraredcity.errors import VideoDecodeError
from infraredcity.video.frames import Decoder, FrameBatch, FrameRange, VideoInfo

DecoderName = Literal["auto", "pyav", "decord"]
DECODERS: tuple[DecoderName, ...] = ("auto", "pyav", "decord")

__all__ = [
    "DECODERS",
    "ClipVideo",
    "ColorMode",
    "DecoderName",
    "FrameBatch",
    "FrameRange",
    "VideoInfo",
    "choose_decoder",
    "open_clip",
    "probe",
    "read_frames",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipVideo:
    """A clip's files as one sequence of frames.

    Attributes:
        parts: Facts of each file, in order.
        pts: i64 [num_frames], times in units of `time_base`, ascending over all parts.
        time_base: Seconds per unit of pts: that of the first part.
        part_starts: Frame index of each part's first frame.
    """

    parts: tuple[VideoInfo, ...]
    pts: np.ndarray
    time_base: Fraction
    part_starts: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Frames of all parts together."""
        return len(self.pts)

    @property
    def suspect(self) -> tuple[str, ...]:
        """What makes the clip less than trustworthy, each phrase behind its file's name."""
        return tuple(f"{part.path.name}: {phrase}" for part in self.parts for phrase in part.suspect)


def probe(path: Path) -> VideoInfo:
    """Facts about one video file, by demuxing it once; VideoDecodeError when it is none."""
    from infraredcity.video import pyav

    return pyav.scan(path)


def open_clip(paths: Sequence[Path]) -> ClipVideo:
    """Probe every chunk of a clip and number their frames through.

    Raises:
        VideoDecodeError: A file is no video, holds no frame, or shows pictures of another size than the first one.
    """
    parts = tuple(probe(path) for path in paths)
    first = parts[0]
    times: list[np.ndarray] = []
    starts: list[int] = []
    num_frames = 0
    for part in parts:
        if part.num_frames == 0:
            raise VideoDecodeError(f"{part.path}: holds no frame; remove it from the clip, or record it again")
        if (part.width_px, part.height_px) != (first.width_px, first.height_px):
            raise VideoDecodeError(
                f"{part.path}: pictures are {part.width_px}x{part.height_px}, those of {first.path} "
                f"{first.width_px}x{first.height_px}; chunks of one clip must have one size"
            )
        in_base = _rescale(part.pts, part.time_base, first.time_base)
        if times:
            frame_units = max(1, round(1 / (first.nominal_fps * float(first.time_base)))) if first.nominal_fps else 1
            in_base = in_base - in_base[0] + times[-1][-1] + frame_units
        times.append(in_base)
        starts.append(num_frames)
        num_frames += part.num_frames
    return ClipVideo(parts=parts, pts=np.concatenate(times), time_base=first.time_base, part_starts=tuple(starts))


def choose_decoder(video: ClipVideo, decoder: DecoderName, device: str) -> DecoderName:
    """The decoder to use for a clip: the asked one if it can be trusted with every file, PyAV for "auto" on the CPU.

    Raises:
        VideoDecodeError: The asked decoder would lie about one of the files, or cannot use the device.
    """
    name: DecoderName = ("pyav" if device == "cpu" else "decord") if decoder == "auto" else decoder
    for part in video.parts:
        reason = _door(name).why_not(part, device)
        if reason is not None:
            advice = "" if name == "pyav" else "; use --decoder pyav --device cpu"
            raise VideoDecodeError(f"{part.path}: {name} cannot be trusted with it: {reason}{advice}")
    return name


def read_frames(
    video: ClipVideo, frames: FrameRange, *, color: ColorMode, decoder: DecoderName = "pyav", device: str = "cpu"
) -> Iterator[FrameBatch]:
    """The asked frames of a clip in ascending order, in bounded memory.

    Args:
        video: The clip as `open_clip` found it.
        frames: Which frames; indices run through all chunks.
        color: "gray" gives C = 1, "rgb" gives C = 3.
        decoder: A name that `choose_decoder` returned.
        device: "cpu" or "cuda:N".

    Yields:
        Batches whose indices and pts are the clip's. A frame that cannot be decoded is left out.
    """
    door = _door(decoder)
    for part, part_start in zip(video.parts, video.part_starts, strict=True):
        part_range = _within(frames, part_start, part.num_frames)
        if len(part_range) == 0:
            continue
        for batch in door.read_frames(part, part_range, color=color, device=device):
            indices = batch.frame_indices + part_start
            yield FrameBatch(data=batch.data, frame_indices=indices, pts=video.pts[indices])


def _within(frames: FrameRange, part_start: int, num_frames: int) -> FrameRange:
    """The asked frames that fall into one part, counted from the part's first frame."""
    inside = range(frames.start_frame, frames.stop_frame, frames.step)
    skipped = max(0, -(-(part_start - frames.start_frame) // frames.step))
    inside = inside[skipped:]
    inside = range(inside.start, min(inside.stop, part_start + num_frames), frames.step)
    if len(inside) == 0:
        return FrameRange(start_frame=0, stop_frame=0, step=frames.step)
    return FrameRange(start_frame=inside.start - part_start, stop_frame=inside[-1] + 1 - part_start, step=frames.step)


def _door(name: DecoderName) -> Decoder:
    if name == "decord":
        from infraredcity.video import decord

        return decord
    from infraredcity.video import pyav

    return pyav


def _rescale(pts: np.ndarray, from_base: Fraction, to_base: Fraction) -> np.ndarray:
    ratio = from_base / to_base
    if ratio == 1:
        return pts
    return np.array([round(int(value) * ratio) for value in pts], np.int64)
