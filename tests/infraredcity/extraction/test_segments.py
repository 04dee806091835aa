import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infraredcity.errors import VideoDecodeError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.segments import segments
from infraredcity.shards.names import shard_name


@given(
    num_frames=st.integers(1, 3000),
    every=st.integers(1, 9),
    frames_per_shard=st.integers(1, 400),
    start=st.integers(0, 500),
    length=st.one_of(st.none(), st.integers(1, 3000)),
)
def test_segments_tile_the_chosen_frames(
    num_frames: int, every: int, frames_per_shard: int, start: int, length: int | None
) -> None:
    start = start % num_frames
    stop = None if length is None else start + length
    config = ExtractConfig(every=every, frames_per_shard=frames_per_shard, start_frame=start, stop_frame=stop)
    parts = segments("city_clear", num_frames, config)
    taken = [
        frame for part in parts for frame in range(part.frames.start_frame, part.frames.stop_frame, part.frames.step)
    ]
    assert taken == list(range(start, num_frames if stop is None else min(stop, num_frames), every))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert all(len(part.frames) == frames_per_shard for part in parts[:-1])
    assert 1 <= len(parts[-1].frames) <= frames_per_shard
    assert len({part.shard for part in parts}) == len(parts)


def test_shards_are_named_by_data_set_clip_and_number() -> None:
    assert shard_name("lite", "city_day", 42) == "lite-city_day-000042.tar"
    parts = segments("city_clear", 2500, ExtractConfig())
    assert [part.shard for part in parts] == [f"infraredcity-city_clear-00000{number}.tar" for number in range(3)]


def test_a_start_behind_the_end_is_an_error() -> None:
    with pytest.raises(VideoDecodeError, match="clip city_clear: has 50 frames, so nothing is left from --start 50 on"):
        segments("city_clear", 50, ExtractConfig(start_frame=50))


def test_a_config_survives_json() -> None:
    config = ExtractConfig(crop=(1, 2, 3, 4), size=(256, 192), fit="pad", color="rgb", stop_frame=9, every=3)
    assert ExtractConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match="unknown extraction setting 'speed'"):
        ExtractConfig.from_json({"speed": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quality": 0}, r"quality must be 1\.\.100, got 0"),
        ({"quality": 101}, r"quality must be 1\.\.100"),
        ({"every": 0}, "every must be at least 1"),
        ({"start_frame": -1}, "start must not be negative"),
        ({"start_frame": 5, "stop_frame": 5}, "stop must be above start 5, got 5"),
        ({"frames_per_shard": 0}, "frames-per-shard must be at least 1"),
        ({"device": "gpu"}, "device must be cpu, cuda:N or auto, got 'gpu'"),
        ({"crop": (0, 0, 0, 1)}, "crop must be"),
        ({"size": (0, 1)}, "size must be positive"),
    ],
)
def test_an_impossible_config_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractConfig(**values)
