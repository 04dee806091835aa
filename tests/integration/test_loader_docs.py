"""What docs/loader.md shows another project, and docs/shards.md of the manifest, run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S

from infraredcity.datasets import lite
from infraredcity.datasets.recipe import Cell, Recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "loader.md").read_text(encoding="utf-8")
BLOCKS = [
    (section.partition("\n")[0], block)
    for section in PAGE.split("\n## ")[1:]
    for block in re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
]
FAR = "https://data.example.org"


@pytest.fixture(scope="module")
def project(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's folder with a Lite set in it."""
    folder = tmp_path_factory.mktemp("project")
    cells = (Cell(scene="city", clip="city_clear", train=24, test=8), Cell(scene="city", clip="city_day", train=20))
    lite.build(
        extracted, folder / "lite", Recipe(name="tiny", run_frames=8, guard_frames=3, window_frames=2, cells=cells)
    )
    return folder


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"INFRAREDCITY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_block_of_the_page_is_run_here() -> None:
    assert len(BLOCKS) == PAGE.count("```python\n")
    assert len(BLOCKS) >= 8
    assert sum(FAR in block for _, block in BLOCKS) == 1


@pytest.mark.parametrize(
    "number", range(len(BLOCKS)), ids=[f"{title}-{number}" for number, (title, _) in enumerate(BLOCKS)]
)
def test_a_block_of_the_page_runs_as_it_stands(project: Path, number: int) -> None:
    for package in ("accelerate", "pytorch_lightning"):
        if re.search(rf"^(import|from) {package}\b", BLOCKS[number][1], flags=re.MULTILINE):
            pytest.importorskip(package, reason=f"{package} is not installed here; make interop runs this block")
    script = project / "block.py"
    script.write_text(BLOCKS[number][1].replace(FAR, f"file://{project}"), encoding="utf-8")
    run([sys.executable, str(script)], project)


def test_the_commands_of_the_page_run_behind_its_blocks(project: Path) -> None:
    (block,) = (block for title, block in BLOCKS if title == "Monitoring")
    run([sys.executable, "-c", block], project)
    commands = re.findall(r"```sh\n(.*?)\n```", PAGE, flags=re.DOTALL)
    assert commands == ["infraredcity monitor loader"]
    printed = run([sys.executable, "-m", *commands[0].split()], project).splitlines()
    assert printed[0].split() == ["rank", "written", "position", "frames/s", "MB/s", "read", "decode", "wait", "cache",
                                  "fetched", "replaced", "bad"]  # fmt: skip
    assert printed[1].split()[0] == "0/1"
    told = run([sys.executable, "-m", *commands[0].split(), "--json"], project)
    assert '"wait_share"' in told


def test_the_manifest_is_read_as_its_page_shows(project: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "shards.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = run([sys.executable, "-c", block], project).splitlines()
    assert lines[0] == "52 8 double"
    assert lines[1].split() == ["key", "time_s"]
