"""Any number of ranks takes the steps that one rank takes at the same global batch; run as a script, this file is one rank."""

import itertools
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ranks import run_ranks

from tests.roma.conftest import SMALL

if TYPE_CHECKING:
    from roma.world.world import World

pytestmark = pytest.mark.distributed

BATCH = 4
STEPS = 4
"""The first is warm-up, where only `colourise` trains; the others have every term."""
EVERY_TERM = (
    "data.load_size_px=72",
    "data.crop_size_px=64",
    "loss.gan=0.3",
    "loss.warmup_steps=1",
    f"batch_size={BATCH}",
)


def gradient_norm(network: Any) -> float:
    """Norm of all gradients but those of biases in front of an instance norm, whose true value is zero."""
    from torch import nn

    idle = set()
    for module in network.modules():
        children = list(module.children())
        for before, after in itertools.pairwise(children):
            if isinstance(after, nn.InstanceNorm2d) and isinstance(before, nn.Conv2d):
                idle.add(id(before.bias))
    squares = [
        float(p.grad.double().square().sum()) for p in network.parameters() if p.grad is not None and id(p) not in idle
    ]
    return math.sqrt(sum(squares))


def one_rank(job: str, result: str) -> None:
    """Take the first steps of every case, and let rank 0 write what all ranks found together."""
    import torch

    from roma.world.meet import joined

    torch.set_num_threads(1)
    # In float64 all that is left is a difference of ranks: in float32 rounding crosses kinks (LeakyReLU, |x|) at some seeds, and
    # norms part by up to 0.006 from there on.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign,assignment]
    with joined("cpu", timeout_s=600.0) as world:
        found = {name: first_steps(case, world) for name, case in json.loads(job).items()}
        if world.is_leader:
            Path(result).write_text(json.dumps(found))


def first_steps(case: dict[str, Any], world: "World") -> list[dict[str, dict[str, float]]]:
    """Losses and gradient norms of the first steps of a case, by all ranks."""
    import torch

    from roma.config.overlay import resolve
    from roma.data import batches
    from roma.training.networks import build_networks
    from roma.training.step import Trainer

    config = resolve("tiny", mode=case["mode"], config_file=None, settings=case["settings"])
    domains = batches.open_domains(config)
    tones = batches.learn_tones(domains)
    networks = build_networks(config, world.device)
    trainer = Trainer(config, networks, world, tones=tones)
    batches = batches.train_batches(domains, config, world, start_step=0)
    steps = []
    for step in range(STEPS):
        world.beat(step)
        batch = next(batches)
        done = trainer.step(batch, lr_factor=1.0, stop_requested=False)
        assert not done.stop
        share = batch.source.shape[0] * world.world_size / BATCH
        names = sorted(done.losses)
        means = world.mean(torch.stack([done.losses[each].double() for each in names]) * share)
        norms = {"generator": gradient_norm(networks.generator)}
        if step >= 1:
            norms["discriminators"] = math.hypot(*map(gradient_norm, networks.discriminators.values()))
        steps.append({"losses": dict(zip(names, means.tolist(), strict=True)), "norms": norms})
    batches.close()
    domains.close()
    return steps


@dataclass
class Worlds:
    """Runs of the same cases by different numbers of ranks, each made once."""

    shards: Path
    results: Path
    made: dict[int, dict[str, list[dict[str, dict[str, float]]]]] = field(default_factory=dict)

    def of(self, world_size: int) -> dict[str, list[dict[str, dict[str, float]]]]:
        if world_size not in self.made:
            self.made[world_size] = self._run(world_size)
        return self.made[world_size]

    def _run(self, world_size: int) -> dict[str, list[dict[str, dict[str, float]]]]:
        settings = [
            *SMALL, *EVERY_TERM,
            f'data.infrared=["{self.shards}/infrared/*.tar"]', f'data.visible=["{self.shards}/visible/*.tar"]',
        ]  # fmt: skip
        cases = {
            "image": {"mode": "image", "settings": settings},
            "video": {"mode": "video", "settings": settings},
            "video, clipped": {"mode": "video", "settings": [*settings, "optim.clip_norm=0.05"]},
        }
        if world_size == 2:
            accumulated = [*settings, "compute.micro_batch=1"]
            cases |= {f"{mode}, accumulated": {"mode": mode, "settings": accumulated} for mode in ("image", "video")}
        result = self.results / f"world-{world_size}.json"
        run_ranks(__file__, json.dumps(cases), str(result), world_size=world_size)
        found: dict[str, list[dict[str, dict[str, float]]]] = json.loads(result.read_text())
        return found


@pytest.fixture(scope="module")
def worlds(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(shards, tmp_path_factory.mktemp("worlds"))


Steps = list[dict[str, dict[str, float]]]


def check_same(expected: Steps, found: Steps) -> None:
    """Every loss and gradient norm of every step within the rounding of float64."""
    assert len(found) == len(expected) == STEPS
    far: dict[str, float] = {}
    for step, (one, many) in enumerate(zip(expected, found, strict=True)):
        for kind in ("losses", "norms"):
            assert one[kind].keys() == many[kind].keys()
            for name, value in one[kind].items():
                assert value > 0, (step, name)  # a term that is off would agree with anything
                # `anchor` compares networks that have hardly parted, so its value is a difference of nearly equal numbers.
                far[f"{name} {step}"] = abs(many[kind][name] - value) / max(value, 0.01)
    assert max(far.values()) < 1e-10, far


@pytest.mark.parametrize("mode", ["image", "video", "video, clipped"])
@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_take_the_steps_of_one_rank_also_with_unequal_shares(worlds: Worlds, world_size: int, mode: str) -> None:
    check_same(worlds.of(1)[mode], worlds.of(world_size)[mode])


@pytest.mark.parametrize("mode", ["image", "video"])
def test_accumulated_steps_on_two_ranks_are_the_steps_of_one_rank(worlds: Worlds, mode: str) -> None:
    check_same(worlds.of(1)[mode], worlds.of(2)[f"{mode}, accumulated"])


def test_every_term_of_the_losses_is_compared(worlds: Worlds) -> None:
    terms = set(worlds.of(1)["video"][-1]["losses"])
    assert terms == {
        "colourise", "structure_global", "structure_local", "motion", "anchor", "edges", "gan_generator", "gan_discriminator",
        "patch_generator", "patch_discriminator", "detail_generator", "detail_discriminator", "generator_total",
    }  # fmt: skip


if __name__ == "__main__":
    one_rank(sys.argv[1], sys.argv[2])
