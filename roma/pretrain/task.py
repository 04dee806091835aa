"""The in-domain backbone: a masked autoencoder trained over both domains' shards; the same command again goes on.

Source: He et al. 2021, arXiv 2111.06377; the networks are in `roma.models.vit.masked_autoencoder`. Each step takes as many infrared
as visible pictures. With `tone_jitter` a share of them is first turned into infrared-like gray with random tones; the toned picture
is then the picture: patches are kept from it, and the masked ones are painted as they are in it. Painting the true tones was
measured worse: nobody can know them from a toned picture, so the loss asks for the mean of day and night, and tokens hold which of
the two a picture is rather than what is in it.
"""

import logging
import math
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from roma.config.overlay import to_json, without_secrets
from roma.config.schema import TrainConfig
from roma.data.batches import Domains, TrainBatch, open_domains, to_bytes, to_unit_range, train_batches, unreadable
from roma.data.thermal import degrade
from roma.models.vit.backbone_file import BACKBONE_NAME, BackboneFacts, DomainFacts, backbone_facts, save_backbone
from roma.models.vit.masked_autoencoder import MaskedAutoencoder, draw_masks, masked_loss, painted
from roma.models.vit.vit import VisionTransformer
from roma.pretrain.config import PretrainConfig
from roma.training import checkpoint
from roma.training.checkpoint import Checkpoint
from roma.training.loop import Ended, Listeners, Task, run_task
from roma.training.metrics import check_wandb, grid_of
from roma.training.run_folder import check_same_pictures, check_same_run, claimed
from roma.training.schedule import steps_per_epoch
from roma.training.step import StepResult
from roma.training.update import agreed_norm, update
from roma.world.world import World, check_batch

logger = logging.getLogger(__name__)

NUM_SAMPLES = 3
"""Pictures of each domain in a sample grid."""
_STEP, _SAMPLES = 11, 12  # what a draw is for; roma.data.batches and roma.data.thermal have 1, 2, 3
_MASK, _TONE = 1, 2


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


def lr_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the factor of the peak learning rate at a 0-based step: linearly up to 1, then down half a cosine, never 0."""
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
    """Draw masks and tones for pictures at some stream positions of both domains; they depend only on those and the seed."""
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

    def step(self, batch: TrainBatch, *, lr_factor: float, stop_requested: bool = False) -> StepResult:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Args:
            batch: At least one picture of each domain.
            lr_factor: What the peak learning rate is multiplied with.
            stop_requested: Whether this rank wants to end after this step.

        Raises:
            TrainingError: The loss or a gradient is not finite, on any rank; nothing was updated.
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
        self.optimiser.zero_grad(set_to_none=True)
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        torch.autograd.backward(loss * (batch.source.shape[0] * self.world.world_size / config.batch_size))
        losses = {"reconstruction": loss.detach()}
        norm, stop = agreed_norm(
            [(batch, losses)], [self.network], self.world, done="nothing was updated", stop_requested=stop_requested
        )
        update(self.optimiser, [self.network], lr=config.peak_lr * lr_factor, norm=norm, clip_norm=0.0)
        infrared, visible = errors.detach().chunk(2)
        losses |= {"reconstruction_infrared": infrared.mean(), "reconstruction_visible": visible.mean()}
        return StepResult(losses=losses, grad_norms={"autoencoder": norm}, stop=stop)

    def show(self, task: PaintingTask) -> Float[Tensor, "N 3 H W"]:
        """Paint the masked patches of pictures."""
        with torch.no_grad():
            predicted = self.network(task.images, task.kept_index, task.masked_index)
        return painted(
            predicted,
            task.images,
            task.masked_index,
            patch_size=self.config.vit.patch_size,
            normalise_pixels=self.config.normalise_pixels,
        )


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
        pictures = []
        for reader in (self.domains.infrared, self.domains.visible):
            rows = np.linspace(0, len(reader.index) - 1, NUM_SAMPLES).astype(np.int64)
            frames = reader.read_rows(rows)[:, :, offset : offset + side, offset : offset + side]
            pictures.append(to_unit_range(frames.to(self.world.device)).expand(-1, 3, -1, -1))
        infrared, visible = pictures
        task = painting_task(infrared, visible, tuple(range(NUM_SAMPLES)), config=config, purpose=_SAMPLES)
        gray = task.images.new_zeros(*task.masked_index.shape, 3 * config.vit.patch_size**2)
        kept = painted(gray, task.images, task.masked_index, patch_size=config.vit.patch_size, normalise_pixels=False)
        shown = (task.images, kept, self._trainer.show(task))
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


def _toned(
    images: Float[Tensor, "B 3 H W"], positions: tuple[int, ...], *, draw: list[int], share: float
) -> Float[Tensor, "B 3 H W"]:
    """Turn a share of the pictures into infrared-like gray with random tones, by a coin for each position."""
    toned = []
    for image, position in zip(images[:, None], positions, strict=True):
        # The tones are those of the position, the same in both domains: day and night should differ by their shapes.
        is_toned = np.random.default_rng([*draw, _TONE, position]).random() < share
        toned.append(degrade(image, (position,), seed=draw[0]) if is_toned else image)
    return torch.cat(toned)
