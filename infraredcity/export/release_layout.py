"""Name the folders of the published InfraredCity-Lite, as its users' scripts know them.

```text
{Single,Double}/{Traffic/{City,Highway}/{clearday,overcast},Monitor}/{trainA,trainB,testA}
```

A is infrared by night, B visible by day. A picture of Single is a frame; one of Double is two neighbours in time side by side, the
earlier one on the left, 256x256 each. The visible frames of a scene are shared by its weathers: they are in the trainB of each.
"""

from dataclasses import dataclass
from typing import Literal

from infraredcity.clips import Modality

Kind = Literal["single", "double"]
KINDS: tuple[Kind, ...] = ("single", "double")
KIND_FOLDERS: dict[Kind, str] = {"single": "Single", "double": "Double"}
DOUBLE_SIDE_PX = 256
"""Width and height of each of the two frames of a Double picture."""
RECORD_NAME = "release.json"
RECORD_FORMAT = "infraredcity-release-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of the layout: a scene in a weather, its folder below that of the kind, and the clips of the catalogue it holds."""

    scene: str
    weather: str
    folder: str
    infrared_clip: str
    visible_clip: str


CELLS = (
    Cell(
        scene="city",
        weather="clear",
        folder="Traffic/City/clearday",
        infrared_clip="city_clear",
        visible_clip="city_day",
    ),
    Cell(
        scene="city",
        weather="overcast",
        folder="Traffic/City/overcast",
        infrared_clip="city_overcast",
        visible_clip="city_day",
    ),
    Cell(
        scene="highway",
        weather="clear",
        folder="Traffic/Highway/clearday",
        infrared_clip="highway_clear",
        visible_clip="highway_day",
    ),
    Cell(
        scene="highway",
        weather="overcast",
        folder="Traffic/Highway/overcast",
        infrared_clip="highway_overcast",
        visible_clip="highway_day",
    ),
    Cell(scene="monitor", weather="any", folder="Monitor", infrared_clip="monitor_night", visible_clip="monitor_day"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFolder:
    """What one folder of a cell holds."""

    folder: str
    modality: Modality
    time_of_day: str
    split: Literal["train", "test"]


CELL_FOLDERS = (
    CellFolder(folder="trainA", modality="infrared", time_of_day="night", split="train"),
    CellFolder(folder="trainB", modality="visible", time_of_day="day", split="train"),
    CellFolder(folder="testA", modality="infrared", time_of_day="night", split="test"),
)
