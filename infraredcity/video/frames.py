"""What a video is known to hold before it is decoded, and what decoding gives: the types that every decoder shares."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from infraredcity.catalog import ColorMode

BATCH_FRAMES = 8
"""Frames that travel together between decoder and encoder: enough to keep both busy, small enough to keep memory bounded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoInfo:
    """One video file's facts, from demuxing it once without decoding.

    Attributes:
        path: The file.
        num_frames: Packets that will be shown; decoding confirms it.
        pts: i64 [num_frames], presentation times in units of `time_base`, ascending; a frame's index is its place here.
        time_base: Seconds per unit of pts.
        keyframes: i64 [K], frame indices of key frames, ascending.
        nominal_fps: The rate the container states, in frames per second.
        height_px: Height of the decoded picture, before any rotation that metadata asks for.
        width_px: Width of it.
        pixel_format: FFmpeg's name of the decoded format, such as "yuv420p".
        codec: FFmpeg's name of the codec, such as "h264".
        container: FFmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2".
        rotation_deg: Rotation that a player would apply; we keep the stored picture.
        num_hidden: Packets that an edit list hides; they are decoded and not shown.
        is_timed: Whether every packet has a pts of its own. If not, frames are counted from the start instead.
        has_reordering: Whether frames are stored in another order than they are shown (B-frames).
        size_bytes: Size of the file.
        packets_sha256: Hash over the bytes of the video packets: the same for the same pictures in a remuxed file.
        suspect: What makes the file less than trustworthy, one phrase each; empty for a clean one.
    """

    path: Path
    num_frames: int
    pts: np.ndarray
    time_base: Fraction
    keyframes: np.ndarray
    nominal_fps: float
    height_px: int
    width_px: int
    pixel_format: str
    codec: str
    container: str
    rotation_deg: int
    num_hidden: int
    is_timed: bool
    has_reordering: bool
    size_bytes: int
    packets_sha256: str
    suspect: tuple[str, ...]

    @property
    def is_seekable(self) -> bool:
        """Whether a segment may start by a seek: MPEG-TS and files without times are read from their start."""
        return self.is_timed and self.container != "mpegts"

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's time to one nominal frame after the last one's."""
        if self.num_frames == 0:
            return 0.0
        shown = float((int(self.pts[-1]) - int(self.pts[0])) * self.time_base)
        return shown + (1.0 / self.nominal_fps if self.nominal_fps > 0 else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameBatch:
    """Consecutive decoded frames of one file and one size.

    Attributes:
        data: u8 [N, H, W, C], C is 1 (gray) or 3 (R, G, B), 0..255 full range.
        frame_indices: i64 [N], ascending; a missing number is a frame that could not be decoded.
        pts: i64 [N], in units of the file's time_base.
    """

    data: np.ndarray
    frame_indices: np.ndarray
    pts: np.ndarray

    def __post_init__(self) -> None:
        if self.data.dtype != np.uint8 or self.data.ndim != 4 or self.data.shape[3] not in (1, 3):
            raise ValueError(
                f"FrameBatch.data must be u8 [N, H, W, 1 or 3], got {self.data.dtype} {list(self.data.shape)}"
            )
        if not len(self.data) == len(self.frame_indices) == len(self.pts):
            raise ValueError(
                f"FrameBatch has {len(self.data)} frames, {len(self.frame_indices)} indices, {len(self.pts)} times"
            )


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
        return frame_index in range(self.start_frame, self.stop_frame, self.step)


@runtime_checkable
class Decoder(Protocol):
    """What every decoder offers; `video.pyav` and `video.decord` are the two that exist."""

    def why_not(self, info: VideoInfo, device: str) -> str | None:
        """Why this decoder must not be used for the file on the device ("cpu" or "cuda:N"), or None when it may."""
        ...

    def read_frames(
        self, info: VideoInfo, frames: FrameRange, *, color: ColorMode, device: str
    ) -> Iterator[FrameBatch]:
        """The asked frames in ascending order; one that cannot be decoded is left out, never replaced."""
        ...


class BatchBuilder:
    """Collects single pictures into FrameBatches, each picture copied once, a batch ended by a change of size."""

    def __init__(self) -> None:
        self._data: np.ndarray | None = None
        self._indices: list[int] = []
        self._pts: list[int] = []

    def add(self, picture: np.ndarray, frame_index: int, pts: int) -> FrameBatch | None:
        """Take u8 [H, W, C]; returns a batch when one is full or a new size ends the last one."""
        finished = None
        if self._data is not None and self._data.shape[1:] != picture.shape:
            finished = self.flush()
        if self._data is None:
            self._data = np.empty((BATCH_FRAMES, *picture.shape), np.uint8)
        self._data[len(self._indices)] = picture
        self._indices.append(frame_index)
        self._pts.append(pts)
        # A size change leaves one picture in the new batch, so it cannot be full as well.
        return self.flush() if len(self._indices) == BATCH_FRAMES else finished

    def flush(self) -> FrameBatch | None:
        """What was collected so far, or None."""
        if self._data is None or not self._indices:
            return None
        count = len(self._indices)
        batch = FrameBatch(
            data=self._data[:count],
            frame_indices=np.array(self._indices, np.int64),
            pts=np.array(self._pts, np.int64),
        )
        self._data, self._indices, self._pts = None, [], []
        return batch
