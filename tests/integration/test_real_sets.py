"""Data sets of real clips, where somebody has them: drawn, checked, broken, put right, shown, handed on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infraredcity.clips import Clip
from infraredcity.datasets import lite
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.shards import index_file
from infraredcity.shards.by_row import ShardFiles

VARIABLE = "INFRAREDCITY_REAL_DATA"
CLIPS = {
    "city_clear": ("video_ir_night/m3svd_ir_0111_1753.mp4", 913),
    "city_overcast": ("video_ir_night/m3svd_ir_0115_1831.mp4", 970),
    "city_day": ("video_visible_day/vtest.avi", 795),
}
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def real_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/ with three clips, and lite/ drawn from them."""
    place = os.environ.get(VARIABLE)
    if not place:
        pytest.skip(f"{VARIABLE} is not set; it names the folder of the real clips")
    root = tmp_path_factory.mktemp("real")
    for clip_id, (name, num_frames) in CLIPS.items():
        is_day = clip_id == "city_day"
        clip = Clip(
            clip_id=clip_id, paths=(Path(place) / name,), scene="city", weather="any" if is_day else clip_id.partition("_")[2],
            modality="visible" if is_day else "infrared", time_of_day="day" if is_day else "night", expected_frames=num_frames,
        )  # fmt: skip
        extract_clip(clip, ExtractConfig(frames_per_shard=300), root / "shards")
    cells = (
        Cell(scene="city", clip="city_clear", train=400, test=100),
        Cell(scene="city", clip="city_overcast", train=400, test=100),
        Cell(scene="city", clip="city_day", train=500),
    )
    recipe = Recipe(name="lite", run_frames=50, guard_frames=100, window_frames=2, cells=cells)
    lite.build(root / "shards", root / "lite", recipe)
    return root


def pictures(root: Path) -> dict[tuple[str, str], bytes]:
    found = {}
    for part in open_dataset(root):
        with ShardFiles(part.index, part.path) as files:
            found |= {(part.split, part.index.key(row)): files.image(row) for row in range(len(part.index))}
    return found


def test_all_of_it_is_as_it_should_be_and_every_picture_decodes(real_set: Path, infraredcity: Command) -> None:
    ran = infraredcity("verify", real_set, "--decode", "all", "--json")
    assert (ran.code, ran.json["findings"]) == (0, [])
    assert ran.json["num_samples"] == ran.json["num_decoded"] == 913 + 970 + 795 + 1500


def test_a_camera_that_hardly_moves_leaks_and_is_said_to(real_set: Path, infraredcity: Command) -> None:
    report = infraredcity("report", real_set / "lite", "--json").json
    (leak,) = report["leakage"]["found"]
    # The first clip is filmed from a place that hardly changes: a guard of 100 frames does not help there.
    assert leak["num_test"] == 200
    assert leak["num_near"] > 50
    assert leak["distance_bits"] <= 2


def test_the_page_of_real_clips_stays_small(real_set: Path, infraredcity: Command, tmp_path: Path) -> None:
    ran = infraredcity("report", real_set / "shards", "-o", tmp_path / "page.html")
    assert ran.code == 0, ran.stderr
    assert "2,678 samples, 2,000 thumbnails, no problem" in ran.stderr
    assert (tmp_path / "page.html").stat().st_size < 10_000_000


def test_the_release_layout_and_back_keeps_every_byte(real_set: Path, infraredcity: Command, tmp_path: Path) -> None:
    ran = infraredcity("export", "release", real_set / "lite", "--kind", "both", "--to", tmp_path / "release")
    assert ran.code == 0, ran.stderr
    ran = infraredcity(
        "import", tmp_path / "release", "--layout", "release", "--kind", "single", "--out", tmp_path / "back"
    )
    assert ran.code == 0, ran.stderr
    assert pictures(tmp_path / "back") == pictures(real_set / "lite")
    assert infraredcity("verify", tmp_path / "back").code == 0


def test_a_damaged_shard_is_found_and_its_clip_made_whole_again(
    real_set: Path, infraredcity: Command, tmp_path: Path
) -> None:
    place = Path(os.environ[VARIABLE]) / CLIPS["city_clear"][0]
    words = ("extract", "--clip", "city_clear", "--video", place, "--out", tmp_path, "--frames-per-shard", 300)
    assert infraredcity(*words).code == 0
    folder = tmp_path / "city_clear"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    index = index_file.load(folder)
    shard = folder / index.shards[1].name
    data = bytearray(shard.read_bytes())
    data[int(index.offset[400]) + 900] ^= 0x10
    shard.write_bytes(data)
    assert infraredcity("verify", folder).code == 4
    assert infraredcity("repair", folder).code == 3
    assert infraredcity("verify", folder).code == 0
    assert infraredcity(*words).code == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before}
    assert after == before
