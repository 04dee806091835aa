"""Small clusters on one machine: network namespaces with names and addresses of their own, joined by a bridge.

A node is a process tree in namespaces of its own for network, host name and process ids. It can lose its cable and its power, and
come back. Needs Linux, root and iproute2; `skip_reason` says what is missing.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from processes import PATIENCE_S

from roma.training.metrics import read_metrics
from tests.roma.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "roma" / "train.py"
RENDEZVOUS = ROOT / "tools" / "rendezvous.py"
_DONE = re.compile(r"step (\d+): infrared positions ([\d ]*); visible positions ([\d ]*)$")


@cache
def skip_reason() -> str:
    """Why no namespaces can be made here; "" when they can."""
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"needs {program}, of iproute2 and util-linux"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    name = f"probe-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def train_words(shards: Path, run: Path, *settings: str, options: Sequence[str] = ()) -> list[str]:
    """`roma/train.py` on tiny shards, every step logged."""
    words = [str(TRAIN), "--preset", "tiny", "--device", "cpu", "--quiet", "--verbose", "--out", str(run), *options]
    words += ["--infrared", f"{shards}/infrared/*.tar", "--visible", f"{shards}/visible/*.tar"]
    for setting in (*SMALL, *settings):
        words += ["--set", setting]
    return words


@dataclass
class Node:
    """A machine: at `address`, called `name`, behind the bridge's port `port`."""

    name: str
    address: str
    namespace: str
    port: str
    hub: str
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Run a command here, in the background; what it says is appended to `log`."""
        inside = ["sh", "-c", 'hostname "$0"; exec "$@"', self.name, *words]
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", *inside]
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "GLOO", "MASTER"))
        }
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *apart], stdout=said, stderr=said, start_new_session=True,
                env=kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(environment or {}),
            )  # fmt: skip

    def wait(self) -> int:
        """The exit code of what runs here."""
        assert self.process is not None
        return self.process.wait(timeout=PATIENCE_S)

    def terminate(self) -> None:
        """SIGTERM to the command, as a scheduler sends it."""
        assert self.process is not None
        # `ip` and `unshare` only wait; the command is what they wait for.
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        os.kill(int(found.stdout.split()[0]), signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL everything that runs here; the network stays, so the others' connections are closed."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def cut_off(self) -> None:
        """Pull the cable: packets are lost from now on, and nobody is told."""
        ip("-n", self.hub, "link", "set", self.port, "down")

    def connect(self) -> None:
        """Put the cable back."""
        ip("-n", self.hub, "link", "set", self.port, "up")

    def lose_power(self) -> None:
        """Gone without a word: first the cable, then every process."""
        self.cut_off()
        self.kill()

    def said(self) -> str:
        """Everything that was printed here."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Cluster:
    """Two nodes, and a hub with the bridge, an address of its own and, for training, the rendezvous."""

    folder: Path
    has_rendezvous: bool = True
    nodes: list[Node] = field(default_factory=list)
    tag: str = field(default_factory=lambda: secrets.token_hex(2))
    endpoint: str = "10.87.0.1:29400"
    rendezvous: Node | None = None

    @property
    def hub(self) -> str:
        """The hub's namespace."""
        return f"hub-{self.tag}"

    def __enter__(self) -> "Cluster":
        hub = self.hub
        try:
            ip("netns", "add", hub)
            ip("-n", hub, "link", "set", "lo", "up")
            ip("-n", hub, "link", "add", "bridge0", "type", "bridge")
            ip("-n", hub, "addr", "add", "10.87.0.1/24", "dev", "bridge0")
            ip("-n", hub, "link", "set", "bridge0", "up")
            for number, name in enumerate(("node-a", "node-b")):
                namespace, port, address = f"{name}-{self.tag}", f"port{number}", f"10.87.0.{11 + number}"
                ip("netns", "add", namespace)
                ip("link", "add", port, "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", namespace)
                ip("-n", hub, "link", "set", port, "master", "bridge0")
                ip("-n", hub, "link", "set", port, "up")
                ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", namespace, "link", "set", "eth0", "up")
                ip("-n", namespace, "link", "set", "lo", "up")
                log = self.folder / f"{name}.log"
                self.nodes.append(Node(name, address, namespace, port, hub, log))
            if self.has_rendezvous:
                self._start_rendezvous()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in [*self.nodes, *([self.rendezvous] if self.rendezvous else [])]:
            node.kill()
        for name in (*(node.namespace for node in self.nodes), self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _start_rendezvous(self) -> None:
        node = self.rendezvous = Node("hub", "10.87.0.1", self.hub, "", self.hub, self.folder / "rendezvous.log")
        node.start([sys.executable, str(RENDEZVOUS), "--host", "10.87.0.1", "--port", "29400"])
        wait_until(lambda: "rendezvous store on" in node.said(), what=node.said)

    def torchrun(
        self,
        node: Node,
        train: Sequence[str],
        *,
        nodes: str,
        run_id: str,
        conf: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a node's torchrun, one process, as docs/clusters.md says."""
        words = [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=1", "--max-restarts=20",
            "--monitor-interval=0.2", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.endpoint}", f"--rdzv-id={run_id}",
            f"--rdzv-conf=is_host=0,keep_alive_interval=1,join_timeout=120{conf}", f"--local-addr={node.address}",
        ]  # fmt: skip
        node.start([*words, *train], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | dict(environment or {}))

    def said(self) -> str:
        """What all nodes printed, for the message of a failing test."""
        return "\n".join(f"--- {node.name}\n{node.said()[-6000:]}" for node in self.nodes)


def ip(*words: str) -> None:
    """Run iproute2."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def wait_until(holds: "object", *, what: "object") -> None:
    """Wait for a condition; AssertionError with `what()` when it does not come."""
    assert callable(holds)
    assert callable(what)
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def steps_in(run: Path) -> list[int]:
    """The steps of metrics.jsonl, in its order."""
    return [int(line["step"]) for line in read_metrics(run)]


def positions_read(run: Path, *, batch_size: int) -> dict[int, dict[str, list[int]]]:
    """For each step that led to the final weights, the positions that its ranks read of each domain.

    A restart repeats the steps after its checkpoint, so each rank's last word on a step counts. How many ranks took part in it is
    told by the size of rank 0's share.
    """
    logs = {}
    for path in sorted((run / "logs").glob("rank-*.log")):
        last: dict[int, tuple[list[int], list[int]]] = {}
        for line in path.read_text().splitlines():
            found = _DONE.search(line)
            if found:
                last[int(found[1])] = ([int(p) for p in found[2].split()], [int(p) for p in found[3].split()])
        logs[int(path.stem.removeprefix("rank-"))] = last
    read = {}
    for step, (infrared, visible) in sorted(logs[0].items()):
        num_ranks = batch_size // len(infrared)
        read[step] = {"infrared": list(infrared), "visible": list(visible)}
        for rank in range(1, num_ranks):
            read[step]["infrared"] += logs[rank][step][0]
            read[step]["visible"] += logs[rank][step][1]
    return read


def check_positions(run: Path, *, steps: int, batch_size: int) -> None:
    """Of what led to the final weights: each step read its own positions, every one once, in both domains."""
    read = positions_read(run, batch_size=batch_size)
    assert sorted(read) == list(range(steps))
    for step, domains in read.items():
        expected = list(range(step * batch_size, (step + 1) * batch_size))
        assert {name: sorted(places) for name, places in domains.items()} == {"infrared": expected, "visible": expected}
