"""A frame that PyAV decoded: its pixels as gray, colour or counts, bit for bit the same on every machine."""

import threading
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from infraredcity.clips import ColorMode
from infraredcity.errors import MissingExtraError

try:
    import av
    import av.filter
    from av.video.reformatter import ColorRange
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

# Formats whose first plane is 8-bit luma.
_LUMA_FIRST = frozenset(
    ["gray", "nv12", "nv21"]
    + [f"{kind}{chroma}p" for kind in ("yuv", "yuvj") for chroma in (410, 411, 420, 422, 440, 444)]
)
# ITU-R BT.601-7, 2.5.1: luma 16 is black and 235 white; here 0 and 255.
_BLACK, _WHITE = 16, 235
_thread = threading.local()


@dataclass(frozen=True, slots=True, eq=False)
class PyavFrame:
    """One decoded frame; see `types.Decoded`."""

    frame_index: int
    pts: int
    is_suspect: bool
    frame: Any
    """PyAV's frame."""
    is_deep: bool = False
    """Whether its luma are counts, see `VideoInfo.is_deep`."""

    def picture(self, color: ColorMode) -> np.ndarray:
        """See `types.Decoded.picture`; bring 8-bit luma to full range without another step, convert the rest by swscale."""
        name = self.frame.format.name
        if self.is_deep:
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
        """Join the planes as the codec stores them, without the padding at the end of lines."""
        return b"".join(
            bytes(line[: _line_bytes(self.frame, number)])
            for number, plane in enumerate(self.frame.planes)
            for line in _lines(plane)
        )

    def at(self, frame_index: int, pts: int) -> "PyavFrame":
        """See `types.Decoded.at`."""
        return replace(self, frame_index=frame_index, pts=pts)


def _converted(frame: Any, pixel_format: str) -> Any:
    """Convert a frame to another format, bit for bit as ffmpeg itself does.

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


def detached(frame: Any) -> Any:
    """Copy a frame, so that it shares no memory with the decoder."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for number, (source, target) in enumerate(zip(frame.planes, copy.planes, strict=True)):
        used = _line_bytes(frame, number)
        _lines(target)[:, :used] = _lines(source)[:, :used]
    copy.pts, copy.color_range, copy.colorspace = frame.pts, frame.color_range, frame.colorspace
    return copy


def _lines(plane: Any) -> np.ndarray:
    """View a plane's memory as u8 [lines, bytes of a line with its padding]."""
    return np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, -1)


def _first_plane(frame: Any, channels: int, sample: str = "u1") -> np.ndarray:
    """View the frame's first plane as [H, W, C], without the padding at the end of its lines."""
    plane = frame.planes[0]
    lines = np.frombuffer(plane, sample).reshape(plane.height, -1)
    return lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _full_range(luma: np.ndarray) -> np.ndarray:
    """Compute round(255 (Y - 16) / 219), clipped to 0..255, for u8 [H, W, 1]; half the time of a table."""
    import cv2

    gain = 255 / (_WHITE - _BLACK)
    above_black: Any = _BLACK
    found: np.ndarray = cv2.convertScaleAbs(cv2.max(luma, above_black), alpha=gain, beta=-gain * _BLACK)
    return found.reshape(luma.shape)


def _line_bytes(frame: Any, plane_number: int) -> int:
    """Count the bytes of one line of a plane, without padding."""
    components = [component for component in frame.format.components if component.plane == plane_number]
    if not frame.format.is_planar or not components:
        return int(frame.width * frame.format.padded_bits_per_pixel // 8)
    sample_bytes = sum(-(-component.bits // 8) for component in components)
    return int(frame.planes[plane_number].width * sample_bytes)
