"""A training run: take a batch, step, maybe log, maybe show samples, maybe save; resumed by running the same command again."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from infraredcity.loader import Monitor
from infraredcity.storage import lock_folder, write_atomic
from roma import checkpoint, data, schedule
from roma.checkpoint import Checkpoint, Snapshot
from roma.config import TrainConfig, differences, from_json, to_json
from roma.data import Domains, to_bytes, to_unit_range
from roma.distributed import World, check_batch
from roma.errors import CheckpointError, ConfigError
from roma.metrics import MetricsLog, grid_of, save_picture
from roma.schedule import Schedule
from roma.step import StepResult, Trainer, build_networks

CONFIG_NAME = "config.json"
SAMPLES = "samples"
LOADER = "loader"
"""What each rank's loader does, for `infraredcity monitor`."""
NUM_SAMPLES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What the run says of itself at a log step.

    Attributes:
        step: Steps done.
        total_steps: Steps of the whole run.
        losses: Mean over ranks of this step's terms.
        images_per_s: Frames of each domain that were read per second over all ranks since the last report.
        wait_share: Share of that time spent waiting for data on this rank.
        eta_s: Seconds to the end at this speed.
    """

    step: int
    total_steps: int
    losses: dict[str, float]
    images_per_s: float
    wait_share: float
    eta_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a call of `train` ended: steps done when it began and when it ended, and where the snapshot lies."""

    first_step: int
    last_step: int
    total_steps: int
    snapshot: Path


def train(
    config: TrainConfig,
    run: Path,
    world: World,
    *,
    max_steps: int | None = None,
    on_report: Callable[[StepReport], None] | None = None,
) -> RunResult:
    """Train until the schedule ends, going on from the newest checkpoint in `run`; a collective over all ranks.

    Args:
        config: The whole run.
        run: Its folder: config.json, metrics.jsonl, tensorboard/, samples/, checkpoints/, snapshot.pt.
        world: This process's place.
        max_steps: Stop after this step and save, though the schedule goes on.
        on_report: Told of log steps, on rank 0.

    Raises:
        DistributedError: The batch is smaller than the world.
        ConfigError: `run` was begun with another config.
        CheckpointError: No checkpoint of the run can be read.
        TrainingError: A loss is not finite.
        InfraredCityError: The shards are not what they should be.
    """
    check_batch(config.batch_size, world.world_size)
    if world.is_leader:
        with lock_folder(run):
            return _train(config, run, world, max_steps, on_report)
    return _train(config, run, world, max_steps, None)


def _train(
    config: TrainConfig,
    run: Path,
    world: World,
    max_steps: int | None,
    on_report: Callable[[StepReport], None] | None,
) -> RunResult:
    domains = data.open_domains(config)
    try:
        plan = _plan(config, domains)
        stop = plan.total_steps if max_steps is None else min(max_steps, plan.total_steps)
        _check_same_run(config, run)
        tones = data.learn_tones(domains) if config.loss.matched_tones else None
        trainer = Trainer(config, build_networks(config, world.device), world, tones=tones)
        done = _resume(trainer, run)
        world.barrier()  # nobody may write before everybody has read
        log = None
        if world.is_leader:
            write_atomic(run / CONFIG_NAME, (json.dumps(to_json(config), indent=1) + "\n").encode())
            log = MetricsLog(run, resumed_at=done)
        try:
            _loop(trainer, domains, plan, run, log, first=done, stop=stop, on_report=on_report)
        finally:
            if log is not None:
                log.close()
    finally:
        domains.close()
    return RunResult(
        first_step=done,
        last_step=max(done, stop),
        total_steps=plan.total_steps,
        snapshot=run / checkpoint.SNAPSHOT_NAME,
    )


def _loop(
    trainer: Trainer,
    domains: Domains,
    plan: Schedule,
    run: Path,
    log: MetricsLog | None,
    *,
    first: int,
    stop: int,
    on_report: Callable[[StepReport], None] | None,
) -> None:
    config, world = trainer.config, trainer.world
    clock = _Clock()
    monitor = Monitor(run / LOADER)
    batches = data.train_batches(domains, config, world, start_step=first, monitor=monitor)
    for step in range(first, stop):
        with clock.waiting():
            batch = next(batches)
        done = step + 1
        is_log_step = done % config.output.log_every == 0 or done == stop
        result = trainer.step(batch, lr_factor=plan.factor(step), with_grad_norms=is_log_step)
        if is_log_step:
            share = batch.source.shape[0] * world.world_size / config.batch_size
            losses = _mean_losses(result, share, world)
            images = config.batch_size * config.window_frames
            report = clock.report(done, plan.total_steps, losses, images_per_step=images)
            if log is not None:
                lr = config.optim.generator_lr * plan.factor(step)
                log.write(
                    {
                        "step": done,
                        **losses,
                        **{f"{k}_grad_norm": v for k, v in result.grad_norms.items()},
                        "generator_lr": lr,
                    }
                )
            if on_report is not None:
                on_report(report)
        if log is not None and (done % config.output.sample_every == 0 or done == stop):
            _show_samples(trainer, domains, run, log, done)
        if world.is_leader and (done % config.output.checkpoint_every == 0 or done == stop):
            _save(trainer, run, done)
    batches.close()
    world.barrier()


