"""The recipe of a Lite set: which counts of which clips it takes, read from a TOML file, by scene and by scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from infraredcity.clips import check_clip_id, manifests_folder, read_toml
from infraredcity.errors import CatalogError, RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the recipe takes of one clip: `train` and `test` frames, for the folders of `scene`."""

    scene: str
    clip: str
    train: int = 0
    test: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A Lite recipe.

    Attributes:
        name: Begins the names of its shards.
        run_frames: Samples taken together, in a row.
        guard_frames: Frames of the clip that lie at least between a train frame and a test frame.
        window_frames: T, the frames of a training window; no run is shorter.
        cells: What is taken of each clip.
    """

    name: str
    run_frames: int
    guard_frames: int
    window_frames: int
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        check_clip_id(self.name)
        if self.window_frames < 1 or self.run_frames < self.window_frames or self.guard_frames < 0:
            raise RecipeError(
                f"recipe {self.name}: needs window_frames of at least 1, run_frames of at least window_frames and "
                f"guard_frames of at least 0, got {self.window_frames}, {self.run_frames}, {self.guard_frames}"
            )
        clips = [cell.clip for cell in self.cells]
        doubled = sorted({clip for clip in clips if clips.count(clip) > 1})
        if doubled:
            raise RecipeError(f"recipe {self.name}: clip {doubled[0]} is in two cells; put its counts into one")
        for cell in self.cells:
            check_clip_id(cell.clip)
            check_clip_id(cell.scene)
            if min(cell.train, cell.test) < 0 or cell.train + cell.test == 0:
                raise RecipeError(f"recipe {self.name}: clip {cell.clip} needs a positive train or test count")

    def scaled(self, scale: float) -> "Recipe":
        """Scale the recipe for shorter clips: counts rounded down, the guard scaled but never under one window.

        Raises:
            RecipeError: A count would fall under one window; `shortfalls` lists every such count.
        """
        exact = Fraction(str(scale))  # 0.29 of 100 frames are 29, not 28.999999999999996 rounded down

        def part(count: int) -> int:
            return math.floor(count * exact)

        shortfalls = tuple(
            f"{cell.clip} {split}: {count} frames at scale {scale:g} are less than one window of {self.window_frames}"
            for cell in self.cells
            for split, count in (("train", cell.train), ("test", cell.test))
            if count > 0 and part(count) < self.window_frames
        )
        if shortfalls:
            raise RecipeError(f"recipe {self.name}: {'; '.join(shortfalls)}; use a larger scale", shortfalls)
        return replace(
            self,
            guard_frames=max(min(self.guard_frames, self.window_frames), part(self.guard_frames)),
            cells=tuple(replace(cell, train=part(cell.train), test=part(cell.test)) for cell in self.cells),
        )


def read_recipe(path: Path | None = None) -> Recipe:
    """Read a recipe file, or the published `manifests/lite.toml`.

    Raises:
        RecipeError: It lacks a key, has an unknown one, or asks for something impossible.
        CatalogError: It cannot be read, or is not TOML.
    """
    path = path or manifests_folder() / "lite.toml"
    values = read_toml(path)
    try:
        tables = values.pop("cells", None)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise RecipeError("lacks its [[cells]] tables")
        _check_keys(values, {"name": str, "run_frames": int, "guard_frames": int, "window_frames": int}, {})
        for table in tables:
            _check_keys(table, {"scene": str, "clip": str}, {"train": int, "test": int})
        return Recipe(cells=tuple(Cell(**table) for table in tables), **values)
    except (RecipeError, CatalogError) as error:
        raise RecipeError(f"{path}: {error}; manifests/lite.toml shows the format") from error


def _check_keys(table: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type]) -> None:
    for name in required:
        if name not in table:
            raise RecipeError(f"lacks {name!r}" + (f" in the cell of {table['clip']}" if "clip" in table else ""))
    for name, value in table.items():
        expected = {**required, **optional}.get(name)
        if expected is None:
            raise RecipeError(f"unknown key {name!r}; known are {', '.join([*required, *optional])}")
        if type(value) is not expected:  # a bool is no count
            raise RecipeError(f"{name} must be {expected.__name__}, got {value!r}")


def of_scenes(recipe: Recipe, scenes: Sequence[str]) -> Recipe:
    """Keep the recipe's cells of some scenes; RecipeError names the known ones when one is unknown."""
    known = {cell.scene for cell in recipe.cells}
    for scene in scenes:
        if scene not in known:
            raise RecipeError(
                f"recipe {recipe.name} has no scene {scene!r}; it has {', '.join(sorted(known))}; scenes of your own belong in a "
                "recipe of your own, --recipe"
            )
    return replace(recipe, cells=tuple(cell for cell in recipe.cells if cell.scene in scenes))
