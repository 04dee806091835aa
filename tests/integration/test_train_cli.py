"""`roma train` as a process: killed, told to end, out of time, and gone on with, it ends with what an unbroken run ends with."""

import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from processes import PATIENCE_S, Start, started

from infraredcity.stills.formats import encode
from roma.cli.train import train_command
from roma.errors import ConfigError
from roma.training import checkpoint, snapshot
from roma.training.metrics import SPEED_MARK, read_metrics, read_speed
from roma.training.progress import ProgressLine, StepReport
from roma.training.stopping import parse_duration
from tests.roma.conftest import SMALL, write_shards

ROOT = Path(__file__).resolve().parents[2]
TOTAL = 26
LONGER = (f"schedule.total_steps={TOTAL}", "output.checkpoint_every=5", "output.sample_every=8", "optim.ema_decay=0.9")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train-cli")
    write_shards(folder / "infrared", "night", num_frames=20, channels=1, seed=1)
    write_shards(folder / "visible", "day", num_frames=13, channels=3, seed=2)
    write_shards(folder / "held-out", "dusk", num_frames=6, channels=1, seed=3)
    return folder


def words(shards: Path, run: Path, *more: str) -> list[str]:
    listed = [
        "train",
        "--preset",
        "tiny",
        "--infrared",
        f"{shards}/infrared/*.tar",
        "--visible",
        f"{shards}/visible/*.tar",
    ]
    for setting in (*SMALL, *LONGER):
        listed += ["--set", setting]
    return [*listed, "--held-out", f"{shards}/held-out/*.tar", "--out", str(run), "--device", "cpu", *more]


def roma(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "roma", *arguments]


@pytest.fixture
def start(start_process: Start) -> Start:
    """`roma ...` as a process of its own."""
    # Tests that run in the background of a shell inherit that SIGINT is ignored, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def starts(arguments: list[str], **options: Any) -> "subprocess.Popen[str]":
        settled = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return start_process(roma(arguments), cwd=ROOT, **settled)

    return starts


