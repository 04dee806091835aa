"""The frames of a clip as batches of pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infraredcity.clips import ColorMode
from infraredcity.video.clip import ClipVideo, decode
from infraredcity.video.decoders import DecoderName
from infraredcity.video.types import FrameRange

BATCH_FRAMES = 8
"""The most frames of a batch: enough to keep the next step busy, few enough to keep memory bounded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameBatch:
    """Consecutive decoded frames of one clip and one size."""

    data: np.ndarray
    """u8 [N, H, W, C], C is 1 (gray) or 3 (R, G, B), 0..255 full range; u16 [N, H, W, 1] for counts."""
    frame_indices: np.ndarray
    """i64 [N], ascending; a missing number is a frame that could not be decoded."""
    pts: np.ndarray
    """i64 [N], in units of the clip's time_base."""

    def __post_init__(self) -> None:
        channels = {np.dtype(np.uint8): (1, 3), np.dtype(np.uint16): (1,)}.get(self.data.dtype, ())
        if self.data.ndim != 4 or self.data.shape[3] not in channels:
            raise ValueError(
                f"FrameBatch.data must be u8 [N, H, W, 1 or 3] or u16 [N, H, W, 1], "
                f"got {self.data.dtype} {list(self.data.shape)}"
            )
        if not len(self.data) == len(self.frame_indices) == len(self.pts):
            raise ValueError(
                f"FrameBatch has {len(self.data)} frames, {len(self.frame_indices)} indices, {len(self.pts)} times"
            )


def read_frames(
    video: ClipVideo, frames: FrameRange, *, color: ColorMode, decoder: DecoderName = "pyav", device: str = "cpu"
) -> Iterator[FrameBatch]:
    """Yield the asked frames of a clip in ascending order as batches of pixels, in bounded memory.

    Args:
        video: The clip as `open_clip` found it.
        frames: Which frames; indices run through all chunks.
        color: "gray" gives C = 1, "rgb" gives C = 3.
        decoder: A name that `choose_decoder` returned.
        device: "cpu" or "cuda:N".

    Yields:
        Batches whose indices and pts are the clip's, each ended by the next size. A frame that cannot be decoded is left out.
    """
    data = np.empty((0, 0, 0, 0), np.uint8)
    indices: list[int] = []
    pts: list[int] = []

    def end_batch() -> Iterator[FrameBatch]:
        if indices:
            yield FrameBatch(
                data=data[: len(indices)], frame_indices=np.array(indices, np.int64), pts=np.array(pts, np.int64)
            )
            indices.clear()
            pts.clear()

    for frame in decode(video, frames, decoder=decoder, device=device):
        picture = frame.picture(color)
        if (picture.shape, picture.dtype) != (data.shape[1:], data.dtype):
            yield from end_batch()
        if not indices:
            data = np.empty((BATCH_FRAMES, *picture.shape), picture.dtype)
        data[len(indices)] = picture
        indices.append(frame.frame_index)
        pts.append(frame.pts)
        if len(indices) == BATCH_FRAMES:
            yield from end_batch()
    yield from end_batch()
