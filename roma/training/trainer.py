"""A training run: take a batch, step, maybe log, maybe validate, maybe save; resumed by running the same command again.

What is logged, shown and saved at a step depends on the step and the schedule's end alone. A run that is stopped, by `max_steps`, a
signal or a time limit, saves what it has and leaves a beginning of what an unbroken run writes.
"""

import json
import logging
import os
import platform
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from infraredcity.files.atomic import lock_folder, publish, remove_temporaries, temporary_beside, write_atomic
from infraredcity.files.records import read_json
from infraredcity.loader import Monitor
from roma.config.compare import differences
from roma.config.overlay import from_json, to_json
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, learn_tones, open_domains, train_batches, unreadable
from roma.errors import CheckpointError, ConfigError
from roma.models.generators.build import check_side
from roma.models.vit.weights import check_named, check_set
from roma.training import checkpoint, schedule, sealed_file
from roma.training.checkpoint import Best, Checkpoint, CheckpointWriter
from roma.training.metrics import MetricsLog, check_wandb, grid_of, save_picture
from roma.training.networks import build_networks
from roma.training.progress import Clock, StepReport
from roma.training.schedule import Schedule
from roma.training.snapshot import Snapshot
from roma.training.step import StepResult, Trainer
from roma.training.stopping import Stop
from roma.training.update import load_optimiser
from roma.training.validate import HeldOut, check_best_by
from roma.world.world import World, check_batch

CONFIG_NAME = "config.json"
SAMPLES = "samples"
LOADER = "loader"
"""What each rank's loader does, for `infraredcity monitor`."""
UNREADABLE_NAME = "unreadable.json"
"""In LOADER: pictures that were passed over, and why."""
LOGS = "logs"
PROFILE = "profile"
_PROFILE_FROM, _PROFILE_STEPS = 3, 3
"""Steps of this process before the profile begins, and how many it holds."""
_LOCK_WAIT_S = 100.0
"""How long a run of several ranks waits for the folder that a lost machine held; NFS 4 frees it after 90 s."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Who is told what, on rank 0; each may be left out."""

    on_report: Callable[[StepReport], None] | None = None
    """Log steps."""
    on_step: Callable[[int, int], None] | None = None
    """Every step: steps done, steps at which this call means to end."""
    on_profile: Callable[[str], None] | None = None
    """A table of the operators that took most time; asking for it turns the profiler on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a call of `train` ended.

    Attributes:
        first_step: Steps done when it began.
        last_step: Steps done when it ended.
        total_steps: Steps of the whole run.
        until_step: Steps at which this call meant to end: `max_steps` or all of them.
        snapshot: Where the snapshot lies.
        is_stopped: Whether some rank's signal or time limit ended it.
        stop_signal: The first signal that any rank got, the same on all; None without one.
        best: The best checkpoint so far, if any is chosen.
        num_unreadable: Different pictures that could not be read and were replaced, over all ranks and earlier calls.
    """

    first_step: int
    last_step: int
    total_steps: int
    until_step: int
    snapshot: Path
    is_stopped: bool = False
    stop_signal: signal.Signals | None = None
    best: Best | None = None
    num_unreadable: int = 0


