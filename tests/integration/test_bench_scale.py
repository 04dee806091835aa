"""The benchmark of scaling: that it measures what it says and cleans up, not how fast anything is."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S, started

TOOLS = Path(__file__).resolve().parents[2] / "tools"
COMMAND = [sys.executable, TOOLS / "bench_scale.py", "--segments", "300", "--parts", "20", "--more-frames", "0"]
STEPS = ["plan", "nothing", "part", "quick", "status", "finalize"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import bench_scale

    return bench_scale


def test_each_step_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    more = ["--frames-per-segment", "2", "--clips", "2", "--json", tmp_path / "result.json", "--folder", scratch]
    ended = subprocess.run([*COMMAND, *more], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert list(scratch.iterdir()) == []

    result = json.loads((tmp_path / "result.json").read_text())
    (case,) = result["cases"]
    counts = {name: case[name] for name in ("num_clips", "num_segments", "num_parts", "num_frames")}
    assert counts == {"num_clips": 2, "num_segments": 300, "num_parts": 20, "num_frames": 600}
    assert list(case["steps"]) == STEPS
    for figures in case["steps"].values():
        assert figures["cpu_s"] > 0
        assert figures["wall_s"] > 0
        assert 10_000_000 < figures["peak_rss_bytes"] < 2**30
        assert figures["cpu_us_per_segment"] == pytest.approx(figures["cpu_s"] / 300 * 1e6, rel=0.01)
    # A line of a plan has some 180 bytes; a segment record two glances of 32x32, 1,368 letters each in base64.
    assert 300 * 150 < case["plan_bytes"] < 300 * 250
    assert 2 * 1368 < case["record_bytes"] < 2 * 1368 + 1000
    printed = ended.stdout.splitlines()
    assert [line.split()[:3] for line in printed[1:7]] == [[step, "300", "600"] for step in STEPS]


def test_growth_is_the_time_of_a_segment_over_that_of_the_case_before(bench: Any) -> None:
    small = {"num_segments": 1000, "steps": {"status": {"cpu_s": 2.0}}}
    large = {"num_segments": 10_000, "steps": {"status": {"cpu_s": 30.0}}}
    assert bench.growth("status", small, large) == "1.50"
    assert bench.growth("status", large, small) == ""


def test_a_command_that_says_something_else_ends_the_benchmark(bench: Any) -> None:
    bench.expect({"num_done": 300, "array": ""}, num_done=300)
    with pytest.raises(SystemExit, match=r"Error: num_done is 299, expected 300"):
        bench.expect({"num_done": 299}, num_done=300)


def test_stopping_it_leaves_no_files(tmp_path: Path) -> None:
    more = ["--json", tmp_path / "result.json", "--folder", tmp_path]
    with started([*COMMAND, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("what the parts leave\n"):
                process.send_signal(signal.SIGTERM)
                break
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, rest) == (143, "bench_scale.py: stopped\n")
    assert list(tmp_path.iterdir()) == []
