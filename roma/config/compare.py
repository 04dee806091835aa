"""How configs differ: from one another, and from the published method."""

import json
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from roma.config.overlay import to_json
from roma.config.rules import rules_of
from roma.config.schema import TrainConfig

_Config = TypeVar("_Config")


def departures(config: TrainConfig) -> list[str]:
    """The settings by which a run departs from the published method in kind, not in size, as "loss.patch_gan 1.0".

    They are those whose field says so (`roma.config.rules`), mirrored windows in video mode or none in image mode, and random
    weights of the ViT.
    """
    now = to_json(config)
    found: list[str] = []
    if config.data.flip != (config.mode == "image"):
        found.append(f"data.flip {config.data.flip}")
    for item in fields(config):
        group = getattr(config, item.name)
        if not is_dataclass(group):
            continue
        for inner, value, rule in rules_of(group):
            is_used = not rule.used_by or any(getattr(group, name) for name in rule.used_by)
            is_in_mode = inner.name != "motion" or config.mode == "video"
            is_left_out = rule.weighs and rule.in_paper and is_in_mode and not value
            if is_left_out or (not rule.in_paper and is_used and value != inner.default):
                found.append(f"{item.name}.{inner.name} {now[item.name][inner.name]}")
    if config.vit.weights == "random" and config.needs_vit:
        found.append("vit.weights random")
    return found


def differences(before: _Config, now: _Config) -> list[str]:
    """What differs, as "loss.gan 1.0 -> 0.5"."""
    return _differences(to_json(before), to_json(now), "")


def _differences(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if before == now else [f"{name} {as_set(before)} -> {as_set(now)}"]


def as_set(value: Any) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)
