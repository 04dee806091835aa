"""The way through the house, as a user types it: sample, extract, make-lite, two-process training, translate, evaluate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S

from infraredcity.video import probe
from roma.training.metrics import read_metrics

pytestmark = pytest.mark.distributed

BIN = Path(sys.executable).parent
TRAIN = Path(__file__).resolve().parents[2] / "roma" / "train.py"
SMALL = ("data.load_size_px=36", "data.crop_size_px=32", "vit.image_size=32", "loss.region_sizes=[2]", "loss.window=3",
         "loss.warmup_steps=3", "schedule.total_steps=6", "output.log_every=1")  # fmt: skip


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    ended = subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def test_from_nothing_to_a_translated_video_beside_its_truth(tmp_path: Path):
    run(tmp_path, "infraredcity", "sample", "sample", "--width", "96", "--height", "80", "--frames", "48")
    extracted = run(tmp_path, "infraredcity", "extract", "--all", "--clips", "sample/clips.toml", "--json")
    reports = json.loads(extracted.stdout)["reports"]
    assert len(reports) == 9
    assert {(report["num_frames"], report["status"]) for report in reports} == {(48, "done")}
    lite = json.loads(run(tmp_path, "infraredcity", "make-lite", "--scale", "auto", "--json").stdout)
    assert {row["scene"] for row in lite["rows"]} == {"city", "highway", "monitor"}
    settings = [word for setting in SMALL for word in ("--set", setting)]
    run(
        tmp_path, "torchrun", "--standalone", "--nproc-per-node=2", str(TRAIN), "--preset", "tiny", "--device", "cpu",
        "--infrared", "lite/city/infrared-train/*.tar", "--visible", "lite/city/visible-train/*.tar", "--out", "run", *settings,
    )  # fmt: skip
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, 7))
    run(tmp_path, "roma", "translate", "run/snapshot.pt", "sample/monitor_night.mp4", "-o", "day.mp4")
    night, day = probe(tmp_path / "sample" / "monitor_night.mp4"), probe(tmp_path / "day.mp4")
    assert (day.num_frames, day.width_px, day.height_px) == (48, 96, 80)
    assert [p * day.time_base for p in day.pts.tolist()] == [p * night.time_base for p in night.pts.tolist()]
    evaluated = run(
        tmp_path, "roma", "evaluate", "run/snapshot.pt", "--infrared", "lite/city/infrared-test/*.tar",
        "--truth", "sample/truth", "--json",
    )  # fmt: skip
    test_frames = sum(row["num_frames"] for row in lite["rows"] if row["folder"] == "city/infrared-test")
    assert json.loads(evaluated.stdout)["num_frames"] == test_frames > 0
    run(tmp_path, "roma", "report", "run", "--evaluation", "evaluation", "--translated", "day.mp4", "-o", "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
