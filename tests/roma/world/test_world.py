"""The world of one, what a rank says of itself, and how missing ranks are named: real stores, no processes."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch
from processes import PATIENCE_S
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from roma.errors import DistributedError
from roma.world import world
from roma.world.world import Pulse, World, check_batch, joined, rank_of_environment

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
    second._tell()
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
    said: list[str] = []
    first, second = pulses(2, hang_s=0.3, on_hang=said.append)
    second.beat(8)
    wait_for(lambda: first._heard[1].step == 8)
    first.beat(9)  # and never again
    mine = lambda: [line for line in said if line.startswith("rank 0")]  # noqa: E731 -- the other one may miss this one too
    wait_for(mine)
    (line,) = mine()
    told, _, blamed = line.partition("; ")
    assert told == "rank 0, step 9: waited 0.3 s for the others"
    assert re.fullmatch(r"rank 1 on node-1 is alive, but has been at step 8 for \d+ s", blamed)


def test_saying_the_step_costs_less_than_a_tenth_of_a_millisecond(pulses: Callable[..., list[Pulse]]) -> None:
    world = World(rank=0, world_size=1, device=torch.device("cpu"), pulse=pulses(1)[0])
    begun = time.thread_time()
    for step in range(1000):
        world.beat(step)
    assert (time.thread_time() - begun) / 1000 < 1e-4


def test_a_world_of_one_answers_without_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as world:
        network = torch.nn.Linear(2, 2)
        assert (world.rank, world.world_size, world.is_leader) == (0, 1, True)
        assert world.wrap(network) is network
        assert world.texts("here") == ["here"]
        assert world.sum(torch.tensor([2.0])).tolist() == world.mean(torch.tensor([2.0])).tolist() == [2.0]
        world.beat(1)
        world.barrier()


def test_an_error_of_its_own_passes_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(RuntimeError, match="NCCL is only a word here"), joined("cpu"):
        raise RuntimeError("NCCL is only a word here")


def test_a_rank_without_a_meeting_point_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(DistributedError, match="rank 1: MASTER_ADDR '' and MASTER_PORT '29500'"), joined("cpu"):
        raise AssertionError


def test_numbers_of_ranks_must_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(DistributedError, match="RANK and WORLD_SIZE must be numbers"):
        rank_of_environment()


def test_a_batch_feeds_every_rank_or_none() -> None:
    check_batch(3, 3)
    with pytest.raises(DistributedError, match="batch_size 3 cannot feed 4 processes; use --set batch_size=4 or more"):
        check_batch(3, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_that_is_missing_is_one_line() -> None:
    with pytest.raises(DistributedError, match="--device cuda: torch finds no CUDA device here"), joined("cuda"):
        raise AssertionError


def test_gloo_listens_on_the_interface_that_faces_the_meeting_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "kept0")
    world._use_interface_towards("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "kept0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    world._use_interface_towards("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    world._use_interface_towards("no-such-host.invalid")  # left to gloo, whose own error names the address
    assert os.environ["GLOO_SOCKET_IFNAME"] == ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        assert world._address_of(probe, "lo") == "127.0.0.1"
        assert world._address_of(probe, "none0") == ""


@pytest.mark.parametrize(("machines", "warned"), [("1", False), ("2", True)])
def test_a_name_that_no_other_machine_can_use_is_warned_of(
    machines: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    resolve = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:  # as /etc/hosts of a fresh Debian has it
        resolve(self, ("127.0.1.1", address[1]) if address[0] == "node-a" else address)

    monkeypatch.setattr(world.socket, "socket", type("Socket", (socket.socket,), {"connect": connect}))
    world._use_interface_towards("node-a")
    assert ("node-a is 127.0." in caplog.text) is warned
    assert ("give each machine's torchrun --local-addr=ADDRESS" in caplog.text) is warned
