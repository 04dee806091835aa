"""The one ticker that long jobs count with."""

import pytest

from infraredcity.progress import EVERY_S, Progress, Ticker


def test_the_first_and_the_last_are_reported_and_those_between_now_and_then() -> None:
    reports: list[Progress] = []
    ticker = Ticker("frames", 10_000, reports.append)
    for _ in range(10_000):
        ticker.add()
    assert reports[0] == Progress(what="frames", done=1, total=10_000)
    assert reports[-1] == Progress(what="frames", done=10_000, total=10_000)
    assert len(reports) < 10_000
    assert EVERY_S < 1


def test_what_was_done_before_counts_but_is_not_added() -> None:
    reports: list[Progress] = []
    ticker = Ticker("frames", 5, reports.append, done=3)
    ticker.add(2)
    assert (ticker.added, reports) == (2, [Progress(what="frames", done=5, total=5)])


def test_nobody_need_listen() -> None:
    ticker = Ticker("frames", None, None)
    ticker.add(7)
    assert ticker.added == 7


def test_a_report_inside_the_interval_is_held_back_and_the_last_is_sure_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr("infraredcity.progress.time.monotonic", lambda: now_s)
    reports: list[int] = []
    ticker = Ticker("frames", 5, lambda progress: reports.append(progress.done))
    ticker.add()
    assert reports == [1]
    now_s += EVERY_S / 2
    ticker.add()
    assert reports == [1]
    now_s += EVERY_S
    ticker.add()
    assert reports == [1, 3]
    ticker.add()
    ticker.add()
    assert reports == [1, 3, 5]  # none of the time passed, but that was the last
