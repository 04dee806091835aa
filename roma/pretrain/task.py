"""The in-domain backbone: a masked autoencoder trained over both domains' shards; the same command again goes on.

Source: He et al. 2021, arXiv 2111.06377; the networks are in `roma.models.vit.masked_autoencoder`. Each step takes as many infrared
as visible pictures. With `tone_jitter` a share of them is first turned into infrared-like gray with random tones; the toned picture
is then the picture: patches are kept from it, and the masked ones are painted as they are in it. Painting the true tones was
measured worse: nobody can know them from a toned picture, so the loss asks for the mean of day and night, and tokens say which of
the two a picture is rather than what is in it.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infraredcity.files.atomic import lock_folder, write_atomic
from infraredcity.files.records import read_json
from roma.config.compare import differences
from roma.config.overlay import to_json, updated, without_secrets
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, open_domains, to_bytes, to_unit_range, train_batches, unreadable
from roma.data.thermal import degrade
from roma.errors import CheckpointError, ConfigError, TrainingError
from roma.models.vit.backbone_file import BACKBONE_NAME, BackboneFacts, DomainFacts, backbone_facts, save_backbone
from roma.models.vit.masked_autoencoder import MaskedAutoencoder, draw_masks, masked_loss, painted
from roma.models.vit.vit import VisionTransformer
from roma.pretrain.config import PretrainConfig
from roma.training import checkpoint
from roma.training.checkpoint import Checkpoint
from roma.training.metrics import MetricsLog, check_wandb, grid_of, save_picture
from roma.training.progress import Clock, StepReport
from roma.training.schedule import steps_per_epoch
from roma.training.update import load_optimiser
from roma.world.world import World, check_batch

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
SAMPLES = "samples"
NUM_SAMPLES = 3
"""Pictures of each domain in a sample grid."""
_STEP, _SAMPLES = 11, 12  # what a draw is for; roma.data.batches and roma.data.thermal have 1, 2, 3
_MASK, _TONE = 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult:
    """How a call of `pretrain` ended."""

    first_step: int
    """Steps done when it began."""
    last_step: int
    """Steps done when it ended."""
    total_steps: int
    """Steps of the whole run."""
    until_step: int
    """Steps at which this call meant to end."""
    backbone: Path
    """Where the encoder lies."""


def pretrain(
    config: PretrainConfig,
    run: Path,
    world: World,
    *,
    max_steps: int | None = None,
    on_report: Callable[[StepReport], None] | None = None,
) -> PretrainResult:
    """Train until the schedule ends, going on from the newest checkpoint in `run`; a collective over all ranks.

    Args:
        config: The whole run.
        run: Its folder: config.json, metrics.jsonl, tensorboard/, samples/, checkpoints/, backbone.safetensors.
        world: This process's place.
        max_steps: Stop after this step and save, though the schedule goes on.
        on_report: Told of log steps, on rank 0.

    Raises:
        DistributedError: The batch is smaller than the world.
        ConfigError: `run` was begun with another config or on other pictures, or the networks' sizes do not fit each other.
        CheckpointError: No checkpoint of the run can be read.
        TrainingError: The loss is not finite.
        InfraredCityError: The shards are not what they should be.
    """
    check_batch(config.batch_size, world.world_size)
    check_wandb(config.output.wandb)
    if world.is_leader:
        with lock_folder(run):
            return _pretrain(config, run, world, max_steps, on_report)
    return _pretrain(config, run, world, max_steps, None)


def lr_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """What the peak step size is multiplied with at a 0-based step: linearly up to 1, then down half a cosine, never 0."""
    num_warmup = round(total_steps * warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, total_steps - num_warmup)))


def build_autoencoder(config: PretrainConfig, device: torch.device) -> MaskedAutoencoder:
    """Build the networks of a run with their initial weights, a function of the config and its seed."""
    shape = config.vit
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = VisionTransformer(
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            width=shape.width,
            depth=shape.depth,
            num_heads=shape.num_heads,
            layers=(shape.depth - 1,),
            trainable=True,
        )
        network = MaskedAutoencoder(
            encoder,
            decoder_width=config.decoder.width,
            decoder_depth=config.decoder.depth,
            decoder_heads=config.decoder.num_heads,
        )
    return network.to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintingTask:
    """Pictures of both domains, infrared first, and which patches of them are to be painted."""

    images: Float[Tensor, "N 3 H W"]
    """In [-1, 1], some of them toned."""
    kept_index: Int64[Tensor, "N K"]
    """Patches that the encoder sees."""
    masked_index: Int64[Tensor, "N M"]
    """Patches that the decoder paints."""


def painting_task(
    infrared: Float[Tensor, "B 3 H W"],
    visible: Float[Tensor, "B 3 H W"],
    positions: tuple[int, ...],
    *,
    config: PretrainConfig,
    purpose: int = _STEP,
) -> PaintingTask:
    """Masks and tones for pictures at some stream positions of the two domains; a function of those and the seed alone."""
    num_patches = (config.vit.image_size // config.vit.patch_size) ** 2
    toned, kept, masked = [], [], []
    for domain, images in enumerate((infrared, visible)):
        draw = [config.seed, purpose, domain]
        toned.append(_toned(images, positions, draw=draw, share=config.tone_jitter))
        indices = draw_masks(positions, draw=[*draw, _MASK], num_patches=num_patches, mask_share=config.mask_share)
        kept.append(indices[0])
        masked.append(indices[1])
    device = infrared.device
    return PaintingTask(
        images=torch.cat(toned),
        kept_index=torch.cat(kept).to(device),
        masked_index=torch.cat(masked).to(device),
    )


class Pretrainer:
    """The state that steps change: the networks, their wrapper for several ranks, and the optimiser."""

    def __init__(self, config: PretrainConfig, network: MaskedAutoencoder, world: World) -> None:
        self.config = config
        self.network = network
        self.world = world
        decaying: list[nn.Parameter] = []
        steady: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            is_weight = parameter.ndim >= 2 and name.endswith("weight")
            (decaying if is_weight else steady).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decaying}, {"params": steady, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.peak_lr,
            betas=(config.optim.beta1, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
        )
        self._wrapped = world.wrap(network)

    def step(self, batch: TrainBatch, *, lr_factor: float) -> dict[str, Tensor]:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Returns:
            This rank's losses by name, 0-dimensional on the device.

        Raises:
            TrainingError: The loss is not finite; nothing was updated.
        """
        config = self.config
        task = painting_task(batch.source[:, 0], batch.target[:, 0], batch.target_positions, config=config)
        with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = self._wrapped(task.images, task.kept_index, task.masked_index)
        errors = masked_loss(
            predicted,
            task.images,
            task.masked_index,
            patch_size=config.vit.patch_size,
            normalise_pixels=config.normalise_pixels,
        )
        loss = errors.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"rank {self.world.rank}, step {batch.step}: the reconstruction loss is {value} on a batch that begins with "
                f"{batch.keys[0][0]}; nothing was updated, and no checkpoint holds this step; lower optim.base_lr, or look at "
                "these frames"
            )
        self.optimiser.zero_grad(set_to_none=True)
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        torch.autograd.backward(loss * (batch.source.shape[0] * self.world.world_size / config.batch_size))
        for group in self.optimiser.param_groups:
            group["lr"] = config.peak_lr * lr_factor
        self.optimiser.step()
        infrared, visible = errors.detach().chunk(2)
        return {
            "reconstruction": loss.detach(),
            "reconstruction_infrared": infrared.mean(),
            "reconstruction_visible": visible.mean(),
        }

    def show(self, task: PaintingTask) -> Float[Tensor, "N 3 H W"]:
        """The pictures with their masked patches as the networks paint them."""
        with torch.no_grad():
            predicted = self.network(task.images, task.kept_index, task.masked_index)
        return painted(
            predicted,
            task.images,
            task.masked_index,
            patch_size=self.config.vit.patch_size,
            normalise_pixels=self.config.normalise_pixels,
        )


