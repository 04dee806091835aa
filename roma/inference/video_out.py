"""Write videos: H.264 in mp4, with given frame times."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from infraredcity.files.atomic import publish
from infraredcity.files.temporary import temporary_beside
from roma.errors import EvaluationError


class VideoWriter:
    """Append frames to one open video; made by `open_video`."""

    def __init__(self, container: av.container.OutputContainer, stream: av.VideoStream, time_base: Fraction) -> None:
        self._container = container
        self._stream = stream
        self._time_base = time_base
        self._last_pts: int | None = None

    def add(self, picture: UInt8[np.ndarray, "H W 3"], pts: int) -> None:
        """Append one R, G, B frame shown from `pts` on, in units of the time base; pts must increase."""
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"times must increase, got pts {pts} after {self._last_pts}")
        self._last_pts = pts
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = pts
        frame.time_base = self._time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write the frames that the encoder still holds; called by `open_video`."""
        self._container.mux(self._stream.encode(None))


def longest_pause_s(time_base: Fraction) -> float:
    """Return the longest time between two frames that an mp4 can hold; the muxer silently drops a longer pause.

    The muxer halves the unit until it is at most 1/10,000 s, and stores a duration as a positive 32-bit number.
    """
    units_per_s = time_base.denominator
    while units_per_s < 10_000:
        units_per_s *= 2
    return (2**31 - 1) / units_per_s


@contextmanager
def open_video(
    path: Path,
    *,
    width_px: int,
    height_px: int,
    time_base: Fraction,
    fps: float,
    crf: int = 18,
    rotation_deg: int = 0,
    pixel_aspect: Fraction = Fraction(1),
) -> Iterator[VideoWriter]:
    """Open an mp4 for writing; it appears at `path` only when the block ends without an error.

    Args:
        path: Ends in .mp4.
        width_px: Width, even (4:2:0 chroma).
        height_px: Height, even.
        time_base: Seconds per unit of pts.
        fps: Nominal rate, for players; the times of frames are their pts.
        crf: x264's quality, lower is better.
        rotation_deg: Rotation that players apply, counter-clockwise.
        pixel_aspect: Width of a displayed pixel divided by its height.

    Raises:
        EvaluationError: The folder cannot be written, or the encoder is missing.
    """
    if width_px % 2 or height_px % 2:
        raise ValueError(f"a 4:2:0 video needs even sides, got {width_px}x{height_px}")
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # FFmpeg reads text before a colon as a protocol, but not after a slash.
        with av.open(
            str(temporary.absolute()), mode="w", format="mp4", options={"movflags": "+faststart"}
        ) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1_000_000) or Fraction(25))
            stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
            stream.time_base = time_base
            stream.codec_context.sample_aspect_ratio = pixel_aspect
            if rotation_deg:
                stream.set_display_rotation(rotation_deg)
            stream.codec_context.time_base = time_base
            # Without B-frames no frame is shown before it is decoded, so no edit list shifts the times.
            stream.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "threads": "1"}
            writer = VideoWriter(container, stream, time_base)
            yield writer
            writer.finish()
        publish(temporary, path)
    except (OSError, av.FFmpegError) as error:
        raise EvaluationError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)
