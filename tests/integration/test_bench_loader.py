"""The benchmark of the loader: that it measures what it says, with and without peers, not how fast anything is."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

from infraredcity.loader import WindowReader, one_pass
from infraredcity.stills.decode import decode, size_of

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import bench_loader

    return bench_loader


def test_a_quick_run_without_peers_measures_ours_and_says_what_is_missing(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.json"
    command = [sys.executable, TOOLS / "bench_loader.py", "--json", out, "--quick", "--samples", "256", "--work", tmp_path,
               "--peers-python", tmp_path / "none" / "python"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr

    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["format"] == "infraredcity-bench-loader-1"
    (cells,) = result["rounds"]
    assert list(cells) == ["in order, single", "in order, pairs", "shuffled, single", "shuffled, pairs"]
    for name, rows in cells.items():
        run = {subject for subject, row in rows.items() if "windows_per_s" in row}
        own = {"ours"}
        if "shuffled" in name:
            own |= {subject.name for subject in bench.SUBJECTS if subject.role in ("crops", "guest")}
        if "single" in name:
            own |= {"decoding alone, one thread", "decoding alone, all cores"}
        assert run == own
        assert all(rows[subject]["windows_per_s"] > 0 for subject in run)
    assert cells["shuffled, single"]["ours"]["first_batch_s"] > 0
    assert result["medians"]["shuffled, pairs"]["ours"]["by_ours"] == 1.0
    assert 0 < result["resume"]["far_s"] < 60

    *_, last = done.stdout.splitlines()
    assert last == result["summary"]
    assert last.startswith("loader: ")
    assert "4 not measured" in last
    assert f"not run: SPDL, threads: no Python at {tmp_path}/none/python; make an environment" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loader-v1-256", "out"]


def test_the_set_is_one_run_of_jpgs_like_real_ones(bench: Any, tmp_path: Path) -> None:
    root, facts = bench.the_set(tmp_path, num_samples=300, real=False)
    assert facts["num"] == 300
    assert 15_000 < facts["mean_bytes"] < 22_000
    assert len(list((root / "shards").glob("*.tar"))) == 2
    files = sorted((root / "files").iterdir())
    assert [path.name for path in files[:2]] == ["city_day_00000000.jpg", "city_day_00000001.jpg"]
    assert size_of(files[7].read_bytes()) == (256, 256)

    reader = WindowReader([root / "shards" / "*.tar"], window_frames=2, threads=1)
    assert reader.num_windows == 299
    windows = next(iter(one_pass(reader, batch_size=8)))
    reader.close()
    assert windows.keys[7] == ("city_day_00000007", "city_day_00000008")
    shown = windows.frames[7, 0].permute(1, 2, 0).numpy()
    assert (shown == decode(files[7].read_bytes(), "rgb")).all()
    assert next(itertools.islice(bench.made_jpgs(), 7, None)) == files[7].read_bytes()


def test_files_as_a_peer_gives_pairs_of_neighbours_in_one_tensor(bench: Any, tmp_path: Path) -> None:
    import bench_loader_peers as peers

    root, _ = bench.the_set(tmp_path, num_samples=256, real=False)
    files = sorted((root / "files").iterdir())
    job = peers.Job(root=root, shuffled=False, window_frames=2, workers=0, warm_up_batches=1, timed_batches=2)
    batches = list(peers.files(job)())
    assert [tuple(batch.shape) for batch in batches] == [(64, 2, 3, 256, 256)] * 3
    shown = batches[1][5, 1].permute(1, 2, 0).numpy()
    assert (shown == decode(files[64 + 5 + 1].read_bytes(), "rgb")).all()
    assert set(peers.timed(peers.files(job), job)) == {"windows_per_s", "first_batch_s"}


def test_a_peer_that_cannot_be_imported_is_missing_and_no_error(bench: Any, tmp_path: Path) -> None:
    options = {"shuffled": True, "window_frames": 1, "workers": 0, "warm_up_batches": 1, "timed_batches": 1}
    row = bench.child(Path(sys.executable), "bench_loader_peers.measure", "spdl", str(tmp_path), **options)
    assert row == {"missing": "spdl: No module named 'spdl'"}
    row = bench.child(Path(sys.executable), "bench_loader_peers.measure", "files", str(tmp_path), **options)
    assert row["missing"].startswith("files: ended with code 1: FileNotFoundError")


def test_batches_to_time_stay_within_nine_tenths_of_the_set(bench: Any) -> None:
    # 19,999 pairs: 17,999 are nine tenths, 281 whole batches of them.
    assert bench.batches_to_time(19_999, 20_000) == {"warm_up_batches": 16, "timed_batches": 265}
    assert bench.batches_to_time(20_000, 4_000) == {"warm_up_batches": 16, "timed_batches": 63}
    assert bench.batches_to_time(255, 4_000) == {"warm_up_batches": 1, "timed_batches": 2}


def test_ratios_are_taken_within_a_round_and_goals_name_what_is_missed(bench: Any) -> None:
    def rows(ours: float, processes: float, alone: float) -> dict[str, Any]:
        speeds = {"ours": ours, "litdata, 2 workers": processes, "webdataset, no workers": alone}
        return {name: {"windows_per_s": speed, "first_batch_s": 0.02} for name, speed in speeds.items()}

    measured = [
        {cell.name: rows(ours, processes, alone) for cell in bench.CELLS}
        for ours, processes, alone in ((900.0, 300.0, 450.0), (800.0, 400.0, 500.0), (100.0, 80.0, 50.0))
    ]
    resume = {"far_s": 0.0021, "set_s": 0.0012}
    result = {"rounds": measured, "medians": bench.medians(measured), "resume": resume}
    assert result["medians"]["in order, single"]["litdata, 2 workers"]["windows_per_s"] == 300.0
    assert result["medians"]["in order, single"]["litdata, 2 workers"]["by_ours"] == pytest.approx(0.5)
    # Of the best peer: 2, 1.6, 1.25; of the best with processes: 3, 2, 1.25.
    found = bench.goals(result)
    assert [goal["figure"] for goal in found] == [
        pytest.approx(1.6), 2.0, None, 2.0, None, None, 0.02, 0.0021
    ]  # fmt: skip
    assert [goal["is_met"] for goal in found] == [True, True, False, True, False, False, True, True]
    assert bench.summary(found) == (
        "loader: 5 of 8 goals met, 3 not measured: 1.60x the best peer, in the worst cell (goal >= 1.00x); "
        "2.00x the best peer with processes, single frames (goal >= 1.80x); "
        "2.00x the best peer with processes, shuffled pairs (goal >= 1.50x); "
        "0.020 s to the first batch (goal < 0.100); 0.0021 s to resume (goal < 0.0500)"
    )