def _pretrain(
    config: PretrainConfig,
    run: Path,
    world: World,
    max_steps: int | None,
    on_report: Callable[[StepReport], None] | None,
) -> PretrainResult:
    domains = open_domains(_as_training(config))
    try:
        total = config.schedule.total_steps
        if total is None:
            epoch = steps_per_epoch(domains.infrared.num_windows, domains.visible.num_windows, config.batch_size)
            total = config.schedule.epochs * epoch
        stop = total if max_steps is None else min(max_steps, total)
        _check_same_run(config, domains, run)
        trainer = Pretrainer(config, build_autoencoder(config, world.device), world)
        done = _resume(trainer, run)
        world.barrier()  # nobody may write before everybody has read
        log = None
        if world.is_leader:
            write_atomic(run / CONFIG_NAME, (json.dumps(to_json(config), indent=1) + "\n").encode())
            log = MetricsLog(run, resumed_at=done, wandb_project=config.output.wandb, config=to_json(config))
        try:
            _loop(trainer, domains, run, log, first=done, stop=stop, total=total, on_report=on_report)
        finally:
            if log is not None:
                log.close()
        bad = unreadable(domains, world)
        if bad and world.is_leader:
            logger.warning("%d unreadable pictures were replaced: %s", len(bad), ", ".join(sorted(bad)))
    finally:
        domains.close()
    return PretrainResult(
        first_step=done,
        last_step=max(done, stop),
        total_steps=total,
        until_step=stop,
        backbone=run / BACKBONE_NAME,
    )


