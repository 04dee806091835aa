"""Every setting in words: its name, default, values in the presets, bounds and meaning, read from the fields themselves."""

import ast
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from roma.config.compare import as_set
from roma.config.overlay import to_json
from roma.config.rules import Rule, rules_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting, as `roma settings` shows it."""

    name: str
    """As `--set` takes it, such as "loss.gan"."""
    default: str
    """As `--set` takes it; "" where it is empty."""
    presets: dict[str, str]
    """The presets that have another value, and that value."""
    expected: str
    """What it may be, such as "at least 1" or "none, sqrt, linear"."""
    in_paper: bool
    """False: every value but the default departs from the paper."""
    meaning: str
    """What it does, from its field."""


def describe(default: Any, presets: Mapping[str, Any]) -> list[Setting]:
    """List every setting of a config tree, in the order of its fields.

    Args:
        default: The config whose values are the defaults.
        presets: Further configs of the same kind by name, whose differing values are listed.
    """
    values = {name: dict(_leaves(to_json(config))) for name, config in presets.items()}
    plain = dict(_leaves(to_json(default)))
    return [
        Setting(
            name=name,
            default=as_set(plain[name]),
            presets={each: as_set(of[name]) for each, of in values.items() if of[name] != plain[name]},
            expected=_expected(hint, value, rule),
            in_paper=bool(rule.in_paper),
            meaning=meaning,
        )
        for name, hint, value, rule, meaning in _settings(default, "")
        if name != "preset"
    ]


def matching(settings: Sequence[Setting], words: Sequence[str]) -> list[Setting]:
    """Keep the settings whose name or meaning holds every word, in small or large letters."""
    return [
        setting
        for setting in settings
        if all(word.lower() in f"{setting.name} {setting.meaning}".lower() for word in words)
    ]


def _settings(group: Any, prefix: str) -> Iterator[tuple[str, Any, Any, Rule, str]]:
    hints, meanings = typing.get_type_hints(type(group)), meanings_of(type(group))
    for item, value, rule in rules_of(group):
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", hints[item.name], value, rule, meanings[item.name]


def meanings_of(group: type) -> dict[str, str]:
    """Read the docstring under each field of a dataclass, on one line; "" where it has none."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(node, ast.ClassDef)
    found = {item.name: "" for item in fields(group)}
    for field_node, text in itertools.pairwise(node.body):
        match field_node, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def _expected(hint: Any, value: Any, rule: Rule) -> str:
    for option in (hint, *typing.get_args(hint)):
        if typing.get_origin(option) is Literal:
            return ", ".join(str(choice) for choice in typing.get_args(option))
    if isinstance(value, bool):
        return "true, false"
    text = str(hint)
    if "int" in text or "float" in text:
        return rule.expected
    return "text"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
