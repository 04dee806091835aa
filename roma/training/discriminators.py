"""The discriminators' side of a step: what they see, their losses and their update, and what they add to the generator's loss."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.losses import OBJECTIVES
from roma.losses.adversarial import discriminator_loss, generator_loss
from roma.losses.objective import AdversarialObjective, Frames
from roma.training.networks import Networks
from roma.training.running import autocast
from roma.training.update import PartLosses, adam, agreed_norm, update
from roma.world.world import World

Inputs = dict[str, Tensor]
"""What each discriminator sees, by the name of its objective."""


class Discriminators:
    """All discriminators of a run, which take their steps together.

    Args:
        config: The whole run.
        networks: Of the run.
        world: This process's place.
    """

    def __init__(self, config: TrainConfig, networks: Networks, world: World) -> None:
        self.config = config
        self.world = world
        self.objectives = [
            objective
            for objective in OBJECTIVES
            if isinstance(objective, AdversarialObjective) and objective.weight(config)
        ]
        self.networks = {item.name: networks.discriminators[item.discriminator] for item in self.objectives}
        self.wrapped = {name: world.wrap(network) for name, network in self.networks.items()}
        """The same as their own step calls them, over all ranks."""
        optim, judges = config.optim, list(self.networks.values())
        self.optimiser = adam(judges, optim, lr=optim.discriminator_lr, device=world.device) if judges else None

    def inputs(self, frames: Frames) -> Inputs:
        """Show frames to each discriminator."""
        return {objective.name: objective.view(frames) for objective in self.objectives}

    def backward(self, fake: Inputs, real: Inputs, *, share: float) -> dict[str, Tensor]:
        """Let each discriminator judge detached fakes and real frames in one pass over both, and take the gradient.

        Args:
            fake: Of translations.
            real: Of day frames.
            share: What the gradient is multiplied with.

        Returns:
            Their losses by name, detached.
        """
        losses: dict[str, Tensor] = {}
        for name, wrapped in self.wrapped.items():
            with autocast(self.config, self.world.device):
                logits = wrapped(torch.cat([fake[name].detach(), real[name]]))
            count = len(fake[name])
            losses[f"{name}_discriminator"] = discriminator_loss(logits[:count], logits[count:])
        torch.autograd.backward(torch.stack(list(losses.values())).sum() * share)
        return {name: value.detach() for name, value in losses.items()}

    def update(self, losses_by_part: PartLosses, *, lr: float) -> float:
        """Take their step, if all is finite on all ranks; return the norm of their gradients.

        Raises:
            TrainingError: A loss or a gradient is not finite, on any rank.
        """
        assert self.optimiser is not None
        networks = list(self.networks.values())
        norm, _ = agreed_norm(losses_by_part, networks, self.world, done="nothing was updated")
        update(self.optimiser, networks, lr=lr, norm=norm, clip_norm=self.config.optim.clip_norm)
        return norm

    def generator_losses(self, fake: Inputs) -> dict[str, Tensor]:
        """Compute the generator's adversarial losses, with their graph; call inside `frozen`, up to the backward pass."""
        losses: dict[str, Tensor] = {}
        for objective in self.objectives:
            with autocast(self.config, self.world.device):
                logits = self.networks[objective.name](fake[objective.name])
            losses[objective.loss_name] = generator_loss(logits)
        return losses

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let gradients pass through the networks without stopping in their weights."""
        networks: list[nn.Module] = list(self.networks.values())
        for network in networks:
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in networks:
                network.requires_grad_(True)
