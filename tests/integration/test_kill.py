"""Extraction that is killed at any moment and started again ends with the bytes of one that ran through."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import PATIENCE_S, Start, children_of, is_alive, new_worker, wait_for_end, wait_for_shards
from synthetic import GOP, Shelf, clip_of

from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip

CLIP = "city_clear"
FRAMES_PER_SHARD = 40  # 1,200 frames in 30 shards
LAST = ("index.npz", "manifest.csv", "manifest.parquet", "clips.json", "gaps.json", "index.json")


def command(shelf: Shelf, out: Path, workers: int) -> tuple[object, ...]:
    return ("extract", "--clip", CLIP, "--video", shelf.long, "--out", out, "--frames-per-shard", FRAMES_PER_SHARD,
            "--workers", workers)  # fmt: skip


@pytest.fixture(scope="module")
def whole(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    extract_clip(clip_of(shelf.long), ExtractConfig(frames_per_shard=FRAMES_PER_SHARD), out)
    return finished_files(out / CLIP)


def finished_files(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tmp-*")]


@pytest.mark.parametrize(("seed", "workers"), [(1, (1, 1, 1)), (2, (2, 1, 2)), (3, (2, 2))])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    shelf: Shelf,
    whole: dict[str, bytes],
    infraredcity_process: Start,
    tmp_path: Path,
    seed: int,
    workers: tuple[int, ...],
) -> None:
    moment = random.Random(seed)
    folder = tmp_path / "out" / CLIP
    num_kills = 0
    for count in workers:
        process = infraredcity_process(*command(shelf, tmp_path / "out", count))
        standing = len(list(folder.glob("*.tar")))
        wait_for_shards(process, folder, standing + moment.randint(1, 5))
        time.sleep(moment.random() * 0.02)
        orphans = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
        num_kills += process.returncode == -signal.SIGKILL
        assert wait_for_end(orphans) == []
        # Whatever stands under a final name is whole.
        for name, data in finished_files(folder).items():
            if name.endswith(".tar") or name.startswith("segments/"):
                assert data == whole[name], name
    assert num_kills == len(workers)
    assert not (folder / "clips.json").exists()
    process = infraredcity_process(*command(shelf, tmp_path / "out", workers[-1]))
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "1,200 frames (" in stderr
    assert "(1,200 new)" not in stderr  # it went on, it did not begin again
    assert finished_files(folder) == whole
    assert temporaries(tmp_path) == []


def test_a_run_killed_while_it_finalizes_ends_with_the_same_bytes(
    shelf: Shelf, whole: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / CLIP
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1))
    wait_for_shards(process, folder, 30)
    while process.poll() is None and not (folder / "gaps.json").exists():
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    for name, data in finished_files(folder).items():
        assert data == whole[name], name
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1))
    process.communicate(timeout=PATIENCE_S)
    assert finished_files(folder) == whole
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_tidies_up(
    shelf: Shelf,
    whole: dict[str, bytes],
    infraredcity_process: Start,
    tmp_path: Path,
    workers: int,
    sent: signal.Signals,
    code: int,
) -> None:
    folder = tmp_path / "out" / CLIP
    process = infraredcity_process(*command(shelf, tmp_path / "out", workers), start_new_session=True)
    wait_for_shards(process, folder, 3)
    if sent == signal.SIGINT:  # a terminal sends it to all processes of the command
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, stderr
    assert stderr.splitlines()[-1] == "Stopped; the same command continues from here."
    assert "Traceback" not in stderr
    assert temporaries(tmp_path) == []
    for name, data in finished_files(folder).items():
        assert data == whole[name], name
    assert not (folder / "clips.json").exists()


def test_workers_end_with_their_parent(shelf: Shelf, infraredcity_process: Start, tmp_path: Path) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", 2))
    wait_for_shards(process, tmp_path / "out" / CLIP, 1)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert wait_for_end(workers) == []
    standing = sorted(path.name for path in (tmp_path / "out" / CLIP).glob("*.tar"))
    time.sleep(0.7)
    assert sorted(path.name for path in (tmp_path / "out" / CLIP).glob("*.tar")) == standing


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_replaced(
    shelf: Shelf, whole: dict[str, bytes], infraredcity_process: Start, tmp_path: Path, workers: int
) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", workers))
    worker = new_worker(process, set())
    wait_for_shards(process, tmp_path / "out" / CLIP, 3)
    os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "1,200 frames (1,200 new)" in stderr
    assert finished_files(tmp_path / "out" / CLIP) == whole
    assert temporaries(tmp_path) == []


def test_workers_that_die_at_one_place_again_and_again_are_one_clear_line(
    shelf: Shelf, infraredcity_process: Start, tmp_path: Path
) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1))
    seen: set[int] = set()
    for _ in range(3):
        os.kill(new_worker(process, seen), signal.SIGKILL)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "a worker process died with exit code -9, and so did 2 before it at the same place; run the same" in stderr
    assert "Traceback" not in stderr
    assert temporaries(tmp_path) == []


def test_a_decoder_that_stands_still_once_is_started_again(
    shelf: Shelf, whole: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1), "--deadline", 5)
    worker = new_worker(process, set())
    wait_for_shards(process, tmp_path / "out" / CLIP, 3)
    os.kill(worker, signal.SIGSTOP)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert not is_alive(worker)
    assert finished_files(tmp_path / "out" / CLIP) == whole
    assert temporaries(tmp_path) == []


def test_a_decoder_that_stands_still_twice_costs_the_frames_to_the_next_key_frame(
    shelf: Shelf, whole: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1), "--deadline", 5)
    seen: set[int] = set()
    for _ in range(2):
        os.kill(new_worker(process, seen), signal.SIGSTOP)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5, stderr
    folder = tmp_path / "out" / CLIP
    gaps = json.loads((folder / "gaps.json").read_text())
    reason = "the decoder gave no frame for 5 s, twice"
    assert gaps == [{"clip": CLIP, "first_frame": 0, "last_frame": GOP - 1, "num_frames": GOP, "reason": reason}]
    assert f"city_clear: gap: frames 0 to {GOP - 1} ({GOP}): {reason}" in stderr
    files = finished_files(folder)
    tars = [name for name in whole if name.endswith(".tar")]
    assert [name for name in tars if files[name] != whole[name]] == [min(tars)]
    again = infraredcity_process(*command(shelf, tmp_path / "out", 1))
    _, stderr = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 5
    assert "nothing left to do" in stderr
    assert finished_files(folder) == files


def test_a_decoder_that_stands_still_wherever_it_begins_is_one_clear_line(
    shelf: Shelf, infraredcity_process: Start, tmp_path: Path
) -> None:
    process = infraredcity_process(*command(shelf, tmp_path / "out", 1), "--deadline", 2)
    seen: set[int] = set()
    with contextlib.suppress(AssertionError):  # "no new worker": the command has given up
        while True:
            os.kill(new_worker(process, seen), signal.SIGSTOP)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, stderr
    assert "the decoder gives no frame for 2 s wherever it begins, last at frame 36; see whether" in stderr
    assert "Traceback" not in stderr
    assert len(seen) == 8  # two for each of three stretches of a GOP, and two more
    hangs = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / CLIP / "hangs").glob("*.json"))]
    assert [(hang["start_frame"], hang["stop_frame"]) for hang in hangs] == [(0, 12), (12, 24), (24, 36)]


def test_a_transport_stream_whose_decoder_stands_still_is_given_up_from_there(
    shelf: Shelf, infraredcity_process: Start, tmp_path: Path
) -> None:
    words = ("extract", "--clip", CLIP, "--video", shelf.transport_stream, "--out", tmp_path / "out", "--deadline", 5)
    process = infraredcity_process(*words)
    seen: set[int] = set()
    for _ in range(2):
        os.kill(new_worker(process, seen), signal.SIGSTOP)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 5, stderr
    assert "gap: frames 0 to 49 (50): the decoder gave no frame" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_thirty_kills_at_random_moments_change_no_byte(
    shelf: Shelf, whole: dict[str, bytes], infraredcity_process: Start, tmp_path: Path, workers: int
) -> None:
    moment = random.Random(workers)
    folder = tmp_path / "out" / CLIP
    for round_number in range(30):
        process = infraredcity_process(*command(shelf, tmp_path / "out", workers))
        time.sleep(moment.uniform(0.05, 1.2))
        orphans = children_of(process.pid)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        assert wait_for_end(orphans) == []
        for name, data in finished_files(folder).items():
            if name.endswith(".tar") or name.startswith("segments/"):
                assert data == whole[name], name
        if round_number % 6 == 5:  # then everything again from nothing, so that all moments are met
            process = infraredcity_process(*command(shelf, tmp_path / "out", workers))
            process.communicate(timeout=PATIENCE_S)
            assert finished_files(folder) == whole
            assert temporaries(tmp_path) == []
            shutil.rmtree(tmp_path / "out")
