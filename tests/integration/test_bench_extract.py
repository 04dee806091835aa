"""The benchmark of extraction: that it measures what it says and cleans up, not how fast anything is."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S, started

from infraredcity.video import probe

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import bench_extract

    return bench_extract


@pytest.fixture
def tiny(bench: Any) -> Any:
    return bench.Footage(
        name="colour 192x128", clip_id="city_day", width_px=192, height_px=128, num_frames=40, is_colour=True,
        ffmpeg_target=2.0,
    )  # fmt: skip


def test_a_round_measures_every_way_and_leaves_nothing(bench: Any, tiny: Any, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clip = bench.make_clip(tiny, tmp_path, scratch, repeats=2, piece_frames=20)
    info = probe(clip)
    assert (info.num_frames, info.num_hidden, info.suspect, info.has_reordering) == (40, 0, (), True)
    written = clip.stat().st_mtime_ns
    assert bench.make_clip(tiny, tmp_path, scratch, repeats=2, piece_frames=20).stat().st_mtime_ns == written

    result = bench.bench_clip(tiny, clip, scratch, rounds=1, num_frames=40)
    (row,) = result["rounds"]
    assert all(value > 0 for value in row.values())
    assert row["limit_s"] < row["limit_with_conversion_s"] < row["ours_s"]
    assert row["share_of_limit"] == pytest.approx(row["limit_s"] / row["ours_s"])
    assert row["times_ffmpeg"] == pytest.approx(row["ffmpeg_s"] / row["ours_s"])
    assert row["limit_times_ffmpeg"] == pytest.approx(row["ffmpeg_s"] / row["limit_s"])
    assert row["ours_fps"] == pytest.approx(40 / row["ours_s"])
    assert row["every_10_of_decode"] == pytest.approx(row["every_10_s"] / row["decode_s"])
    assert result["medians"] == row
    assert result["peak_rss_bytes"] > 10_000_000
    assert [path.name for path in scratch.iterdir() if path.is_dir()] == []


def test_clips_have_the_lengths_of_the_targets_or_a_part_of_them(bench: Any) -> None:
    infrared, colour, large = bench.FOOTAGE
    assert [footage.pieces(1.0) for footage in (infrared, colour, large)] == [(9, 1000), (9, 1000), (2, 1000)]
    assert infrared.pieces(0.05) == (1, 450)
    assert infrared.pieces(0.25) == (3, 750)


def test_the_summary_is_one_line(bench: Any) -> None:
    medians = {"times_ffmpeg": 3.14, "share_of_limit": 0.877, "every_10_of_decode": 1.049}
    slower = {"times_ffmpeg": 2.06, "share_of_limit": 0.9, "every_10_of_decode": 1.02}
    result = {
        "clips": {"infrared 640x512": {"medians": medians}, "colour 1280x720": {"medians": slower}},
        "start_up": {"medians": {"one_frame_s": 0.381}},
    }
    assert bench.summary(result) == (
        "extract: infrared 640x512 3.1x of ffmpeg, 88% of the limit; colour 1280x720 2.1x of ffmpeg, 90% of the limit; "
        "every 10 1.05x decode; start-up 0.38 s"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_leaves_no_outputs(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, TOOLS / "bench_extract.py", "--json", tmp_path / "result.json", "--work", tmp_path,
               "--scale", "0.003"]  # fmt: skip
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "warm up" in line:
                process.send_signal(number)
                break
        _, rest = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, rest) == (code, "bench_extract.py: stopped\n")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert not (tmp_path / "result.json").exists()
