"""Decode with decord: on request, and on the GPU if its build has CUDA.

It is only used where it was measured to be exact: a constant or variable rate mp4, mkv or avi without edit list and with frames
in order, read from frame 0, its count and times equal to the scan's. Elsewhere it repeats or skips frames silently, so `why_not`
refuses.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from infraredcity.clips import ColorMode
from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.files.path import is_remote
from infraredcity.video.container import key_frame_sizes
from infraredcity.video.decoders import Decoder
from infraredcity.video.types import FrameRange, OnFrame, VideoInfo

_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


def why_not(info: VideoInfo, device: str) -> str | None:
    """Say why decord would give wrong frames of this file, or cannot use the device."""
    if is_remote(info.path):
        return "decord reads only local files"
    if device != "cpu":
        reason = cuda_error(int(device.partition(":")[2] or 0))
        if reason is not None:
            return f"this build of decord has no CUDA ({reason}); build it from source with -DUSE_CUDA=ON"
    if not any(name in info.container for name in _CONTAINERS):
        return f"decord loses frames of {info.container} without saying so"
    if info.suspect:
        return f"decord does not tell damage, and here {info.suspect[0]}"
    if info.other_streams or len(info.streams) > 1:
        return "decord may show another one of its video streams"
    if (info.width_px % 2 or info.height_px % 2) and "444" not in info.pixel_format:
        return f"decord blurs colours of the odd size {info.width_px}x{info.height_px}"
    if info.num_hidden:
        return f"an edit list hides {info.num_hidden} packets, which decord shows"
    if not info.is_timed:
        return "packets lack times, so decord's frames cannot be checked"
    if info.counted_by:
        return f"decord takes packets for frames, and here {info.counted_by}"
    if info.container == "avi" and info.has_reordering:
        return "decord mixes up AVI frames that are stored out of order"
    if info.rotation_deg:
        return f"decord turns the picture by {info.rotation_deg} degrees; extraction keeps it as stored"
    if info.is_deep or info.pixel_format.startswith("gray") or "10" in info.pixel_format or "12" in info.pixel_format:
        return f"decord cuts {info.pixel_format} to 8 bits without saying so"
    sizes = key_frame_sizes(info.path, info.streams)
    if len(sizes) > 1:
        return f"decord brings its pictures of {', '.join(f'{width}x{height}' for width, height in sizes)} to one size"
    return None


def cuda_error(device_index: int = 0) -> str | None:
    """Say in decord's own words what keeps it from NVDEC; None if it gets a CUDA context."""
    decord = _import()
    try:
        decord.nd.empty((1,), ctx=decord.gpu(device_index))
    except Exception as error:  # decord raises its own DECORDError, defined in a private module
        return str(error).strip().splitlines()[-1]
    return None


@dataclass(frozen=True, slots=True, eq=False)
class DecordFrame:
    """One decoded frame; see `types.Decoded`."""

    frame_index: int
    pts: int
    rgb: np.ndarray
    is_suspect: bool = False
    """decord does not report damage; it is refused for files in which the scan finds some."""

    def picture(self, color: ColorMode) -> np.ndarray:
        """See `types.Decoded.picture`."""
        return self.rgb if color == "rgb" else _luma(self.rgb)

    def at(self, frame_index: int, pts: int) -> "DecordFrame":
        """See `types.Decoded.at`."""
        return replace(self, frame_index=frame_index, pts=pts)


def decode(
    info: VideoInfo, frames: FrameRange, *, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
) -> Iterator[DecordFrame]:
    """Yield the asked frames, read in order from the first; see `decoders.DecodeFile`. All behind a frame to avoid stays missing.

    Raises:
        VideoDecodeError: decord cannot open the file or the device, or counts other frames than the scan.
    """
    decord = _import()
    context = decord.cpu(0) if device == "cpu" else decord.gpu(int(device.partition(":")[2] or 0))
    try:
        reader = decord.VideoReader(str(info.path), ctx=context, num_threads=0)
    except Exception as error:
        raise VideoDecodeError(f"{info.path}: decord cannot open it; use --decoder pyav") from error
    if len(reader) != info.num_frames:
        raise VideoDecodeError(
            f"{info.path}: decord counts {len(reader)} frames, the file holds {info.num_frames}; use --decoder pyav"
        )
    _check_times(info, reader)
    stop = min([frames.stop_frame, *(first for first, _ in avoid if first >= frames.start_frame)])
    for frame_index in range(stop):
        try:
            picture = reader.next().asnumpy()
        except Exception as error:
            raise VideoDecodeError(
                f"{info.path}: decord stops at frame {frame_index}; use --decoder pyav, which reads on behind damage"
            ) from error
        on_frame(frame_index)
        if frame_index in frames:
            yield DecordFrame(frame_index, int(info.pts[frame_index]), picture)


def _check_times(info: VideoInfo, reader: Any) -> None:
    """Check that decord has the scan's times, since else its order cannot be trusted."""
    starts_s = np.asarray(reader.get_frame_timestamp(range(info.num_frames)))[:, 0]
    expected_s = info.pts.astype(np.float64) * float(info.time_base)
    worst_s = float(np.abs((starts_s - starts_s[0]) - (expected_s - expected_s[0])).max())
    tolerance_s = 0.5 * float(np.diff(expected_s).min()) if info.num_frames > 1 else 1.0
    if worst_s > tolerance_s:
        raise VideoDecodeError(
            f"{info.path}: decord's frame times differ from the file's by up to {worst_s:.3f} s; use --decoder pyav"
        )


def _luma(picture: np.ndarray) -> np.ndarray:
    """Turn u8 [H, W, 3] R, G, B to u8 [H, W, 1] by the weights of ITU-R BT.601; a neutral picture keeps its level."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    gray: np.ndarray = np.rint(picture.astype(np.float32) @ weights).astype(np.uint8)[:, :, None]
    return gray


def _why_no_gpu() -> str | None:
    """Say why decord cannot use the first GPU, without the time and the line of its source that its message begins with."""
    reason = cuda_error()
    if reason is None:
        return None
    plain = re.sub(r"^(\[[0-9:]+\] )?\S+\.(cc|cpp|h):[0-9]+: (Check failed: )?(allow_missing )?", "", reason).strip(
        ". "
    )
    return f"{plain}; PyPI's build has no CUDA: build decord from source with -DUSE_CUDA=ON"


def _import() -> Any:
    try:
        import decord
    except (ModuleNotFoundError, OSError) as error:
        raise MissingExtraError("decord", extra="decord", needed_for="--decoder decord") from error
    return decord


DECODER = Decoder(
    name="decord",
    libraries={"decord": ("decord", "eva-decord")},
    can_start_anywhere=False,
    auto_devices=("cuda",),
    exact_on="mp4, mkv or avi, in order, no edit list",
    instead="--decoder pyav",
    why_not=why_not,
    why_no_gpu=_why_no_gpu,
    decode=decode,
)
