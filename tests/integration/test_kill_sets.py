"""Making data sets from others while somebody kills the program: the same command begins again and ends with the same bytes."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import PATIENCE_S
from synthetic import LITE_RECIPE

Start = Callable[..., "subprocess.Popen[str]"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("command", ["shard", "make-lite"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_set_whose_making_was_killed_ends_with_the_same_bytes(
    extracted: Path, infraredcity_process: Start, tmp_path: Path, command: str, seed: int
) -> None:
    (tmp_path / "recipe.toml").write_text(LITE_RECIPE)

    def start(out: Path) -> "subprocess.Popen[str]":
        if command == "shard":
            return infraredcity_process("shard", extracted, "--out", out, "--samples-per-shard", 1)
        return infraredcity_process(
            "make-lite", "--from", extracted, "--out", out, "--recipe", tmp_path / "recipe.toml"
        )

    process = start(tmp_path / "whole")
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    whole = files(tmp_path / "whole")
    out = tmp_path / "killed"
    moment = random.Random(seed)
    wanted = moment.randint(1, 60) if command == "shard" else seed
    process = start(out)
    while process.poll() is None and len(list(out.rglob("*.tar"))) < wanted:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    # Whatever stands under a final name is whole; the record, begun before the first shard, says that the set is not.
    record = f"{'shards' if command == 'shard' else 'lite'}.json"
    for name, data in files(out).items():
        if "/.tmp-" not in f"/{name}" and name != record:
            assert data == whole[name], name
    process = start(out)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "written" in stderr
    assert files(out) == whole
