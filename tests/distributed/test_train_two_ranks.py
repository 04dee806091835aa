"""`torchrun roma/train.py` as a user starts it: two processes with gloo, from a folder that is not the checkout."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import train_words
from processes import PATIENCE_S, Start

from roma.training.checkpoint import load_newest
from roma.training.metrics import read_metrics

pytestmark = pytest.mark.distributed


def command(shards: Path, run: Path, *more: str, processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, *train_words(shards, run, options=more)]


def start(words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_two_ranks_take_the_same_steps_as_one_and_go_on_after_sigkill(
    shards: Path, start_process: Start, tmp_path: Path
):
    alone = start(command(shards, tmp_path / "alone", processes=1), tmp_path)
    assert alone.returncode == 0, alone.stderr
    both = start(command(shards, tmp_path / "both", processes=2), tmp_path)
    assert both.returncode == 0, both.stderr
    expected, found = read_metrics(tmp_path / "alone"), read_metrics(tmp_path / "both")
    assert [line["step"] for line in found] == [line["step"] for line in expected] == list(range(1, 9))
    for a, b in zip(expected[:4], found[:4], strict=True):  # later ones diverge as rounding grows through Adam
        for name in a:
            # Biases before InstanceNorm have no true gradient, so whole-network norms carry their rounding noise.
            assert b[name] == pytest.approx(a[name], rel=1e-3 if name.endswith("norm") else 1e-4), (a["step"], name)

    killed = tmp_path / "killed"
    process = start_process(
        command(shards, killed, processes=2), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while not list((killed / "checkpoints").glob("step-*.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start(command(shards, killed, processes=2), tmp_path)
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in read_metrics(killed)] == list(range(1, 9))
    whole, resumed = load_newest(tmp_path / "both"), load_newest(killed)
    assert whole is not None
    assert resumed is not None
    assert all(
        (value == resumed.networks[network][name]).all()
        for network, weights in whole.networks.items()
        for name, value in weights.items()
    )


def test_batch_smaller_than_the_world_ends_all_ranks_with_one_line(shards: Path, tmp_path: Path):
    ended = start(command(shards, tmp_path / "run", "--set", "batch_size=1", processes=2), tmp_path)
    assert ended.returncode != 0
    assert "Error: batch_size 1 cannot feed 2 processes; use --set batch_size=2 or more" in ended.stderr
    assert not (tmp_path / "run").exists()
