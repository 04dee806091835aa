"""The loop with a task that only counts: what happens at which step, stopping, and going on."""

import dataclasses
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8

from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, open_domains, train_batches
from roma.errors import CheckpointError, ConfigError
from roma.training import checkpoint
from roma.training.checkpoint import Checkpoint
from roma.training.loop import Listeners, Task, run_task
from roma.training.metrics import read_metrics
from roma.training.step import StepResult
from roma.training.stopping import Stop
from roma.world.world import World

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


class Counting(Task):
    """Adds the step to a weight."""

    config: TrainConfig

    def __init__(self, config: TrainConfig, run: Path, world: World, domains: Domains) -> None:
        super().__init__(config, run, world, domains)
        self.total_steps, self.images_per_step = 6, 2
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.network.weight)
        self.networks = {"network": self.network}
        self.optimisers = {}
        self.calls: list[str] = []

    def batches(self, first: int) -> Generator[TrainBatch, None, None]:
        return train_batches(self.domains, self.config, self.world, start_step=first)

    def step(self, batch: TrainBatch, *, stop_requested: bool) -> StepResult:
        with torch.no_grad():
            self.network.weight += batch.step
        return StepResult(losses={"weight": self.network.weight.detach().sum()}, grad_norms={})

    def numbers(self, step: int, result: StepResult) -> dict[str, float]:
        return {"twice": 2.0 * step}

    def sample_grid(self) -> UInt8[np.ndarray, "H W 3"]:
        return np.zeros((8, 8, 3), np.uint8)

    def validate(self, done: int, *, is_candidate: bool) -> dict[str, float]:
        self.calls.append(f"validate {done}{' as a candidate' if is_candidate else ''}")
        return {"held_out": float(done)}

    def write(self, saved: Checkpoint) -> None:
        checkpoint.save(self.run, saved, keep=9)


@pytest.fixture
def opened(config: TrainConfig) -> Iterator[tuple[TrainConfig, Domains]]:
    output = dataclasses.replace(config.output, log_every=2, sample_every=3, checkpoint_every=4)
    domains = open_domains(config)
    yield dataclasses.replace(config, output=output), domains
    domains.close()


def test_each_step_does_what_is_due(opened: tuple[TrainConfig, Domains], tmp_path: Path) -> None:
    task = Counting(opened[0], tmp_path, ALONE, opened[1])
    steps: list[tuple[int, int]] = []
    ended = run_task(task, listeners=Listeners(on_step=lambda done, until: steps.append((done, until))))
    assert (ended.first_step, ended.last_step, ended.until_step, ended.is_stopped) == (0, 6, 6, False)
    assert steps == [(done, 6) for done in range(1, 7)]
    assert read_metrics(tmp_path) == [
        {"step": 2, "weight": 1, "twice": 2},
        {"step": 3, "held_out": 3},
        {"step": 4, "weight": 6, "twice": 6, "held_out": 4},
        {"step": 6, "weight": 15, "twice": 10, "held_out": 6},
    ]
    assert task.calls == ["validate 3", "validate 4 as a candidate", "validate 6 as a candidate"]
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [f"step-0000000{n}.png" for n in (3, 6)]
    assert [path.name for path in checkpoint.saved(tmp_path)] == [f"step-0000000{n}.pt" for n in (4, 6)]


def test_a_signal_ends_the_run_with_a_checkpoint_from_which_it_goes_on(
    opened: tuple[TrainConfig, Domains], tmp_path: Path
) -> None:
    whole = Counting(opened[0], tmp_path / "whole", ALONE, opened[1])
    run_task(whole)
    stop = Stop()

    def interrupt(done: int, _until: int) -> None:
        if done == 2:
            stop.signal = signal.SIGTERM

    stopped = run_task(Counting(opened[0], tmp_path / "parts", ALONE, opened[1]), stop=stop,
                       listeners=Listeners(on_step=interrupt))  # fmt: skip
    assert (stopped.last_step, stopped.is_stopped, stopped.stop_signal) == (3, True, signal.SIGTERM)
    again = Counting(opened[0], tmp_path / "parts", ALONE, opened[1])
    assert run_task(again).first_step == 3
    assert torch.equal(again.network.weight, whole.network.weight)
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")


def test_other_networks_and_other_pictures_are_refused(opened: tuple[TrainConfig, Domains], tmp_path: Path) -> None:
    run_task(Counting(opened[0], tmp_path, ALONE, opened[1]), max_steps=1)
    other = Counting(opened[0], tmp_path, ALONE, opened[1])
    other.networks = {"another": torch.nn.Linear(1, 1)}
    with pytest.raises(CheckpointError, match="does not fit the networks"):
        run_task(other)
    other = Counting(opened[0], tmp_path, ALONE, opened[1])
    other.data["infrared"] = {"data_hash": "0" * 64, "num_frames": 1}
    with pytest.raises(ConfigError, match=r"begun on other infrared pictures: 20 frames .*, now 1 of 00000000"):
        run_task(other)
