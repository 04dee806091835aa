"""A stand-in for SLURM: `sbatch` that writes down what it is given, and this side, which runs it as a cluster would."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from processes import PATIENCE_S, started

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "tools" / "cluster"
_SBATCH = """#!{python}
import json, sys
with open({calls!r}, "a+") as calls:
    calls.seek(0)
    number = 100 + len(calls.readlines())
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print(number if "--parsable" in sys.argv else f"Submitted batch job {{number}}")
"""


@dataclass(frozen=True)
class Task:
    """One task that ran: its job, its place in the array (None for a job that is none), exit code, what it printed."""

    job: int
    number: int | None
    code: int
    said: str


def expanded(expression: str) -> list[int]:
    """The numbers of an array expression such as 0-3,7; what stands behind % says how many run at a time."""
    ranges = [part.split("-") for part in expression.partition("%")[0].split(",")]
    return [number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)]


def directives(script: Path) -> dict[str, str]:
    """The #SBATCH lines of a script, by option; "" for one without a value."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(found)


class Slurm:
    """Where scripts for SLURM run: a folder with the checkout's tools, and programs that stand in for the cluster's.

    Args:
        folder: An empty one.
        cpus: What each task has; by default what its script asks for.
    """

    def __init__(self, folder: Path, *, cpus: int | None = None) -> None:
        self.folder = folder
        self._cpus = cpus
        self._calls = folder / "calls"
        self._calls.touch()
        self._num_run = 0
        programs = folder / "venv" / "bin"
        programs.mkdir(parents=True)
        (folder / "tools").symlink_to(ROOT / "tools")
        for name, text in {
            "sbatch": _SBATCH.format(python=sys.executable, calls=str(self._calls)),
            "infraredcity": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m infraredcity "$@"\n',
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        told = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "VENV": str(programs.parent)}
        given = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "INFRAREDCITY_"))}
        self.environment = given | told

    def bash(self, text: str) -> "subprocess.CompletedProcess[str]":
        """Commands as somebody types them."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE_S,
        )  # fmt: skip

    def begin(self, job: int, words: list[str], **environment: str) -> "AbstractContextManager[subprocess.Popen[str]]":
        """A batch script with its arguments, as the process that SLURM starts and sends signals to."""
        script = self.folder / words[0]
        given = {
            "SLURM_JOB_ID": str(job),
            "SLURM_CPUS_PER_TASK": str(self._cpus or directives(script)["cpus-per-task"]),
        }
        return started(
            ["bash", script, *words[1:]], cwd=self.folder, env=self.environment | given | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def calls(self) -> list[list[str]]:
        """The words behind each sbatch so far."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()]

    def run_queue(self) -> list[Task]:
        """Run what was handed in, and what that hands in, in that order; all tasks that ran."""
        ran: list[Task] = []
        while self._num_run < len(self.calls()):
            job = 100 + self._num_run
            words = self.calls()[self._num_run]
            self._num_run += 1
            options = dict(re.fullmatch(r"--([a-z-]+)=?(.*)", word).groups() for word in words if word.startswith("--"))  # type: ignore[union-attr]
            if "dependency" in options:
                kind, _, before = options["dependency"].partition(":")
                assert kind == "afterany"
                assert 100 <= int(before) < job  # jobs run here in the order of their numbers
            plain = [word for word in words if not word.startswith("--")]
            for number in expanded(options["array"]) if "array" in options else [None]:
                told = {} if number is None else {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(number)}
                with self.begin(job, plain, **told) as process:
                    said, _ = process.communicate(timeout=PATIENCE_S)
                ran.append(Task(job, number, process.returncode, said))
        return ran