def _plan(config: TrainConfig, domains: Domains) -> Schedule:
    epoch_steps = schedule.steps_per_epoch(domains.infrared.num_windows, domains.visible.num_windows, config.batch_size)
    return schedule.plan(config.schedule, epoch_steps=epoch_steps)


def _check_same_run(config: TrainConfig, run: Path) -> None:
    path = run / CONFIG_NAME
    if not path.exists():
        return
    try:
        before = from_json(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged ({error}); use another --out") from error
    changed = differences(before, config)
    if changed:
        raise ConfigError(f"{run}: was begun with other settings: {'; '.join(changed)}; use the same, or another --out")


def _resume(trainer: Trainer, run: Path) -> int:
    """Load the newest checkpoint; returns the steps that are done."""
    newest = checkpoint.load_newest(run)
    if newest is None:
        return 0
    try:
        for name, network in trainer.networks.trained().items():
            network.load_state_dict(newest.networks[name])
        trainer.generator_optimiser.load_state_dict(newest.optimisers["generator"])
        if trainer.discriminator_optimiser is not None:
            trainer.discriminator_optimiser.load_state_dict(newest.optimisers["discriminator"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{run}: its checkpoint does not fit the networks ({reason}); use another --out"
        ) from error
    return newest.step


def _save(trainer: Trainer, run: Path, done: int) -> None:
    config = trainer.config
    optimisers = {"generator": trainer.generator_optimiser.state_dict()}
    if trainer.discriminator_optimiser is not None:
        optimisers["discriminator"] = trainer.discriminator_optimiser.state_dict()
    networks = {name: network.state_dict() for name, network in trainer.networks.trained().items()}
    plain = to_json(config)
    checkpoint.save(
        run,
        Checkpoint(step=done, config=plain, networks=networks, optimisers=optimisers),
        keep=config.output.keep_checkpoints,
    )
    checkpoint.save_snapshot(
        run / checkpoint.SNAPSHOT_NAME,
        Snapshot(
            width=config.generator.width,
            num_blocks=config.generator.num_blocks,
            architecture=config.generator.architecture,
            weights={name: value.cpu() for name, value in trainer.networks.averaged.state_dict().items()},
            size_px=config.data.crop_size_px,
            step=done,
            preset=config.preset,
            config=plain,
        ),
    )


def _show_samples(trainer: Trainer, domains: Domains, run: Path, log: MetricsLog, done: int) -> None:
    """A grid of fixed infrared frames, their translations and, for the eye to compare, unrelated day frames."""
    side = trainer.config.data.crop_size_px
    offset = (trainer.config.data.load_size_px - side) // 2
    rows = np.linspace(0, len(domains.infrared.index) - 1, NUM_SAMPLES).astype(np.int64)
    day_rows = np.linspace(0, len(domains.visible.index) - 1, NUM_SAMPLES).astype(np.int64)
    cut = (slice(None), slice(None), slice(offset, offset + side), slice(offset, offset + side))
    infrared = domains.infrared.read_rows(rows)[cut].expand(-1, 3, -1, -1)
    day = domains.visible.read_rows(day_rows)[cut]
    with torch.no_grad():
        translated = to_bytes(trainer.networks.averaged(to_unit_range(infrared).to(trainer.world.device))).cpu()
    pictures = [
        [image.permute(1, 2, 0).numpy() for image in (infrared[k], translated[k], day[k])] for k in range(NUM_SAMPLES)
    ]
    grid = grid_of(pictures)
    save_picture(run / SAMPLES / f"step-{done:08d}.png", grid)
    log.picture("samples", grid, done)


def _mean_losses(result: StepResult, share: float, world: World) -> dict[str, float]:
    names = list(result.losses)
    means = world.mean(torch.stack([result.losses[name].float() for name in names]) * share)
    return dict(zip(names, means.tolist(), strict=True))


class _Clock:
    """Where the time goes between two reports."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._waited_s = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for one step's batch."""
        begun = time.monotonic()
        yield
        self._waited_s += time.monotonic() - begun
        self._steps += 1

    def report(self, done: int, total: int, losses: dict[str, float], *, images_per_step: int) -> StepReport:
        """What happened since the last report."""
        now = time.monotonic()
        elapsed_s = max(now - self._begun, 1e-9)
        report = StepReport(
            step=done,
            total_steps=total,
            losses=losses,
            images_per_s=self._steps * images_per_step / elapsed_s,
            wait_share=self._waited_s / elapsed_s,
            eta_s=(total - done) * elapsed_s / max(self._steps, 1),
        )
        self._begun, self._waited_s, self._steps = now, 0.0, 0
        return report
