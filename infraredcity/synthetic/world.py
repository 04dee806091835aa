"""Render one street at any moment: the same geometry as infrared, by day and by night."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.city import City
from infraredcity.synthetic.clips import SyntheticClip
from infraredcity.synthetic.flow import Flow
from infraredcity.synthetic.highway import Highway
from infraredcity.synthetic.monitor import Monitor
from infraredcity.synthetic.motion import find_flow
from infraredcity.synthetic.raster import SHADES, SUPERSAMPLE, View, look
from infraredcity.synthetic.render_day import DayRenderer
from infraredcity.synthetic.render_infrared import InfraredRenderer, Polarity, fixed_pattern
from infraredcity.synthetic.render_night import NightRenderer
from infraredcity.synthetic.shading import GroundGrain
from infraredcity.synthetic.street import Scene, Street
from infraredcity.synthetic.texture import Picture

Kind = Literal["infrared", "day", "night"]
KINDS: tuple[Kind, ...] = ("infrared", "day", "night")
OBJECT_KINDS = ("car", "bus", "truck", "bicycle", "person", "sign", "building")
"""The classes that `World.objects` names."""

_STREETS: dict[str, type[Street]] = {"city": City, "highway": Highway, "monitor": Monitor}
# Purposes of random draws; each has its own generator, so that adding one changes no other.
_LAYOUT, _DAY, _NIGHT, _INFRARED, _NOISE, _PATTERN, _SHUTTER, _GRAIN = range(8)
_SHUTTER_FRAMES = 150
"""Approximate number of frames between two closings of the thermal camera's shutter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object in one frame.

    Attributes:
        object_id: Its name, the same in all frames.
        kind: Its class, one of OBJECT_KINDS.
        box: Left, top, right, bottom in pixels, half-open, clipped to the picture.
        distance_m: From the camera to its footprint.
        visible_px: Its visible area, in pixels.
    """

    object_id: str
    kind: str
    box: tuple[float, float, float, float]
    distance_m: float
    visible_px: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """The scene near the camera, its visible faces, and the ground's texture [H, W]."""

    scene: Scene
    view: View
    grain: Picture


