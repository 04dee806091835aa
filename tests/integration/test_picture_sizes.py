"""A clip whose picture size changes, through everything that is done with a data set: each sample has a size of its own."""

import json
import shutil
from pathlib import Path

import footage
import numpy as np
import pytest
from commands import RunCommand

from infraredcity.datasets import manifest
from infraredcity.errors import ShardError
from infraredcity.loader import WindowReader
from infraredcity.shards import index_file
from infraredcity.shards.reader import iterate
from infraredcity.stills.decode import size_of

CLIP = "city_clear"
RECIPE = """
name = "mine"
run_frames = 5
guard_frames = 1
window_frames = 2
[[cells]]
scene = "city"
clip = "city_clear"
train = 40
test = 10
"""
SIZES = [(96, 64)] * 30 + [(144, 96)] * 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return footage.BY_NAME["two_sizes_h264_mkv"].make(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def shards(video: Path, tmp_path: Path, infraredcity: RunCommand) -> Path:
    command = ("extract", "--clip", CLIP, "--video", video, "--frames-per-shard", 16, "--out", tmp_path / "shards")
    ran = infraredcity(*command)
    assert ran.code == 0, ran.stderr
    assert f"{CLIP}: sizes differ: 96x64 (30), 144x96 (30) frames; no window spans a change; --size" in ran.stderr
    return tmp_path / "shards"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sizes_told(part: Path) -> list[list[tuple[int, int]]]:
    """Width and height of each sample of a part: in json, index, csv and parquet."""
    told = [json.loads(sample.members["json"]) for path in sorted(part.glob("*.tar")) for sample in iterate(path)]
    index = index_file.load(part)
    rows = [manifest.read(part / name) for name in (manifest.CSV_NAME, manifest.PARQUET_NAME)]
    return [
        [(each["width"], each["height"]) for each in told],
        list(zip(index.width.tolist(), index.height.tolist(), strict=True)),
        *(list(zip(each["width"], each["height"], strict=True)) for each in rows),
    ]


def check(infraredcity: RunCommand, folder: Path) -> None:
    """Verify is content with the folder, and repair leaves it alone."""
    ran = infraredcity("verify", folder, "--decode", "all")
    assert (ran.code, ": OK" in ran.stdout) == (0, True), ran.stdout
    before = contents(folder)
    assert infraredcity("repair", folder).code == 0
    assert contents(folder) == before


def test_each_sample_has_its_own_size_wherever_it_is_told(shards: Path, infraredcity: RunCommand) -> None:
    assert sizes_told(shards / CLIP) == [SIZES] * 4
    check(infraredcity, shards)


def test_a_run_ends_where_the_size_changes(shards: Path) -> None:
    index = index_file.load(shards / CLIP)
    assert index.run_id[29] != index.run_id[30]
    assert np.flatnonzero(np.diff(index.width)).tolist() == [29]


@pytest.mark.parametrize("lost", [["index.npz"], ["index.npz", "manifest.csv", "manifest.parquet"], ["clips.json"]])
def test_what_is_lost_comes_back_with_the_sizes(shards: Path, infraredcity: RunCommand, lost: list[str]) -> None:
    for name in lost:
        (shards / CLIP / name).unlink()
    assert infraredcity("repair", shards).code == 0
    assert sizes_told(shards / CLIP) == [SIZES] * 4
    assert infraredcity("verify", shards, "--decode", "all").code == 0
    index = index_file.load(shards / CLIP)
    assert index.run_id[29] != index.run_id[30]


def test_an_index_without_a_damaged_shard_keeps_the_sizes(shards: Path, infraredcity: RunCommand) -> None:
    index = index_file.load(shards / CLIP)
    path = shards / CLIP / index.shards[1].name  # frames 16 to 31, of both sizes
    data = bytearray(path.read_bytes())
    data[int(index.offset[20]) + 300] ^= 1
    path.write_bytes(data)
    assert infraredcity("repair", shards).code == 3
    kept = SIZES[:16] + SIZES[32:]
    assert sizes_told(shards / CLIP) == [kept] * 4


def test_sizes_that_a_json_states_wrongly_are_found(shards: Path, infraredcity: RunCommand) -> None:
    index = index_file.load(shards / CLIP)
    path = shards / CLIP / index.shards[1].name
    before = path.read_bytes()
    assert before.count(b'"width":144,"height":96') == 2
    path.write_bytes(before.replace(b'"width":144,"height":96', b'"width":441,"height":69'))
    assert "says width 441, expected 144" in infraredcity("verify", shards).stdout
    assert infraredcity("repair", shards).code == 3
    assert not path.exists()


def test_sets_made_from_it_have_them_too(shards: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    for command in (("reshard", shards, "--samples-per-shard", 7), ("shard", shards, "--where", "width=144")):
        out = tmp_path / str(command[0])
        ran = infraredcity(*command, "--out", out)
        assert ran.code == 0, ran.stderr
        assert sizes_told(out / CLIP) == [SIZES if command[0] == "reshard" else SIZES[30:]] * 4
        check(infraredcity, out)


def test_a_lite_set_and_its_release_have_them(shards: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    lite, release = tmp_path / "lite", tmp_path / "release"
    for command in (
        ("make-lite", "--from", shards, "--out", lite, "--recipe", tmp_path / "mine.toml"),
        ("export", "release", lite, "--to", release, "--kind", "single"),
    ):
        ran = infraredcity(*command)
        assert ran.code == 0, ran.stderr
    expected = []
    for part in ("city/infrared-train", "city/infrared-test"):
        expected += [SIZES[frame] for frame in index_file.load(lite / part).frame_index.tolist()]
        assert sizes_told(lite / part) == [expected[-len(index_file.load(lite / part)) :]] * 4
    assert {*expected} == {*SIZES}
    check(infraredcity, lite)
    exported = [size_of(path.read_bytes(), name=path.name) for path in release.rglob("*.jpg")]
    assert sorted(exported) == sorted(expected)


def test_a_report_and_a_card_name_all_sizes(shards: Path, infraredcity: RunCommand) -> None:
    assert infraredcity("report", shards).code == 0
    assert "96&times;64, 144&times;96" in (shards / "report.html").read_text()
    assert infraredcity("export", "hf-card", shards).code == 0
    assert "96x64, 144x96" in (shards / "README.md").read_text()


def test_plain_files_are_listed_with_them(video: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("extract", "--clip", CLIP, "--video", video, "--to", "frames", "--out", tmp_path / "out")
    assert ran.code == 0, ran.stderr
    rows = manifest.read(tmp_path / "out" / CLIP / manifest.CSV_NAME)
    assert list(zip(rows["width"], rows["height"], strict=True)) == SIZES


def test_the_loader_asks_for_one_size(shards: Path) -> None:
    resized, mixed = (WindowReader([shards / CLIP], size=size) for size in ((32, 48), None))
    windows = range(2 * (30 - 1))  # none spans the change
    assert resized.read(windows).frames.shape == (58, 2, 3, 32, 48)
    with pytest.raises(
        ShardError, match="one batch holds frames of 96x64 and 144x96; extract with one --size, or give"
    ):
        mixed.read(windows)
    resized.close()
    mixed.close()


def test_one_size_is_not_remarked_upon(extracted: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    shutil.copytree(extracted / CLIP, tmp_path / CLIP)
    assert {*sizes_told(tmp_path / CLIP)[0]} == {(96, 64)}
    check(infraredcity, tmp_path)
