"""The nine clips of the sample: what each shows."""

from dataclasses import dataclass
from typing import Literal

Scene = Literal["city", "highway", "monitor"]
Weather = Literal["clear", "overcast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticClip:
    """What one clip of the sample shows.

    Attributes:
        clip_id: Its name in the catalogue.
        scene: Where the camera is.
        weather: Sky, shadows and contrast.
        modality: What the camera saw.
        time_of_day: "night" or "day"; infrared clips are of the night.
    """

    clip_id: str
    scene: Scene
    weather: Weather
    modality: Literal["infrared", "visible"]
    time_of_day: Literal["night", "day"]


def _clip(
    clip_id: str,
    scene: Scene,
    weather: Weather,
    modality: Literal["infrared", "visible"],
    time_of_day: Literal["night", "day"],
) -> SyntheticClip:
    return SyntheticClip(clip_id=clip_id, scene=scene, weather=weather, modality=modality, time_of_day=time_of_day)


CLIPS: dict[str, SyntheticClip] = {
    clip.clip_id: clip
    for clip in (
        _clip("city_clear", "city", "clear", "infrared", "night"),
        _clip("city_overcast", "city", "overcast", "infrared", "night"),
        _clip("highway_clear", "highway", "clear", "infrared", "night"),
        _clip("highway_overcast", "highway", "overcast", "infrared", "night"),
        _clip("monitor_night", "monitor", "clear", "infrared", "night"),
        _clip("city_day", "city", "clear", "visible", "day"),
        _clip("highway_day", "highway", "clear", "visible", "day"),
        _clip("monitor_day", "monitor", "clear", "visible", "day"),
        _clip("night_visible", "city", "clear", "visible", "night"),
    )
}
"""The nine clips by id, in the order of the catalogue."""
