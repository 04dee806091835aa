"""A test file run as several ranks of one world, each a process, without torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_ranks(script: str, *words: str, world_size: int, timeout_s: float = 150.0) -> list[str]:
    """Run `python script *words` as each rank of a world on this machine, and wait for all of them.

    Args:
        script: The file, as a rule the test's own `__file__`.
        words: Its arguments, the same for every rank.
        world_size: How many ranks.
        timeout_s: How long to wait for each.

    Returns:
        What each rank printed, by rank; all of them ended with 0, or the test fails with what they said on stderr.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, script, *words], env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=timeout_s) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * world_size, "\n".join(err for _, err in said)
    return [out for out, _ in said]
