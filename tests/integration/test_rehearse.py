"""The published counts on tiny clips: all of them (slow), and the 200th part."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infraredcity.clips import load_catalog

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def rehearse(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import rehearse

    return rehearse


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOLS / "rehearse.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_200th_part_gives_the_200th_part_of_every_cell(tmp_path: Path) -> None:
    ended = run(tmp_path / "work", "--json", tmp_path / "found.json", "--divide", 200, "--fps-640", 1000)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["differences"] == []
    cells = {name: count for name, count in found["counts"].items() if name.startswith("lite ")}
    assert cells == {
        "lite city infrared_train_clear": 27,
        "lite city infrared_test_clear": 5,
        "lite city infrared_train_overcast": 11,
        "lite city infrared_test_overcast": 5,
        "lite city visible_train": 26,
        "lite city total": 74,
        "lite highway infrared_train_clear": 22,
        "lite highway infrared_test_clear": 5,
        "lite highway infrared_train_overcast": 14,
        "lite highway infrared_test_overcast": 5,
        "lite highway visible_train": 32,
        "lite highway total": 78,
        "lite monitor infrared_train": 28,
        "lite monitor infrared_test": 2,
        "lite monitor visible_train": 20,
        "lite monitor total": 50,
        "lite total": 202,
    }
    assert found["counts"]["night_visible: pictures in tars"] == 893
    assert 0 < found["peak_rss_bytes"]["extract"] < 2**30
    # The 200th part of each clip rounded down (260, 130, 215, 158, 243, 893, 333, 402, 261), and the Lite set.
    assert found["verified_samples"] == 2_895 + 202
    assert found["verify_s"] > 0
    assert 0 < found["peak_rss_bytes"]["verify"] < 2**30
    assert f"verify {found['verify_s']:.1f} s, at most " in ended.stdout
    # 579,984 frames at 1,000 a second
    assert found["at_640x512"]["extract_s"] == pytest.approx(579.984)
    assert ended.stdout.splitlines()[-1].endswith("every count as expected")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["clips.toml"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_published_counts_come_out_in_full(tmp_path: Path) -> None:
    ended = run(tmp_path / "work", "--json", tmp_path / "found.json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    counts = found["counts"]
    assert [counts[name] for name in ("infrared_night", "visible_night", "visible_day", "total")] == [
        201_856,
        178_698,
        199_430,
        579_984,
    ]
    assert [counts[f"lite {name}total"] for name in ("city ", "highway ", "monitor ", "")] == [
        15_180,
        15_853,
        10_306,
        41_339,
    ]
    assert found["differences"] == []
    assert max(found["peak_rss_bytes"].values()) < 2**30


def test_the_clips_lengths_add_up_to_the_published_totals(rehearse: Any) -> None:
    clips = list(load_catalog(environment={}))
    lengths = rehearse.clip_lengths(clips)
    assert len(lengths) == 9
    assert sum(lengths.values()) == 579_984
    assert lengths["night_visible"] == 178_698
    assert sum(lengths[clip] for clip in ("city_day", "highway_day", "monitor_day")) == 199_430
    assert min(lengths.values()) > 20_000


def test_a_number_that_differs_gets_a_line(rehearse: Any) -> None:
    assert rehearse.differing({"total": 1000, "lite total": 7}, {"total": 999, "lite total": 7, "odd": 1}) == [
        "total: expected 1,000, found 999",
        "odd: expected none, found 1",
    ]


def test_what_verify_finds_is_a_difference(rehearse: Any, extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted, tmp_path / "shards")
    shard = tmp_path / "shards/city_day/infraredcity-city_day-000002.tar"
    shard.unlink()
    line = f"verify: {shard}: the index names it, it is not there; copy it again, or extract again"
    assert rehearse.findings_of(json.loads(rehearse.run_verify(tmp_path, divide=2).stdout)) == [line]
    undivided = rehearse.findings_of(json.loads(rehearse.run_verify(tmp_path, divide=1).stdout))
    assert undivided[0] == line
    assert "verify: all frames: 579,984 frames are published, 100 are here" in undivided


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "clips.toml").write_text("[clips.mine]\n")
    ended = run(tmp_path, "--divide", 200)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: {tmp_path}: holds something that no rehearsal wrote; name a new or empty folder\n"
    assert (tmp_path / "shards").is_dir()
