"""What one rank cannot train on stops all of them before the update, with one message; run as a script, this file is one rank."""

import dataclasses
import math
import sys
from typing import TYPE_CHECKING

import pytest
from ranks import run_ranks

from tests.roma.conftest import SMALL

if TYPE_CHECKING:
    from roma.world.world import World

pytestmark = pytest.mark.distributed


def one_rank() -> None:
    import torch

    from roma.world.meet import joined

    torch.set_num_threads(1)
    with joined("cpu", timeout_s=600.0) as world:
        try_bad_frames(world)


def try_bad_frames(world: "World") -> None:
    """Take the step of the warm-up, then one on frames that rank 1 cannot use, and print what comes of it."""
    import torch

    from roma.config.overlay import resolve
    from roma.data.batches import TrainBatch
    from roma.errors import TrainingError
    from roma.training.networks import build_networks
    from roma.training.step import Trainer

    config = resolve("tiny", mode="image", config_file=None, settings=[*SMALL, "loss.warmup_steps=1"])
    trainer = Trainer(config, build_networks(config, world.device), world)
    draw = torch.Generator().manual_seed(world.rank)
    source = (torch.rand(1, 1, 1, 32, 32, generator=draw) * 2 - 1).expand(-1, -1, 3, -1, -1)
    batch = TrainBatch(
        step=0, source=source, target=torch.rand(1, 1, 3, 32, 32, generator=draw) * 2 - 1,
        keys=((f"night_{world.rank}",),), source_positions=(world.rank,), target_positions=(world.rank,),
    )  # fmt: skip
    assert trainer.step(batch, lr_factor=1.0, stop_requested=world.rank == 1).stop  # any rank's wish is all ranks'
    # The anchor is set at the end of the warm-up, which is no step of an optimiser.
    watched = [
        value
        for name, network in trainer.networks.trained().items()
        if name != "anchor"
        for value in network.parameters()
    ]
    before = [value.clone() for value in watched]
    bad = batch if world.rank == 0 else dataclasses.replace(batch, source=source * math.nan)
    try:
        trainer.step(dataclasses.replace(bad, step=1), lr_factor=1.0)
    except TrainingError as error:
        moved = sum(not torch.equal(a, b) for a, b in zip(before, watched, strict=True))
        sys.stdout.write(f"{error}\n{moved} of {len(watched)} weights changed\n")


def test_the_rank_whose_frames_are_bad_is_named_by_all_and_nobody_updates() -> None:
    for out in run_ranks(__file__, world_size=2):
        message, moved = out.splitlines()
        assert message.startswith(
            "rank 1, step 1: structure_global is nan on night_1; nothing was updated, and no checkpoint"
        )
        assert moved.startswith("0 of ")


if __name__ == "__main__":
    one_rank()
