"""How configs differ: from one another, and from the published method."""

import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from roma.config.overlay import to_json
from roma.config.rules import rules_of
from roma.config.schema import TrainConfig

_Config = TypeVar("_Config")


def departures(config: TrainConfig) -> list[str]:
    """List the settings by which a run departs from the published method in kind, not in size, as "loss.patch_gan 1.0"."""
    now = to_json(config)
    return [
        f"{group.name}.{item.name} {now[group.name][item.name]}"
        for group in fields(config)
        if is_dataclass(getattr(config, group.name))
        for item, value, rule in rules_of(getattr(config, group.name))
        if config.uses(rule) and rule.departs(value, item.default, config.mode)
    ]


def differences(before: _Config, now: _Config) -> list[str]:
    """List what differs, as "loss.gan 1.0 -> 0.5"."""
    return _differences(to_json(before), to_json(now), "")


def _differences(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if before == now else [f"{name} {as_set(before)} -> {as_set(now)}"]


def as_set(value: Any) -> str:
    """Write a value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)
