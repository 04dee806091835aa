"""Data sets from strangers: deep json, indexes that lie, pipes and devices in place of files. One line each, and nothing hangs."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import RunCommand

from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.gaps import GAPS_NAME
from infraredcity.datasets.walk import JOB_NAME
from infraredcity.errors import InfraredCityError, ManifestError
from infraredcity.loader import WindowReader
from infraredcity.shards import sidecars
from infraredcity.shards.index_file import INDEX_NAME, load
from roma.config.overlay import read_settings
from roma.errors import ConfigError

pytestmark = pytest.mark.timeout(200)

DEEP = "[" * 100_000
SHARD = "infraredcity-city_clear-000001.tar"


@pytest.fixture
def clip(extracted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "set" / "city_clear"))


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replaced_by_zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def replaced_by_depth(path: Path) -> None:
    path.write_text(DEEP)


@pytest.mark.parametrize("name", [clip_facts.CLIPS_NAME, GAPS_NAME, sidecars.WIDS_NAME])
def test_deep_json_is_a_finding_and_is_repaired(clip: Path, infraredcity: RunCommand, name: str) -> None:
    replaced_by_depth(clip / name)
    told = infraredcity("verify", clip)
    assert told.code in (1, 4)
    assert name in told.stdout + told.stderr
    if name != sidecars.WIDS_NAME:
        assert "nested too deeply" in told.stdout + told.stderr
    assert infraredcity("report", clip).code in (0, 1)
    infraredcity("repair", clip)
    assert infraredcity("verify", clip).code == 0


@pytest.mark.parametrize(
    "command", [("verify",), ("report",), ("extract", "--clip", "city_clear", "--video", "a.mp4", "--out")]
)
def test_a_deep_record_of_a_job_is_no_traceback(clip: Path, infraredcity: RunCommand, command: tuple[str, ...]) -> None:
    replaced_by_depth(clip / JOB_NAME)
    assert infraredcity(*command, clip if command[0] != "extract" else clip.parent).code in (0, 1, 4)


def test_a_deep_record_of_a_lite_set_is_a_finding(clip: Path, infraredcity: RunCommand) -> None:
    replaced_by_depth(clip.parent / "lite.json")
    told = infraredcity("verify", clip.parent)
    assert told.code == 4
    assert "lite.json: damaged (nested too deeply)" in told.stdout
    assert infraredcity("report", clip.parent).code == 0


def test_deep_toml_is_one_line(tmp_path: Path, infraredcity: RunCommand) -> None:
    (tmp_path / "a.toml").write_text(f"clips = {DEEP}")
    for words in (
        ("clips", "--clips", tmp_path / "a.toml"),
        ("make-lite", "--recipe", tmp_path / "a.toml", "--from", tmp_path, "--out", tmp_path / "b"),
    ):
        told = infraredcity(*words)
        assert told.code == 1
        assert told.stderr.count("\n") == 1
        assert "a.toml: not valid TOML: nested too deeply" in told.stderr


def test_deep_settings_of_a_run_are_one_line(tmp_path: Path) -> None:
    replaced_by_depth(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"config\.json: not JSON that can be read \(nested too deeply\)"):
        read_settings(tmp_path / "config.json")


@pytest.mark.parametrize("replace", [replaced_by_a_pipe, replaced_by_zeros])
@pytest.mark.parametrize(
    "name",
    [clip_facts.CLIPS_NAME, INDEX_NAME, GAPS_NAME, manifest.CSV_NAME, sidecars.WIDS_NAME, SHARD, f"{SHARD[:-4]}.idx"],
)
def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(
    clip: Path, infraredcity: RunCommand, name: str, replace: Callable[[Path], None]
) -> None:
    replace(clip / name)
    told = infraredcity("verify", clip)
    assert told.code in (1, 4)
    assert name in told.stdout + told.stderr
    assert infraredcity("report", clip).code in (0, 1)
    if name in (SHARD, INDEX_NAME):
        with pytest.raises(InfraredCityError, match=re.escape(name)):
            read_everything(clip)
    assert infraredcity("repair", clip).code in (0, 1, 3)


def read_everything(clip: Path) -> None:
    reader = WindowReader([str(clip)], window_frames=1)
    try:
        reader.read_rows(range(len(reader.index)))
    finally:
        reader.close()


def lying(
    folder: Path, *, header: Callable[[dict[str, Any]], None] | None = None, **columns: Callable[[np.ndarray], None]
) -> None:
    """Change what an index says, its header or some columns."""
    with np.load(folder / INDEX_NAME) as file:
        arrays = dict(file)
    if header is not None:
        told = json.loads(arrays["header"].tobytes())
        header(told)
        arrays["header"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    for name, change in columns.items():
        change(arrays[name])
    np.savez(folder / INDEX_NAME, **arrays)


def put(row: int, value: int) -> Callable[[np.ndarray], None]:
    def change(column: np.ndarray) -> None:
        column[row] = value

    return change


def steps(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.update(frame_steps=[value])


def shards(place: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(told: dict[str, Any]) -> None:
        told["shards"][0][place] = value

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": steps(1 << 80)}, "frame step 1208925819614629174706176"),
        ({"header": steps("<b>")}, "frame step '<b>'"),
        ({"header": steps(0)}, "frame step 0"),
        ({"header": steps(-1)}, "frame step -1"),
        ({"header": steps(1.0)}, "frame step 1.0"),
        ({"header": steps(True)}, "frame step True"),
        ({"header": shards(1, "a")}, "'a' samples and"),
        ({"header": shards(2, 1 << 80)}, "1208925819614629174706176 bytes of shard"),
        ({"header": shards(2, -1)}, "-1 bytes of shard"),
        ({"header": shards(3, 7)}, "sha256 of shard"),
        ({"header": lambda told: told.update(clips=7)}, "damaged"),
        ({"header": lambda told: told.update(shards=[7])}, "damaged"),
        ({"size": put(3, 1 << 40)}, "a picture of 1099511627776 bytes"),
        ({"size": put(3, 200 << 20)}, "the sample of row 3 lies outside of the"),
        ({"offset": put(4, 1 << 40)}, "the sample of row 4 lies outside of the"),
        ({"offset": put(4, (1 << 63) - 1)}, "the sample of row 4 lies outside of the"),
        ({"span": put(5, 1 << 62)}, "the sample of row 5 lies outside of the"),
        ({"frame_index": put(6, 1 << 62)}, "frame index 4611686018427387904"),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_one_line_and_is_rebuilt(
    clip: Path, infraredcity: RunCommand, changes: dict[str, Any], message: str
) -> None:
    lying(clip, **changes)
    with pytest.raises(ManifestError, match=r"index\.npz: damaged or not an index") as caught:
        load(clip)
    assert message in str(caught.value)
    with pytest.raises(ManifestError, match=r"damaged or not an index"):
        WindowReader([str(clip / "*.tar")], window_frames=1)
    for command in ("verify", "report"):
        told = infraredcity(command, clip)
        assert told.code in (1, 4)
        assert "damaged or not an index" in told.stdout + told.stderr
    infraredcity("repair", clip)
    assert infraredcity("verify", clip).code == 0


@pytest.mark.parametrize("rows", [10**13, 10**9, 10**20])
def test_a_column_that_claims_more_rows_than_it_has_is_not_made_room_for(
    clip: Path, infraredcity: RunCommand, rows: int
) -> None:
    with zipfile.ZipFile(clip / INDEX_NAME) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    true = members["size.npy"]
    length = int.from_bytes(true[8:10], "little")
    text = true[10 : 10 + length].decode().replace("(50,)", f"({rows},)").rstrip()
    assert f"({rows},)" in text
    members["size.npy"] = true[:10] + f"{text:<{length - 1}}\n".encode() + true[10 + length :]
    with zipfile.ZipFile(clip / INDEX_NAME, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    with pytest.raises(ManifestError, match=rf"size claims {rows} values, more than it has"):
        load(clip)
    infraredcity("repair", clip)
    assert infraredcity("verify", clip).code == 0
