"""Commands as processes of their own: what they have written so far, which workers they have, and who still lives."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 900.0
"""How long a test waits for what must come. On a busy machine everything comes, only later; only what hangs meets this."""

Start = Callable[..., "subprocess.Popen[str]"]
"""The fixture `infraredcity_process`."""


@contextlib.contextmanager
def started(command: list[Any], **options: Any) -> "Iterator[subprocess.Popen[str]]":
    """A process that is killed, waited for and rid of its pipes at the end of the block, however the block ends."""
    process = subprocess.Popen(list(map(str, command)), text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def wait_for_shards(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Wait until `folder` has so many shards, or the process has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(folder.glob("*.tar"))) >= count:
            return
        time.sleep(0.002)


def wait_for_file(process: "subprocess.Popen[str]", path: Path) -> None:
    """Wait until `path` is there, or the process has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline and not path.exists():
        time.sleep(0.002)


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pids: list[int]) -> list[int]:
    """Wait for some processes to end; those that did not."""
    deadline = time.monotonic() + PATIENCE_S
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [pid for pid in pids if is_alive(pid)]


def new_worker(process: "subprocess.Popen[str]", seen: set[int]) -> int:
    """The id of a worker process that was not seen before, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        for pid in children_of(process.pid):
            with contextlib.suppress(OSError):
                if pid not in seen and b"executors.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    seen.add(pid)
                    return pid
        time.sleep(0.002)
    raise AssertionError("no new worker")


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What a process that must end with `code` said on stderr."""
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, stderr
    return stderr
