"""An exported release in a reader as those of CUT and of ROMA's reference: files by name, opened by Pillow, pairs cut in two."""

from pathlib import Path

import numpy as np
import pytest
from interop_sets import needs

from infraredcity.datasets.folder import open_folder
from infraredcity.export.release_export import export
from infraredcity.shards.by_row import ShardFiles
from infraredcity.stills.decode import decode
from infraredcity.stills.framing import resize

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """u8 [H, W, 3] by name, as an unaligned data set reads trainA."""
    from PIL import Image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


@pytest.fixture(scope="module")
def release(lite_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release")
    export(lite_set, out)
    return out / "Double/Traffic/City/clearday"


@pytest.mark.parametrize(
    ("folder", "part"),
    [("trainA", "city/infrared-train"), ("trainB", "city/visible-train"), ("testA", "city/infrared-test")],
)
def test_the_halves_of_a_double_are_two_frames_in_time(lite_set: Path, release: Path, folder: str, part: str) -> None:
    needs("PIL")
    index = open_folder(lite_set, part).index
    with ShardFiles(index, lite_set / part) as files:
        frames = {index.key(row): resize(decode(files.image(row), "rgb"), 256, 256) for row in range(len(index))}
    keys = index.keys()
    pairs = {
        keys[row]: keys[row + 1]
        for start, length in index.stretches().tolist()
        for row in range(start, start + length - 1)
    }
    read = read_folder(release / folder)
    assert read.keys() == pairs.keys()
    for key, both in read.items():
        assert both.shape == (256, 512, 3)
        for half, name in ((both[:, :256], key), (both[:, 256:], pairs[key])):
            errors = {other: np.abs(half.astype(int) - frame).mean() for other, frame in frames.items()}
            # Within the error of a jpg of quality 95, and closer to its frame than to any other one.
            assert errors[name] < 2.5
            assert min(errors, key=lambda other: errors[other]) == name
