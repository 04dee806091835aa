"""The in-domain backbone: a masked autoencoder trained over both domains' shards; the same command again goes on.

Source: He et al. 2021, arXiv 2111.06377; the networks are in `roma.models.vit.masked_autoencoder`. Each step takes as many infrared
as visible pictures.
"""

import logging
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from roma.config.overlay import to_json, without_secrets
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, open_domains, to_bytes, to_unit_range, train_batches, unreadable
from roma.models.vit.backbone_file import BACKBONE_NAME, BackboneFacts, DomainFacts, backbone_facts, save_backbone
from roma.models.vit.masked_autoencoder import painted
from roma.pretrain.config import PretrainConfig
from roma.pretrain.masked_pictures import SAMPLES, masked_pictures
from roma.pretrain.pretrainer import Pretrainer, build_autoencoder, lr_factor
from roma.training import checkpoint
from roma.training.checkpoint import Checkpoint
from roma.training.loop import Ended, Listeners, Task, run_task
from roma.training.metrics import check_wandb, grid_of
from roma.training.run_folder import check_same_pictures, check_same_run, claimed
from roma.training.schedule import steps_per_epoch
from roma.training.step import StepResult
from roma.world.world import World, check_batch

logger = logging.getLogger(__name__)

NUM_SAMPLES = 3
"""Pictures of each domain in a sample grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult(Ended):
    """How a call of `pretrain` ended."""

    backbone: Path
    """Where the encoder lies."""


def pretrain(
    config: PretrainConfig,
    run: Path,
    world: World,
    *,
    max_steps: int | None = None,
    listeners: Listeners | None = None,
) -> PretrainResult:
    """Train until the schedule ends, going on from the newest checkpoint in `run`; a collective over all ranks.

    Args:
        config: The whole run.
        run: Its folder: config.json, metrics.jsonl, tensorboard/, samples/, checkpoints/, backbone.safetensors.
        world: This process's place.
        max_steps: Stop after this step and save, though the schedule goes on.
        listeners: Called on rank 0 while the run goes.

    Raises:
        DistributedError: The batch is smaller than the world.
        ConfigError: `run` was begun with another config or on other pictures, or the networks' sizes do not fit each other.
        CheckpointError: No checkpoint of the run can be read, or one cannot be written.
        TrainingError: The loss is not finite.
        InfraredCityError: The shards are not what they should be, or the disk is full.
    """
    check_batch(config.batch_size, world.world_size)
    check_wandb(config.output.wandb)
    with claimed(run, world):
        domains = open_domains(_as_training(config))
        try:
            check_same_run(config, run, result_name=BACKBONE_NAME)
            task = _Pretraining(config, run, world, domains)
            ended = run_task(task, max_steps=max_steps, listeners=listeners)
            bad = unreadable(domains, world)
        finally:
            domains.close()
    if bad and world.is_leader:
        logger.warning("%d unreadable pictures were replaced: %s", len(bad), ", ".join(sorted(bad)))
    return PretrainResult(**asdict(ended), backbone=run / BACKBONE_NAME)


class _Pretraining(Task):
    """The masked autoencoder's training, as the loop asks for it."""

    config: PretrainConfig

    def __init__(self, config: PretrainConfig, run: Path, world: World, domains: Domains) -> None:
        super().__init__(config, run, world, domains)
        if (run / BACKBONE_NAME).exists():
            check_same_pictures(run, _data_of(backbone_facts(run / BACKBONE_NAME)), self.data)
        epoch = steps_per_epoch(domains.infrared.num_windows, domains.visible.num_windows, config.batch_size)
        self.total_steps = config.schedule.total_steps or config.schedule.epochs * epoch
        self.images_per_step = config.images_per_step
        self._trainer = Pretrainer(config, build_autoencoder(config, world.device), world)
        self.networks = {"autoencoder": self._trainer.network}
        self.optimisers = {"adamw": self._trainer.optimiser}

    def batches(self, first: int) -> Generator[TrainBatch, None, None]:
        return train_batches(self.domains, _as_training(self.config), self.world, start_step=first)

    def step(self, batch: TrainBatch, *, stop_requested: bool) -> StepResult:
        return self._trainer.step(batch, lr_factor=self._lr_factor(batch.step), stop_requested=stop_requested)

    def numbers(self, step: int, result: StepResult) -> dict[str, float]:
        return {"lr": self.config.peak_lr * self._lr_factor(step)}

    def sample_grid(self) -> UInt8[np.ndarray, "H W 3"]:
        """Draw fixed pictures of both domains: the picture, the patches of it that are kept, the painted picture."""
        config = self.config
        side = config.data.crop_size_px
        offset = (config.data.load_size_px - side) // 2
        frames_of = []
        for reader in (self.domains.infrared, self.domains.visible):
            rows = np.linspace(0, len(reader.index) - 1, NUM_SAMPLES).astype(np.int64)
            frames = reader.read_rows(rows)[:, :, offset : offset + side, offset : offset + side]
            frames_of.append(to_unit_range(frames.to(self.world.device)).expand(-1, 3, -1, -1))
        infrared, visible = frames_of
        pictures = masked_pictures(infrared, visible, tuple(range(NUM_SAMPLES)), config=config, purpose=SAMPLES)
        gray = pictures.images.new_zeros(*pictures.masked_index.shape, 3 * config.vit.patch_size**2)
        kept = painted(
            gray, pictures.images, pictures.masked_index, patch_size=config.vit.patch_size, normalise_pixels=False
        )
        shown = (pictures.images, kept, self._trainer.show(pictures))
        columns = [to_bytes(images).cpu().permute(0, 2, 3, 1).numpy() for images in shown]
        return grid_of([list(row) for row in zip(*columns, strict=True)])

    def write(self, saved: Checkpoint) -> None:
        # The backbone first, so that a run with a checkpoint says what it was begun on.
        weights = saved.networks["autoencoder"]
        encoder = {name.removeprefix("encoder."): weights[name] for name in weights if name.startswith("encoder.")}
        save_backbone(self.run / BACKBONE_NAME, encoder, self._facts(saved.step))
        checkpoint.save(self.run, saved, keep=self.config.output.keep_checkpoints)

    def _lr_factor(self, step: int) -> float:
        return lr_factor(step, total_steps=self.total_steps, warmup_share=self.config.schedule.warmup_share)

    def _facts(self, step: int) -> BackboneFacts:
        config, data = self.config, self.data
        infrared, visible = (
            DomainFacts(
                shards=without_secrets(shards),
                num_frames=data[name]["num_frames"],
                rows_sha256=data[name]["data_hash"],
            )
            for name, shards in (("infrared", config.data.infrared), ("visible", config.data.visible))
        )
        return BackboneFacts(infrared=infrared, visible=visible, step=step, seed=config.seed, config=to_json(config))


def _as_training(config: PretrainConfig) -> TrainConfig:
    """Make what reading and cropping need to know: single frames of both domains."""
    return TrainConfig(mode="image", seed=config.seed, batch_size=config.batch_size, data=config.data)


def _data_of(facts: BackboneFacts) -> dict[str, dict[str, Any]]:
    return {
        name: {"data_hash": domain.rows_sha256, "num_frames": domain.num_frames}
        for name, domain in (("infrared", facts.infrared), ("visible", facts.visible))
    }