class World:
    """The street of one clip. Everything is a function of (seed, clip id, frame index); other clips show other streets.

    Args:
        clip: What the clip shows.
        seed: Seed of the whole sample.
        width_px: Picture width, even, at least 64.
        height_px: Picture height, even, at least 64.
        fps: Frames per second.
        polarity: Whether the infrared picture shows heat bright or dark.
    """

    def __init__(
        self,
        clip: SyntheticClip,
        *,
        seed: int = 0,
        width_px: int = 320,
        height_px: int = 256,
        fps: int = 25,
        polarity: Polarity = "white-hot",
    ) -> None:
        self.clip = clip
        self.width_px = width_px
        self.height_px = height_px
        self.fps = fps
        self._polarity = polarity
        self._key = (seed, zlib.crc32(clip.clip_id.encode()))
        self._street = _STREETS[clip.scene]((*self._key, _LAYOUT))
        self._overcast = clip.weather == "overcast"
        self._grain = GroundGrain(self._random(_GRAIN))
        self._moments: dict[int, _Moment] = {}
        self._last_pattern: tuple[int, Picture] | None = None

    def moment(self, frame_index: int) -> int:
        """Return the frame that this frame shows: itself, or an earlier one while the shutter of an infrared camera is closed."""
        if self.clip.modality != "infrared":
            return frame_index
        start, length = self._shutter(frame_index // _SHUTTER_FRAMES)
        return start if start < frame_index <= start + length else frame_index

    def render(self, frame_index: int, kind: Kind) -> NDArray[np.uint8]:
        """Render one frame: gray [H, W] for "infrared", RGB [H, W, 3] for "day" and "night"; all of the same moment.

        Raises:
            ValueError: The kind is none of these, or the frame index is negative.
        """
        moment = self._checked(frame_index)
        found = self._at(moment)
        view, grain = found.view, found.grain
        if kind == "day":
            return self._day.render(view, grain=grain)
        if kind == "night":
            return self._night.render(view, grain=grain, noise=self._random(_NOISE, moment, 1))
        if kind == "infrared":
            return self._infrared.render(
                view,
                grain=grain,
                time_s=moment / self.fps,
                noise=self._random(_NOISE, moment, 0),
                pattern=self._pattern(moment),
            )
        raise ValueError(f'kind must be "infrared", "day" or "night", got {kind!r}')

    def render16(self, frame_index: int) -> NDArray[np.uint16]:
        """Render the thermal sensor's counts in one frame, before the display's tone map: 100 counts per kelvin [H, W].

        That is the 0.01 K output ("TLinear") of FLIR's radiometric cores. The map from the heat of `materials.HEAT` to kelvin,
        246 + 62 heat, is chosen for a cold night; noise and fixed pattern are those of the "infrared" picture.
        """
        moment = self._checked(frame_index)
        found = self._at(moment)
        noise = self._random(_NOISE, moment, 0)
        return self._infrared.counts(found.view, grain=found.grain, noise=noise, pattern=self._pattern(moment))

    def flow(self, frame_index: int) -> Flow:
        """Return the exact optical flow from one frame to the next, see `find_flow`.

        While the shutter of an infrared camera is closed, nothing moves.
        """
        moment, later_moment = self._checked(frame_index), self.moment(frame_index + 1)
        if moment == later_moment:
            size = (self.height_px, self.width_px)
            return Flow(forward=np.zeros((*size, 2), np.float32), visible=np.ones(size, np.bool_))
        now, later = self._at(moment), self._at(later_moment)
        moved = self._street.moved(now.scene, later_moment / self.fps)
        return find_flow(now.scene, now.view, later.scene, later.view, moved)

    def labels(self, frame_index: int) -> NDArray[np.uint8]:
        """Return the `Material` at the middle of each pixel [H, W]."""
        view = self._at(self._checked(frame_index)).view
        materials = view.facts[:, m.MATERIAL].astype(np.uint8)
        return np.asarray(materials[view.faces[1::SUPERSAMPLE, 1::SUPERSAMPLE] // SHADES])

    def objects(self, frame_index: int, *, min_visible_px: float = 4.0) -> tuple[SceneObject, ...]:
        """Return the objects in one frame with at least `min_visible_px` visible pixels, nearest first."""
        view = self._at(self._checked(frame_index)).view
        per_face = np.bincount(view.faces.ravel() // SHADES, minlength=len(view.facts))
        per_part = np.bincount(view.facts[1:, m.PART], weights=per_face[1:], minlength=len(view.mesh.kinds))
        boxes = view.part_boxes()
        found = []
        for part in np.flatnonzero(per_part >= min_visible_px * SUPERSAMPLE**2):
            left, top, right, bottom = (float(value) for value in boxes[part])
            if view.mesh.kinds[part] not in OBJECT_KINDS or np.isnan(left):
                continue
            found.append(
                SceneObject(
                    object_id=view.mesh.names[part],
                    kind=view.mesh.kinds[part],
                    box=(
                        max(left, 0.0),
                        max(top, 0.0),
                        min(right, float(self.width_px)),
                        min(bottom, float(self.height_px)),
                    ),
                    distance_m=float(view.part_distance_m[part]),
                    visible_px=float(per_part[part]) / SUPERSAMPLE**2,
                )
            )
        return tuple(sorted(found, key=lambda thing: (thing.distance_m, thing.object_id)))

    def _checked(self, frame_index: int) -> int:
        if frame_index < 0:
            raise ValueError(f"frame_index must not be negative, got {frame_index}")
        return self.moment(frame_index)

    def _shutter(self, block: int) -> tuple[int, int]:
        """Return the last frame before the shutter closes in a block of frames, and how many frames it repeats."""
        rng = self._random(_SHUTTER, block)
        return block * _SHUTTER_FRAMES + int(rng.integers(30, _SHUTTER_FRAMES - 10)), int(rng.integers(2, 5))

    def _at(self, moment: int) -> "_Moment":
        found = self._moments.pop(moment, None)
        if found is None:
            time_s = moment / self.fps
            camera = self._street.camera(time_s, self.width_px, self.height_px)
            scene = self._street.scene(time_s)
            found = _Moment(scene=scene, view=look(scene.mesh, camera), grain=self._grain.at(camera))
        # Two are kept, since flow looks one frame ahead.
        self._moments = {**dict(list(self._moments.items())[-1:]), moment: found}
        return found

    def _pattern(self, moment: int) -> Picture:
        """Return the sensor's fixed pattern since the last shutter [H, W]."""
        block = moment // _SHUTTER_FRAMES
        shutters = block + int(moment > self._shutter(block)[0])
        if self._last_pattern is None or self._last_pattern[0] != shutters:
            pattern = fixed_pattern(self._random(_PATTERN, shutters), self.height_px, self.width_px)
            self._last_pattern = (shutters, pattern)
        return self._last_pattern[1]

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([*self._key, *purpose])

    @cached_property
    def _day(self) -> DayRenderer:
        rng = self._random(_DAY)
        return DayRenderer(rng, overcast=self._overcast, width_px=self.width_px, height_px=self.height_px)

    @cached_property
    def _night(self) -> NightRenderer:
        rng = self._random(_NIGHT)
        return NightRenderer(rng, overcast=self._overcast, width_px=self.width_px, height_px=self.height_px)

    @cached_property
    def _infrared(self) -> InfraredRenderer:
        return InfraredRenderer(
            self._random(_INFRARED),
            overcast=self._overcast,
            width_px=self.width_px,
            height_px=self.height_px,
            polarity=self._polarity,
        )
