"""Frames that come once: from a pipe (YUV4MPEG2 or raw pictures), a network stream or a camera of this machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np

from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.files.urls import shown, split
from infraredcity.video.container import reason_of
from infraredcity.video.pyav_frame import PyavFrame

try:
    import av
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

_RAW = re.compile(r"(\d+)x(\d+):([a-z0-9_]+)(?:@(\d+(?:\.\d+)?|\d+/\d+))?")
_MOST_SIDE_PX = 16_384


@runtime_checkable
class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Return at most `size` bytes, none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFormat:
    """What a stream of raw pictures without a header holds."""

    width_px: int
    height_px: int
    pixel_format: str
    """FFmpeg's name, such as "gray", "gray16le", "yuv420p" or "rgb24"."""
    fps: Fraction = Fraction(25)

    @classmethod
    def parse(cls, text: str) -> "RawFormat":
        """Read WIDTHxHEIGHT:FORMAT[@FPS], such as 640x512:gray16le@25.

        Raises:
            ValueError: It is of another form, or FFmpeg has no such format.
        """
        found = _RAW.fullmatch(text)
        if found is None:
            raise ValueError(f"expected WIDTHxHEIGHT:FORMAT@FPS such as 640x512:gray16le@25, got {text[:80]!a}")
        width, height = int(found[1]), int(found[2])
        if not (0 < width <= _MOST_SIDE_PX and 0 < height <= _MOST_SIDE_PX):
            raise ValueError(f"sides must be 1 to {_MOST_SIDE_PX:,} pixels, got {width}x{height}")
        try:
            av.VideoFormat(found[3], width, height)
        except ValueError as error:
            raise ValueError(
                f"FFmpeg has no pixel format {found[3]}, expected one such as gray, gray16le, yuv420p"
            ) from error
        fps = Fraction(found[4] or 25)
        if fps <= 0:
            raise ValueError(f"frames per second must be above 0, got {found[4]}")
        return cls(width_px=width, height_px=height, pixel_format=found[3], fps=fps)


class OpenStream:
    """An open stream; its pictures come once."""

    def __init__(self, container: Any, *, name: str, stem: str, stall_s: float | None) -> None:
        self._container = container
        self._video = container.streams.video[0]
        self._stall_s = stall_s
        self.name, self.stem = name, stem
        rate = self._video.average_rate or self._video.guessed_rate
        self.fps = float(rate) if rate else 0.0

    def pictures(self) -> Iterator[tuple[np.ndarray, int, Fraction]]:
        """Yield gray pictures, u8 or, of counts, u16 [H, W, 1], with their time and its unit, until the stream ends.

        More than 8 bits without chroma count as counts. A packet that cannot be decoded is passed over.

        Raises:
            VideoDecodeError: No frame came within the deadline, or the connection broke.
        """
        number = 0
        packets = self._container.demux(self._video)
        while True:
            try:
                packet = next(packets, None)
            except av.error.ExitError as error:
                raise VideoDecodeError(
                    f"{self.name}: stalled, no frame for {self._stall_s:g} s; check the camera, or wait longer with --stall"
                ) from error
            except av.error.EOFError:
                return
            except (av.FFmpegError, OSError) as error:
                raise VideoDecodeError(f"{self.name}: the stream broke ({reason_of(error)}); start it again") from error
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                parts = frame.format.components
                is_deep = parts[0].bits > 8 and len(parts) == 1
                base = frame.time_base or self._video.time_base or Fraction(1, 25)
                yield PyavFrame(number, 0, False, frame, is_deep).picture("gray"), _time(frame, number), base
                number += 1

    def close(self) -> None:
        """Close the connection."""
        self._container.close()


def open_pipe(file: Readable, *, raw: RawFormat | None = None) -> OpenStream:
    """Open a pipe.

    Args:
        file: Where its bytes come from, such as `sys.stdin.buffer`.
        raw: What it holds; None reads the header of YUV4MPEG2 (y4m).

    Raises:
        VideoDecodeError: It is empty, or no YUV4MPEG2.
    """
    options = {}
    if raw is not None:
        options = {
            "video_size": f"{raw.width_px}x{raw.height_px}",
            "pixel_format": raw.pixel_format,
            "framerate": str(raw.fps),
        }
    try:
        container = av.open(file, mode="r", format="yuv4mpegpipe" if raw is None else "rawvideo", options=options)
    except (av.FFmpegError, OSError) as error:
        expected = (
            "YUV4MPEG2 (ffmpeg ... -f yuv4mpegpipe -strict -1 -); for raw pictures give --raw WIDTHxHEIGHT:FORMAT@FPS"
        )
        raise VideoDecodeError(
            f"stdin: no stream that can be read ({reason_of(error)}), expected {expected}"
        ) from error
    return OpenStream(container, name="stdin", stem="stdin", stall_s=None)


def open_live(location: str, *, stall_s: float) -> OpenStream:
    """Open a network stream (rtsp, rtp, udp, srt, tcp, rtmp) or a camera (/dev/video0).

    Args:
        location: The URL, or the device.
        stall_s: After how long without a frame it counts as stalled; also the deadline of connecting.

    Raises:
        VideoDecodeError: Nobody answers there within the deadline, or it holds no video.
    """
    name = shown(location)
    options, kind = {}, None
    if location.startswith("/dev/video"):
        kind = "video4linux2"
    elif location.startswith("rtsp"):
        options = {"rtsp_transport": "tcp"}
    try:
        container = av.open(location, mode="r", format=kind, options=options, timeout=stall_s)
    except av.error.ExitError as error:
        raise VideoDecodeError(
            f"{name}: no stream within {stall_s:g} s; check the address, or wait longer with --stall"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise VideoDecodeError(f"{name}: cannot be opened ({reason_of(error)}); check the address") from error
    if not container.streams.video:
        container.close()
        raise VideoDecodeError(f"{name}: holds no video")
    path = location if location.startswith("/dev/video") else split(location)[1]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(path).name).strip("_") or "stream"
    return OpenStream(container, name=name, stem=stem, stall_s=stall_s)


def _time(frame: Any, number: int) -> int:
    return number if frame.pts is None else int(frame.pts)
