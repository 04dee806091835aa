"""A test file run as several ranks of one world, each a process, without torchrun."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from processes import PATIENCE_S, started

ROOT = Path(__file__).resolve().parents[1]


def run_ranks(script: str, *words: str, world_size: int) -> list[str]:
    """Run `python script *words` as each rank of a world on this machine, and wait for all of them.

    Args:
        script: The file, as a rule the test's own `__file__`.
        words: Its arguments, the same for every rank.
        world_size: How many ranks.

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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                started([sys.executable, script, *words], env=environment | {"RANK": str(rank)}, **pipes)
            )
            for rank in range(world_size)
        ]
        said = [process.communicate(timeout=PATIENCE_S) for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world_size, "\n".join(err for _, err in said)
    return [out for out, _ in said]
