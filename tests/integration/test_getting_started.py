"""The steps of docs/getting-started.md, as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

from processes import PATIENCE_S

PAGE = Path(__file__).resolve().parents[2] / "docs" / "getting-started.md"


def test_the_steps_by_hand_go_from_nothing_to_a_translated_video(tmp_path: Path) -> None:
    (steps,) = re.findall(r"from an empty folder:\n\n```sh\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert steps.count("infraredcity ") == 4
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", steps], cwd=tmp_path, env=os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "day.mp4: 60 frames, 128x96" in done.stderr + done.stdout
    assert (tmp_path / "day.mp4").stat().st_size > 1000
