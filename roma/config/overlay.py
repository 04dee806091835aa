"""A config read and written: preset, then config file, then `--set`; later ones win."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from infraredcity.files.records import parse_json, read_json
from infraredcity.files.urls import is_url, shown
from roma.config.presets import preset
from roma.config.schema import Mode, TrainConfig
from roma.errors import ConfigError

_Config = TypeVar("_Config")
_OF_A_RUN = frozenset({"preset", "mode", "data", "generator", "vit", "loss", "optim", "schedule", "output"})
"""What the config of a run names, and a file of a few settings does not."""


def resolve(
    preset_name: str | None, *, mode: Mode | None, config_file: Path | None, settings: Sequence[str]
) -> TrainConfig:
    """Make the config of a run: preset, then file, then `--set key=value`.

    A config file that names a preset starts from that one unless `preset_name` is given. The mode shapes the preset, wherever it is
    given: `--set mode=image` wins over `mode`, and both over the file.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the message says which.
    """
    from_file = as_it_ran(read_settings(config_file))
    over = merged_settings({} if mode is None else {"mode": mode}, settings)
    chosen = _converted(Mode, over.get("mode", from_file.get("mode", "video")), "mode")
    base = preset(preset_name or str(from_file.get("preset", "roma")), mode=chosen)
    return overlaid(base, from_file, over, config_file=config_file)


def read_settings(config_file: Path | None) -> Mapping[str, Any]:
    """Read the settings of a config file; none without a file.

    Raises:
        ConfigError: The file is missing or holds no JSON object.
    """
    if config_file is None:
        return {}
    try:
        from_file = read_json(config_file)
    except FileNotFoundError as error:
        raise ConfigError(f"{config_file}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config_file}: not JSON that can be read ({error})") from error
    if not isinstance(from_file, dict):
        raise ConfigError(f"{config_file}: expected one JSON object of settings")
    return from_file


def overlaid(
    base: _Config, from_file: Mapping[str, Any], over: Mapping[str, Any], *, config_file: Path | None
) -> _Config:
    """Lay the settings of a file, and over them those of `merged_settings`, over a preset's config; the preset's name stays.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the message says which.
    """
    # All values are merged before any is checked, since a check may span two of them (load_size_px, crop_size_px).
    merged = _merged({name: value for name, value in from_file.items() if name != "preset"}, over)
    return updated(base, merged, where="" if config_file is None else f"{config_file} and --set: ")


def merged_settings(below: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Merge settings written as name=value into one tree, over those of another; the last of a name wins.

    Raises:
        ConfigError: One is not of that form, or names the preset, which is chosen before any setting.
    """
    merged = dict(below)
    for written in settings:
        name, equals, text = written.partition("=")
        if not equals or is_url(written):
            raise ConfigError(f"--set {without_secrets(written)}: expected name=value, such as optim.generator_lr=1e-4")
        if name.strip() == "preset":
            raise ConfigError(f"--set {written}: a preset is chosen with --preset {text.strip()}")
        nested: Any = _parsed(text)
        for part in reversed(name.strip().split(".")):
            nested = {part: nested}
        merged = _merged(merged, nested)
    return merged


def to_json(config: Any) -> dict[str, Any]:
    """Make plain values of any config tree; `from_json` reads those of a TrainConfig back, `updated` any.

    All that shows, stores, sends or compares settings takes them from here: URLs come without password, token and query.
    """
    plain: dict[str, Any] = without_secrets(json.loads(json.dumps(dataclasses.asdict(config))))
    return plain


def without_secrets(values: Any) -> Any:
    """Copy a text, list or tree of plain values, each URL in it as messages show it: without password, token and query."""
    if isinstance(values, str):
        return shown(values) if is_url(values) else values
    if isinstance(values, Mapping):
        return {name: without_secrets(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(without_secrets(value) for value in values)
    return values


def from_json(values: Mapping[str, Any], *, where: str) -> TrainConfig:
    """Read the config that `to_json` wrote; a ConfigError begins with `where`."""
    return updated(TrainConfig(), as_it_ran(values), where=f"{where}: ")


def as_it_ran(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Complete the config of a run from before there was `schedule.decay_crop`, which cut random squares to its end."""
    schedule = values.get("schedule")
    if not values.keys() >= _OF_A_RUN or not isinstance(schedule, Mapping):
        return values
    return {**values, "schedule": {"decay_crop": "random", **schedule}}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings, those of `above` winning."""
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def updated(config: _Config, values: Mapping[str, Any], *, where: str, prefix: str = "") -> _Config:
    """Change some settings of a config tree; a ConfigError begins with `where` and names the setting."""
    hints = typing.get_type_hints(type(config))
    known = {item.name for item in fields(config)}  # type: ignore[arg-type]  # every _Config is a dataclass
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}no setting is called {prefix}{name}; there are {', '.join(sorted(known))}")
        current = getattr(config, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{prefix}{name} is a group of settings, got {without_secrets(value)!r}")
            changes[name] = updated(current, value, where=where, prefix=f"{prefix}{name}.")
        else:
            changes[name] = _converted(hints[name], value, f"{where}{prefix}{name}")
    try:
        return replace(config, **changes)  # type: ignore[type-var]  # every _Config is a dataclass
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error


def _converted(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to the field's type, or raise a ConfigError; numbers are not cut and text is not guessed at."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _converted(next(option for option in options if option is not type(None)), value, where)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        raise ConfigError(
            f"{where} must be one of {', '.join(map(str, typing.get_args(hint)))}, got {without_secrets(value)!r}"
        )
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str) and item is str:
            return (value,)
        if isinstance(value, list | tuple):
            return tuple(_converted(item, each, where) for each in value)
        raise ConfigError(f"{where} must be a list, got {without_secrets(value)!r}")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{where} must be a finite number, got one of more than 308 digits") from error
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{where} must be {hint.__name__}, got {without_secrets(value)!r}")
