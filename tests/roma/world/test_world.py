"""The world of one, and what torchrun says of it."""

import pytest
import torch

from roma.errors import DistributedError
from roma.world.meet import joined
from roma.world.world import check_batch, rank_of_environment


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


def test_numbers_of_ranks_must_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(DistributedError, match="RANK and WORLD_SIZE must be numbers"):
        rank_of_environment()


def test_a_batch_feeds_every_rank_or_none() -> None:
    check_batch(3, 3)
    with pytest.raises(DistributedError, match="batch_size 3 cannot feed 4 processes; use --set batch_size=4 or more"):
        check_batch(3, 4)
