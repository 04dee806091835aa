"""Extraction keeps every class of footage exactly: the stills hold what decoding shows, whatever the number of workers."""

from pathlib import Path

import numpy as np
import pytest
from footage import BY_NAME, FOOTAGE
from synthetic import clip_of

from infraredcity import video
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.shards import index_file
from infraredcity.shards.reader import iterate
from infraredcity.stills.decode import decode
from infraredcity.video import FrameRange

CLIP = "city_clear"
# The counts of deep gray video are written otherwise, and have tests of their own.
NAMES = [footage.name for footage in FOOTAGE if footage.shown and not footage.is_deep]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("footage")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a run leaves, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("name", NAMES)
def test_stills_are_the_decoded_pictures_with_one_worker_and_with_two(folder: Path, tmp_path: Path, name: str) -> None:
    path = BY_NAME[name].make(folder)
    config = ExtractConfig(image_format="png", color="rgb", frames_per_shard=17)
    for workers in (1, 2):
        report = extract_clip(clip_of(path), config, tmp_path / str(workers), workers=workers)
        assert report.num_frames == len(BY_NAME[name].shown)
        assert report.gaps == ()
    one, two = (contents(tmp_path / str(workers)) for workers in (1, 2))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []

    clip = video.open_clip([path])
    shards = sorted((tmp_path / "1" / CLIP).glob("*.tar"))
    stills = [sample for shard in shards for sample in iterate(shard)]
    frames = video.decode(clip, FrameRange(start_frame=0, stop_frame=clip.num_frames), decoder="pyav")
    for number, (still, frame) in enumerate(zip(stills, frames, strict=True)):
        assert still.key == f"{CLIP}_{number:08d}"
        assert np.array_equal(decode(still.members["png"], "rgb"), frame.picture("rgb")), f"frame {number}"

    written = index_file.load(tmp_path / "1" / CLIP)
    assert written.frame_index.tolist() == list(range(clip.num_frames))
    assert written.pts.tolist() == clip.pts.tolist()
