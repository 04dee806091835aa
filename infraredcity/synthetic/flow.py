"""Optical flow: where the point at each pixel is in the next frame, and its encoding as PNG."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic.opencv import cv2

_STEPS_PER_PX = 64.0
_ZERO = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow:
    """Optical flow from one frame to the next.

    Attributes:
        forward: From the middle of each pixel to the same point in the next frame: x to the right, y down, in pixels,
            f32 [H, W, 2].
        visible: Whether that point is visible in the next frame: not hidden, not outside the picture, bool [H, W].
    """

    forward: NDArray[np.float32]
    visible: NDArray[np.bool_]


def encode_flow(flow: Flow) -> bytes:
    """Encode the flow as a PNG of the KITTI 2015 benchmark: 16 bits, R = 64 x + 2^15, G = 64 y + 2^15, B = 1 where visible.

    Values are rounded to within 1/128 px, and clipped at 511.98 px. KITTI's own files hold zeros where nothing was measured; here
    R and G also hold the flow of points that are not visible.

    Source: Menze and Geiger, "Object Scene Flow for Autonomous Vehicles", CVPR 2015; the format is that of the development
    kit's readme and io_flow.h.
    """
    pixels = np.empty((*flow.visible.shape, 3), np.uint16)
    pixels[:, :, 0] = flow.visible  # OpenCV takes blue, green, red
    pixels[:, :, :0:-1] = np.clip(np.rint(flow.forward.astype(np.float64) * _STEPS_PER_PX + _ZERO), 0, 65535)
    done, data = cv2.imencode(".png", pixels)
    assert done
    return bytes(data)


def decode_flow(data: bytes) -> Flow:
    """Decode a flow from a PNG of the KITTI 2015 benchmark, as `encode_flow` writes it.

    Raises:
        ValueError: The bytes are not a PNG of 16 bits and three channels.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] != 3:
        found = "something else" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"flow must be a PNG of 16 bits and three channels (KITTI 2015), got {found}")
    forward = (pixels[:, :, :0:-1].astype(np.float32) - _ZERO) / np.float32(_STEPS_PER_PX)
    return Flow(forward=forward, visible=pixels[:, :, 0] > 0)
