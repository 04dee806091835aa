"""The whole way as commands, each printed before it runs: what demo.py and real_run.py share."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
CHECKOUT = Path(__file__).resolve().parent.parent


class Pipeline:
    """Runs commands in this Python's environment, shows them as a reader would type them, and stops at the first failure."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self._begun = time.monotonic()

    def run(self, *arguments: str | Path, ok: tuple[int, ...] = (0,)) -> None:
        """One of infraredcity, roma or torchrun with its arguments; exit codes outside `ok` end the program."""
        words = [str(argument) for argument in arguments]
        shown = " ".join(word if word.startswith("-") else shlex.quote(word) for word in words)
        self.commands.append(shown.replace(f"{CHECKOUT}/", ""))
        self.say(f"$ {self.commands[-1]}")
        # torchrun warns when nobody chose this; the trainer shares the cores among its processes by itself.
        environment = {"OMP_NUM_THREADS": "1", **os.environ} if words[0] == "torchrun" else None
        code = subprocess.run([str(BIN / words[0]), *words[1:]], check=False, env=environment).returncode
        if code not in ok:
            sys.exit(f"Error: {words[0]} ended with exit code {code}; its message is above")

    def say(self, text: str) -> None:
        """A line with the time since the beginning."""
        print(f"[{time.monotonic() - self._begun:4.0f} s] {text}", flush=True)

    def train(self, *, lite: Path, scene: str, run: Path, processes: int, settings: tuple[str, ...] = ()) -> None:
        """Train the preset tiny on one scene of a Lite set."""
        chosen = [word for setting in settings for word in ("--set", setting)]
        self.run(
            "torchrun", "--standalone", f"--nproc-per-node={processes}", CHECKOUT / "roma" / "train.py",
            "--preset", "tiny", "--mode", "image", "--infrared", f"{lite / scene}/infrared-train/*.tar",
            "--visible", f"{lite / scene}/visible-train/*.tar", "--out", run, *chosen,
        )  # fmt: skip
