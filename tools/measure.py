"""Time, CPU and memory of commands, and the machine they ran on: what bench_extract.py, bench_scale.py and rehearse.py share."""

import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
INFRAREDCITY = (sys.executable, "-m", "infraredcity")
"""This checkout's command, whatever is installed: `run` puts the checkout first on Python's path."""

_SAMPLE_EVERY_S = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LIBRARIES = ("av", "imageio-ffmpeg", "numpy", "opencv-python-headless", "simplejpeg")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How one command ended.

    Attributes:
        wall_s: From before its start to its end.
        cpu_s: User and system time of the process and of the children it waited for.
        peak_rss_bytes: Largest sum over the process tree, sampled; 0 when nobody asked.
        max_rss_bytes: Most that one process had at a time, the command's own or one that it waited for, as the kernel counts it.
        code: Exit code.
        stdout: What it printed.
        stderr: What it said.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    max_rss_bytes: int
    code: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, watch_memory: bool = False) -> Ran:
    """Run a command to its end; when this program is stopped, so is the command.

    Args:
        arguments: The command. Python finds this checkout's packages and tools.
        watch_memory: Sample the memory of the command's process tree; that takes some percent of a core itself.
    """
    words = [str(argument) for argument in arguments]
    python_path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tools"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": python_path.rstrip(os.pathsep)}
    environment.pop("INFRAREDCITY_CLIPS", None)
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        begun = time.perf_counter()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
        watcher = _MemoryWatcher(process.pid) if watch_memory else None
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _end(process)
            raise
        finally:
            peak = watcher.stop() if watcher else 0
        wall_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        return Ran(
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_rss_bytes=peak,
            max_rss_bytes=usage.ru_maxrss * 1024,
            code=process.returncode,
            stdout=stdout.read().decode(errors="replace"),
            stderr=stderr.read().decode(errors="replace"),
        )


def succeed(*arguments: str | Path, ok: tuple[int, ...] = (0,), watch_memory: bool = False) -> Ran:
    """As `run`; an exit code outside `ok` ends the program with the command and its last words."""
    ran = run(*arguments, watch_memory=watch_memory)
    if ran.code not in ok:
        shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in map(str, arguments))
        last_words = "\n".join(ran.stderr.strip().splitlines()[-5:])
        sys.exit(f"Error: exit code {ran.code} from: {shown}\n{last_words}")
    return ran


def _end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL for what does not go; a command that ended meanwhile is only collected."""
    process.terminate()
    with suppress(ChildProcessError):
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _MemoryWatcher:
    """A thread that keeps the largest resident memory of a process and all its descendants together."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_EVERY_S):
            self._peak = max(self._peak, tree_rss_bytes(self._pid))


def tree_rss_bytes(root: int) -> int:
    """Resident memory of a process and its descendants; pages that they share are counted for each."""
    parents: dict[int, int] = {}
    rss: dict[int, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  # twenty times a second: plain strings are cheaper
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()  # the name before it may hold blanks
        except OSError:  # it ended while we looked
            continue
        parents[int(entry)] = int(fields[1])
        rss[int(entry)] = int(fields[21]) * _PAGE_BYTES
    total = 0
    wanted = {root}
    while wanted:
        total += sum(rss.get(pid, 0) for pid in wanted)
        wanted = {pid for pid, parent in parents.items() if parent in wanted}
    return total


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, treated as Ctrl-C is."""


@contextmanager
def interruptible(program: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block by a KeyboardInterrupt, the program with one line and exit code 130 or 143."""

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except KeyboardInterrupt as stop:
        print(f"{program}: stopped", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, _TerminatedError) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def ffmpeg_command() -> tuple[str, ...]:
    """The static ffmpeg of imageio-ffmpeg, quiet; it overwrites."""
    from imageio_ffmpeg import get_ffmpeg_exe

    return (get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y")


def machine_facts() -> dict[str, Any]:
    """What a time depends on: processor, cores that may be used, versions, and how busy the machine was."""
    return {
        "processor": _processor(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES,
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "checkout": _checkout_state(),
        "load_average_before": os.getloadavg()[0],
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """`machine_facts` in short, and a warning when the machine had other things to do."""
    load, cores = machine["load_average_before"], machine["num_cores"]
    line = f"{machine['processor']}, {cores} cores, commit {machine['checkout']}, load before {load:.1f}"
    return line if load < cores / 4 else f"{line}: BUSY, its times say little"


def megabytes(size_bytes: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size_bytes / 2**20:.0f} MiB"


def table(header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Columns under their names, the first one to the left, the others to the right."""
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in header]
    lines = []
    for row in ({name: name for name in header}, *rows):
        cells = [row[name].rjust(width) for name, width in zip(header, widths, strict=True)]
        cells[0] = row[header[0]].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _checkout_state() -> str:
    """The commit, and whether files differ from it."""
    try:
        described = subprocess.run(
            ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return "unknown"
    return described.stdout.strip() or "unknown"
