"""Render the visible picture by day."""

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.camera import FOCAL_WIDTHS
from infraredcity.synthetic.raster import SHADES, View
from infraredcity.synthetic.shading import cover_of_sky, crop_panorama, panorama_size, shade_and_shrink
from infraredcity.synthetic.sun import SUN
from infraredcity.synthetic.texture import Picture, fractal_noise

_SUNLIGHT = np.array([0.66, 0.62, 0.53])
_SKYLIGHT = np.array([0.50, 0.54, 0.61])
_CLOUDLIGHT = np.array([0.80, 0.82, 0.85])
_GRAIN = 0.055
"""Standard deviation of the ground's lightness."""


class DayRenderer:
    """Colour the visible faces in the light of the sun or of a covered sky."""

    def __init__(self, rng: np.random.Generator, *, overcast: bool, width_px: int, height_px: int) -> None:
        self._overcast = overcast
        self._sky = sky_panorama(rng, overcast=overcast, width_px=width_px, height_px=height_px)

    def render(self, view: View, *, grain: Picture) -> NDArray[np.uint8]:
        """Render the picture, RGB [H, W, 3]; `grain` is the ground's texture, from `GroundGrain`."""
        lit = self._palette(view)
        mixed = shade_and_shrink(view, lit)
        camera = view.camera
        picture = mixed[:, :, :3].astype(np.float32)
        on_ground = mixed[:, :, 3].astype(np.float32) / 255.0
        picture *= (1.0 + _GRAIN * grain * on_ground)[:, :, None]
        open_sky = cover_of_sky(view)
        sky = crop_panorama(self._sky, camera)
        picture += (sky - picture) * open_sky[:, :, None]
        picture += 0.5
        return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)

    def _palette(self, view: View) -> NDArray[np.uint8]:
        """Return the colour of each face under each shade, and 255 where it is ground [N, SHADES, 4]."""
        looks = view.looks
        normal = looks[:, m.NORMAL]
        flat = (normal == 0).all(axis=1)
        if self._overcast:
            light = _CLOUDLIGHT * (1.0 + 0.14 * np.where(flat, 0.3, normal[:, 1]))[:, None]
            shades = (light, light, light * 0.62)
            haze, reach_m = np.array([196.0, 202.0, 208.0]), 420.0
        else:
            sunny = np.where(flat, 0.5, np.maximum(normal @ np.array(SUN), 0.0))
            below = _SKYLIGHT * (1.0 + 0.10 * np.where(flat, 0.0, normal[:, 1]))[:, None]
            light = below + _SUNLIGHT * sunny[:, None]
            shades = (light, below, below * 0.55)
            haze, reach_m = np.array([196.0, 214.0, 234.0]), 900.0
        far = (1.0 - np.exp(-view.distance_m / reach_m))[:, None]
        palette = np.empty((len(looks), SHADES, 4), np.uint8)
        ground = view.facts[:, m.IS_GROUND] == 1
        for i, light_here in enumerate(shades):
            light_here = np.where(ground[:, None], light_here, shades[0])
            colour = looks[:, m.COLOUR] * light_here
            palette[:, i, :3] = np.clip(colour + (haze - colour) * far + 0.5, 0, 255)
        palette[:, :, 3] = np.where(ground, 255, 0)[:, None]
        return palette


def sky_panorama(rng: np.random.Generator, *, overcast: bool, width_px: int, height_px: int) -> Picture:
    """Draw the sky by day around the camera's mean direction; its middle row is the horizon."""
    camera_focal = FOCAL_WIDTHS * width_px
    rows, columns = panorama_size(width_px, height_px)
    up = np.clip((rows / 2 - np.arange(rows, dtype=np.float32)) / camera_focal / 0.55, 0, 1)[:, None, None]
    # Clouds get flatter towards the horizon, where they are seen from the side.
    clouds = fractal_noise(rng, rows, columns, cell_px=(rows / 15, columns / 8), octaves=5)
    if overcast:
        low, high = np.array([206, 210, 214], np.float32), np.array([164, 171, 180], np.float32)
        sky = low + (high - low) * up
        return np.asarray(sky + clouds[:, :, None] * 7.0, dtype=np.float32)
    low, high = np.array([196, 219, 240], np.float32), np.array([78, 140, 214], np.float32)
    sky = low + (high - low) * up**0.75
    white = np.clip((clouds - 0.75) / 0.9, 0, 1)[:, :, None] * np.clip(up * 5.0, 0.15, 1.0) * 0.9
    return np.asarray(sky + (np.array([250, 250, 250], np.float32) - sky) * white, dtype=np.float32)
