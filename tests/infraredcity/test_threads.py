import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_S

from infraredcity import threads
from infraredcity.threads import in_order, num_cores


def test_all_is_made_in_order_and_little_of_it_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(200):
            taken += 1
            yield item

    def make(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    for place, made in enumerate(in_order(make, items(), num_threads=3, name="test")):
        assert made == place * place
        assert taken <= place + 2 * 3
    assert taken == 200


def test_the_first_error_ends_it_and_what_has_not_begun_never_does() -> None:
    begun: list[int] = []
    is_told = threading.Event()

    def make(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("item 2")
        if item > 2:
            is_told.wait(PATIENCE_S)
        return item

    made = in_order(make, range(1000), num_threads=2, name="test")
    assert [next(made), next(made)] == [0, 1]
    threading.Timer(2.0, is_told.set).start()
    with pytest.raises(ValueError, match="item 2"):
        next(made)
    assert max(begun) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


def test_who_stops_taking_stops_the_work() -> None:
    made = in_order(lambda item: item, range(1000), num_threads=2, name="test")
    assert isinstance(made, Iterator)
    assert next(made) == 0
    made.close()  # type: ignore[attr-defined]  # it is a generator
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


def test_nothing_is_made_of_nothing() -> None:
    assert [*in_order(str, [], num_threads=1, name="test")] == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("max 100000", 8),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
        ("what", 8),
        (None, 8),
    ],
)
def test_a_container_with_a_limit_has_so_many_cores(
    told: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(threads, "_CPU_MAX", tmp_path / "cpu.max")
    if told is not None:
        (tmp_path / "cpu.max").write_text(told + "\n")
    assert num_cores() == expected
