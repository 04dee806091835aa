"""How many steps a run takes, and how the learning rate falls over them."""

import math
from dataclasses import dataclass

from roma.config.schema import ScheduleConfig
from roma.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Steps at the full rate, the first of them rising to it, then steps of linear decay to zero."""

    constant_steps: int
    decay_steps: int
    warmup_steps: int = 0
    """How many of the constant steps rise."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.constant_steps + self.decay_steps

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at a 0-based step: up to 1, 1, then down, above 0 until the last step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step < self.constant_steps:
            return 1.0
        return max(0.0, 1.0 - (step - self.constant_steps + 1) / (self.decay_steps + 1))


def steps_per_epoch(num_infrared: int, num_visible: int, batch_size: int) -> int:
    """Compute ceil(max(windows of a domain) / batch): the shorter domain is read more often."""
    return math.ceil(max(num_infrared, num_visible) / batch_size)


def plan(config: ScheduleConfig, *, epoch_steps: int) -> Schedule:
    """Plan a run whose epochs have `epoch_steps` steps.

    Raises:
        ConfigError: The warm-up is longer than the constant part that it belongs to.
    """
    epochs = config.constant_epochs + config.decay_epochs
    total = config.total_steps if config.total_steps is not None else epochs * epoch_steps
    constant = total * config.constant_epochs // epochs
    if config.warmup_steps > constant:
        raise ConfigError(
            f"schedule.warmup_steps {config.warmup_steps} is longer than the {constant} of {total} steps at the full rate; use "
            f"--set schedule.warmup_steps={constant} or less, or train longer"
        )
    return Schedule(constant_steps=constant, decay_steps=total - constant, warmup_steps=config.warmup_steps)
