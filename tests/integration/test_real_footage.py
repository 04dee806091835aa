"""Real clips, where somebody has them: INFRAREDCITY_REAL_DATA names their folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infraredcity import video
from infraredcity.shards import index_file
from infraredcity.shards.reader import iterate

VARIABLE = "INFRAREDCITY_REAL_DATA"
COUNTS = {
    "video_ir_night/m3svd_ir_0111_1753.mp4": 913,
    "video_ir_night/m3svd_ir_0115_1831.mp4": 970,
    "video_visible_day/tmo_seattlestreet1.mp4": 1010,
    "video_visible_day/vtest.avi": 795,
}


@pytest.fixture(scope="module")
def real_data() -> Path:
    place = os.environ.get(VARIABLE)
    if not place:
        pytest.skip(f"{VARIABLE} is not set; it names the folder of the real clips")
    return Path(place)


@pytest.mark.parametrize(("name", "num_frames"), COUNTS.items())
def test_a_probe_counts_the_frames_of_real_clips(real_data: Path, name: str, num_frames: int) -> None:
    info = video.probe(real_data / name)
    assert info.num_frames == num_frames
    assert info.suspect == ()


@pytest.mark.parametrize(("name", "num_frames"), list(COUNTS.items())[:2])
def test_extraction_of_real_night_clips_gives_each_key_once(
    real_data: Path, infraredcity: Callable[..., Any], tmp_path: Path, name: str, num_frames: int
) -> None:
    ran = infraredcity("extract", "--clip", "city_clear", "--video", real_data / name, "--out", tmp_path)
    assert ran.code == 0, ran.stderr
    expected = [f"city_clear_{frame:08d}" for frame in range(num_frames)]
    shards = sorted((tmp_path / "city_clear").glob("*.tar"))
    assert [sample.key for shard in shards for sample in iterate(shard)] == expected
    assert index_file.load(tmp_path / "city_clear").keys() == expected
