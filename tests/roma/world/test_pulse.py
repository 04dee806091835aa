"""What a rank says of itself, and how missing ranks are named: real stores, no processes."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch
from processes import PATIENCE_S
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from roma.world.pulse import Pulse
from roma.world.world import World

BEAT_S = 0.3
"""Four of them are a silence, and must be longer than a busy machine lets a thread that has work wait."""


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE_S))


@pytest.fixture
def pulses(store: TCPStore) -> Iterator[Callable[..., list[Pulse]]]:
    made: list[Pulse] = []

    def make(count: int, **options: object) -> list[Pulse]:
        for rank in range(count):
            own = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=PATIENCE_S))
            hosts = [f"node-{k}" for k in range(count)]
            made.append(
                Pulse(PrefixStore("run", own), rank=rank, hosts=hosts, store_name="store:1", beat_s=BEAT_S, **options)  # type: ignore[arg-type]
            )
        for pulse in made:
            pulse.start()
        return made

    yield make
    for pulse in made:
        pulse.leave()


def test_a_rank_that_falls_silent_is_named_with_its_host_and_last_step(pulses: Callable[..., list[Pulse]]) -> None:
    first, second, third = pulses(3)
    for pulse in (first, second, third):
        pulse.beat(41)
    wait_for(lambda: first._heard[1].step == third._heard[1].step == 41)
    second.leave()  # without a reason it says nothing, like a process that was killed
    first.beat(42)
    for pulse in (first, third):
        assert re.match(r"rank 1 on node-1 is gone: last heard \d+ s ago at step 41", pulse.blame())


def test_a_rank_that_ended_with_an_error_is_named_with_it(pulses: Callable[..., list[Pulse]]) -> None:
    first, second = pulses(2)
    second.beat(7)
    second.leave("OutputError: disk full", to_blame=True)
    wait_for(lambda: bool(first._heard[1].reason))
    assert first.blame() == "rank 1 on node-1 stopped at step 7: OutputError: disk full"


def test_a_rank_that_left_because_it_missed_another_is_not_to_blame(pulses: Callable[..., list[Pulse]]) -> None:
    first, second, third = pulses(3)
    third.leave()
    second.leave("missed others: rank 2 on node-2 is gone")
    wait_for(lambda: bool(first._heard[1].reason))
    found = first.blame()
    assert re.match(r"rank 2 on node-2 is gone: last heard \d+ s ago before its first step", found)
    assert "rank 1" not in found


def test_a_living_rank_that_is_behind_is_named_with_how_long(pulses: Callable[..., list[Pulse]]) -> None:
    first, second = pulses(2)
    first.beat(12)
    second.beat(11)
    wait_for(lambda: first._heard[1].step == 11)
    assert re.fullmatch(r"rank 1 on node-1 is alive, but has been at step 11 for \d+ s", first.blame())


def test_living_ranks_at_one_step_leave_the_network(pulses: Callable[..., list[Pulse]]) -> None:
    first, second = pulses(2)
    for pulse in (first, second):
        pulse.beat(3)
    wait_for(lambda: first._heard[1].step == 3)
    assert first.blame() == (
        "all 2 ranks are alive and at step 3, so one of them hangs in it or the network between them fails"
    )


@pytest.mark.parametrize(
    ("keeper", "expected"),
    [
        (None, r"the store at store:1 is gone too: its machine has died or cannot be reached; last heard \d+ s ago"),
        (1, r"rank 1 on node-1 is gone, and with it the store at store:1: last heard \d+ s ago at step 5"),
    ],
)
def test_a_store_that_is_gone_is_named(store: TCPStore, keeper: int | None, expected: str) -> None:
    own = [TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=PATIENCE_S)) for _ in range(2)]
    first, second = (
        Pulse(each, rank=rank, hosts=["node-0", "node-1"], store_name="store:1", store_rank=keeper, beat_s=BEAT_S)
        for rank, each in enumerate(own)
    )
    second.beat(5)
    second._write()
    first.start()
    first._store = GoneStore()
    wait_for(lambda: first._store_lost)
    assert re.fullmatch(expected, first.blame())
    first.leave()


class GoneStore(torch.distributed.Store):
    """What torch's client raises once the server's machine is gone."""

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("Broken pipe")


def test_many_missing_ranks_are_counted_not_listed(pulses: Callable[..., list[Pulse]]) -> None:
    ranks = pulses(7)
    for pulse in ranks[1:]:
        pulse.leave()
    wait_for(lambda: "more" in ranks[0]._gone())  # each falls silent at a moment of its own
    found = ranks[0].blame()
    assert found.count("is gone") == 4
    assert found.endswith("; and 2 more")


def test_a_rank_that_waits_in_a_kernel_is_ended_with_the_reason(pulses: Callable[..., list[Pulse]]) -> None:
    messages: list[str] = []
    first, second = pulses(2, hang_s=0.3, on_hang=messages.append)
    second.beat(8)
    wait_for(lambda: first._heard[1].step == 8)
    first.beat(9)  # and never again
    mine = lambda: [line for line in messages if line.startswith("rank 0")]  # noqa: E731 -- the other one may miss this one too
    wait_for(mine)
    (line,) = mine()
    waited, _, blamed = line.partition("; ")
    assert waited == "rank 0, step 9: waited 0.3 s for the others"
    assert re.fullmatch(r"rank 1 on node-1 is alive, but has been at step 8 for \d+ s", blamed)


def test_saying_the_step_costs_less_than_a_tenth_of_a_millisecond(pulses: Callable[..., list[Pulse]]) -> None:
    world = World(rank=0, world_size=1, device=torch.device("cpu"), pulse=pulses(1)[0])
    begun = time.thread_time()
    for step in range(1000):
        world.beat(step)
    assert (time.thread_time() - begun) / 1000 < 1e-4