def _loop(
    trainer: Pretrainer,
    domains: Domains,
    run: Path,
    log: MetricsLog | None,
    *,
    first: int,
    stop: int,
    total: int,
    on_report: Callable[[StepReport], None] | None,
) -> None:
    config, world = trainer.config, trainer.world
    output = config.output
    batches = train_batches(domains, _as_training(config), world, start_step=first)
    clock = Clock(world.device)
    for step in range(first, stop):
        with clock.waiting():
            batch = next(batches)
        done = step + 1
        world.beat(done)
        factor = lr_factor(step, total_steps=total, warmup_share=config.schedule.warmup_share)
        result = trainer.step(batch, lr_factor=factor)
        if done % output.log_every == 0 or done == stop:
            share = batch.source.shape[0] * world.world_size / config.batch_size
            means = world.mean(torch.stack(list(result.values())) * share).tolist()
            losses = dict(zip(result, means, strict=True))
            if log is not None:
                log.write({"step": done, **losses, "lr": config.peak_lr * factor})
            report = clock.report(done, stop, losses, images_per_step=config.images_per_step)
            if log is not None:
                log.write_speed(done, report.speed())
            if on_report is not None:
                on_report(report)
        if log is not None and (done % output.sample_every == 0 or done == stop):
            _show_samples(trainer, domains, run, log, done)
        if world.is_leader and (done % output.checkpoint_every == 0 or done == stop):
            _save(trainer, domains, run, done)
    batches.close()
    world.barrier()


def _as_training(config: PretrainConfig) -> TrainConfig:
    """What reading and cropping need to know: single frames of both domains."""
    return TrainConfig(mode="image", seed=config.seed, batch_size=config.batch_size, data=config.data)


def _facts(config: PretrainConfig, domains: Domains, step: int) -> BackboneFacts:
    infrared, visible = (
        DomainFacts(shards=without_secrets(shards), num_frames=len(reader.index), rows_sha256=reader.data_hash)
        for shards, reader in ((config.data.infrared, domains.infrared), (config.data.visible, domains.visible))
    )
    return BackboneFacts(infrared=infrared, visible=visible, step=step, seed=config.seed, config=to_json(config))


