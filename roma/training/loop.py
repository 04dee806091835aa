"""The loop of training and of pretraining: take a batch, step, maybe log, maybe validate, maybe save; the same command resumes.

A `Task` brings what differs: its state, one step, what to log, how to save. What is logged, shown and saved at a step depends only
on the step and the run's last one. A run that is stopped, by `max_steps`, a signal or a time limit, saves what it has and leaves a
beginning of what an unbroken run writes.
"""

import json
import logging
import os
import platform
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from infraredcity.files.atomic import write_atomic
from roma.config.overlay import to_json
from roma.config.schema import OutputConfig
from roma.data.batches import Domains, TrainBatch
from roma.errors import CheckpointError
from roma.training import checkpoint, profile
from roma.training.checkpoint import Best, Checkpoint, CheckpointWriter
from roma.training.metrics import MetricsLog, save_picture
from roma.training.progress import Clock, StepReport
from roma.training.run_folder import CONFIG_NAME, SAMPLES, DataFacts, check_same_pictures
from roma.training.step import StepResult
from roma.training.stopping import Stop
from roma.training.update import load_optimiser
from roma.world.world import World

logger = logging.getLogger(__name__)


@runtime_checkable
class RunConfig(Protocol):
    """What the loop reads of a config."""

    @property
    def batch_size(self) -> int:
        """Windows or pictures of each domain per step, over all ranks."""

    @property
    def output(self) -> OutputConfig:
        """How often what is written."""


class Task(ABC):
    """What the loop needs to know of one kind of run; subclasses set the attributes that are declared here.

    Args:
        config: The whole run.
        run: Its folder.
        world: This process's place.
        domains: What is read.
    """

    total_steps: int
    """Steps of the whole run."""
    images_per_step: int
    """Pictures of a step over all ranks, for the speed."""
    networks: dict[str, nn.Module]
    """What training changes, by the names that checkpoints give."""
    optimisers: dict[str, torch.optim.Optimizer]
    """Likewise."""
    best: Best | None = None
    """The best checkpoint so far, where one is chosen."""

    def __init__(self, config: RunConfig, run: Path, world: World, domains: Domains) -> None:
        self.config, self.run, self.world, self.domains = config, run, world, domains
        self.data: DataFacts = {
            name: {"data_hash": reader.data_hash, "num_frames": len(reader.index)}
            for name, reader in (("infrared", domains.infrared), ("visible", domains.visible))
        }

    @abstractmethod
    def batches(self, first: int) -> Generator[TrainBatch, None, None]:
        """Yield this rank's batches from a step on, without end."""

    @abstractmethod
    def step(self, batch: TrainBatch, *, stop_requested: bool) -> StepResult:
        """Take one step; a collective."""

    @abstractmethod
    def numbers(self, step: int, result: StepResult) -> dict[str, float]:
        """Return what a log step adds to its losses in metrics.jsonl; the same in every equal run. `step` is 0-based."""

    @abstractmethod
    def sample_grid(self) -> UInt8[np.ndarray, "H W 3"]:
        """Draw fixed pictures and what the networks make of them; on the leader."""

    @abstractmethod
    def write(self, saved: Checkpoint) -> None:
        """Write a checkpoint and the files that go with it, in a thread of the leader."""

    def begin(self) -> None:  # noqa: B027  # a task may have nothing to prepare
        """Prepare what only the leader needs, before the first step."""

    def complete(self, newest: Checkpoint) -> None:  # noqa: B027  # nor to complete
        """Bring the files that go with a checkpoint up to the newest one, after a kill between two files; on the leader."""

    def validate(self, done: int, *, is_candidate: bool) -> dict[str, float]:
        """Measure held-out numbers, on the leader; those of a candidate may make it the best checkpoint."""
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """What is called on rank 0 while a run goes; each may be left out."""

    on_report: Callable[[StepReport], None] | None = None
    """Called at log steps."""
    on_step: Callable[[int, int], None] | None = None
    """Called at every step: steps done, steps at which this call means to end."""
    on_profile: Callable[[str], None] | None = None
    """Gets a table of the operators that took most time; asking for it turns the profiler on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a call of `run_task` ended."""

    first_step: int
    """Steps done when it began."""
    last_step: int
    """Steps done when it ended."""
    total_steps: int
    """Steps of the whole run."""
    until_step: int
    """Steps at which this call meant to end: `max_steps` or all of them."""
    is_stopped: bool = False
    """Whether some rank's signal or time limit ended it."""
    stop_signal: signal.Signals | None = None
    """The first signal that any rank got, the same on all; None without one."""


