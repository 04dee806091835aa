"""Share code of the three renderings: colouring the picture of faces, the panorama of the sky, the texture of the ground."""

import math

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic.camera import FOCAL_WIDTHS, Camera
from infraredcity.synthetic.mesh import Floats
from infraredcity.synthetic.opencv import cv2
from infraredcity.synthetic.raster import SHADES, View
from infraredcity.synthetic.texture import Picture, tile

_MARGIN_RAD = 0.35
_TEXTURE_M = 0.07
"""Size of one texture pixel on the ground."""
_GRAIN_REACH_M = 200.0


def shade_and_shrink(view: View, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour the picture of faces with `palette` [N, SHADES, 4] and shrink it to the output size [H, W, 4]."""
    packed = np.ascontiguousarray(palette).reshape(-1, 4).view(np.uint32).ravel()
    large = np.take(packed, view.faces).view(np.uint8).reshape(*view.faces.shape, 4)
    size = (view.camera.width_px, view.camera.height_px)
    return np.asarray(cv2.resize(large, size, interpolation=cv2.INTER_AREA))


def cover_of_sky(view: View) -> Picture:
    """Return the share of each output pixel that is sky, 0..1 [H, W]."""
    open_sky = (view.faces < SHADES).astype(np.float32)
    return np.asarray(cv2.resize(open_sky, (view.camera.width_px, view.camera.height_px), interpolation=cv2.INTER_AREA))


def panorama_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return rows and columns of a panorama with every view of a camera that turns slightly."""
    margin = round(2 * _MARGIN_RAD * FOCAL_WIDTHS * width_px)
    return 2 * (height_px + margin), width_px + 2 * margin


def panorama_place(camera: Camera, rows: int, columns: int) -> Floats:
    """Return the affine map from the camera's pixels to a panorama of that size, in pixel numbers x, y [2, 3]."""
    cos, sin = math.cos(camera.roll), math.sin(camera.roll)
    middle_x, middle_y = camera.width_px / 2, camera.height_px / 2
    shift_x, shift_y = columns / 2 + camera.yaw * camera.focal_px, rows / 2 - camera.pitch * camera.focal_px
    return np.array(
        [
            [cos, -sin, shift_x - cos * middle_x + sin * middle_y],
            [sin, cos, shift_y - sin * middle_x - cos * middle_y],
        ]
    )


def crop_panorama(panorama: Picture, camera: Camera) -> Picture:
    """Return the part of a panorama that the camera sees [H, W, ...]."""
    affine = panorama_place(camera, *panorama.shape[:2])
    return np.asarray(
        cv2.warpAffine(
            panorama,
            affine,
            (camera.width_px, camera.height_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    )


class GroundGrain:
    """The texture of the ground, the same in every rendering."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._tile = tile(rng)

    def at(self, camera: Camera) -> Picture:
        """Return the texture at each pixel [H, W]; its standard deviation is about 1 near the camera and 0 above the horizon."""
        x, z, reach = camera.ground()
        # The pattern repeats, so its offset does not matter; it is kept small, since OpenCV stores pixel positions in 16 bits.
        period = self._tile.shape[0] * _TEXTURE_M * 9
        z = z - math.floor(float(camera.place[2]) / period) * period
        fine = self._sample(x, z, _TEXTURE_M) * np.minimum(9.0 / reach, 1.0)
        coarse = self._sample(x, z, 9 * _TEXTURE_M) * np.minimum(60.0 / reach, 1.0)
        return np.asarray(np.where(reach < _GRAIN_REACH_M, 0.55 * fine + 0.85 * coarse, 0.0), dtype=np.float32)

    def _sample(self, x: Picture, z: Picture, step_m: float) -> Picture:
        scale = np.float32(1.0 / step_m)
        return np.asarray(cv2.remap(self._tile, x * scale, z * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))
