"""The pinhole camera and the slight shake of its mount."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic.mesh import Floats

FOCAL_WIDTHS = 0.86
"""Focal length in picture widths: a field of view of 60 degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Position and direction of the camera at one moment.

    Attributes:
        place: x, y, z in metres, after the street's bend [3].
        street_x: x before the bend, metres.
        yaw: Turn to the right, radians.
        pitch: Turn upwards, radians.
        roll: Turn clockwise, radians.
        width_px: Picture width.
        height_px: Picture height.
    """

    place: Floats
    street_x: float
    yaw: float
    pitch: float
    roll: float
    width_px: int
    height_px: int

    @property
    def focal_px(self) -> float:
        """Return the focal length in pixels."""
        return FOCAL_WIDTHS * self.width_px

    def rotation(self) -> Floats:
        """Return the camera's right, up and forward directions in the world, as rows [3, 3]."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        right = np.array([cy, 0.0, -sy])
        forward = np.array([sy * cp, sp, cy * cp])
        up = np.array([-sy * sp, cp, -cy * sp])
        return np.stack([cr * right - sr * up, sr * right + cr * up, forward])

    def to_camera(self, points: Floats) -> Floats:
        """Convert world points [V, 3] to right, up, forward distances from the camera, metres [V, 3]."""
        return np.asarray((points - self.place) @ self.rotation().T)

    def to_pixels(self, in_camera: Floats) -> Floats:
        """Project camera points [V, 3] with forward > 0 to x, y in the picture, pixels [V, 2]; (0, 0) is its top left corner."""
        scale = self.focal_px / in_camera[:, 2]
        x = self.width_px / 2 + in_camera[:, 0] * scale
        y = self.height_px / 2 - in_camera[:, 1] * scale
        return np.stack([x, y], axis=1)

    def ground(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Compute where each pixel's ray meets the ground: x, z and distance in metres [H, W].

        The distance is inf above the horizon; x and z stop at 250 m.
        """
        v, u = np.mgrid[0 : self.height_px, 0 : self.width_px].astype(np.float32) + np.float32(0.5)
        right = (u - self.width_px / 2) / self.focal_px
        up = (self.height_px / 2 - v) / self.focal_px
        axes = self.rotation().astype(np.float32)
        dx = axes[0, 0] * right + axes[1, 0] * up + axes[2, 0]
        dy = axes[0, 1] * right + axes[1, 1] * up + axes[2, 1]
        dz = axes[0, 2] * right + axes[1, 2] * up + axes[2, 2]
        reach = np.where(dy < -1e-3, float(self.place[1]) / np.maximum(-dy, 1e-3), np.inf).astype(np.float32)
        near = np.minimum(reach, np.float32(250.0))
        x, z = float(self.place[0]) + dx * near, float(self.place[2]) + dz * near
        return x.astype(np.float32), z.astype(np.float32), reach


def shake(time_s: float, phases: Floats) -> Floats:
    """Compute yaw, pitch, roll in radians and height in metres of a mount on a moving vehicle [4].

    Args:
        time_s: The moment.
        phases: Random phases in radians that make each drive different [4, 3].
    """
    rates = np.array([[2.1, 5.3, 11.0], [2.9, 7.1, 13.0], [1.7, 4.3, 9.0], [3.1, 6.7, 12.0]])
    sizes = np.array([[0.9, 0.5, 0.2], [1.2, 0.8, 0.4], [0.8, 0.4, 0.2], [6.0, 4.0, 2.0]]) * 1.4e-3
    return np.asarray((sizes * np.sin(rates * time_s + phases)).sum(axis=1))
