"""When a world is left, the threads of its collectives have ended; run as a script, this file is one rank."""

import json
import sys
from pathlib import Path

import pytest
from ranks import run_ranks

from roma.config import overlay
from tests.roma.conftest import SMALL

pytestmark = pytest.mark.distributed

PRETRAINING = tuple(setting for setting in SMALL if setting.startswith(("data.", "vit.")) and "layers" not in setting)


def gloo_threads() -> int:
    """How many threads of this process, by the names that torch gives them, are gloo's."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)


def one_rank(command: str, infrared: str, visible: str, run: str) -> None:
    """Train for a step and write how many threads gloo has before and after the end."""
    from roma.pretrain import config, task
    from roma.training import trainer
    from roma.world.meet import joined

    shards = [f'data.infrared=["{infrared}"]', f'data.visible=["{visible}"]', "batch_size=2", "schedule.total_steps=2"]
    with joined("cpu", timeout_s=600.0) as world:
        if command == "train":
            settings = overlay.resolve("tiny", mode="image", config_file=None, settings=[*SMALL, *shards])
            trainer.train(settings, Path(run), world)
        else:
            settings = config.resolve("tiny", config_file=None, settings=[*PRETRAINING, *shards])
            task.pretrain(settings, Path(run), world)
        inside = gloo_threads()
    sys.stdout.write(json.dumps([inside, gloo_threads()]))


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_no_thread_of_gloo_outlives_the_world(command: str, shards: Path, tmp_path: Path) -> None:
    # One that holds a tensor while the interpreter goes down aborts the process, in one end of thirty on a busy machine.
    words = (command, f"{shards}/infrared/*.tar", f"{shards}/visible/*.tar", str(tmp_path / "run"))
    for out in run_ranks(__file__, *words, world_size=2):
        inside, afterwards = json.loads(out)
        assert inside >= 2
        assert afterwards == 0


if __name__ == "__main__":
    one_rank(*sys.argv[1:])
