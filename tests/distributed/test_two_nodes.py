"""torchrun over two machines, here network namespaces with addresses of their own: together, one lost, fewer, back again."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster import ROOT, Cluster, check_positions, skip_reason, steps_in, train_words, wait_until
from processes import PATIENCE_S

from roma.training.checkpoint import load_newest
from roma.training.metrics import read_metrics

pytestmark = pytest.mark.distributed
needs_namespaces = pytest.mark.skipif(skip_reason() != "", reason=skip_reason())

STEADY = ("optim.generator_lr=1e-5", "optim.discriminator_lr=1e-5")
"""Small steps, as the paper's, so that rounding stays rounding over a run."""
LONG = (
    *STEADY,
    "schedule.total_steps=60",
    "output.checkpoint_every=5",
    "output.sample_every=60",
    "output.keep_checkpoints=3",
)
BATCH = 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        yield made


def alone(shards: Path, run: Path, *settings: str) -> None:
    """The same run, unbroken, by one process."""
    done = subprocess.run(
        [sys.executable, *train_words(shards, run, *settings)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr


def check_run(
    run: Path, unbroken: Path, *, total: int, restarted_at: int | None = None, weights_within: float = 1e-4
) -> None:
    """Every window once, every step once, and the weights and losses of the unbroken run."""
    check_positions(run, steps=total, batch_size=BATCH)
    assert steps_in(run) == list(range(1, total + 1))
    whole, found = load_newest(unbroken), load_newest(run)
    assert whole is not None
    assert found is not None
    assert found.step == whole.step == total
    for name in whole.networks:
        ours, theirs = (
            # Biases in front of an instance norm have no true gradient; Adam makes steps of their rounding.
            torch.cat(
                [value.double().flatten() for key, value in each.networks[name].items() if not key.endswith("bias")]
            )
            for each in (found, whole)
        )
        assert float((ours - theirs).norm() / theirs.norm()) < weights_within, name
    if restarted_at is not None:
        expected, got = read_metrics(unbroken), read_metrics(run)
        for step in range(restarted_at, min(restarted_at + 3, total)):
            for name in ("generator_total", "colourise", "detail_discriminator"):
                assert got[step][name] == pytest.approx(expected[step][name], rel=1e-4), (step, name)


def resumed_at(run: Path) -> list[int]:
    """The steps at which rank 0 began, one for each start."""
    said = (run / "logs" / "rank-000.log").read_text()
    return [int(step) for step in re.findall(r"(\d+) of \d+ steps done, the schedule", said, flags=re.MULTILINE)]


@needs_namespaces
def test_two_machines_train_together(cluster: Cluster, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for node in cluster.nodes:
        cluster.torchrun(node, train_words(shards, run, *STEADY), nodes="2", run_id="together")
    assert [node.wait() for node in cluster.nodes] == [0, 0], cluster.said()
    alone(shards, tmp_path / "alone", *STEADY)
    check_run(run, tmp_path / "alone", total=8)
    hosts = {re.search(r"host (\S+),", path.read_text())[1] for path in (run / "logs").glob("rank-*.log")}  # type: ignore[index]
    assert hosts == {"node-a", "node-b"}


def test_a_killed_rank_is_started_again_by_torchrun_and_the_run_ends_whole(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3",
             "--monitor-interval=0.2"]  # fmt: skip
    settings = (*STEADY, "schedule.total_steps=40", "output.sample_every=40")
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen([*words, *train_words(shards, run, *settings)], stdout=said, stderr=said)
    try:
        wait_until(lambda: steps_in(run)[-1:] >= [4], what=(tmp_path / "said").read_text)
        workers = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(workers) == 2
        subprocess.run(["kill", f"-{int(signal.SIGKILL)}", workers[1]], check=True)
        assert process.wait(timeout=PATIENCE_S) == 0, (tmp_path / "said").read_text()
    finally:
        process.kill()
        process.wait()
    check_positions(run, steps=40, batch_size=BATCH)
    assert steps_in(run) == list(range(1, 41))
    begun = resumed_at(run)
    assert len(begun) == 2  # one start again is enough
    assert begun[0] == 0
    assert begun[1] in (2, 4, 6, 8)


@needs_namespaces
@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_that_loses_power_comes_back_and_the_run_goes_on(
    cluster: Cluster, shards: Path, tmp_path: Path, lost: int
) -> None:
    run = tmp_path / "run"
    words = train_words(shards, run, *LONG, options=["--timeout-s", "10"])
    for node in cluster.nodes:
        cluster.torchrun(node, words, nodes="2", run_id="comes-back")
    gone = cluster.nodes[lost]
    wait_until(lambda: steps_in(run)[-1:] >= [12], what=cluster.said)
    gone.lose_power()
    time.sleep(5)
    gone.connect()
    cluster.torchrun(gone, words, nodes="2", run_id="comes-back")  # as systemd or a scheduler would
    assert [node.wait() for node in cluster.nodes] == [0, 0], cluster.said()
    begun = resumed_at(run)
    assert len(begun) >= 2
    assert begun[-1] >= 5
    alone(shards, tmp_path / "alone", *LONG)
    check_run(run, tmp_path / "alone", total=60, restarted_at=begun[-1])


@needs_namespaces
@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_machine_that_is_left_goes_on_alone_and_takes_the_other_in_again(
    cluster: Cluster, shards: Path, tmp_path: Path, lost: int
) -> None:
    run = tmp_path / "run"
    settings = (*LONG, "schedule.total_steps=150")
    words = train_words(shards, run, *settings, options=["--timeout-s", "10"])
    for node in cluster.nodes:
        cluster.torchrun(node, words, nodes="1:2", run_id="fewer", conf=",last_call_timeout=5")
    gone = cluster.nodes[lost]
    both = run / "logs" / "rank-001.log"
    wait_until(lambda: steps_in(run)[-1:] >= [12] and both.exists(), what=cluster.said)
    gone.lose_power()
    wait_until(lambda: "rank 0 of 1 on" in (run / "logs" / "rank-000.log").read_text(), what=cluster.said)
    reached = steps_in(run)[-1]
    wait_until(lambda: steps_in(run)[-1] >= reached + 8, what=cluster.said)
    gone.connect()
    cluster.torchrun(gone, words, nodes="1:2", run_id="fewer", conf=",last_call_timeout=5")
    assert [node.wait() for node in cluster.nodes] == [0, 0], cluster.said()
    shares = {step: len(line.split("infrared positions ")[1].split(";")[0].split())
              for line in (run / "logs" / "rank-000.log").read_text().splitlines() if "infrared positions" in line
              for step in [int(line.split("step ")[1].split(":")[0])]}  # fmt: skip
    sizes = [shares[step] for step in range(150)]
    assert sizes[0] == sizes[-1] == 1  # both machines, a window each
    assert 2 in sizes  # one machine with all of the batch
    alone(shards, tmp_path / "alone", *settings)
    # After 150 steps at one and at two processes rounding had grown to 1.1e-4 of a discriminator's norm.
    check_run(run, tmp_path / "alone", total=150, restarted_at=resumed_at(run)[1], weights_within=5e-4)


@needs_namespaces
@pytest.mark.slow
def test_a_machine_that_is_told_to_stop_leaves_and_the_other_goes_on_from_its_last_step(
    cluster: Cluster, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = train_words(shards, run, *LONG, "output.checkpoint_every=50", options=["--timeout-s", "10"])
    for node in cluster.nodes:
        cluster.torchrun(node, words, nodes="1:2", run_id="told", conf=",last_call_timeout=5")
    both = run / "logs" / "rank-001.log"
    wait_until(lambda: steps_in(run)[-1:] >= [12] and both.exists(), what=cluster.said)
    cluster.nodes[0].terminate()
    assert cluster.nodes[0].wait() != 0
    assert cluster.nodes[1].wait() == 0, cluster.said()
    begun = resumed_at(run)
    assert len(begun) == 2
    assert begun[1] % 50 != 0  # a checkpoint of its own, at the step where all stopped
    check_positions(run, steps=60, batch_size=BATCH)
    assert steps_in(run) == list(range(1, 61))


def test_the_rendezvous_says_what_keeps_it_from_listening(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "tools" / "rendezvous.py"), "--host", "192.0.2.1", "--port", "29400"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr == "Error: 192.0.2.1:29400: cannot listen there: cannot assign requested address\n"
