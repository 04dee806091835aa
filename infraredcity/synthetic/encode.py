"""Writes H.264 video; the one place of this room that knows PyAV."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from infraredcity.errors import MissingExtraError, OutputError
from infraredcity.storage import publish, temporary_beside

try:
    import av
except ImportError as error:
    raise MissingExtraError("av", extra="extract", needed_for="infraredcity sample") from error

# The same frames give the same bytes on every run. Besides more than one thread, the macroblock tree breaks that: with
# MALLOC_PERTURB_ set to 0, 77 and 165 the same 60 frames gave three files (libx264 of PyAV 18.1), without it one.
_OPTIONS = {"preset": "veryfast", "crf": "16", "g": "48", "threads": "1", "x264-params": "mbtree=0"}
_BT601, _LIMITED_RANGE = 6, 1
# H.264 carries luma in 16..235; gray pictures keep their chroma neutral, exactly.
_LUMA = np.rint(16.0 + np.arange(256) * (219.0 / 255.0)).astype(np.uint8)


class VideoWriter:
    """An mp4 that appears under its name when the block ends well, and not at all when it does not.

    Args:
        path: Where the video will be; its suffix is .mp4.
        width_px: Even width.
        height_px: Even height.
        fps: Frames per second.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, path: Path, *, width_px: int, height_px: int, fps: int) -> None:
        self._path = path
        self._temporary = temporary_beside(path)
        self._fps = fps
        self._num_frames = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w", options={"movflags": "+faststart"})
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
        stream = self._container.add_stream("libx264", rate=fps, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_primaries = _BT601
        stream.codec_context.color_trc = _BT601
        stream.codec_context.color_range = _LIMITED_RANGE
        self._stream = stream

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append a frame: gray [H, W] or RGB [H, W, 3]."""
        if picture.ndim == 2:
            height, width = picture.shape
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = _LUMA[picture]
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        else:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self._num_frames
        frame.time_base = Fraction(1, self._fps)
        self._num_frames += 1
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if error is None:
                publish(self._temporary, self._path)
        except OSError as failure:
            reason = (failure.strerror or str(failure)).lower()
            raise OutputError(f"{self._path}: cannot be written: {reason}") from failure
        finally:
            self._temporary.unlink(missing_ok=True)
