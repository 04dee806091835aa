"""Read optical flow: where each pixel of a frame is in the next frame, and whether it is visible there."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from infraredcity.files.records import read_whole
from infraredcity.shards.names import MAX_MEMBER_BYTES
from roma.errors import EvaluationError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Flow:
    """Optical flow from frame i to frame i + 1 of a clip.

    Attributes:
        field: Displacement in pixels of its own size: right, down.
        visible: Whether the pixel is still visible in frame i + 1.
    """

    field: Float32[np.ndarray, "2 H W"]
    visible: Bool[np.ndarray, "H W"]


def path_of(folder: Path, frame_index: int) -> Path:
    """Return the file of the flow from frame `frame_index` of a clip to the next one."""
    return folder / f"{frame_index:06d}.png"


def read_flow(path: Path) -> Flow:
    """Read a flow in the KITTI 2015 encoding: a 16-bit PNG with R = 64 u + 2^15, G = 64 v + 2^15, and B = 1 where valid, else 0.

    Raises:
        EvaluationError: The file is missing, damaged or of another encoding.
    """
    try:
        data = np.frombuffer(read_whole(path, MAX_MEMBER_BYTES), np.uint8)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from error
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if picture is None or picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 3:
        found = "no picture" if picture is None else f"{picture.dtype} {list(picture.shape)}"
        raise EvaluationError(f"{path}: expected a flow as a 16-bit PNG of three channels (KITTI 2015), found {found}")
    # OpenCV's channels are B, G, R.
    field = (picture[:, :, :0:-1].astype(np.float32) - 2**15) / 64
    return Flow(field=np.ascontiguousarray(field.transpose(2, 0, 1)), visible=picture[:, :, 0] > 0)


def resized(flow: Flow, width_px: int, height_px: int) -> Flow:
    """Resize a flow: each pixel is the mean of those it covers, and visible where all of those are."""
    height, width = flow.visible.shape
    rows, columns = _cover(height, height_px), _cover(width, width_px)
    scale = np.array([width_px / width, height_px / height])
    field = (rows @ flow.field.astype(np.float64) @ columns.T) * scale[:, None, None]
    hidden = rows @ (~flow.visible).astype(np.float64) @ columns.T
    # Rounding errors do not count as hidden.
    return Flow(field=field.astype(np.float32), visible=hidden < 1e-9)


def _cover(num_before: int, num_after: int) -> np.ndarray:
    """Return f64 [num_after, num_before]: the share of each old pixel in each new one along one side; rows sum to 1."""
    edges = np.arange(num_after + 1) * (num_before / num_after)
    starts, stops = edges[:-1, None], edges[1:, None]
    old = np.arange(num_before)[None, :]
    overlap = np.clip(np.minimum(stops, old + 1) - np.maximum(starts, old), 0, None)
    shares: np.ndarray = overlap / overlap.sum(axis=1, keepdims=True)
    return shares