def _check_same_run(config: PretrainConfig, domains: Domains, run: Path) -> None:
    path = run / CONFIG_NAME
    if path.exists():
        try:
            before = updated(PretrainConfig(), read_json(path), where=f"{path}: ")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({error}); use another --out") from error
        except ConfigError as error:
            raise ConfigError(f"{error}; this is no run of this roma pretrain, so use another --out") from error
        changed = differences(before, config)
        # Without either it begins anew in any case.
        if changed and (checkpoint.saved(run) or (run / BACKBONE_NAME).exists()):
            raise ConfigError(
                f"{run}: was begun with other settings: {'; '.join(changed)}; use the same, or another --out"
            )
    if (run / BACKBONE_NAME).exists():
        facts, now = backbone_facts(run / BACKBONE_NAME), _facts(config, domains, 0)
        for name, old, new in (("infrared", facts.infrared, now.infrared), ("visible", facts.visible, now.visible)):
            if old.rows_sha256 != new.rows_sha256:
                raise ConfigError(
                    f"{run}: was begun on other {name} pictures: {old.num_frames} frames of hash {old.rows_sha256[:8]}, now "
                    f"{new.num_frames} of {new.rows_sha256[:8]}; bring those shards back, or use another --out"
                )


def _resume(trainer: Pretrainer, run: Path) -> int:
    """Load the newest checkpoint; returns the steps that are done."""
    newest = checkpoint.load_newest(run)
    if newest is None:
        return 0
    try:
        trainer.network.load_state_dict(newest.networks["autoencoder"])
        load_optimiser(trainer.optimiser, newest.optimisers["adamw"])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{run}: its checkpoint does not fit the networks ({reason}); use another --out"
        ) from error
    return newest.step


def _save(trainer: Pretrainer, domains: Domains, run: Path, done: int) -> None:
    """The backbone first, so that a run with a checkpoint says what it was begun on."""
    config = trainer.config
    save_backbone(run / BACKBONE_NAME, trainer.network.encoder.state_dict(), _facts(config, domains, done))
    checkpoint.save(
        run,
        Checkpoint(
            step=done,
            config=to_json(config),
            networks={"autoencoder": trainer.network.state_dict()},
            optimisers={"adamw": trainer.optimiser.state_dict()},
        ),
        keep=config.output.keep_checkpoints,
    )


def _show_samples(trainer: Pretrainer, domains: Domains, run: Path, log: MetricsLog, done: int) -> None:
    """A grid of fixed pictures of both domains: the picture, the patches of it that are kept, the painted picture."""
    config = trainer.config
    side = config.data.crop_size_px
    offset = (config.data.load_size_px - side) // 2
    pictures = []
    for reader in (domains.infrared, domains.visible):
        rows = np.linspace(0, len(reader.index) - 1, NUM_SAMPLES).astype(np.int64)
        frames = reader.read_rows(rows)[:, :, offset : offset + side, offset : offset + side]
        pictures.append(to_unit_range(frames.to(trainer.world.device)).expand(-1, 3, -1, -1))
    infrared, visible = pictures
    task = painting_task(infrared, visible, tuple(range(NUM_SAMPLES)), config=config, purpose=_SAMPLES)
    gray = task.images.new_zeros(*task.masked_index.shape, 3 * config.vit.patch_size**2)
    kept = painted(gray, task.images, task.masked_index, patch_size=config.vit.patch_size, normalise_pixels=False)
    columns = [to_bytes(images).cpu().permute(0, 2, 3, 1).numpy() for images in (task.images, kept, trainer.show(task))]
    grid = grid_of([list(row) for row in zip(*columns, strict=True)])
    save_picture(run / SAMPLES / f"step-{done:08d}.png", grid)
    log.picture("samples", grid, done)


def _toned(
    images: Float[Tensor, "B 3 H W"], positions: tuple[int, ...], *, draw: list[int], share: float
) -> Float[Tensor, "B 3 H W"]:
    """The pictures, a share of them in infrared-like gray with random tones, by a coin for each position."""
    toned = []
    for image, position in zip(images[:, None], positions, strict=True):
        # The tones are those of the position, the same in both domains: what tells day from night should be shapes.
        is_toned = np.random.default_rng([*draw, _TONE, position]).random() < share
        toned.append(degrade(image, (position,), seed=draw[0]) if is_toned else image)
    return torch.cat(toned)
