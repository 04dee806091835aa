"""The whole way on real footage, where its folder is given by INFRAREDCITY_REAL_DATA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S

from infraredcity.video import probe

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "real_run.py"


@pytest.mark.distributed
@pytest.mark.skipif(
    "INFRAREDCITY_REAL_DATA" not in os.environ, reason="INFRAREDCITY_REAL_DATA names no folder of footage"
)
def test_real_footage_goes_the_whole_way_with_every_frame_once(tmp_path: Path):
    settings = ["loss.warmup_steps=20", "schedule.total_steps=30", "output.log_every=5"]
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), os.environ["INFRAREDCITY_REAL_DATA"], str(tmp_path),
         *(word for setting in settings for word in ("--set", setting))],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout[ended.stdout.index("\n{") : ended.stdout.rindex("\n}") + 2])
    assert facts["frames"] == {"street_1753": 913, "street_1831": 970, "seattle": 1010, "square": 795}
    assert facts["last_metrics"]["step"] == 30
    assert probe(tmp_path / "translated.mp4").num_frames == 913
    assert "index.html" in ended.stdout.splitlines()[-1]
