"""Small data sets by our own commands, what every reader should find in them, and readers run as processes of their own.

A reader runs elsewhere so that its warnings, caches and settings touch nothing here. The tests skip where its package is missing;
`make interop` installs all of them beside each other.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop_sets import needs
from processes import PATIENCE_S

from infraredcity.datasets import lite
from infraredcity.datasets.recipe import Cell, Recipe

Reader = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def lite_set(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lite set of 44 samples: city/infrared-train (16), city/infrared-test (8), city/visible-train (20)."""
    cells = (Cell(scene="city", clip="city_clear", train=16, test=8), Cell(scene="city", clip="city_day", train=20))
    out = tmp_path_factory.mktemp("interop") / "lite"
    lite.build(extracted, out, Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells))
    return out


@pytest.fixture
def read_with(tmp_path: Path) -> Reader:
    """Run a script in a process of its own; the JSON lines it prints. Skips where its package is missing."""

    def run(package: str, script: str, *arguments: object) -> list[Any]:
        needs(package)
        caches = {"HF_HOME": "hf", "CROISSANT_CACHE": "croissant", "WIDS_CACHE": "wids"}
        environment = os.environ | {name: str(tmp_path / "cache" / place) for name, place in caches.items()}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]

    return run
