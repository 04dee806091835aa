"""Frames of the true day videos, by their index."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from infraredcity import video
from roma.errors import EvaluationError


def open_truth(path: Path) -> video.ClipVideo:
    """Open a video of 8 bits.

    Raises:
        InfraredCityError: It is no video that can be read.
        EvaluationError: It holds counts of more than 8 bits, which are no day picture.
    """
    clip = video.open_clip([path])
    deep = next((part for part in clip.files if part.is_deep), None)
    if deep is not None:
        raise EvaluationError(
            f"{path}: holds counts ({deep.pixel_format}), expected day frames of 8 bits; name the visible video"
        )
    return clip


def true_frames(clip: video.ClipVideo, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Read chosen frames of a clip from `open_truth`, in one pass: (frame index, u8 [H, W, 3]); `indices` ascend.

    Frames that cannot be decoded are left out.
    """
    wanted = set(indices)
    if not wanted:
        return
    covering = video.FrameRange(start_frame=min(indices), stop_frame=max(indices) + 1)
    for batch in video.read_frames(clip, covering, color="rgb"):
        for picture, index in zip(batch.data, batch.frame_indices.tolist(), strict=True):
            if index in wanted:
                yield index, picture