def run_task(
    task: Task, *, max_steps: int | None = None, stop: Stop | None = None, listeners: Listeners | None = None
) -> Ended:
    """Take steps until the run ends, going on from its newest checkpoint; a collective over all ranks.

    Args:
        task: The run; its folder is claimed.
        max_steps: Stop after this step and save, though the run goes on.
        stop: Asked at every step whether to end; all ranks end at the same step when any wants to.
        listeners: Called on rank 0.

    Raises:
        ConfigError: The run was begun on other pictures.
        CheckpointError: No checkpoint of the run can be read, or one cannot be written.
        TrainingError: A loss is not finite.
        InfraredCityError: The shards are not what they should be, or the disk is full.
    """
    world, stop = task.world, stop or Stop()
    listeners = (listeners if world.is_leader else None) or Listeners()
    newest = _resume(task)
    first = 0 if newest is None else newest.step
    _check_agreement(task, first)  # and nobody may write before everybody has read
    until = task.total_steps if max_steps is None else min(max_steps, task.total_steps)
    logger.info(
        "rank %d of %d on %s, host %s, process %d, torch %s: %d of %d steps done, the schedule has %d",
        world.rank, world.world_size, world.device, platform.node(), os.getpid(), torch.__version__, first, until,
        task.total_steps,
    )  # fmt: skip
    if newest is not None and world.is_leader:
        task.complete(newest)
    last, is_stopped = first, False
    if first < until:
        with _opened(task, first) as files:
            last, is_stopped = _take_steps(task, files, stop, listeners, first=first, until=until)
    texts = world.texts("" if stop.signal is None else str(int(stop.signal)))
    signals = [signal.Signals(int(number)) for number in texts if number]
    return Ended(
        first_step=first,
        last_step=last,
        total_steps=task.total_steps,
        until_step=until,
        is_stopped=is_stopped,
        stop_signal=signals[0] if signals and is_stopped else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Files:
    """What the leader writes to while the run goes."""

    log: MetricsLog
    writer: CheckpointWriter


def _take_steps(
    task: Task, files: _Files | None, stop: Stop, listeners: Listeners, *, first: int, until: int
) -> tuple[int, bool]:
    """Take steps; return how many are done, and whether a signal or a time limit ended it."""
    output, world = task.config.output, task.world
    clock = Clock(world.device)
    batches = task.batches(first)
    done, is_stopped = first, False
    with profile.profiled(task.run, world, listeners.on_profile) as count_step:
        while done < until and not is_stopped:
            with clock.waiting():
                batch = next(batches)
            _log_batch(batch)
            world.beat(done + 1)
            result = task.step(batch, stop_requested=stop.is_requested)
            done += 1
            is_stopped = result.stop or (world.world_size == 1 and stop.is_requested)
            is_log_step, is_sample_step, is_checkpoint_step = (
                done % every == 0 or done == task.total_steps
                for every in (output.log_every, output.sample_every, output.checkpoint_every)
            )
            count_step()
            if listeners.on_step is not None:
                listeners.on_step(done, until)
            numbers: dict[str, float] = {}
            if is_log_step or done == until:
                losses = _mean_losses(task, batch, result)
                report = clock.report(done, until, losses, images_per_step=task.images_per_step)
                if files is not None:
                    files.log.write_speed(done, report.speed())
                if listeners.on_report is not None:
                    listeners.on_report(report)
                numbers = {**losses, **task.numbers(batch.step, result)} if is_log_step else {}
            if files is None:
                continue
            if is_sample_step or is_checkpoint_step:
                numbers |= task.validate(done, is_candidate=is_checkpoint_step)
            if numbers:
                files.log.write({"step": done, **numbers})
            if is_sample_step:
                grid = task.sample_grid()
                save_picture(task.run / SAMPLES / f"step-{done:08d}.png", grid)
                files.log.picture("samples", grid, done)
            if is_checkpoint_step or done == until or is_stopped:
                files.writer.save(_checkpoint(task, done))
    batches.close()
    return done, is_stopped


def _checkpoint(task: Task, done: int) -> Checkpoint:
    return Checkpoint(
        step=done,
        config=to_json(task.config),
        networks={name: network.state_dict() for name, network in task.networks.items()},
        optimisers={name: optimiser.state_dict() for name, optimiser in task.optimisers.items()},
        data=task.data,
        best=task.best,
    )


@contextmanager
def _opened(task: Task, first: int) -> Iterator[_Files | None]:
    """Open the leader's files; whatever ends the block, the last checkpoint is written before it is left."""
    if not task.world.is_leader:
        yield None
        return
    run, config = task.run, to_json(task.config)
    task.begin()
    write_atomic(run / CONFIG_NAME, (json.dumps(config, indent=1) + "\n").encode())
    log = MetricsLog(run, resumed_at=first, wandb_project=task.config.output.wandb, config=config)

    def write(saved: Checkpoint) -> None:
        log.sync()
        task.write(saved)

    writer = CheckpointWriter(write)
    try:
        yield _Files(log=log, writer=writer)
    except BaseException:
        try:
            writer.close()
        except CheckpointError as error:
            logger.error("%s", error)  # what ended the run matters more
        raise
    else:
        writer.close()
    finally:
        log.close()


def _resume(task: Task) -> Checkpoint | None:
    """Load the newest checkpoint."""
    newest = checkpoint.load_newest(task.run)
    if newest is None:
        return None
    check_same_pictures(task.run, newest.data, task.data)
    try:
        for name, network in task.networks.items():
            network.load_state_dict(newest.networks[name])
        for name, optimiser in task.optimisers.items():
            load_optimiser(optimiser, newest.optimisers[name])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{task.run}: its checkpoint does not fit the networks ({reason}); use another --out"
        ) from error
    task.best = newest.best
    return newest


