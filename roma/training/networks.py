"""The networks of a run: those that train, their average and anchor, and the frozen ViT, built from the config and its seed."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from roma.config.schema import TrainConfig
from roma.errors import ConfigError
from roma.losses import OBJECTIVES
from roma.losses.objective import AdversarialObjective
from roma.models.critics.build import DISCRIMINATORS
from roma.models.generators.build import build_generator, check_side
from roma.models.generators.generator import Generator
from roma.models.vit.vit import VisionTransformer
from roma.models.vit.weights import check_named, fill


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The networks that train, and those that they are compared by; None where the config has no use for one."""

    generator: Generator
    averaged: Generator
    """Exponential moving average of the generator, which snapshots hold; the generator itself without averaging."""
    discriminators: dict[str, nn.Module]
    """By the names of `roma.models.critics.build.DISCRIMINATORS`."""
    anchor: Generator | None
    """The averaged generator as it was at the end of the warm-up."""
    vit: VisionTransformer | None

    def trained(self) -> dict[str, nn.Module]:
        """Return the networks that a checkpoint holds, by name: all but the ViT, which no step changes."""
        generators = {"generator": self.generator, "averaged": self.averaged}
        return {**generators, **self.discriminators, **({"anchor": self.anchor} if self.anchor is not None else {})}


def build_networks(config: TrainConfig, device: torch.device) -> Networks:
    """Build the networks of a run with their initial weights, a function of the config and its seed.

    Raises:
        ConfigError: They are too large for the memory, or no generator is called so or takes the crops.
        WeightsError: The ViT's weights are not named, are missing (also where no loss looks at them) or do not fit.
    """
    check_side(config.generator, config.data.crop_size_px)
    check_named(config.vit.weights)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator = build_generator(config.generator)
            discriminators = {
                objective.discriminator: DISCRIMINATORS[objective.discriminator](config)
                for objective in OBJECTIVES
                if isinstance(objective, AdversarialObjective) and objective.weight(config)
            }
            vit = _build_vit(config) if config.needs_vit else None
    except RuntimeError as error:  # torch's, where memory does not suffice
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the networks cannot be built ({reason}); lower generator.width, loss.patch_gan_width or the sizes of vit"
        ) from error
    averaged = copy.deepcopy(generator).requires_grad_(False) if config.optim.ema_decay else generator
    anchor = copy.deepcopy(generator).requires_grad_(False) if config.loss.anchor else None
    return Networks(
        generator=generator.to(device),
        averaged=averaged.to(device),
        discriminators={name: network.to(device) for name, network in discriminators.items()},
        anchor=anchor.to(device) if anchor is not None else None,
        vit=vit.to(device) if vit is not None else None,
    )


def _build_vit(config: TrainConfig) -> VisionTransformer:
    shape = config.vit
    vit = VisionTransformer(
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        width=shape.width,
        depth=shape.depth,
        num_heads=shape.num_heads,
        layers=shape.layers,
        num_prefix_tokens=shape.num_prefix_tokens,
        normalisation=shape.normalisation,
    )
    fill(vit, shape.weights)
    return vit