def train(
    config: TrainConfig,
    run: Path,
    world: World,
    *,
    max_steps: int | None = None,
    stop: Stop | None = None,
    on_report: Callable[[StepReport], None] | None = None,
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
        on_report: Told of log steps, on rank 0.
        listeners: The same and more.

    Raises:
        DistributedError: The batch is smaller than the world.
        ConfigError: `run` was begun with another config or on other pictures, or a setting cannot be used.
        CheckpointError: No checkpoint of the run can be read, or one cannot be written.
        TrainingError: A loss is not finite.
        InfraredCityError: The shards are not what they should be, or the disk is full.
    """
    check_batch(config.batch_size, world.world_size)
    check_settings(config)
    told = listeners or Listeners(on_report=on_report)
    if world.is_leader:
        with lock_folder(run, wait_s=_LOCK_WAIT_S if world.world_size > 1 else 0.0):
            _clear_temporaries(run)
            world.barrier()  # whoever held the folder before has written its last checkpoint
            return _train(config, run, world, max_steps, stop or Stop(), told)
    world.barrier()
    return _train(config, run, world, max_steps, stop or Stop(), Listeners())


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


@dataclass(kw_only=True, slots=True)
class _Run:
    """A run that has begun. What is None on ranks other than the leader is for it alone to do."""

    trainer: Trainer
    domains: Domains
    plan: Schedule
    until: int
    """Steps at which this call means to end."""
    folder: Path
    data: dict[str, dict[str, Any]]
    stop: Stop
    told: Listeners
    clock: Clock
    best: Best | None = None
    log: MetricsLog | None = None
    held_out: HeldOut | None = None
    writer: CheckpointWriter | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> TrainConfig:
        """The whole run's."""
        return self.trainer.config


def _train(
    config: TrainConfig, run: Path, world: World, max_steps: int | None, stop: Stop, told: Listeners
) -> RunResult:
    domains = open_domains(config)
    try:
        plan = _plan(config, domains)
        until = plan.total_steps if max_steps is None else min(max_steps, plan.total_steps)
        facts = _facts(domains)
        _check_same_run(config, run)
        tones = learn_tones(domains) if config.loss.matched_tones else None
        trainer = Trainer(config, build_networks(config, world.device), world, tones=tones)
        newest = _resume(trainer, run, facts)
        done = 0 if newest is None else newest.step
        _check_agreement(world, done, facts)  # and nobody may write before everybody has read
        logger.info(
            "rank %d of %d on %s, host %s, process %d, torch %s: %d of %d steps done, the schedule has %d",
            world.rank, world.world_size, world.device, platform.node(), os.getpid(), torch.__version__, done, until,
            plan.total_steps,
        )  # fmt: skip
        going = _Run(
            trainer=trainer,
            domains=domains,
            plan=plan,
            until=until,
            folder=run,
            data=facts,
            stop=stop,
            told=told,
            clock=Clock(world.device),
            best=None if newest is None else newest.best,
        )
        if done >= until:
            if newest is not None and world.is_leader:
                checkpoint.complete(run, newest, _snapshot_of)
            last, is_stopped = done, False
        else:
            with _opened(going, newest):
                last, is_stopped = _loop(going, first=done)
        heard = world.texts("" if stop.signal is None else str(int(stop.signal)))
        signals = [signal.Signals(int(number)) for number in heard if number]
        unreadable = _gather_unreadable(going)
    finally:
        domains.close()
    return RunResult(
        first_step=done,
        last_step=last,
        total_steps=plan.total_steps,
        until_step=until,
        snapshot=run / sealed_file.SNAPSHOT_NAME,
        is_stopped=is_stopped,
        stop_signal=signals[0] if signals and is_stopped else None,
        best=going.best,
        num_unreadable=len(unreadable),
    )


def _loop(run: _Run, *, first: int) -> tuple[int, bool]:
    """Take steps; returns how many are done, and whether a signal or a time limit ended it."""
    config, trainer, output = run.config, run.trainer, run.config.output
    world, total, until = trainer.world, run.plan.total_steps, run.until
    monitor = Monitor(run.folder / LOADER)
    whole_from = run.plan.constant_steps if config.schedule.decay_crop == "none" else None
    batches = train_batches(run.domains, config, world, start_step=first, whole_from=whole_from, monitor=monitor)
    done, is_stopped = first, False
    with _profiled(run) as profiled:
        while done < until and not is_stopped:
            with run.clock.waiting():
                batch = next(batches)
            _log_batch(batch)
            world.beat(done + 1)
            result = trainer.step(batch, lr_factor=run.plan.factor(done), stop_requested=run.stop.is_requested)
            done += 1
            is_stopped = result.stop or (world.world_size == 1 and run.stop.is_requested)
            is_log_step, is_sample_step, is_checkpoint_step = (
                _is_due(done, every, total)
                for every in (output.log_every, output.sample_every, output.checkpoint_every)
            )
            profiled()
            if run.told.on_step is not None:
                run.told.on_step(done, until)
            numbers: dict[str, float] = {}
            if is_log_step or done == until:
                losses = _mean_losses(result, batch, run)
                _report(run, done, losses)
                numbers = _numbers(run, done, losses, result) if is_log_step else {}
            if is_sample_step or is_checkpoint_step:
                numbers |= _validate(run, done, is_candidate=is_checkpoint_step)
            if numbers and run.log is not None:
                run.log.write({"step": done, **numbers})
            if is_sample_step:
                _show_samples(run, done)
            if is_checkpoint_step or done == until or is_stopped:
                _save(run, done)
    batches.close()
    return done, is_stopped


def _is_due(done: int, every: int, total: int) -> bool:
    return done % every == 0 or done == total


@contextmanager
def _opened(run: _Run, newest: Checkpoint | None) -> Iterator[None]:
    """The leader's files while the run goes; whatever ends it, the last checkpoint is written before the block is left."""
    if not run.trainer.world.is_leader:
        yield
        return
    config, done = run.config, 0 if newest is None else newest.step
    run.held_out = HeldOut(config, run.domains, run.trainer.networks.vit, run.trainer.world.device)
    if newest is not None:
        checkpoint.complete(run.folder, newest, _snapshot_of)
    write_atomic(run.folder / CONFIG_NAME, (json.dumps(to_json(config), indent=1) + "\n").encode())
    run.log = MetricsLog(run.folder, resumed_at=done, wandb_project=config.output.wandb, config=to_json(config))
    run.writer = CheckpointWriter(run.folder, keep=config.output.keep_checkpoints)
    try:
        yield
    except BaseException:
        try:
            run.writer.close()
        except CheckpointError as error:
            logger.error("%s", error)  # what ended the run matters more
        raise
    else:
        run.writer.close()
    finally:
        run.log.close()


def _plan(config: TrainConfig, domains: Domains) -> Schedule:
    epoch_steps = schedule.steps_per_epoch(domains.infrared.num_windows, domains.visible.num_windows, config.batch_size)
    return schedule.plan(config.schedule, epoch_steps=epoch_steps)


def _facts(domains: Domains) -> dict[str, dict[str, Any]]:
    """What a run is trained on, for its checkpoints."""
    return {
        name: {"data_hash": reader.data_hash, "num_frames": len(reader.index)}
        for name, reader in (("infrared", domains.infrared), ("visible", domains.visible))
    }


def _check_same_run(config: TrainConfig, run: Path) -> None:
    path = run / CONFIG_NAME
    if not path.exists():
        return
    try:
        before = from_json(read_json(path), where=str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged ({error}); use another --out") from error
    changed = [change for change in differences(before, config) if not _may_change(change.partition(" ")[0])]
    # Without either it begins anew in any case.
    if changed and (checkpoint.saved(run) or (run / sealed_file.SNAPSHOT_NAME).exists()):
        raise ConfigError(f"{run}: was begun with other settings: {'; '.join(changed)}; use the same, or another --out")


def _may_change(setting: str) -> bool:
    """Whether a run may go on with another value: it changes rounding at most, or what is written and how often."""
    return setting.startswith(("compute.", "output.")) and setting != "output.best_by"


def _resume(trainer: Trainer, run: Path, facts: Mapping[str, Mapping[str, Any]]) -> Checkpoint | None:
    """Load the newest checkpoint."""
    newest = checkpoint.load_newest(run)
    if newest is None:
        return None
    for name, before in newest.data.items():
        now = facts[name]
        if before["data_hash"] != now["data_hash"]:
            raise ConfigError(
                f"{run}: was begun on other {name} pictures: {before['num_frames']} frames of hash {before['data_hash'][:8]}, now "
                f"{now['num_frames']} of {now['data_hash'][:8]}; bring those shards back, or use another --out"
            )
    try:
        for name, network in trainer.networks.trained().items():
            network.load_state_dict(newest.networks[name])
        for name, optimiser in _optimisers(trainer).items():
            load_optimiser(optimiser, newest.optimisers[name])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{run}: its checkpoint does not fit the networks ({reason}); use another --out"
        ) from error
    return newest


def _optimisers(trainer: Trainer) -> dict[str, torch.optim.Optimizer]:
    """Those that there are, by the names that checkpoints give them."""
    named = {"generator": trainer.generator_optimiser, "discriminator": trainer.discriminator_optimiser}
    return {name: optimiser for name, optimiser in named.items() if optimiser is not None}


def _check_agreement(world: World, done: int, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """CheckpointError where ranks would not take the same steps on the same data, as with folders that are not shared."""
    said = world.texts(
        f"step {done}, " + ", ".join(f"{name} pictures {facts[name]['data_hash'][:8]}" for name in sorted(facts))
    )
    for rank, text in enumerate(said):
        if text != said[0]:
            raise CheckpointError(
                f"rank {rank} is at {text}; rank 0 is at {said[0]}: put --out and the shards where all machines see the same"
            )


def _log_batch(batch: TrainBatch) -> None:
    """One line a step of what this rank reads, for the day that a sample is asked for."""
    if logger.isEnabledFor(logging.DEBUG):
        source, target = (" ".join(map(str, places)) for places in (batch.source_positions, batch.target_positions))
        logger.debug("step %d: infrared positions %s; visible positions %s", batch.step, source, target)
        logger.debug("step %d: infrared keys %s", batch.step, " ".join("+".join(window) for window in batch.keys))


def _mean_losses(result: StepResult, batch: TrainBatch, run: _Run) -> dict[str, float]:
    """A step's losses over all ranks; a collective."""
    world = run.trainer.world
    share = batch.source.shape[0] * world.world_size / run.config.batch_size
    names = list(result.losses)
    means = world.mean(torch.stack([result.losses[name].float() for name in names]) * share)
    return dict(zip(names, means.tolist(), strict=True))


def _report(run: _Run, done: int, losses: dict[str, float]) -> None:
    images = run.config.batch_size * run.config.window_frames
    report = run.clock.report(done, run.until, losses, images_per_step=images)
    if run.log is not None:
        run.log.write_speed(done, report.speed())
    if run.told.on_report is not None:
        run.told.on_report(report)


def _numbers(run: _Run, done: int, losses: dict[str, float], result: StepResult) -> dict[str, float]:
    """What a log step adds to metrics.jsonl; the same in every equal run."""
    rate, _ = run.trainer.learning_rates(run.plan.factor(done - 1))
    norms = {f"{name}_grad_norm": value for name, value in result.grad_norms.items()}
    return {**losses, **norms, "generator_lr": rate}


def _validate(run: _Run, done: int, *, is_candidate: bool) -> dict[str, float]:
    """Held-out numbers, on the leader; those of a candidate may make it the best checkpoint."""
    if run.held_out is None:
        return {}
    by = run.config.output.best_by
    numbers = run.held_out.measure(run.trainer.networks.averaged)
    if by and is_candidate:
        run.best = checkpoint.better(run.best, by=by, step=done, value=numbers[by])
    logger.info("step %d: %s", done, ", ".join(f"{name} {value:.5g}" for name, value in numbers.items()))
    return numbers


def _show_samples(run: _Run, done: int) -> None:
    """A grid of fixed infrared frames, their translations and, for the eye to compare, unrelated day frames."""
    if run.held_out is None or run.log is None:
        return
    shown = run.held_out.show(run.trainer.networks.averaged)
    columns = [images.permute(0, 2, 3, 1).numpy() for images in (shown.infrared, shown.translated, shown.day)]
    captions = ("held out" if run.held_out.is_held_out else "training frame", "translated", "some day")
    grid = grid_of([list(row) for row in zip(*columns, strict=False)], captions=captions)
    save_picture(run.folder / SAMPLES / f"step-{done:08d}.png", grid)
    run.log.picture("samples", grid, done)


def _save(run: _Run, done: int) -> None:
    if run.writer is None or run.log is None:
        return
    trainer = run.trainer
    run.writer.save(
        Checkpoint(
            step=done,
            config=to_json(run.config),
            networks={name: network.state_dict() for name, network in trainer.networks.trained().items()},
            optimisers={name: optimiser.state_dict() for name, optimiser in _optimisers(trainer).items()},
            data=run.data,
            best=run.best,
        ),
        _snapshot_of,
        before=run.log.sync,
    )


def _snapshot_of(saved: Checkpoint) -> Snapshot:
    """The translator in a checkpoint."""
    weights = {name: value.cpu() for name, value in saved.networks["averaged"].items()}
    return Snapshot(weights=weights, step=saved.step, config=from_json(saved.config, where="checkpoint"))


def _clear_temporaries(run: Path) -> None:
    """What a killed run was writing. For the holder of the folder's lock, before other ranks write."""
    for folder in (run, *(run / name for name in (checkpoint.FOLDER, SAMPLES, LOADER, PROFILE))):
        if folder.is_dir():
            remove_temporaries(folder)


def _gather_unreadable(run: _Run) -> dict[str, str]:
    """All ranks' unreadable pictures, and those of earlier calls, which the leader writes down; a collective."""
    world = run.trainer.world
    found = unreadable(run.domains, world)
    path = run.folder / LOADER / UNREADABLE_NAME
    if world.is_leader and (found or path.exists()):
        if path.exists():
            found = read_json(path) | found
        write_atomic(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    return found


@contextmanager
def _profiled(run: _Run) -> Generator[Callable[[], None], None, None]:
    """What to call after each step. With a profile asked for, it covers a few steps once the first ones are done."""
    tell = run.told.on_profile
    if tell is None:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if run.trainer.world.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    is_written = False

    def write(profile: torch.profiler.profile) -> None:
        nonlocal is_written
        path = run.folder / PROFILE / f"rank-{run.trainer.world.rank:03d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        profile.export_chrome_trace(str(temporary))
        publish(temporary, path)
        by = "self_device_time_total" if len(activities) == 2 else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40)
        tell(f"{table}\n{path}: {_PROFILE_STEPS} steps, for chrome://tracing or ui.perfetto.dev")
        is_written = True

    waited = torch.profiler.schedule(wait=_PROFILE_FROM - 1, warmup=1, active=_PROFILE_STEPS, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=waited, on_trace_ready=write) as profile:
        yield profile.step
    if not is_written:
        tell(f"no profile: it needs {_PROFILE_FROM + _PROFILE_STEPS} steps of one call")
