"""Render the visible picture by night."""

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.camera import FOCAL_WIDTHS
from infraredcity.synthetic.furniture import LAMP_RGB
from infraredcity.synthetic.mesh import Floats
from infraredcity.synthetic.opencv import cv2
from infraredcity.synthetic.raster import SHADES, SUPERSAMPLE, View
from infraredcity.synthetic.shading import cover_of_sky, crop_panorama, panorama_size, shade_and_shrink
from infraredcity.synthetic.texture import Picture, fractal_noise

_MOONLIGHT = np.array([0.050, 0.056, 0.078])
_LAMPLIGHT = np.array(LAMP_RGB) / 255.0
_LAMP_HEIGHT_M = 6.3


class NightRenderer:
    """Render what lamps, windows and headlights light, with glare and noise."""

    def __init__(self, rng: np.random.Generator, *, overcast: bool, width_px: int, height_px: int) -> None:
        rows, columns = panorama_size(width_px, height_px)
        up = np.clip((rows / 2 - np.arange(rows, dtype=np.float32)) / (FOCAL_WIDTHS * width_px) / 0.4, 0, 1)[
            :, None, None
        ]
        low, high = np.array([44, 36, 34], np.float32), np.array([12, 14, 24], np.float32)
        clouds = fractal_noise(rng, rows, columns, cell_px=(rows / 8, columns / 8), octaves=4)
        self._sky = np.asarray(
            low + (high - low) * up**0.6 + clouds[:, :, None] * (3.5 if overcast else 1.0), np.float32
        )

    def render(self, view: View, *, grain: Picture, noise: np.random.Generator) -> NDArray[np.uint8]:
        """Render the picture, RGB [H, W, 3]; `grain` is the ground's texture, `noise` draws this frame's noise."""
        camera = view.camera
        lamps = _lamps(view)
        mixed = shade_and_shrink(view, self._palette(view, lamps))
        picture = mixed[:, :, :3].astype(np.float32)
        on_ground = (mixed[:, :, 3].astype(np.float32) / 255.0)[:, :, None]
        # The ground's own colour by day is in the palette; here falls the light on it, pixel by pixel.
        gain = self._light_on_ground(view, lamps) * (1.0 + 0.07 * grain[:, :, None])
        picture *= 1.0 - on_ground + on_ground * gain
        picture += (crop_panorama(self._sky, camera) - picture) * cover_of_sky(view)[:, :, None]
        _glare(picture, view)
        picture = 255.0 * (1.0 - np.exp(-picture / 200.0)) * 1.18
        strength = 2.2 + 0.012 * picture
        picture += strength * noise.standard_normal(picture.shape, dtype=np.float32)
        return np.asarray(np.clip(picture + 0.5, 0, 255), dtype=np.uint8)

    def _palette(self, view: View, lamps: Floats) -> NDArray[np.uint8]:
        looks = view.looks
        ground = view.facts[:, m.IS_GROUND] == 1
        light = _MOONLIGHT + _LAMPLIGHT * _from_lamps(view.centres, lamps)[:, None]
        light = light + np.array([1.0, 0.97, 0.88]) * _from_headlights(view, view.centres)[:, None]
        colour = looks[:, m.COLOUR] * np.where(ground[:, None], 1.0, light)
        colour = np.maximum(colour, looks[:, m.LIGHT])
        palette = np.empty((len(looks), SHADES, 4), np.uint8)
        palette[:, :, :3] = np.clip(colour + 0.5, 0, 255)[:, None]
        palette[ground, SHADES - 1, :3] = palette[ground, SHADES - 1, :3] // 3
        palette[:, :, 3] = np.where(ground, 255, 0)[:, None]
        return palette

    def _light_on_ground(self, view: View, lamps: Floats) -> Picture:
        """Compute the light on the ground at each pixel, RGB [H, W, 3]; at half size, since it is smooth."""
        camera = view.camera
        x, z, reach = (axis[::2, ::2] for axis in camera.ground())
        places = np.stack([x.ravel(), np.zeros(x.size), z.ravel()], axis=1)
        from_lamps = _from_lamps(places, lamps).reshape(x.shape)
        from_car = _from_headlights(view, places).reshape(x.shape)
        light = _MOONLIGHT + from_lamps[:, :, None] * _LAMPLIGHT + from_car[:, :, None] * np.array([1.0, 0.97, 0.88])
        light[~np.isfinite(reach)] = _MOONLIGHT
        size = (camera.width_px, camera.height_px)
        return np.asarray(cv2.resize(light.astype(np.float32), size, interpolation=cv2.INTER_LINEAR))


