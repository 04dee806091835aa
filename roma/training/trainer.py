"""A training run of the translator: what it gives to the loop, and the checks before it."""

import json
import logging
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import read_json
from infraredcity.loader import Monitor
from roma.config.overlay import from_json
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, learn_tones, open_domains, train_batches, unreadable
from roma.data.preprocessing import preprocessing_in
from roma.models.generators.build import check_side
from roma.models.vit.weights import check_named, check_set
from roma.training import checkpoint, schedule
from roma.training.checkpoint import Best, Checkpoint
from roma.training.loop import Ended, Listeners, Task, run_task
from roma.training.metrics import check_wandb, grid_of
from roma.training.networks import build_networks
from roma.training.run_folder import LOADER, UNREADABLE_NAME, check_same_run, claimed
from roma.training.sealed_file import SNAPSHOT_NAME
from roma.training.snapshot import Snapshot
from roma.training.step import StepResult, Trainer
from roma.training.stopping import Stop
from roma.training.validate import HeldOut, check_best_by
from roma.world.world import World, check_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult(Ended):
    """How a call of `train` ended."""

    snapshot: Path
    """Where the snapshot lies."""
    best: Best | None
    """The best checkpoint so far, if any is chosen."""
    num_unreadable: int
    """Different pictures that could not be read and were replaced, over all ranks and earlier calls."""


def train(
    config: TrainConfig,
    run: Path,
    world: World,
    *,
    max_steps: int | None = None,
    stop: Stop | None = None,
    listeners: Listeners | None = None,
) -> RunResult:
    """Train until the schedule ends, going on from the newest checkpoint in `run`; a collective over all ranks.

    Args:
        config: The whole run.
        run: Its folder: config.json, metrics.jsonl, tensorboard/, samples/, loader/, checkpoints/, snapshot.pt, snapshot-best.pt,
            best.json.
        world: This process's place.
        max_steps: Stop after this step and save, though the schedule goes on.
        stop: Asked at every step whether to end; all ranks end at the same step when any wants to.
        listeners: Called on rank 0 while the run goes.

    Raises:
        DistributedError: The batch is smaller than the world.
        ConfigError: `run` was begun with another config or on other pictures, or a setting cannot be used.
        CheckpointError: No checkpoint of the run can be read, or one cannot be written.
        TrainingError: A loss is not finite.
        InfraredCityError: The shards are not what they should be, or the disk is full.
    """
    check_batch(config.batch_size, world.world_size)
    check_settings(config)
    with claimed(run, world):
        domains = open_domains(config)
        try:
            check_same_run(config, run, result_name=SNAPSHOT_NAME)
            task = _Training(config, run, world, domains)
            ended = run_task(task, max_steps=max_steps, stop=stop, listeners=listeners)
            num_unreadable = len(_gather_unreadable(domains, run, world))
        finally:
            domains.close()
    return RunResult(**asdict(ended), snapshot=run / SNAPSHOT_NAME, best=task.best, num_unreadable=num_unreadable)


def check_settings(config: TrainConfig, *, may_lack_weights: bool = False) -> None:
    """Refuse, before anything is written, what a run cannot use though its config by itself is right.

    Args:
        config: The whole run.
        may_lack_weights: Let `vit.weights` be empty, as long as it is not to be trained.

    Raises:
        ConfigError: No generator is called so or takes the crops, `output.best_by` is none of its numbers, or the package for
            `output.wandb` is missing.
        WeightsError: `vit.weights` is empty, though the run needs a ViT, or names no file.
    """
    check_side(config.generator, config.data.crop_size_px)
    check_best_by(config)
    check_wandb(config.output.wandb)
    if config.needs_vit and not may_lack_weights:
        check_set(config.vit.weights)
    check_named(config.vit.weights)


