"""What a setting may be and how it stands to the paper, written beside its default; checks and departures are made from it.

A field says so with `setting(default, ...)`. `check` refuses what its rule does not allow, `roma.config.compare.departures` names
what the paper does not have. So a new field needs no second place.
"""

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar

from roma.errors import ConfigError

_Value = TypeVar("_Value")
_Number = float | int
_RULE = "rule"
_LARGEST_INT = 2**32 - 1
"""What no count, size or seed needs to exceed, and what every array of numbers holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What holds of one setting; bounds are those of each item where it is a list, and numbers are finite in any case."""

    least: _Number | None = None
    """Smallest value."""
    above: _Number | None = None
    """The value is larger than this."""
    most: _Number | None = None
    """Largest value."""
    below: _Number | None = None
    """The value is smaller than this."""
    in_paper: bool | str = True
    """False: every value but the default departs from the paper. A mode: the paper has this switch on in that mode and off in the
    other."""
    outside_paper: tuple[object, ...] = ()
    """Values that depart from the paper where others do not."""
    mode: str | None = None
    """The only mode in which the setting matters."""
    weighs: Literal["tokens", "frames"] | None = None
    """What the loss looks at whose weight this is, the ViT's tokens or only frames; None for a setting that is no weight of a loss.
    0 leaves the loss out, which departs from the paper where the loss is in it."""
    least_crop_px: int = 0
    """The shortest side of crops on which the loss can be computed whose weight this is."""
    used_by: tuple[str, ...] | Literal["tokens"] = ()
    """Weights of losses, one of which must be above 0 for the setting to matter; "tokens" stands for all that look at tokens."""

    def allows(self, value: _Number) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            not _is_too_large(value)
            and math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def departs(self, value: object, default: object, mode: str) -> bool:
        """Whether a value departs from the paper in a mode, in kind and not in size."""
        if self.mode is not None and self.mode != mode:
            return False
        if isinstance(self.in_paper, str):
            return value != (self.in_paper == mode)
        if not self.in_paper:
            return value != default
        return value in self.outside_paper or (self.weighs is not None and not value)

    @property
    def expected(self) -> str:
        """The bounds in words, such as "at least 1" or "in [0, 1)"."""
        low = self.least if self.least is not None else self.above
        high = self.most if self.most is not None else self.below
        if low is not None and high is not None:
            return (
                f"in {'[' if self.least is not None else '('}{low:g}, {high:g}{']' if self.most is not None else ')'}"
            )
        if low is not None:
            return f"at least {low:g}" if self.least is not None else f"above {low:g}"
        if high is not None:
            return f"at most {high:g}" if self.most is not None else f"below {high:g}"
        return "a finite number"


def setting(
    default: _Value,
    *,
    least: _Number | None = None,
    above: _Number | None = None,
    most: _Number | None = None,
    below: _Number | None = None,
    in_paper: bool | str = True,
    outside_paper: tuple[object, ...] = (),
    mode: str | None = None,
    weighs: Literal["tokens", "frames"] | None = None,
    least_crop_px: int = 0,
    used_by: tuple[str, ...] | Literal["tokens"] = (),
) -> _Value:
    """Make a field of a config group with its default and its rule."""
    rule = Rule(
        least=least, above=above, most=most, below=below, in_paper=in_paper, outside_paper=outside_paper, mode=mode,
        weighs=weighs, least_crop_px=least_crop_px, used_by=used_by,
    )  # fmt: skip
    made: _Value = field(default=default, metadata={_RULE: rule})
    return made


def rules_of(group: Any) -> Iterator[tuple[Field[Any], Any, Rule]]:
    """Yield field, value and rule of every setting of a group; one that says nothing has a rule without bounds."""
    for item in fields(group):
        yield item, getattr(group, item.name), item.metadata.get(_RULE, Rule())


def check(group: Any, name: str) -> None:
    """Refuse numbers that the rules of their settings do not allow.

    Args:
        group: A config group.
        name: What it is called, such as "optim"; "" for the root.

    Raises:
        ConfigError: A number is not finite, too large for any use, or outside its bounds.
    """
    for item, value, rule in rules_of(group):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not rule.allows(number):
                is_too_large = _is_too_large(number)
                if not is_too_large and not math.isfinite(number):
                    must = "hold finite numbers" if isinstance(value, tuple) else "be finite"
                else:
                    expected = f"at most {_LARGEST_INT}" if is_too_large else rule.expected
                    must = f"hold numbers {expected}" if isinstance(value, tuple) else f"be {expected}"
                found = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"{name}{'.' if name else ''}{item.name} must {must}, got {found}")


def _is_too_large(number: _Number) -> bool:
    """Whether an integer is larger than any use of it; also one that no float holds."""
    return isinstance(number, int) and number > _LARGEST_INT