def _lamps(view: View) -> Floats:
    """Return the positions of the street lamps near the camera [L, 3]."""
    lamps = view.mesh.lamps
    street = lamps[lamps[:, m.LAMP_IS_STREET] == 1][:, m.LAMP_PLACE]
    near = np.abs(street[:, 2] - view.camera.place[2]) < 110
    return np.asarray(street[near])


def _from_lamps(places: Floats, lamps: Floats) -> Floats:
    if not len(lamps):
        return np.zeros(len(places))
    dx = places[:, :1] - lamps[None, :, 0]
    dz = places[:, 2:] - lamps[None, :, 2]
    dy = np.maximum(_LAMP_HEIGHT_M - places[:, 1:2], 1.0)
    return np.asarray((20.0 * dy / (dx * dx + dz * dz + dy * dy + 4.0) ** 1.5 * 1.1).sum(axis=1))


def _from_headlights(view: View, places: Floats) -> Floats:
    """Compute the light of the camera car's headlights; none if the camera does not move."""
    if view.camera.place[1] > 4.0:
        return np.zeros(len(places))
    in_camera = view.camera.to_camera(places)
    ahead = np.maximum(in_camera[:, 2], 1.0)
    beam = np.exp(-((in_camera[:, 0] / (1.2 + 0.28 * ahead)) ** 2)) * np.exp(-np.maximum(places[:, 1] - 1.0, 0.0) / 1.2)
    return np.asarray(np.where(in_camera[:, 2] > 1.0, 0.75 * beam * np.exp(-ahead / 22.0), 0.0))


def _glare(picture: Picture, view: View) -> None:
    """Add the halo of each visible lamp."""
    lamps = view.mesh.lamps
    if not len(lamps):
        return
    camera = view.camera
    places = lamps[:, m.LAMP_PLACE]
    in_camera = camera.to_camera(places)
    toward = camera.place - places
    distance = np.linalg.norm(toward, axis=1)
    facing = (lamps[:, m.LAMP_NORMAL] * toward).sum(axis=1) / np.maximum(distance, 1e-6)
    around = (lamps[:, m.LAMP_NORMAL] == 0).all(axis=1)
    shows = (in_camera[:, 2] > 1.5) & (around | (facing > 0.2)) & (distance < 160)
    part_of = view.facts[:, m.PART]
    height, width = picture.shape[:2]
    for i in np.flatnonzero(shows):
        u, v = camera.to_pixels(in_camera[i : i + 1])[0]
        column, row = round(u * SUPERSAMPLE), round(v * SUPERSAMPLE)
        if not (0 <= row < view.faces.shape[0] and 0 <= column < view.faces.shape[1]):
            continue
        face = int(view.faces[row, column]) // SHADES
        if face and part_of[face] != int(lamps[i, m.LAMP_PART]):
            continue
        radius = float(np.clip(lamps[i, m.LAMP_SIZE_M] * camera.focal_px / in_camera[i, 2], 2.2, width * 0.10))
        reach = int(radius * 2.5) + 1
        x0, x1 = max(0, int(u) - reach), min(width, int(u) + reach + 1)
        y0, y1 = max(0, int(v) - reach), min(height, int(v) + reach + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        dx = (np.arange(x0, x1, dtype=np.float32) + 0.5 - np.float32(u)) / np.float32(radius)
        dy = (np.arange(y0, y1, dtype=np.float32) + 0.5 - np.float32(v)) / np.float32(radius)
        square = dy[:, None] ** 2 + dx[None, :] ** 2
        halo = 0.55 * np.exp(-square * 0.9) + 0.9 * np.exp(-square * 9.0)
        brightness = 1.0 if around[i] else float(facing[i]) ** 2
        picture[y0:y1, x0:x1] += halo[:, :, None] * (brightness * lamps[i, m.LAMP_RGB]).astype(np.float32)