class _Training(Task):
    """The translator's training, as the loop asks for it."""

    config: TrainConfig

    def __init__(self, config: TrainConfig, run: Path, world: World, domains: Domains) -> None:
        super().__init__(config, run, world, domains)
        windows = domains.infrared.num_windows, domains.visible.num_windows
        self._plan = schedule.plan(config.schedule, epoch_steps=schedule.steps_per_epoch(*windows, config.batch_size))
        self.total_steps = self._plan.total_steps
        self.images_per_step = config.batch_size * config.window_frames
        tones = learn_tones(domains.at_side(config.data.load_size_px)) if config.loss.matched_tones else None
        self._trainer = Trainer(config, build_networks(config, world.device), world, tones=tones)
        self.networks = self._trainer.networks.trained()
        self.optimisers = {"generator": self._trainer.generator_optimiser}
        if self._trainer.discriminator_optimiser is not None:
            self.optimisers["discriminator"] = self._trainer.discriminator_optimiser
        self._held_out: HeldOut | None = None
        infrared = domains.infrared
        self._preprocessing = preprocessing_in(
            infrared.files.folders, infrared.index.clips, loader_tone=config.data.tone if infrared.tones else None
        )

    def batches(self, first: int) -> Generator[TrainBatch, None, None]:
        is_whole = self.config.schedule.decay_crop == "none" and self.config.data.fit == "square"
        whole_from = self._plan.constant_steps if is_whole else None
        monitor = Monitor(self.run / LOADER)
        return train_batches(
            self.domains, self.config, self.world, start_step=first, whole_from=whole_from, monitor=monitor
        )

    def step(self, batch: TrainBatch, *, stop_requested: bool) -> StepResult:
        return self._trainer.step(batch, lr_factor=self._plan.factor(batch.step), stop_requested=stop_requested)

    def numbers(self, step: int, result: StepResult) -> dict[str, float]:
        generator_lr, _ = self._trainer.learning_rates(self._plan.factor(step))
        norms = {f"{name}_grad_norm": value for name, value in result.grad_norms.items()}
        return {**norms, "generator_lr": generator_lr}

    def begin(self) -> None:
        self._held_out = HeldOut(self.config, self.domains, self._trainer.networks.vit, self.world.device)

    def validate(self, done: int, *, is_candidate: bool) -> dict[str, float]:
        assert self._held_out is not None
        by = self.config.output.best_by
        numbers = self._held_out.measure(self._trainer.networks.averaged)
        if by and is_candidate:
            self.best = checkpoint.better(self.best, by=by, step=done, value=numbers[by])
        logger.info("step %d: %s", done, ", ".join(f"{name} {value:.5g}" for name, value in numbers.items()))
        return numbers

    def sample_grid(self) -> UInt8[np.ndarray, "H W 3"]:
        """Draw fixed infrared frames, their translations and, for the eye to compare, unrelated day frames."""
        assert self._held_out is not None
        shown = self._held_out.show(self._trainer.networks.averaged)
        columns = [images.permute(0, 2, 3, 1).numpy() for images in (shown.infrared, shown.translated, shown.day)]
        captions = ("held out" if self._held_out.is_held_out else "training frame", "translated", "some day")
        return grid_of([list(row) for row in zip(*columns, strict=False)], captions=captions)

    def write(self, saved: Checkpoint) -> None:
        checkpoint.save(self.run, saved, keep=self.config.output.keep_checkpoints)
        # Second: whatever else is missing after a kill can be made from the checkpoint (`complete`).
        checkpoint.publish(self.run, saved, self._snapshot_of)

    def complete(self, newest: Checkpoint) -> None:
        checkpoint.complete(self.run, newest, self._snapshot_of)

    def _snapshot_of(self, saved: Checkpoint) -> Snapshot:
        """Take the translator out of a checkpoint."""
        return Snapshot(
            weights={name: value.cpu() for name, value in saved.networks["averaged"].items()},
            step=saved.step,
            config=from_json(saved.config, where="checkpoint"),
            preprocessing=self._preprocessing,
        )


def _gather_unreadable(domains: Domains, run: Path, world: World) -> dict[str, str]:
    """Gather all ranks' unreadable pictures and those of earlier calls, which the leader writes down; a collective."""
    found = unreadable(domains, world)
    path = run / LOADER / UNREADABLE_NAME
    if world.is_leader and (found or path.exists()):
        if path.exists():
            found = read_json(path) | found
        write_atomic(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    return found
