"""decord, the second decoder: on request, and on the GPU where its build has CUDA.

It is only used where it was measured to be exact: a constant or variable rate mp4, mkv or avi without edit list and with frames
in order, read from frame 0, its count and times equal to the scan's. Elsewhere it repeats or skips frames without a word, so
`why_not` refuses.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from infraredcity.catalog import ColorMode
from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.video.frames import BatchBuilder, FrameBatch, FrameRange, VideoInfo

_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")


def why_not(info: VideoInfo, device: str) -> str | None:
    """Why decord would lie about this file, or cannot use the device."""
    if not any(name in info.container for name in _CONTAINERS):
        return f"decord loses frames of {info.container} without saying so"
    if info.num_hidden:
        return f"an edit list hides {info.num_hidden} packets, which decord shows"
    if not info.is_timed:
        return "packets lack times, so decord's frames cannot be checked"
    if info.container == "avi" and info.has_reordering:
        return "decord mixes up AVI frames that are stored out of order"
    if info.rotation_deg:
        return f"decord turns the picture by {info.rotation_deg} degrees; extraction keeps it as stored"
    if info.pixel_format.startswith("gray") or "10" in info.pixel_format or "12" in info.pixel_format:
        return f"decord cuts {info.pixel_format} to 8 bits without saying so"
    return None


def cuda_error(device_index: int = 0) -> str | None:
    """What keeps decord from NVDEC, in its own words, or None when a CUDA context can be had."""
    decord = _import()
    try:
        decord.nd.empty((1,), ctx=decord.gpu(device_index))
    except Exception as error:  # decord raises its own DECORDError, defined in a private module
        return str(error).strip().splitlines()[-1]
    return None


def read_frames(info: VideoInfo, frames: FrameRange, *, color: ColorMode, device: str) -> Iterator[FrameBatch]:
    """The asked frames, read in order from the first; see `frames.Decoder`.

    Raises:
        VideoDecodeError: decord cannot open the file or the device, or counts other frames than the scan.
    """
    decord = _import()
    if device.startswith("cuda"):
        device_index = int(device.partition(":")[2] or 0)
        reason = cuda_error(device_index)
        if reason is not None:
            raise VideoDecodeError(
                f"--device {device}: this build of decord has no CUDA ({reason}); build decord from source with "
                "-DUSE_CUDA=ON, or use --device cpu"
            )
        context = decord.gpu(device_index)
    else:
        context = decord.cpu(0)
    try:
        reader = decord.VideoReader(str(info.path), ctx=context, num_threads=0)
    except Exception as error:
        raise VideoDecodeError(f"{info.path}: decord cannot open it; use --decoder pyav") from error
    if len(reader) != info.num_frames:
        raise VideoDecodeError(
            f"{info.path}: decord counts {len(reader)} frames, the file holds {info.num_frames}; use --decoder pyav"
        )
    _check_times(info, reader)
    builder = BatchBuilder()
    for frame_index in range(frames.stop_frame):
        try:
            picture = reader.next().asnumpy()
        except Exception as error:
            raise VideoDecodeError(
                f"{info.path}: decord stops at frame {frame_index}; use --decoder pyav, which reads on behind damage"
            ) from error
        if frame_index not in frames:
            continue
        if color == "gray":
            picture = _luma(picture)
        batch = builder.add(picture, frame_index, int(info.pts[frame_index]))
        if batch is not None:
            yield batch
    last = builder.flush()
    if last is not None:
        yield last


def _check_times(info: VideoInfo, reader: Any) -> None:
    """What decord takes for the frames' times must be the scan's, or its order cannot be trusted."""
    starts_s = np.asarray(reader.get_frame_timestamp(range(info.num_frames)))[:, 0]
    expected_s = info.pts.astype(np.float64) * float(info.time_base)
    worst_s = float(np.abs((starts_s - starts_s[0]) - (expected_s - expected_s[0])).max())
    tolerance_s = 0.5 * float(np.diff(expected_s).min()) if info.num_frames > 1 else 1.0
    if worst_s > tolerance_s:
        raise VideoDecodeError(
            f"{info.path}: decord's frame times differ from the file's by up to {worst_s:.3f} s; use --decoder pyav"
        )


def _luma(picture: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] R, G, B -> u8 [H, W, 1] by the weights of ITU-R BT.601; a neutral picture keeps its level."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    gray: np.ndarray = np.rint(picture.astype(np.float32) @ weights).astype(np.uint8)[:, :, None]
    return gray


def _import() -> Any:
    try:
        import decord
    except (ModuleNotFoundError, OSError) as error:
        raise MissingExtraError("decord", extra="decord", needed_for="--decoder decord") from error
    return decord