def finished(arguments: list[str], *, code: int = 0) -> str:
    """What a command that runs to its end says on stderr."""
    with started(roma(arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, told
    return told


def invoked(arguments: list[str]) -> Result:
    """A command that needs no process of its own."""
    return CliRunner().invoke(train_command, arguments[1:])


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finished(words(shards, run))
    return run


def last_step(run: Path) -> int:
    lines = read_metrics(run)
    return int(lines[-1]["step"]) if lines else 0


def newest_checkpoint(run: Path) -> int:
    found = sorted((run / "checkpoints").glob("step-*.pt"))
    return int(found[-1].stem.removeprefix("step-")) if found else 0


def wait_until(process: "subprocess.Popen[str]", holds: Callable[[], bool], *, frozen: bool = False) -> None:
    """Until something holds of a run's folder; with `frozen`, the process is stopped then, and it still holds."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if holds():
            if not frozen:
                return
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            if holds():
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("it never came to that")


def shared_lines(run: Path) -> list[str]:
    """metrics.jsonl as text, less the lines of speed."""
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if SPEED_MARK not in json.loads(line)]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name, value in one.items():
            assert_same(value, other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, value in enumerate(one):
            assert_same(value, other[number], f"{where}.{number}")
    else:
        assert one == other, where


def assert_same_run(run: Path, whole: Path) -> None:
    """The newest checkpoint tensor by tensor, metrics.jsonl line by line, snapshots and the best one."""
    mine, theirs = checkpoint.load_newest(run), checkpoint.load_newest(whole)
    assert mine is not None
    assert theirs is not None
    assert mine.step == theirs.step == TOTAL
    for name in ("networks", "optimisers", "data"):
        assert_same(getattr(mine, name), getattr(theirs, name), name)
    assert mine.best == theirs.best
    assert mine.best is not None
    assert shared_lines(run) == shared_lines(whole)
    assert [line["step"] for line in read_metrics(run)] == list(range(1, TOTAL + 1))
    for name in ("snapshot.pt", "snapshot-best.pt"):
        one, other = (snapshot.load_snapshot(folder / name) for folder in (run, whole))
        assert one.step == other.step
        assert_same(one.weights, other.weights, name)
    assert (run / "best.json").read_bytes() == (whole / "best.json").read_bytes()
    listed = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (run, whole)]
    assert listed[0] == listed[1]


def logged_in_tensorboard(run: Path, name: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_sigkill_between_two_checkpoints_changes_nothing(shards: Path, whole: Path, start: Start, tmp_path: Path):
    run = tmp_path / "run"
    process = start(words(shards, run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Beyond a checkpoint, off a checkpoint step, with lines in metrics.jsonl that come again.
    wait_until(process, lambda: 5 <= newest_checkpoint(run) < last_step(run) - 1 < 20, frozen=True)
    killed_at, saved_at = last_step(run), newest_checkpoint(run)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    assert killed_at > saved_at
    told = finished(words(shards, run))
    assert f"{TOTAL} of {TOTAL} steps (from step {saved_at})" in told
    assert_same_run(run, whole)
    assert logged_in_tensorboard(run, "colourise") == list(range(1, TOTAL + 1))
    assert logged_in_tensorboard(run, "held_out_distance") == [5, 8, 10, 15, 16, 20, 24, 25, 26]
    assert len(read_speed(run)) == TOTAL


def test_sigkill_while_a_checkpoint_is_written_leaves_no_half_file(shards: Path, start: Start, tmp_path: Path):
    run = tmp_path / "run"
    heavy = ("--set", "output.checkpoint_every=1", "--set", "generator.width=24", "--set", "output.keep_checkpoints=3")
    process = start(words(shards, run, *heavy), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    writes = lambda: bool(list((run / "checkpoints").glob(".tmp-*-step-*")))  # noqa: E731
    wait_until(process, lambda: newest_checkpoint(run) >= 2 and writes(), frozen=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    assert writes()
    for path in (run / "checkpoints").glob("step-*.pt"):
        assert checkpoint.load(path).step == int(path.stem.removeprefix("step-"))
    finished(words(shards, run, *heavy, "--max-steps", "8"))
    assert not list(run.rglob(".tmp-*"))
    assert [line["step"] for line in read_metrics(run)] == list(range(1, 9))
    assert len(list((run / "checkpoints").iterdir())) in (3, 4)  # the best may be older than the newest three


def test_sigterm_and_ctrl_c_save_the_running_step_and_the_rest_is_the_same(
    shards: Path, whole: Path, start: Start, tmp_path: Path
):
    run = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(words(shards, run))
        since = last_step(run)
        wait_until(process, lambda since=since: last_step(run) > since + 2)  # type: ignore[misc]
        process.send_signal(number)
        _, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, told
        done = newest_checkpoint(run)
        assert done == last_step(run) < TOTAL
        assert f"stopped by {number.name}; the same command continues from step {done}" in told
        assert snapshot.load_snapshot(run / "snapshot.pt").step == done
    finished(words(shards, run))
    assert_same_run(run, whole)


def test_a_second_sigterm_ends_a_process_at_once_though_it_does_not_come_back_from_its_step():
    script = (
        "import hashlib, sys, time\n"
        "from roma.training import stopping\n"
        "stopping.SAME_REQUEST_S = 5.0\n"  # a busy machine may need a second between the first two signals
        "with stopping.Stop().watching() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.is_requested: time.sleep(0.01)\n"
        "    print(stop.signal.name, flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'x', b'x', 10**9)\n"  # minutes inside one call of C
    )
    command = [sys.executable, "-c", script]
    with started(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        process.send_signal(signal.SIGTERM)  # torchrun hands on what the terminal has said already
        time.sleep(5.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 143


def test_a_time_limit_saves_and_ends_with_code_0(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    long = ("--set", "schedule.total_steps=100000", "--set", "output.log_every=1000")
    ended = invoked(words(shards, run, "--time-limit", "3s", *long))
    assert ended.exit_code == 0, ended.output
    done = newest_checkpoint(run)
    assert 0 < done < 100000
    assert f"stopped at the time limit; the same command continues from step {done}" in ended.stderr
    assert f"{done} of 100000 steps done at the time limit" in (run / "logs" / "rank-000.log").read_text()


@pytest.mark.distributed
def test_under_torchrun_a_sigterm_ends_all_ranks_at_the_same_step_with_one_checkpoint(
    shards: Path, start_process: Start, tmp_path: Path
):
    run = tmp_path / "run"
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "roma" / "train.py"),
        *words(shards, run, "--verbose")[1:],
    ]  # fmt: skip
    process = start_process(torchrun, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(process, lambda: last_step(run) >= 3)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=PATIENCE_S)
    done = newest_checkpoint(run)
    assert done == last_step(run) < TOTAL
    assert f"stopped by SIGTERM; the same command continues from step {done}" in told
    assert not list((run / "checkpoints").glob(".tmp-*"))
    again = subprocess.run(torchrun, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{TOTAL} of {TOTAL} steps (from step {done})" in again.stderr
    assert [line["step"] for line in read_metrics(run)] == list(range(1, TOTAL + 1))
    for domain in ("infrared", "visible"):
        read: list[int] = []
        for rank in (0, 1):
            lines = re.findall(
                rf"step \d+:.*{domain} positions ([\d ]+)", (run / "logs" / f"rank-{rank:03d}.log").read_text()
            )
            assert len(lines) == TOTAL  # each rank took each step once
            read += [int(place) for line in lines for place in line.split()]
        assert sorted(read) == list(range(2 * TOTAL))


def test_a_terminal_gets_one_line_that_fits_and_is_rewritten():
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    losses = {"colourise": 0.25, "edges": 0.5, "generator_total": 0.75, "detail_discriminator": 0.125}
    report = StepReport(
        step=50, until_step=1600, losses=losses, images_per_s=12.34, wait_share=0.031, memory_mib=1536.0, eta_s=3723.4
    )
    with os.fdopen(theirs, "w") as stream:
        line = ProgressLine(stream)
        line.step(1, 1600)
        line.report(report)
        line.step(51, 1600)  # too soon to be drawn
        line.close()
        line.close()
        stream.flush()
        shown = ""
        while not shown.endswith("\n"):  # a terminal hands over what has come so far
            shown += os.read(ours, 4096).decode()
    os.close(ours)
    text = "step 50/1600  1:02:03 left  12.3 images/s  wait 3%  1.5 GiB  colourise 0.250"[:59]
    assert shown == f"\r{'step 1/1600':<59}\r{text:<59}\r\n"  # a terminal makes \r\n of \n


def test_without_a_terminal_each_log_step_is_a_line_and_quiet_leaves_only_the_end(shards: Path, tmp_path: Path):
    ended = invoked(words(shards, tmp_path / "run", "--max-steps", "2"))
    assert ended.exit_code == 0, ended.output
    lines = ended.stderr.splitlines()
    pattern = r"step 1/2  \d:\d\d:\d\d left  \d+\.\d images/s  wait \d+%  \d\.\d GiB  colourise \d\.\d\d\d"
    assert re.fullmatch(pattern, lines[0])
    end = f"{tmp_path}/run: 2 of 2 steps (from step 0; the schedule has {TOTAL}), {tmp_path}/run/snapshot.pt"
    assert lines[2:] == [end]
    assert re.match(r"step 2/2  0:00:00 left", lines[1])
    assert "2 of 2 steps done" in (tmp_path / "run" / "logs" / "rank-000.log").read_text()
    assert ended.stdout == ""
    quiet = invoked(words(shards, tmp_path / "run", "--max-steps", "3", "--quiet"))
    assert quiet.stderr == end.replace("2 of 2", "3 of 3").replace("step 0", "step 2") + "\n"


@pytest.mark.parametrize(
    "setting",
    [
        "vit.num_heads=7",
        "loss.window=40",
        "optim.generator_lr=Infinity",
        "vit.layers=[5,3]",
        "vit.weights=/no/such/file",
        "vit.weights=",
        "output.best_by=nonsense",
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line_and_leaves_nothing(setting: str, shards: Path, tmp_path: Path):
    told = finished(words(shards, tmp_path / "run", "--set", setting), code=1)
    assert len(told.splitlines()) == 1
    assert told.startswith(f"Error: {setting.partition('=')[0]}") or "vit.width must be" in told
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_no_checkpoint_yet_takes_corrected_settings(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    wild = words(shards, run, "--set", "optim.generator_lr=1e30")
    told = finished(wild, code=1)
    assert "no checkpoint holds this step; lower the learning rates" in told
    assert (run / "config.json").exists()
    assert "3 of 3 steps (from step 0" in finished(words(shards, run, "--max-steps", "3"))
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3]
    refused = finished(wild, code=1)
    assert "begun with other settings: optim.generator_lr 0.001 -> 1e+30" in refused


def test_dry_run_says_what_a_run_would_be_and_writes_nothing(shards: Path, tmp_path: Path):
    ended = invoked(words(shards, tmp_path / "run", "--dry-run", "--set", "optim.lr_scaling=linear"))
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["data"]["held_out"] == [f"{shards}/held-out/*.tar"]
    # 20 and 13 frames in a row are 19 and 12 pairs; 19 pairs in batches of 2 are 10 steps, so 26 steps are 2.6 epochs.
    assert "windows: 19 infrared, 12 visible; 10 steps per epoch" in ended.stderr
    assert f"steps: {TOTAL}, 2.6 epochs" in ended.stderr
    assert "learning rates: generator 0.002, discriminators 0.001, at batch 2" in ended.stderr
    assert re.search(r"trained parameters: [\d,]+ \(generator [\d,]+, ", ended.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["vit.weights=/no/such/file", "output.best_by=nonsense"])
def test_dry_run_fails_with_the_line_of_the_run_where_settings_cannot_be_used(
    setting: str, shards: Path, tmp_path: Path
):
    for name in ("tiny", "roma"):
        more = (
            "--dry-run",
            "--preset",
            name,
            "--set",
            "loss.colourise=1",
            "--set",
            setting,
        )  # roma's vit.weights is empty
        told = finished(words(shards, tmp_path / "run", *more), code=1)
        assert told.splitlines()[-1].startswith(f"Error: {setting.partition('=')[0]}")


def test_dry_run_without_shards_says_what_it_cannot_know(tmp_path: Path):
    ended = invoked(
        ["train", "--out", str(tmp_path / "run"), "--infrared", str(tmp_path / "no" / "*.tar"), "--dry-run"]
    )
    assert ended.exit_code == 0, ended.output
    counts = "12,559,363 (generator 11,378,179, region_discriminator 1,181,184)"
    assert f"trained parameters: {counts}" in ended.stderr
    assert "vit.weights is not set" in ended.stderr
    assert "steps: not known without the shards" in ended.stderr
    assert "shards: --visible not named" in ended.stderr


@pytest.mark.parametrize("domain", ["infrared", "visible", "held-out"])
def test_dry_run_with_data_that_is_not_there_fails_with_the_line_of_the_run(shards: Path, tmp_path: Path, domain: str):
    arguments = words(shards, tmp_path / "run", "--dry-run")
    arguments[arguments.index(f"--{domain}") + 1] = str(shards)
    told = finished(arguments, code=1)
    folders = ", ".join(f"{shards}/{name}" for name in ("held-out", "infrared", "visible"))
    line = f"Error: {shards}: holds no shards and no pictures itself; it holds the folders {folders}; name one of these"
    assert told.splitlines()[-1] == line


def test_folders_of_pictures_are_trained_on_and_gone_on_with(tmp_path: Path):
    draw = np.random.default_rng(0)
    for domain, channels in (("trainA", 1), ("trainB", 3)):
        (tmp_path / domain).mkdir()
        for number in range(6):
            pixels = draw.integers(0, 256, (36, 40, channels), dtype=np.uint8)
            (tmp_path / domain / f"{number}_of_{domain}.jpg").write_bytes(encode(pixels, "jpg"))
    run = tmp_path / "run"
    arguments = ["train", "--preset", "tiny", "--mode", "image", "--out", str(run), "--device", "cpu"]
    arguments += ["--infrared", f"{tmp_path}/trainA", "--visible", f"{tmp_path}/trainB/*.jpg", "--quiet"]
    arguments += ["--held-out", f"{tmp_path}/trainA/0*.jpg"]
    for setting in SMALL:
        arguments += ["--set", setting]
    for last in (1, 2):
        assert f"{run}: {last} of " in finished([*arguments, "--verbose", "--max-steps", str(last)])
    assert "_of_trainA.jpg" in (run / "logs" / "rank-000.log").read_text()


def test_profile_writes_a_trace_and_shows_a_table(shards: Path, tmp_path: Path):
    told = finished(words(shards, tmp_path / "run", "--profile", "--max-steps", "7"))
    trace = json.loads((tmp_path / "run" / "profile" / "rank-000.json").read_text())
    assert any("conv" in str(event.get("name")) for event in trace["traceEvents"])
    assert "Self CPU" in told
    assert "rank-000.json: 3 steps" in told
    short = finished(words(shards, tmp_path / "run", "--profile", "--max-steps", "9"))
    assert "no profile: it needs 6 steps of one call" in short


def test_deterministic_gives_the_same_run(shards: Path, whole: Path, tmp_path: Path):
    finished(words(shards, tmp_path / "run", "--deterministic"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compute"]["deterministic"] is True
    assert shared_lines(tmp_path / "run") == shared_lines(whole)


def test_the_page_on_training_names_every_option_and_none_that_is_not():
    page = (ROOT / "docs" / "training.md").read_text()
    options = {word for parameter in train_command.params for word in parameter.opts}
    assert options - {"--out", "--mode", "--device", "--help"} <= set(re.findall(r"--[a-z-]+", page))
    elsewhere = {"--standalone", "--nproc-per-node", "--signal", "--size", "--format"}  # of torchrun, SLURM and extract
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - options <= elsewhere


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("5h30m", 19800), ("3600s", 3600), ("1d", 86400), ("05:30:10", 19810), ("1-00:00:01", 86401)],
)
def test_durations_as_people_and_slurm_write_them(text: str, seconds: int):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "0s", "90", "5h30", "1:90:00", "-5m"])
def test_a_time_limit_that_is_none_is_one_line(text: str, shards: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"--time-limit '{text}' is no duration; use 90m, 5h30m, 3600s or HH:MM:SS"):
        train_command.main(words(shards, tmp_path, "--time-limit", text)[1:], standalone_mode=False)


def test_wandb_without_its_package_is_one_line_before_anything_starts(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    expected = r"output\.wandb=town needs the package wandb: pip install -e '/.*\[wandb\]'"
    with pytest.raises(ConfigError, match=expected):
        train_command.main(words(shards, tmp_path / "run", "--set", "output.wandb=town")[1:], standalone_mode=False)
    assert not (tmp_path / "run" / "checkpoints").exists()
