"""The table of generators: a new one is its file and a line here."""

import inspect
from dataclasses import fields

from roma.config.schema import GeneratorConfig
from roma.errors import ConfigError
from roma.models.generators.generator import Generator
from roma.models.generators.resnet import ResNetGenerator
from roma.models.generators.unet import UNetGenerator

GENERATORS: dict[str, type[Generator]] = {
    "resnet": ResNetGenerator,
    "unet": UNetGenerator,
}
"""By the name that `generator.architecture` has for it. `resnet` is the paper's, the others are not in the paper."""


def generator_class(config: GeneratorConfig) -> type[Generator]:
    """Look up the network of a config.

    Raises:
        ConfigError: No architecture has that name.
    """
    if config.architecture not in GENERATORS:
        expected = ", ".join(GENERATORS)
        raise ConfigError(f"generator.architecture must be one of {expected}, got {config.architecture[:80]!a}")
    return GENERATORS[config.architecture]


def check_side(config: GeneratorConfig, side_px: int) -> None:
    """Refuse squares that the network of a config does not take.

    Raises:
        ConfigError: No architecture has that name, or its frames have other sides.
    """
    network = generator_class(config)
    if not network.takes(side_px):
        raise ConfigError(
            f"data.crop_size_px must be a multiple of {network.SIDE_MULTIPLE}, at least {network.MIN_SIDE_PX}, for "
            f"generator.architecture={config.architecture}, got {side_px}"
        )


def build_generator(config: GeneratorConfig) -> Generator:
    """Build the network of a config with its initial weights, from those settings that its constructor takes.

    Raises:
        ConfigError: No architecture has that name.
    """
    network = generator_class(config)
    taken = inspect.signature(network).parameters
    return network(**{item.name: getattr(config, item.name) for item in fields(config) if item.name in taken})
