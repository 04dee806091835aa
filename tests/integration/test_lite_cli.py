"""`infraredcity make-lite` from the outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
RECIPE = """
name = "mine"
run_frames = 8
guard_frames = 5
window_frames = 2
[[cells]]
scene = "city"
clip = "city_clear"
train = 1600
test = 800
[[cells]]
scene = "city"
clip = "city_day"
train = 2000
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_a_lite_set_at_a_scale(infraredcity: Run, extracted: Path, recipe: Path, tmp_path: Path) -> None:
    command = ("make-lite", "--from", extracted, "--out", tmp_path / "lite", "--recipe", recipe, "--scale", "0.01")
    ran = infraredcity(*command, "--json")
    assert ran.code == 0, ran.stderr
    assert [(row["folder"], row["num_frames"]) for row in ran.json["rows"]] == [
        ("city/infrared-train", 16),
        ("city/infrared-test", 8),
        ("city/visible-train", 20),
    ]
    assert (ran.json["scale"], ran.json["guard_frames"], ran.json["is_new"]) == (0.01, 2, True)
    again = infraredcity(*command)
    assert again.code == 0
    assert "44 frames, scale 0.01, guard 2 frames, nothing to do" in again.stderr
    assert again.stdout.splitlines()[2].split() == ["city/infrared-test", "city_clear", "clear", "test", "8", "1", "1"]


def test_auto_finds_a_scale(infraredcity: Run, extracted: Path, recipe: Path, tmp_path: Path) -> None:
    ran = infraredcity(
        "make-lite", "--from", extracted, "--out", tmp_path / "lite", "--recipe", recipe, "--scale", "auto", "--json"
    )
    assert ran.code == 0, ran.stderr
    assert 0.01 <= ran.json["scale"] < 0.025
    assert ran.json["num_frames"] == sum(row["num_frames"] for row in ran.json["rows"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 1, "Error: recipe mine does not fit: city_clear test: 800 frames need 100 unbroken runs of 8"),
        (("--scale", "0.001"), 1, "at scale 0.001 are less than one window of 2"),
        (
            ("--scene", "village"),
            1,
            "Error: recipe mine has no scene 'village'; it has city; scenes of your own belong in a recipe of your own, --recipe",
        ),
        (("--scale", "2"), 2, "must be in (0, 1], got 2"),
        (("--scale", "small"), 2, "expected a number or auto, got 'small'"),
        (("--recipe", "gone.toml"), 1, "Error: gone.toml: no such file"),
        (("--from", "nowhere"), 1, "Error: nowhere: these clips of the recipe are not extracted: city_clear, city_day"),
    ],
)
def test_bad_input_is_one_line_and_a_code(
    infraredcity: Run, extracted: Path, recipe: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    ran = infraredcity("make-lite", "--from", extracted, "--out", tmp_path / "lite", "--recipe", recipe, *options)
    assert ran.code == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.rglob("*.tar"))


def test_every_shortfall_is_in_the_message(infraredcity: Run, extracted: Path, recipe: Path, tmp_path: Path) -> None:
    ran = infraredcity("make-lite", "--from", extracted, "--out", tmp_path / "lite", "--recipe", recipe)
    for part in ("city_clear test: ", "city_clear train: ", "city_day train: "):
        assert part in ran.stderr
    assert ran.stderr.rstrip().endswith("use longer clips or --scale auto")
