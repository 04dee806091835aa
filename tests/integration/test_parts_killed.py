"""Parts as processes of their own: many at once, the same one twice, killed at any moment, under clocks that are wrong."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from planned import NOT_COMPARED, changed, expanded, tree
from processes import PATIENCE_S, Start, children_of, ended, is_alive, new_worker, wait_for_end, wait_for_file
from synthetic import H264, Shelf, clip_of, write_clip

from infraredcity.clips import CLIPS_VARIABLE
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.extraction.parts import finalize, make_plan, status
from infraredcity.extraction.plan import Plan

CLIP = "city_clear"
CONFIG = ExtractConfig(frames_per_shard=2, stop_frame=160, image_format="webp", size=(640, 480))
"""Ten shards a part, each of which takes some hundredths of a second, so that there is a moment to kill in."""
NUM_PARTS = 8
WRONG_CLOCK = """
import datetime, time
began, running = time.time(), time.monotonic

def seconds(shift=86_400 * {days}, since=running()):
    return began + shift - 100 * (running() - since)

def moment(*zone):
    return real.fromtimestamp(seconds(), *zone)

real = datetime.datetime
time.time, time.time_ns = seconds, lambda: int(seconds() * 1e9)
time.localtime, time.gmtime = (lambda at=None, turn=turn: turn(seconds() if at is None else at)
                               for turn in (time.localtime, time.gmtime))
datetime.datetime = type("datetime", (real,), dict(now=moment, today=moment, utcnow=moment))
"""
"""A module `sitecustomize`: the clock is days off, and runs backwards, a hundred seconds in one."""


@pytest.fixture(scope="module")
def one(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of one process that nobody disturbed."""
    out = tmp_path_factory.mktemp("one")
    extract_clip(clip_of(shelf.long), CONFIG, out, workers=0)
    return tree(out)


def planned(video: Path, out: Path, config: ExtractConfig = CONFIG, num_parts: int = NUM_PARTS) -> Plan:
    return make_plan([clip_of(video)], config, out, num_parts=num_parts)


def part_words(out: Path, part: int, workers: int) -> tuple[object, ...]:
    return ("extract", "--plan", out / "plan.jsonl", "--part", part, "--workers", workers)


def shard_of(out: Path, plan: Plan, part: int, number: int) -> Path:
    """The file of one of a part's shards, or of its last one where it has fewer."""
    (segments,) = plan.segment_ranges(part)
    number = segments.numbers[min(number, len(segments.numbers) - 1)]
    return out / CLIP / f"infraredcity-{CLIP}-{number:06d}.tar"


