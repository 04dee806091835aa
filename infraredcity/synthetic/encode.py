"""Write video, H.264 and 16-bit FFV1; the only module of this room that uses PyAV."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infraredcity.errors import MissingExtraError, OutputError
from infraredcity.files.atomic import publish
from infraredcity.files.temporary import temporary_beside

try:
    import av
    from av.codec.context import Flags
except ImportError as error:
    raise MissingExtraError("av", extra="extract", needed_for="infraredcity sample") from error

# The same frames give the same bytes on every run. Besides more than one thread, the macroblock tree breaks that: with
# MALLOC_PERTURB_ set to 0, 77 and 165 the same 60 frames gave three files (libx264 of PyAV 18.1), without it one.
_OPTIONS = {"preset": "veryfast", "crf": "16", "g": "48", "threads": "1", "x264-params": "mbtree=0"}
_BT601, _LIMITED_RANGE = 6, 1
# Each frame for itself, in a fixed number of slices: with more threads the encoder would choose another.
_LOSSLESS_OPTIONS = {
    "level": "3",
    "coder": "range_def",
    "context": "0",
    "g": "1",
    "slices": "4",
    "slicecrc": "1",
    "threads": "1",
}
# H.264 carries luma in 16..235; gray pictures keep their chroma neutral, exactly.
_LUMA = np.rint(16.0 + np.arange(256) * (219.0 / 255.0)).astype(np.uint8)


class _Writer:
    """A video for writing; it appears at its path only when the block ends without an error."""

    def __init__(
        self,
        path: Path,
        *,
        codec: str,
        options: dict[str, str],
        container: dict[str, str],
        size: tuple[int, int],
        fps: int,
    ) -> None:
        self._path = path
        self._temporary = temporary_beside(path)
        self._fps = fps
        self._num_frames = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._temporary), "w", options=container)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
        stream: Any = self._container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        self._stream = stream

    def _append(self, frame: av.VideoFrame) -> None:
        frame.pts = self._num_frames
        frame.time_base = Fraction(1, self._fps)
        self._num_frames += 1
        self._container.mux(self._stream.encode(frame))

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


class VideoWriter(_Writer):
    """An mp4 of pictures for viewing, H.264.

    Args:
        path: The video; its suffix is .mp4.
        width_px: Even width.
        height_px: Even height.
        fps: Frames per second.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, path: Path, *, width_px: int, height_px: int, fps: int) -> None:
        super().__init__(
            path,
            codec="libx264",
            options=_OPTIONS,
            container={"movflags": "+faststart"},
            size=(width_px, height_px),
            fps=fps,
        )
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.colorspace = _BT601
        self._stream.codec_context.color_primaries = _BT601
        self._stream.codec_context.color_trc = _BT601
        self._stream.codec_context.color_range = _LIMITED_RANGE

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append a frame: gray [H, W] or RGB [H, W, 3]."""
        if picture.ndim == 2:
            height, width = picture.shape
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = _LUMA[picture]
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        else:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._append(frame)

    def __enter__(self) -> "VideoWriter":
        return self


class CountsWriter(_Writer):
    """A Matroska file of a sensor's counts, 16 bits and lossless (FFV1, gray16le).

    Args:
        path: The video; its suffix is .mkv.
        width_px: Width.
        height_px: Height.
        fps: Frames per second; Matroska rounds times to milliseconds.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, path: Path, *, width_px: int, height_px: int, fps: int) -> None:
        super().__init__(
            path,
            codec="ffv1",
            options=_LOSSLESS_OPTIONS,
            # Without it the muxer writes a random id and its version.
            container={"fflags": "+bitexact"},
            size=(width_px, height_px),
            fps=fps,
        )
        self._stream.pix_fmt = "gray16le"
        self._stream.codec_context.flags |= Flags.bitexact

    def add(self, counts: NDArray[np.uint16]) -> None:
        """Append a frame [H, W]."""
        self._append(av.VideoFrame.from_ndarray(np.ascontiguousarray(counts), format="gray16le"))

    def __enter__(self) -> "CountsWriter":
        return self
