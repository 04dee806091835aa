"""A Ray cluster on this machine: nodes of one core each, made of processes of their own, which can lose their power."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from processes import PATIENCE_S

_OBJECT_STORE_BYTES = 80_000_000  # about the least that Ray takes


@dataclass
class RayCluster:
    """A cluster that uses no address, port or folder of another one.

    Args:
        work: Its folder, with a short name: Ray's sockets lie in it, and their names end at 107 bytes.
    """

    work: Path
    nodes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def address(self) -> str:
        return (self.work / "ray_current_cluster").read_text()

    def add_node(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a node, the first one as the head, and wait until it is there."""
        where = (
            [
                "--head",
                "--port=0",
                f"--temp-dir={self.work}",
                "--include-dashboard=false",
                f"--ray-client-server-port={_port()}",
            ]
            if not self.nodes
            else [f"--address={self.address}"]
        )
        words = [
            "--block",
            "--num-cpus=1",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--include-log-monitor=false",
        ]
        log = self.work / f"node-{len(self.nodes)}.log"
        with log.open("wb") as said:
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *words],
                cwd=self.work, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | environment,
            )  # fmt: skip
        self.nodes.append(node)
        deadline = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def power_off(self, node: "subprocess.Popen[bytes]") -> None:
        """Kill all processes of a node in one moment."""
        if node.poll() is not None:
            return
        node.send_signal(signal.SIGSTOP)  # or it would report what it sees die
        for pid in (*_below(node.pid), node.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def processes(self, word: bytes, *nodes: "subprocess.Popen[bytes]") -> list[int]:
        """The processes on some nodes, or on all, whose command line holds a word."""
        found = []
        for pid in (pid for node in nodes or self.nodes for pid in _below(node.pid)):
            with suppress(OSError):
                if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def stop(self) -> None:
        """Kill all nodes, the head last."""
        for node in reversed(self.nodes):
            self.power_off(node)


def _below(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for children in Path("/proc").glob(f"{pid}/task/*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *_below(child)]
    return found


def _port() -> int:
    """A port that nobody uses just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
