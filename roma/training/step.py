"""One training step: translate, compare with the source, let the discriminators take their step, then the generator its own.

Source: arXiv 2204.12367, with the further losses of `config.LossConfig` where their weight is above 0. What is computed is the
paper's; how, is not, and differs from it only in rounding: gradients in three stretches (`roma.training.views`), windows that came
out equal at a border computed once (56 of 64 on a 24x24 grid), queries, keys and values of the ViT's first block computed once per
token. With gradient accumulation the discriminators see all parts of the batch, without gradients of the generator, before the
generator's step begins: the same step as without it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch
from roma.data.thermal import ThermalTones
from roma.losses import OBJECTIVES
from roma.losses.adversarial import discriminator_loss, generator_loss
from roma.losses.objective import AdversarialObjective, FrameObjective, Frames, WindowObjective
from roma.training.frozen_vit import autocast, compile_options
from roma.training.networks import Networks
from roma.training.update import PartLosses, adam, agreed_norm, average, mean_losses, update
from roma.training.views import PartViews, ViewBuilder
from roma.world.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step did."""

    losses: dict[str, Tensor]
    """Each loss by name, the mean over this rank's windows, not multiplied by its weight; 0-dimensional float32 on the device,
    detached."""
    grad_norms: dict[str, float]
    """Euclidean norm of all gradients of "generator" and, where it took a step, "discriminator", before clipping."""
    stop: bool = False
    """Whether any rank asked to stop; the same on all ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Discriminator:
    objective: AdversarialObjective
    network: nn.Module
    wrapped: nn.Module
    """The same as its own step calls it, over all ranks."""


class Trainer:
    """The state that steps change: networks, their wrappers for several ranks, and optimisers.

    Args:
        config: The whole run.
        networks: From `build_networks`.
        world: This process's place.
        tones: What `roma.data.batches.learn_tones` learned, for `loss.matched_tones`.
    """

    def __init__(
        self, config: TrainConfig, networks: Networks, world: World, *, tones: ThermalTones | None = None
    ) -> None:
        self.config = config
        self.networks = networks
        self.world = world
        optim, judges = config.optim, list(networks.discriminators.values())
        self.generator_optimiser = adam([networks.generator], optim, lr=optim.generator_lr, device=world.device)
        self.discriminator_optimiser = (
            adam(judges, optim, lr=optim.discriminator_lr, device=world.device) if judges else None
        )
        layout = torch.channels_last if world.device.type == "cuda" else torch.contiguous_format
        networks.generator.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks the option
        if config.compute.compile:
            networks.generator.compile(**compile_options(world.device))
        self._generator = world.wrap(networks.generator)
        self._views = ViewBuilder(config, networks, self._generator, world.device, tones)
        objectives = [objective for objective in OBJECTIVES if objective.weight(config)]
        self._on_frames = [objective for objective in objectives if isinstance(objective, FrameObjective)]
        self._on_windows = [objective for objective in objectives if isinstance(objective, WindowObjective)]
        self._weights = {objective.loss_name: objective.weight(config) for objective in objectives}
        self._discriminators = [
            _Discriminator(objective=objective, network=network, wrapped=world.wrap(network))
            for objective in objectives
            if isinstance(objective, AdversarialObjective)
            for network in [networks.discriminators[objective.discriminator]]
        ]

    def learning_rates(self, lr_factor: float) -> tuple[float, float]:
        """Learning rates of the generator and of the discriminators at a factor of the schedule."""
        optim = self.config.optim
        factor = optim.lr_scale(self.config.batch_size) * lr_factor
        return optim.generator_lr * factor, optim.discriminator_lr * factor

    def step(self, batch: TrainBatch, *, lr_factor: float, stop_requested: bool = False) -> StepResult:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Args:
            batch: At least one window.
            lr_factor: What both learning rates are multiplied with.
            stop_requested: Whether this rank wants to end after this step.

        Raises:
            TrainingError: A loss or a gradient is not finite, on any rank. The generator was not updated, and the message says
                whether the discriminators were.
        """
        if self.config.compute.compile:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        is_warmup = batch.step < self.config.loss.warmup_steps
        if batch.step == self.config.loss.warmup_steps and self.networks.anchor is not None:
            self.networks.anchor.load_state_dict(self.networks.averaged.state_dict())
        discriminators = [] if is_warmup else self._discriminators
        generator_lr, discriminator_lr = self.learning_rates(lr_factor)
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            if optimiser is not None:
                optimiser.zero_grad(set_to_none=True)
        parts = batch.split(self.config.compute.micro_batch)
        generator_losses: PartLosses = []
        discriminator_losses: PartLosses = []
        grad_norms: dict[str, float] = {}
        # The generator is judged by discriminators that have seen all parts, for which parts are translated twice.
        if discriminators and len(parts) > 1:
            for part in parts:
                with self._synchronised(part is parts[-1]):
                    inputs = _inputs(discriminators, self._views.translations_only(part))
                    discriminator_losses.append((part, self._judge(part, inputs)))
            grad_norms["discriminator"] = self._update_discriminators(discriminator_losses, discriminator_lr)
        for part in parts:
            with self._synchronised(part is parts[-1]):
                views = self._views.translate(part, is_warmup=is_warmup)
                on_windows = {} if is_warmup else self._compare_windows(part, views)
                losses = self._compare_frames(views, is_warmup=is_warmup)
                inputs = _inputs(discriminators, views.fake)
                if discriminators and len(parts) == 1:
                    discriminator_losses.append((part, self._judge(part, inputs)))
                    so_far = [(part, {**_detached(losses), **on_windows}), *discriminator_losses]
                    grad_norms["discriminator"] = self._update_discriminators(so_far, discriminator_lr)
                with _frozen([discriminator.network for discriminator in discriminators]):
                    losses |= self._adversarial_losses(discriminators, inputs)
                    del inputs
                    views.backward(self._weighted_sum(losses) * self._share(part) if losses else None)
                generator_losses.append((part, {**_detached(losses), **on_windows}))
        done = "the discriminators were updated, the generator was not" if discriminators else "nothing was updated"
        generator = self.networks.generator
        grad_norms["generator"], stop = agreed_norm(
            generator_losses, [generator], self.world, done=done, stop_requested=stop_requested
        )
        optim = self.config.optim
        norm = grad_norms["generator"]
        update(self.generator_optimiser, [generator], lr=generator_lr, norm=norm, clip_norm=optim.clip_norm)
        average(self.networks.averaged, generator, decay=optim.ema_decay, step=batch.step)
        means = mean_losses([*generator_losses, *discriminator_losses], len(batch.source))
        total = self._weighted_sum({name: means[name] for name in generator_losses[-1][1]})
        return StepResult(losses={**means, "generator_total": total}, grad_norms=grad_norms, stop=stop)

    def _compare_windows(self, part: TrainBatch, views: PartViews) -> dict[str, Tensor]:
        """Compute the losses on windows and take their gradient at once, chunk by chunk."""
        losses = {objective.name: torch.zeros((), device=self.world.device) for objective in self._on_windows}
        for chunk in views.window_chunks() if losses else ():
            values = {objective.name: objective.compute(chunk, self.config.loss) for objective in self._on_windows}
            share = self._share(part)
            terms = [value * (self._weights[name] * share) for name, value in values.items()]
            torch.autograd.backward(torch.stack(terms).sum())
            for name, value in values.items():
                losses[name] += value.detach()
        return losses

    def _compare_frames(self, views: PartViews, *, is_warmup: bool) -> dict[str, Tensor]:
        """Compute the losses on whole frames, with their graph."""
        objectives = [objective for objective in self._on_frames if objective.is_in_warmup or not is_warmup]
        return {objective.name: objective.compute(views, self.config.loss) for objective in objectives}

    def _judge(self, part: TrainBatch, fake: dict[str, Tensor]) -> dict[str, Tensor]:
        """Let each discriminator judge detached fakes and real frames in one pass over both, and take the gradient."""
        real = _inputs(self._discriminators, self._views.real(part))
        losses: dict[str, Tensor] = {}
        for discriminator in self._discriminators:
            name = discriminator.objective.name
            with autocast(self.config, self.world.device):
                logits = discriminator.wrapped(torch.cat([fake[name].detach(), real[name]]))
            count = len(fake[name])
            losses[f"{name}_discriminator"] = discriminator_loss(logits[:count], logits[count:])
        torch.autograd.backward(torch.stack(list(losses.values())).sum() * self._share(part))
        return _detached(losses)

    def _adversarial_losses(
        self, discriminators: Sequence[_Discriminator], fake: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute the generator's adversarial losses, with their graph."""
        losses: dict[str, Tensor] = {}
        for discriminator in discriminators:
            name = discriminator.objective.name
            with autocast(self.config, self.world.device):
                logits = discriminator.network(fake[name])
            losses[f"{name}_generator"] = generator_loss(logits)
        return losses

    def _update_discriminators(self, losses_by_part: PartLosses, lr: float) -> float:
        """Take their step, if all is finite on all ranks; returns the norm of their gradients."""
        assert self.discriminator_optimiser is not None
        networks = [discriminator.network for discriminator in self._discriminators]
        norm, _ = agreed_norm(losses_by_part, networks, self.world, done="nothing was updated")
        clip_norm = self.config.optim.clip_norm
        update(self.discriminator_optimiser, networks, lr=lr, norm=norm, clip_norm=clip_norm)
        return norm

    def _weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[name] * value for name, value in losses.items()]).sum()

    def _share(self, part: TrainBatch) -> float:
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        return len(part.source) * self.world.world_size / self.config.batch_size

    @contextmanager
    def _synchronised(self, is_last_part: bool) -> Iterator[None]:
        """Average gradients over ranks in the backward pass of the last part only, which has those of all parts."""
        with ExitStack() as stack:
            for module in (self._generator, *(discriminator.wrapped for discriminator in self._discriminators)):
                if not is_last_part and isinstance(module, nn.parallel.DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield


def _inputs(discriminators: Sequence[_Discriminator], frames: Frames) -> dict[str, Tensor]:
    """What each discriminator sees of frames, by the name of its objective."""
    return {item.objective.name: item.objective.view(frames) for item in discriminators}


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}


@contextmanager
def _frozen(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let gradients pass through the networks without stopping in their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)
