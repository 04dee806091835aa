import pytest

from roma.config.presets import preset
from roma.config.schema import ScheduleConfig
from roma.errors import ConfigError
from roma.training.schedule import Schedule, plan, steps_per_epoch


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


def test_the_warm_up_rises_to_the_full_rate_inside_the_constant_steps():
    schedule = Schedule(constant_steps=6, decay_steps=1, warmup_steps=4)
    assert [schedule.factor(step) for step in range(7)] == [0.25, 0.5, 0.75, 1, 1, 1, 0.5]
    assert schedule.total_steps == 7
    whole = Schedule(constant_steps=2, decay_steps=0, warmup_steps=2)
    assert [whole.factor(step) for step in range(2)] == [0.5, 1]


def test_no_warm_up_starts_at_the_full_rate():
    assert plan(ScheduleConfig(), epoch_steps=30).factor(0) == 1


def test_several_gpus_warm_up_over_500_steps_of_the_planned_ones():
    # 8,000 windows a domain at batch 16 are 500 steps an epoch
    schedule = plan(preset("roma-multi").schedule, epoch_steps=steps_per_epoch(8000, 6000, 16))
    assert schedule == Schedule(constant_steps=50_000, decay_steps=50_000, warmup_steps=500)
    assert [schedule.factor(step) for step in (0, 249, 499, 500, 49_999)] == [0.002, 0.5, 1, 1, 1]
    # the first decaying step is 50,000 / 50,001 of the rate, the last one 1 / 50,001
    assert schedule.factor(50_000) == pytest.approx(50_000 / 50_001)
    assert schedule.factor(99_999) == pytest.approx(1 / 50_001)


def test_a_warm_up_longer_than_the_constant_part_is_refused_with_what_fits():
    config = ScheduleConfig(constant_epochs=1, decay_epochs=3, total_steps=100, warmup_steps=26)
    with pytest.raises(
        ConfigError, match=r"warmup_steps 26 is longer than the 25 of 100 steps .*warmup_steps=25 or less"
    ):
        plan(config, epoch_steps=7)
