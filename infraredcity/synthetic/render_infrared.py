"""Render the picture of a thermal camera by night."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.camera import FOCAL_WIDTHS
from infraredcity.synthetic.opencv import cv2
from infraredcity.synthetic.raster import SHADES, View
from infraredcity.synthetic.shading import cover_of_sky, crop_panorama, panorama_size
from infraredcity.synthetic.texture import Picture, fractal_noise

Polarity = Literal["white-hot", "black-hot"]
_AIR = 0.36
_REACH_M = 700.0
_GROUND_GRAIN = 0.009
_BLUR_WIDTHS = 0.0023
"""Optical blur (standard deviation of a Gaussian) in picture widths."""
# Temperatures of a cold night: the clear sky above is at 250 K, a road at 279 K, skin at 305 K.
_KELVIN_AT_0, _KELVIN_PER_HEAT = 246.0, 62.0
COUNTS_PER_KELVIN = 100.0
_COUNTS_PER_GRAY = COUNTS_PER_KELVIN * _KELVIN_PER_HEAT / (212.0 * 1.14)
"""Sensor signal of one level of the clear night's picture, below the knee of its display."""


class InfraredRenderer:
    """Render heat: hot engines and people, warm roads, cool trees and a cold sky."""

    def __init__(
        self, rng: np.random.Generator, *, overcast: bool, width_px: int, height_px: int, polarity: Polarity
    ) -> None:
        self._overcast = overcast
        self._polarity = polarity
        self._sky = _sky(rng, overcast=overcast, width_px=width_px, height_px=height_px)
        self._drift_phases = rng.uniform(0, 2 * math.pi, 4)
        rows, columns = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
        self._falloff = np.asarray(1.0 - 0.045 * (rows**2 + columns**2), dtype=np.float32)

    def heat(self, view: View, *, grain: Picture) -> Picture:
        """Compute the heat that reaches the sensor, on the scale of `materials.HEAT`, without noise [H, W]."""
        palette = self._palette(view).ravel()
        size = (view.camera.width_px, view.camera.height_px)
        picture = cv2.resize(np.take(palette, view.faces), size, interpolation=cv2.INTER_AREA)
        ground = view.facts[:, m.IS_GROUND].astype(np.float32).repeat(SHADES)
        on_ground = cv2.resize(np.take(ground, view.faces), size, interpolation=cv2.INTER_AREA)
        picture += _GROUND_GRAIN * grain * on_ground
        picture += (crop_panorama(self._sky, view.camera) - picture) * cover_of_sky(view)
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), _BLUR_WIDTHS * view.camera.width_px))

    def render(
        self, view: View, *, grain: Picture, time_s: float, noise: np.random.Generator, pattern: Picture
    ) -> NDArray[np.uint8]:
        """Render the camera's picture, gray [H, W].

        Args:
            view: The visible faces.
            grain: Texture of the ground, from `GroundGrain`.
            time_s: The moment; gain and level drift with it.
            noise: Draws this frame's noise.
            pattern: The sensor's fixed pattern, from `fixed_pattern`; the same until the next shutter.
        """
        heat = self.heat(view, grain=grain)
        drift = np.sin(np.array([0.31, 0.83, 0.23, 0.67]) * time_s + self._drift_phases)
        size = 1.6 if self._overcast else 1.0
        gain = 1.0 + 0.012 * size * float(drift[0] + 0.5 * drift[1])
        level = 2.0 * size * float(drift[2] + 0.5 * drift[3])
        black, span = (34.0, 184.0) if self._overcast else (22.0, 212.0)
        gray = (black + span * gain * _knee(heat)) * self._falloff + level
        if self._polarity == "black-hot":
            gray = 255.0 - gray
        _disturb(gray, noise, pattern, 1.0)
        return np.asarray(np.clip(gray + 0.5, 0, 255), dtype=np.uint8)

    def counts(self, view: View, *, grain: Picture, noise: np.random.Generator, pattern: Picture) -> NDArray[np.uint16]:
        """Render the sensor's counts, COUNTS_PER_KELVIN times the temperature in kelvin [H, W].

        They have the noise and pattern of the picture, in counts, but not the gain, knee, fall-off and polarity of the display.
        Arguments as for `render`.
        """
        counts = COUNTS_PER_KELVIN * (_KELVIN_AT_0 + _KELVIN_PER_HEAT * self.heat(view, grain=grain))
        _disturb(counts, noise, pattern, _COUNTS_PER_GRAY)
        return np.asarray(np.clip(counts + 0.5, 0, 65535), dtype=np.uint16)

    def _palette(self, view: View) -> Picture:
        """Return the heat of each face under each shade [N, SHADES]."""
        heat = view.looks[:, m.HEAT].copy()
        ground = view.facts[:, m.IS_GROUND] == 1
        if self._overcast:
            heat = 0.43 + (heat - 0.43) * np.where(heat > 0.43, 0.88, 0.62)
        else:
            heat -= np.where(ground, 0.0, 0.035) * np.maximum(view.looks[:, m.NORMAL][:, 1], 0.0)
        far = 1.0 - np.exp(-view.distance_m / _REACH_M)
        heat += (_AIR - heat) * far
        palette = np.repeat(heat[:, None], SHADES, axis=1)
        # The sun does not reach the ground under a parked car; under people and wheels the blur hides this.
        palette[ground, SHADES - 1] -= 0.045
        return palette.astype(np.float32)


def fixed_pattern(rng: np.random.Generator, height_px: int, width_px: int) -> Picture:
    """Draw the offset of each column and pixel of the sensor, in gray levels [H, W]."""
    columns = 1.5 * rng.standard_normal((1, width_px), dtype=np.float32)
    return np.asarray(columns + 0.8 * rng.standard_normal((height_px, width_px), dtype=np.float32), dtype=np.float32)


def _disturb(picture: Picture, noise: np.random.Generator, pattern: Picture, level: float) -> None:
    """Add the fixed pattern and this frame's noise, of rows and of pixels; `level` is one gray level in units of the picture."""
    picture += level * pattern
    picture += 0.4 * level * noise.standard_normal((len(picture), 1), dtype=np.float32)
    picture += 1.9 * level * noise.standard_normal(picture.shape, dtype=np.float32)


def _knee(heat: Picture) -> Picture:
    """Stretch the middle of the scale and compress its hot end, like the gain control of such cameras."""
    return np.asarray(np.where(heat < 0.62, heat * 1.14, 0.7068 + (heat - 0.62) * 0.77), dtype=np.float32)


def _sky(rng: np.random.Generator, *, overcast: bool, width_px: int, height_px: int) -> Picture:
    rows, columns = panorama_size(width_px, height_px)
    up = np.clip((rows / 2 - np.arange(rows, dtype=np.float32)) / (FOCAL_WIDTHS * width_px) / 0.5, 0, 1)[:, None]
    clouds = fractal_noise(rng, rows, columns, cell_px=(rows / 8, columns / 8), octaves=3)
    if overcast:
        return np.asarray(0.335 - 0.05 * up + 0.010 * clouds, dtype=np.float32)
    return np.asarray(0.26 - 0.20 * up**0.6 + 0.005 * clouds, dtype=np.float32)
