"""One training step: G on all frames, their tokens, the discriminators' step on detached fakes, the generator's step.

Source: arXiv 2204.12367, with the further terms of `config.LossConfig` where their weight is above 0. Only this file owns
`backward` and `optimizer.step`; the losses are pure functions.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from roma.config import TrainConfig
from roma.data import TrainBatch, window_centres
from roma.degrade import ThermalTones, degrade
from roma.distributed import World
from roma.errors import TrainingError, WeightsError
from roma.losses import (
    anchor_loss,
    colourise_loss,
    discriminator_loss,
    edge_loss,
    generator_loss,
    luma_details,
    structure_loss,
    temporal_loss,
)
from roma.models import (
    AnyGenerator,
    PatchDiscriminator,
    RegionDiscriminator,
    VisionTransformer,
    build_generator,
    load_from_hub,
    load_weights,
    pool_regions,
    window_indices,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """What trains and what watches; None where the config has no use for it."""

    generator: AnyGenerator
    averaged: AnyGenerator
    """Exponential moving average of the generator, which snapshots hold; the generator itself without averaging."""
    region_discriminator: RegionDiscriminator | None
    patch_discriminator: PatchDiscriminator | None
    detail_discriminator: PatchDiscriminator | None
    anchor: AnyGenerator | None
    """The averaged generator as it was at the end of the warm-up."""
    vit: VisionTransformer | None

    def trained(self) -> dict[str, nn.Module]:
        """The networks that a checkpoint holds, by name: all but the ViT, which no step changes."""
        named: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "averaged": self.averaged,
            "region_discriminator": self.region_discriminator,
            "patch_discriminator": self.patch_discriminator,
            "detail_discriminator": self.detail_discriminator,
            "anchor": self.anchor,
        }
        return {name: network for name, network in named.items() if network is not None}

    def discriminators(self) -> list[nn.Module]:
        """Those that there are."""
        every = (self.region_discriminator, self.patch_discriminator, self.detail_discriminator)
        return [network for network in every if network is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step did.

    Attributes:
        losses: Each term by name, not yet multiplied by its weight; 0-dimensional tensors on the device, detached.
        grad_norms: Euclidean norm of all gradients of "generator" and "discriminator", where they were asked for.
    """

    losses: dict[str, Tensor]
    grad_norms: dict[str, float]


