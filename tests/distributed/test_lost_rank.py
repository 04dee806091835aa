"""A rank that dies or hangs ends the run of the others, with one line that names it; started by hand, without torchrun."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import train_words
from processes import PATIENCE_S, Start

from roma.training.metrics import METRICS_NAME
from roma.world.pulse import BEAT_S

pytestmark = pytest.mark.distributed

TIMEOUT_S = 25
"""Longer than a busy machine lets one rank wait for the other."""


@dataclass
class Ranks:
    """Two ranks of one run."""

    run: Path
    processes: list["subprocess.Popen[str]"]

    def wait_for_step(self, step: int) -> None:
        metrics = self.run / METRICS_NAME
        while not metrics.exists() or f'"step": {step}' not in metrics.read_text():
            for process in self.processes:
                assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)


@pytest.fixture
def ranks(shards: Path, start_process: Start, tmp_path: Path) -> Ranks:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ("schedule.total_steps=100000", "output.checkpoint_every=100000", "output.sample_every=100000")
    words = [
        sys.executable,
        *train_words(shards, tmp_path / "run", *settings, options=["--timeout-s", str(TIMEOUT_S)]),
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "GLOO"))},
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return Ranks(
        tmp_path / "run",
        [
            start_process(
                words, env=environment | {"RANK": str(rank)}, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            for rank in range(2)
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lost", "by", "named"),
    [
        pytest.param(
            1, signal.SIGKILL, r"rank 1 on \S+ is gone: last heard \d+ s ago at step \d+", marks=pytest.mark.slow
        ),
        (1, signal.SIGSTOP, r"rank 1 on \S+ is gone: last heard \d+ s ago at step \d+"),
        (
            0,
            signal.SIGKILL,
            r"rank 0 on \S+ is gone, and with it the store at 127\.0\.0\.1:\d+: last heard \d+ s ago at step \d+",
        ),
    ],
    ids=["killed", "stopped", "killed with the store"],
)
def test_a_lost_rank_is_named_within_the_timeout(ranks: Ranks, lost: int, by: signal.Signals, named: str) -> None:
    ranks.wait_for_step(3)
    time.sleep(3 * BEAT_S)  # the step that is named is that of the last beat
    begun = time.monotonic()
    ranks.processes[lost].send_signal(by)
    left = ranks.processes[1 - lost]
    _, said = left.communicate(timeout=PATIENCE_S)
    took_s = time.monotonic() - begun
    assert left.returncode == 1, said
    lines = [line for line in said.splitlines() if line.startswith("Error")]
    prefix = "Error: " if lost == 1 else r"Error \(rank 1\): "
    assert len(lines) == 1, said
    assert re.fullmatch(
        rf"{prefix}rank {1 - lost}: the others cannot be waited for \([^)]*\); {named}; start the same command again to go on from "
        "the newest checkpoint",
        lines[0],
    ), lines[0]
    # A killed one is noticed by its closed connections and four missed beats, a stopped one by the timeout.
    assert took_s < TIMEOUT_S + 120, said  # beside busy others, a process takes its time to end