def _check_agreement(task: Task, done: int) -> None:
    """Refuse ranks that would not take the same steps on the same data, as with folders that are not shared."""
    pictures = (f"{name} pictures {facts['data_hash'][:8]}" for name, facts in sorted(task.data.items()))
    own = ", ".join([f"step {done}", *pictures])
    texts = task.world.texts(own)
    for rank, text in enumerate(texts):
        if text != texts[0]:
            raise CheckpointError(
                f"rank {rank} is at {text}; rank 0 is at {texts[0]}: put --out and the shards where all machines see the same"
            )


def _log_batch(batch: TrainBatch) -> None:
    """Log which pictures this rank reads, for the day that a sample is asked for."""
    if logger.isEnabledFor(logging.DEBUG):
        source, target = (" ".join(map(str, places)) for places in (batch.source_positions, batch.target_positions))
        logger.debug("step %d: infrared positions %s; visible positions %s", batch.step, source, target)
        logger.debug("step %d: infrared keys %s", batch.step, " ".join("+".join(window) for window in batch.keys))


def _mean_losses(task: Task, batch: TrainBatch, result: StepResult) -> dict[str, float]:
    """Average a step's losses over all ranks; a collective."""
    share = batch.source.shape[0] * task.world.world_size / task.config.batch_size
    means = task.world.mean(torch.stack([value.float() for value in result.losses.values()]) * share)
    return dict(zip(result.losses, means.tolist(), strict=True))