def kill(process: "subprocess.Popen[str]") -> bool:
    """SIGKILL a command and all of its group; whether it was still at work. Its workers, in groups of their own, end with it."""
    workers = children_of(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    assert wait_for_end(workers) == []
    return process.returncode == -signal.SIGKILL


def check_what_stands(out: Path, one: Mapping[str, bytes]) -> None:
    """Whatever stands under a final name is whole."""
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.is_file() and path.name != ".lock" and not path.name.startswith(".tmp-") and name not in NOT_COMPARED:
            assert path.read_bytes() == one[name], name


def test_three_of_eight_parts_are_killed_and_done_again_by_what_status_prints(
    shelf: Shelf, one: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    moment = random.Random(20)
    plan = planned(shelf.long, tmp_path)
    processes = [
        infraredcity_process(*part_words(tmp_path, part, workers=int(part in (1, 4))), start_new_session=True)
        for part in range(NUM_PARTS)
    ]
    victims = [1, *moment.sample([0, 2, 3, 5, 6, 7], 2)]
    moments = [(part, moment.randint(1, 4), moment.random() * 0.04) for part in victims]

    def kill_after(part: int, number: int, pause_s: float) -> bool:
        wait_for_file(processes[part], shard_of(tmp_path, plan, part, number))
        time.sleep(pause_s)
        return kill(processes[part])

    with ThreadPoolExecutor() as pool:
        assert all(pool.map(lambda each: kill_after(*each), moments))
    check_what_stands(tmp_path, one)
    for part, process in enumerate(processes):
        if part not in victims:
            ended(process)
    process = infraredcity_process("status", tmp_path)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    # On a busy machine a victim may have written its last segment before it was killed.
    assert set(expanded(stdout)) <= set(victims)
    assert (process.returncode, bool(stdout.strip())) == (3, True), stderr
    ended(infraredcity_process("finalize", tmp_path), 3)
    again = [infraredcity_process(*part_words(tmp_path, part, workers=0)) for part in expanded(stdout)]
    for process in again:
        assert "(20 new)" not in ended(process)  # it went on where it stood
    ended(infraredcity_process("finalize", tmp_path))
    assert changed(one, tree(tmp_path)) == []


def test_a_part_may_run_twice_at_once(shelf: Shelf, infraredcity_process: Start, tmp_path: Path) -> None:
    config = ExtractConfig(frames_per_shard=2, stop_frame=120)
    extract_clip(clip_of(shelf.long), config, tmp_path / "one", workers=0)
    out = tmp_path / "set"
    planned(shelf.long, out, config, num_parts=2)
    twins = [infraredcity_process(*part_words(out, part, workers=0)) for part in (0, 0, 1)]
    for process in twins:
        ended(process)
    assert finalize(out)[0].outstanding_parts == ()
    assert changed(tree(tmp_path / "one"), tree(out)) == []


def test_a_worker_that_dies_is_swept_up_without_touching_what_other_machines_write(
    shelf: Shelf, one: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    planned(shelf.long, tmp_path, num_parts=1)
    process = infraredcity_process(*part_words(tmp_path, 0, workers=1))
    worker = new_worker(process, set())
    other = tmp_path / CLIP / f".tmp-other-node-{worker}-ab-infraredcity-{CLIP}-000040.tar"
    other.write_bytes(b"half")
    wait_for_file(process, tmp_path / CLIP / f"infraredcity-{CLIP}-000003.tar")
    os.kill(worker, signal.SIGKILL)
    ended(process)
    assert not is_alive(worker)
    assert [path.name for path in tmp_path.rglob(".tmp-*")] == [other.name]
    other.unlink()
    finalize(tmp_path)
    assert changed(one, tree(tmp_path)) == []


def test_a_part_that_is_asked_to_stop_tidies_up_and_goes_on_later(
    shelf: Shelf, one: dict[str, bytes], infraredcity_process: Start, tmp_path: Path
) -> None:
    plan = planned(shelf.long, tmp_path, num_parts=2)
    process = infraredcity_process(*part_words(tmp_path, 1, workers=0))
    wait_for_file(process, shard_of(tmp_path, plan, 1, 3))
    process.send_signal(signal.SIGTERM)
    assert ended(process, 143).splitlines()[-1] == "Stopped; the same command continues from here."
    assert list(tmp_path.rglob(".tmp-*")) == []
    check_what_stands(tmp_path, one)
    assert status(plan, tmp_path).array == "0-1"


def test_clocks_that_are_wrong_and_run_backwards_change_nothing(shelf: Shelf, tmp_path: Path) -> None:
    config = ExtractConfig(frames_per_shard=5)
    extract_clip(clip_of(shelf.gray), config, tmp_path / "one", workers=0)
    out = tmp_path / "set"
    plan = planned(shelf.gray, out, config, num_parts=5)
    for days in (-400, 400):
        (tmp_path / str(days)).mkdir()
        (tmp_path / str(days) / "sitecustomize.py").write_text(WRONG_CLOCK.format(days=days))

    def start(days: int, *words: object, code: int = 0) -> str:
        """A command whose clock is so many days off."""
        environment = {name: value for name, value in os.environ.items() if name != CLIPS_VARIABLE}
        python = environment | {
            "PYTHONPATH": f"{tmp_path / str(days)}{os.pathsep}{Path(__file__).resolve().parents[2]}"
        }
        command = [sys.executable, "-m", "infraredcity", *map(str, words)]
        done = subprocess.run(
            command, env=python, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    told = "import time, datetime; first = time.time(); time.sleep(0.1); print(first, time.time(), datetime.datetime.now().year)"
    done = subprocess.run([sys.executable, "-c", told], env={**os.environ, "PYTHONPATH": str(tmp_path / "-400")},
                          capture_output=True, text=True, check=True)  # fmt: skip
    first, second, year = map(float, done.stdout.split())
    assert second < first - 5 < time.time() - 399 * 86_400
    assert year < time.localtime().tm_year

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: start(each[0], *part_words(out, *each[1:])), [(-400, 0, 1), (400, 3, 0)]))
    moment = random.Random(5)
    for path in [path for path in out.rglob("*") if path.suffix in (".tar", ".jsonl", ".json", ".idx")]:
        odd = moment.choice([0, 1, time.time() + 1e9, time.time() - 1e9])
        os.utime(path, (odd, odd))
    assert start(400, "status", out, code=3) == "1-2,4\n"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda each: start(each[0], *part_words(out, *each[1:])), [(-400, 1, 0), (400, 2, 0)]))
    (out / CLIP / f"infraredcity-{CLIP}-000006.tar").unlink()
    start(400, *part_words(out, 4, workers=0))
    assert start(-400, "status", out, code=3) == "3\n"
    start(400, *part_words(out, 3, workers=0))
    start(-400, "finalize", out)
    assert status(plan, out).array == ""
    assert changed(tree(tmp_path / "one"), tree(out)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_parts_of_a_clip_of_real_size_are_killed_round_after_round(
    infraredcity_process: Start, tmp_path: Path, seed: int
) -> None:
    """640x512, eight parts with two workers each, three of those at work killed in each round until none is outstanding."""
    moment = random.Random(seed)
    options = (*H264, "-preset", "ultrafast")
    video = write_clip(tmp_path / "night.mp4", range(1500), *options, width=640, height=512)
    config = ExtractConfig(frames_per_shard=25)
    extract_clip(clip_of(video), config, tmp_path / "one", workers=2)
    one = tree(tmp_path / "one")
    out = tmp_path / "set"
    plan = planned(video, out, config)
    num_kills = rounds = 0
    while parts := status(plan, out).outstanding_parts:
        processes = [infraredcity_process(*part_words(out, part, workers=2), start_new_session=True) for part in parts]
        for process in moment.sample(processes, min(3, len(processes))) if rounds < 6 else ():
            time.sleep(moment.uniform(0, 2.5))
            num_kills += process.poll() is None and kill(process)
            check_what_stands(out, one)
        for process in processes:
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode in (0, -signal.SIGKILL)
        rounds += 1
    assert num_kills >= 3
    ended(infraredcity_process("finalize", out))
    assert changed(one, tree(out)) == []