def build_networks(config: TrainConfig, device: torch.device) -> Networks:
    """The networks of a run with their initial weights, a function of the config and its seed.

    Raises:
        WeightsError: The ViT's weights are not named, are missing or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = build_generator(
            config.generator.architecture,
            width=config.generator.width,
            num_blocks=config.generator.num_blocks,
            init_gain=config.generator.init_gain,
            last_init_gain=config.generator.last_init_gain,
        )
        loss = config.loss
        region = RegionDiscriminator(width=config.vit.width) if loss.gan else None
        patch = PatchDiscriminator(width=loss.patch_gan_width) if loss.patch_gan else None
        detail = PatchDiscriminator(width=loss.patch_gan_width) if loss.detail_gan else None
        vit = _build_vit(config) if loss.needs_vit else None
    averaged = copy.deepcopy(generator).requires_grad_(False) if config.optim.ema_decay else generator
    anchor = copy.deepcopy(generator).requires_grad_(False) if config.loss.anchor else None
    built = Networks(
        generator=generator.to(device),
        averaged=averaged.to(device),
        region_discriminator=region.to(device) if region is not None else None,
        patch_discriminator=patch.to(device) if patch is not None else None,
        detail_discriminator=detail.to(device) if detail is not None else None,
        anchor=anchor.to(device) if anchor is not None else None,
        vit=vit.to(device) if vit is not None else None,
    )
    return built


def _build_vit(config: TrainConfig) -> VisionTransformer:
    shape = config.vit
    vit = VisionTransformer(
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        width=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        layers=shape.layers,
    )
    if shape.weights == "":
        raise WeightsError(
            "vit.weights is not set; name a weight file with --set vit.weights=PATH, download with vit.weights=hub, or use "
            "--preset tiny, which needs none"
        )
    if shape.weights == "hub":
        load_from_hub(vit)
    elif shape.weights != "random":
        load_weights(vit, Path(shape.weights))
    return vit


class _Judged(NamedTuple):
    """What one discriminator looks at in a step."""

    name: str
    weight: float
    critic: Any
    """The discriminator itself."""
    wrapped: Any
    """The same as its own step calls it, over all ranks."""
    fake: Tensor
    """With gradients to the generator."""
    real: Tensor


class Trainer:
    """The state that steps change: networks, their wrappers for several ranks, and optimisers.

    Args:
        config: The whole run.
        networks: From `build_networks`.
        world: This process's place.
        tones: What `roma.data.learn_tones` learned, for `loss.matched_tones`.
    """

    def __init__(
        self, config: TrainConfig, networks: Networks, world: World, *, tones: ThermalTones | None = None
    ) -> None:
        self.config = config
        self.tones = tones
        self.networks = networks
        self.world = world
        betas = (config.optim.beta1, config.optim.beta2)
        self.generator_optimiser = torch.optim.Adam(
            networks.generator.parameters(), lr=config.optim.generator_lr, betas=betas
        )
        judged = [parameter for network in networks.discriminators() for parameter in network.parameters()]
        self.discriminator_optimiser = (
            torch.optim.Adam(judged, lr=config.optim.discriminator_lr, betas=betas) if judged else None
        )
        self._generator = world.wrap(networks.generator)
        self._region = world.wrap(networks.region_discriminator) if networks.region_discriminator else None
        self._patch = world.wrap(networks.patch_discriminator) if networks.patch_discriminator else None
        self._detail = world.wrap(networks.detail_discriminator) if networks.detail_discriminator else None

    def step(self, batch: TrainBatch, *, lr_factor: float, with_grad_norms: bool = False) -> StepResult:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Args:
            batch: At least one window.
            lr_factor: What both learning rates are multiplied with.
            with_grad_norms: Measure the gradients' norms, which waits for the device.

        Raises:
            TrainingError: A loss is not finite; the generator was not updated, and the message says whether the
                discriminators were.
        """
        config, step = self.config, batch.step
        is_warmup = step < config.loss.warmup_steps
        if step == config.loss.warmup_steps and self.networks.anchor is not None:
            self.networks.anchor.load_state_dict(self.networks.averaged.state_dict())
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        share = batch.source.shape[0] * self.world.world_size / config.batch_size
        source, target = batch.source.flatten(0, 1), batch.target.flatten(0, 1)
        losses: dict[str, Tensor] = {}
        with self._autocast():
            inputs = [] if is_warmup else [source]
            if config.loss.colourise:
                # Neighbours show nearly the same, so one frame of each window teaches as much as all.
                true_colours = batch.target[:, 0]
                inputs.append(
                    degrade(
                        true_colours,
                        batch.target_positions,
                        seed=config.seed,
                        tones=self.tones,
                        matched_share=config.loss.matched_tones,
                    )
                )
            outputs: Tensor = self._generator(torch.cat(inputs))
            fake = outputs[: 0 if is_warmup else len(source)]
            recoloured = outputs[len(fake) :]
            terms: list[tuple[str, float, Tensor]] = []
            if config.loss.colourise:
                value = colourise_loss(recoloured, true_colours, edges=config.loss.colourise_edges)
                terms.append(("colourise", config.loss.colourise, value))
            if not is_warmup:
                terms += self._adversarial_and_structure(batch, source, target, fake, terms, share, lr_factor, losses)
            total = torch.stack([weight * value for _, weight, value in terms]).sum()
        losses.update({name: value.detach() for name, _, value in terms})
        losses["generator_total"] = total.detach()
        judged = self.discriminator_optimiser is not None and not is_warmup
        self._check_finite(
            losses, batch, updated="the discriminators were updated, the generator was not" if judged else None
        )
        self.generator_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total * share)
        norms = {}
        if with_grad_norms:
            norms = {"generator": _grad_norm(self.networks.generator)}
            if judged:
                norms["discriminator"] = math.hypot(*map(_grad_norm, self.networks.discriminators()))
        _step_with(self.generator_optimiser, config.optim.generator_lr * lr_factor)
        self._average(step)
        return StepResult(losses=losses, grad_norms=norms)

    def _adversarial_and_structure(
        self,
        batch: TrainBatch,
        source: Float[Tensor, "N 3 H W"],
        target: Float[Tensor, "N 3 H W"],
        fake: Float[Tensor, "N 3 H W"],
        before: list[tuple[str, float, Tensor]],
        share: float,
        lr_factor: float,
        losses: dict[str, Tensor],
    ) -> list[tuple[str, float, Tensor]]:
        """The generator's terms as (name, weight, value); between structure and adversarial ones, the discriminators' step.

        `before` holds the terms that are known already: a bad one among them stops the step while nothing is updated yet.
        """
        loss, vit = self.config.loss, self.networks.vit
        terms: list[tuple[str, float, Tensor]] = []
        judged: list[_Judged] = []
        if vit is not None:
            windows = self._windows(batch.step, vit, fake.device) if loss.local_structure else None
            of_fake = vit.encode(fake, windows)
            with torch.no_grad():
                of_source = vit.encode(source, windows)
            structure = partial(structure_loss, kind=loss.similarity, centre=loss.centre_tokens)
            if loss.global_structure:
                value = structure(of_source.global_tokens, of_fake.global_tokens)
                terms.append(("structure_global", loss.global_structure, value))
            if loss.local_structure:
                value = structure(of_source.window_tokens, of_fake.window_tokens)
                terms.append(("structure_local", loss.local_structure, value))
            if loss.motion and self.config.mode == "video":
                value = temporal_loss(
                    *_by_time(of_source.global_tokens),
                    *_by_time(of_fake.global_tokens),
                    centre=loss.centre_tokens,
                    reference_temporal=loss.reference_temporal,
                )
                # The authors' code never applies lambda_motion.
                terms.append(("motion", 1.0 if loss.reference_temporal else loss.motion, value))
            if loss.gan:
                pool = partial(
                    pool_regions, grid=vit.grid, sizes=loss.region_sizes, reference_pooling=loss.reference_pooling
                )
                with torch.no_grad():
                    real_regions = pool(vit.tokens(target)[-1])
                region = self.networks.region_discriminator
                judged.append(
                    _Judged("gan", loss.gan, region, self._region, pool(of_fake.global_tokens[-1]), real_regions)
                )
        if self.networks.anchor is not None:
            with torch.no_grad():
                before_critics = self.networks.anchor(source)
            terms.append(("anchor", loss.anchor, anchor_loss(fake, before_critics)))
        if loss.edges:
            terms.append(("edges", loss.edges, edge_loss(fake, source)))
        self._check_finite({name: value.detach() for name, _, value in (*before, *terms)}, batch)
        if loss.patch_gan:
            patch = self.networks.patch_discriminator
            judged.append(_Judged("patch", loss.patch_gan, patch, self._patch, fake, target.to(fake.dtype)))
        if loss.detail_gan:
            details, real_details = luma_details(fake.float()), luma_details(target)
            detail = self.networks.detail_discriminator
            judged.append(_Judged("detail", loss.detail_gan, detail, self._detail, details, real_details))
        self._discriminator_step(batch, judged, share, lr_factor, losses)
        with _frozen(self.networks.discriminators()):
            terms += [
                (f"{each.name}_generator", each.weight, generator_loss(each.critic(each.fake))) for each in judged
            ]
        return terms

    def _discriminator_step(
        self,
        batch: TrainBatch,
        judged: list[_Judged],
        share: float,
        lr_factor: float,
        losses: dict[str, Tensor],
    ) -> None:
        """Let the discriminators tell detached fakes from real frames, each in one pass over both."""
        if self.discriminator_optimiser is None:
            return
        values: dict[str, Tensor] = {}
        for each in judged:
            logits = each.wrapped(torch.cat([each.fake.detach(), each.real]))
            count = len(each.fake)
            values[f"{each.name}_discriminator"] = discriminator_loss(logits[:count], logits[count:])
        losses.update({name: value.detach() for name, value in values.items()})
        self._check_finite(losses, batch)
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(values.values())).sum() * share)
        _step_with(self.discriminator_optimiser, self.config.optim.discriminator_lr * lr_factor)

    def _windows(self, step: int, vit: VisionTransformer, device: torch.device) -> Int64[Tensor, "K A"]:
        centres = window_centres(
            step,
            seed=self.config.seed,
            num_windows=self.config.loss.num_windows,
            num_patches=vit.grid[0] * vit.grid[1],
        )
        return window_indices(centres, grid=vit.grid, window=self.config.loss.window).to(device)

    def _average(self, step: int) -> None:
        decay = self.config.optim.ema_decay
        if not decay:
            return
        # Young averages follow quickly, so that the random initial weights are soon forgotten.
        decay = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(
                self.networks.averaged.parameters(), self.networks.generator.parameters(), strict=True
            ):
                averaged.lerp_(current, 1 - decay)

    def _check_finite(self, losses: dict[str, Tensor], batch: TrainBatch, *, updated: str | None = None) -> None:
        for name, value in losses.items():
            if not math.isfinite(float(value)):
                keys = ", ".join(key for window in batch.keys for key in window)
                raise TrainingError(
                    f"rank {self.world.rank}, step {batch.step}: {name} is {float(value)} on {keys}; "
                    f"{updated or 'nothing was updated'}, and no checkpoint holds this step; "
                    "lower the learning rates, or look at these frames"
                )

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=enabled)


def _by_time(layers: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens [B*2, P, D] of pairs -> those of the earlier and of the later frames, [B, P, D] each."""
    return [tokens[0::2] for tokens in layers], [tokens[1::2] for tokens in layers]


def _step_with(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()


def _grad_norm(network: nn.Module) -> float:
    squares = [parameter.grad.square().sum() for parameter in network.parameters() if parameter.grad is not None]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0


@contextmanager
def _frozen(networks: list[nn.Module]) -> Iterator[None]:
    """Let gradients pass through the networks without stopping in their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)
