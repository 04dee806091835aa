"""One training step: translate, compare with the source, let the discriminators take their step, then the generator its own.

Source: arXiv 2204.12367, with the further losses of `config.LossConfig` where their weight is above 0. What is computed is the
paper's; how, is not, and differs from it only in rounding: gradients in three stretches (`roma.training.views`), windows that came
out equal at a border computed once (56 of 64 on a 24x24 grid), queries, keys and values of the ViT's first block computed once per
token. With gradient accumulation the discriminators see all parts of the batch, without gradients of the generator, before the
generator's step begins: the same step as without it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch
from roma.data.thermal import ThermalTones
from roma.losses import OBJECTIVES
from roma.losses.objective import FrameObjective, WindowObjective
from roma.training.discriminators import Discriminators, Inputs
from roma.training.networks import Networks
from roma.training.running import compile_options, memory_format
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
        self.generator_optimiser = adam(
            [networks.generator], config.optim, lr=config.optim.generator_lr, device=world.device
        )
        networks.generator.to(memory_format=memory_format(world.device))  # type: ignore[call-overload]  # torch's stub lacks it
        if config.compute.compile:
            networks.generator.compile(**compile_options(world.device))
        self._generator = world.wrap(networks.generator)
        self._views = ViewBuilder(config, networks, self._generator, world.device, tones)
        self._discriminators = Discriminators(config, networks, world)
        objectives = [objective for objective in OBJECTIVES if objective.weight(config)]
        self._on_frames = [objective for objective in objectives if isinstance(objective, FrameObjective)]
        self._on_windows = [objective for objective in objectives if isinstance(objective, WindowObjective)]
        self._weights = {objective.loss_name: objective.weight(config) for objective in objectives}

    @property
    def discriminator_optimiser(self) -> torch.optim.Optimizer | None:
        """Of all discriminators; None without any."""
        return self._discriminators.optimiser

    def learning_rates(self, lr_factor: float) -> tuple[float, float]:
        """Return the learning rates of the generator and of the discriminators at a factor of the schedule."""
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
        config, networks = self.config, self.networks
        if config.compute.compile:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        is_warmup = batch.step < config.loss.warmup_steps
        if batch.step == config.loss.warmup_steps and networks.anchor is not None:
            networks.anchor.load_state_dict(networks.averaged.state_dict())
        generator_lr, discriminator_lr = self.learning_rates(lr_factor)
        self._zero_gradients()
        parts = batch.split(config.compute.micro_batch)
        grad_norms: dict[str, float] = {}
        discriminator_losses: PartLosses = []
        generator_losses: PartLosses = []
        has_discriminators = bool(self._discriminators.objectives) and not is_warmup
        if has_discriminators and len(parts) > 1:
            # The discriminators that judge the generator took their step on all parts, so parts are translated twice.
            for part in parts:
                with self._synchronised(part is parts[-1]):
                    fake = self._discriminators.inputs(self._views.translations_only(part))
                    discriminator_losses.append((part, self._judge(part, fake)))
            grad_norms["discriminator"] = self._discriminators.update(discriminator_losses, lr=discriminator_lr)
        for part in parts:
            with self._synchronised(part is parts[-1]):
                views = self._views.translate(part, is_warmup=is_warmup)
                on_windows = {} if is_warmup else self._compare_windows(part, views)
                losses = self._compare_frames(views, is_warmup=is_warmup)
                fake = self._discriminators.inputs(views.fake) if has_discriminators else {}
                if has_discriminators and len(parts) == 1:
                    discriminator_losses.append((part, self._judge(part, fake)))
                    so_far = [(part, _detached(losses | on_windows)), *discriminator_losses]
                    grad_norms["discriminator"] = self._discriminators.update(so_far, lr=discriminator_lr)
                with self._discriminators.frozen():
                    if has_discriminators:
                        losses |= self._discriminators.generator_losses(fake)
                    views.backward(self._weighted_sum(losses) * self._share(part) if losses else None)
                generator_losses.append((part, _detached(losses | on_windows)))
        done = "the discriminators were updated, the generator was not" if has_discriminators else "nothing was updated"
        norm, stop = agreed_norm(
            generator_losses, [networks.generator], self.world, done=done, stop_requested=stop_requested
        )
        grad_norms["generator"] = norm
        optimiser, clip_norm = self.generator_optimiser, config.optim.clip_norm
        update(optimiser, [networks.generator], lr=generator_lr, norm=norm, clip_norm=clip_norm)
        average(networks.averaged, networks.generator, decay=config.optim.ema_decay, step=batch.step)
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

    def _judge(self, part: TrainBatch, fake: Inputs) -> dict[str, Tensor]:
        """Compute the losses of the discriminators and take their gradient."""
        real = self._discriminators.inputs(self._views.real(part))
        return self._discriminators.backward(fake, real, share=self._share(part))

    def _zero_gradients(self) -> None:
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            if optimiser is not None:
                optimiser.zero_grad(set_to_none=True)

    def _weighted_sum(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[name] * value for name, value in losses.items()]).sum()

    def _share(self, part: TrainBatch) -> float:
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        return len(part.source) * self.world.world_size / self.config.batch_size

    @contextmanager
    def _synchronised(self, is_last_part: bool) -> Iterator[None]:
        """Average gradients over ranks in the backward pass of the last part only, which has those of all parts."""
        with ExitStack() as stack:
            for module in (self._generator, *self._discriminators.wrapped.values()):
                if not is_last_part and isinstance(module, nn.parallel.DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield


def _detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}
