"""A compiled step is the same step; run as a script, this file takes two of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = (
    "vit.weights=random", "vit.image_size=128", "vit.width=64", "vit.num_heads=4", "vit.depth=4", "vit.layers=[0, 1, 2]",
    "generator.width=8", "generator.num_blocks=1", "loss.region_sizes=[2, 4]", "data.crop_size_px=64", "data.load_size_px=64",
)  # fmt: skip


def two_steps(is_compiled: bool) -> list[dict[str, float]]:
    import torch

    from roma.config.overlay import resolve
    from roma.data.batches import TrainBatch
    from roma.training.networks import build_networks
    from roma.training.step import Trainer
    from roma.world.world import World

    torch.set_num_threads(1)
    settings = [*SETTINGS, f"compute.compile={json.dumps(is_compiled)}"]
    config = resolve("roma", mode=None, config_file=None, settings=settings)
    cpu = torch.device("cpu")
    trainer = Trainer(config, build_networks(config, cpu), World(rank=0, world_size=1, device=cpu))
    draw = torch.Generator().manual_seed(1)
    found = []
    for step in range(2):
        source, target = (torch.rand(1, 2, channels, 64, 64, generator=draw) * 2 - 1 for channels in (1, 3))
        batch = TrainBatch(
            step=step, source=source.expand(-1, -1, 3, -1, -1), target=target, keys=(("a", "b"),), source_positions=(0,),
            target_positions=(0,),
        )  # fmt: skip
        result = trainer.step(batch, lr_factor=1.0)
        found.append({name: float(value) for name, value in result.losses.items()} | result.grad_norms)
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_step_has_the_losses_and_gradients_of_a_plain_one(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, __file__], cwd=root, capture_output=True, text=True, check=True, timeout=900,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(root), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    plain, compiled = json.loads(done.stdout)
    for one, other in zip(plain, compiled, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-3 if name in ("generator", "discriminator") else 1e-5), (
                name
            )


if __name__ == "__main__":
    sys.stdout.write(json.dumps([two_steps(False), two_steps(True)]))
