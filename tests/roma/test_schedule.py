import pytest

from roma.config import ScheduleConfig
from roma.schedule import Schedule, plan, steps_per_epoch


def test_an_epoch_covers_the_longer_domain():
    assert steps_per_epoch(10, 7, 1) == 10
    assert steps_per_epoch(7, 10, 4) == 3


def test_published_epochs_become_steps():
    assert plan(ScheduleConfig(), epoch_steps=30) == Schedule(constant_steps=3000, decay_steps=3000)


def test_total_steps_keep_the_proportion():
    config = ScheduleConfig(constant_epochs=3, decay_epochs=1, total_steps=100)
    assert plan(config, epoch_steps=7) == Schedule(constant_steps=75, decay_steps=25)


def test_rate_is_constant_then_falls_linearly_and_never_reaches_zero_in_a_step():
    schedule = Schedule(constant_steps=2, decay_steps=3)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([1, 1, 0.75, 0.5, 0.25])
    assert schedule.factor(5) == 0
