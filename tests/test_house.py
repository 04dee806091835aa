"""What holds for the house as a whole."""

import ast
import importlib
import re
import subprocess
import sys
from inspect import ismodule
from pathlib import Path

import click
import pytest
import yaml
from processes import PATIENCE_S

from infraredcity.cli import cli

HEAVY = {"torch", "decord", "click", "cv2", "av", "pandas", "pyarrow"}


def modules_after(statement: str, folder: Path) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import infraredcity",
        "import infraredcity.clips",
        "import infraredcity.loader.order",
        "import infraredcity.shards.index",
    ],
)
def test_importing_the_core_stays_light(statement: str, tmp_path: Path) -> None:
    assert modules_after(statement, tmp_path) & HEAVY == set()


@pytest.mark.parametrize("name", ["infraredcity", "roma"])
def test_the_public_names_are_listed_and_there(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__)
    defined = {found for found, value in vars(package).items() if not found.startswith("_") and not ismodule(value)}
    assert defined == set(package.__all__)


def test_the_loaders_names_are_listed_and_come_when_they_are_used() -> None:
    package = importlib.import_module("infraredcity.loader")
    assert package.__all__ == sorted(package.__all__) == dir(package)
    assert {getattr(package, name).__name__ for name in package.__all__} == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


def test_the_loader_needs_torch_numpy_and_a_jpeg_codec_alone(tmp_path: Path) -> None:
    loaded = modules_after("from infraredcity.loader import *", tmp_path)
    assert {"torch", "numpy", "simplejpeg"} <= loaded
    assert loaded & (HEAVY - {"torch"}) == set()


def test_the_help_of_the_command_loads_no_heavy_library(tmp_path: Path) -> None:
    statement = "from infraredcity.cli import cli"
    assert modules_after(statement, tmp_path) & (HEAVY - {"click"}) == set()


def test_processes_of_tests_end_with_them() -> None:
    """They are started by `processes.started` or by a stand-in that kills and awaits them itself, never by a test."""
    stand_ins = {"processes.py", "ray_cluster.py", "s3_server.py", "web_server.py", "cluster.py", Path(__file__).name}
    starters = {path for path in Path(__file__).parent.rglob("*.py") if "subprocess.Popen(" in path.read_text("utf-8")}
    # Two tests end a whole network namespace or torchrun's workers with the process; those of interop need no helper of ours.
    expected = {"test_launch.py", "test_two_nodes.py", "test_accelerate.py", "test_lightning.py"}
    assert {path.name for path in starters} - stand_ins == expected


def test_nobody_waits_for_a_process_for_less_than_the_patience_of_all() -> None:
    short = re.compile(
        r"\b(communicate|wait|run)\([^()]*\btimeout=\d|^ *(capture_output|check)=.*\btimeout=\d", re.MULTILINE
    )
    found = {path.name for path in Path(__file__).parent.rglob("*.py") if short.search(path.read_text("utf-8"))}
    assert found - {Path(__file__).name} == {"test_compiled_step.py"}  # which is run as a script, without our helpers


@pytest.mark.parametrize("package", ["infraredcity", "roma"])
def test_every_room_and_file_says_in_one_line_what_it_holds(package: str) -> None:
    for path in (Path(__file__).resolve().parents[1] / package).rglob("*.py"):
        first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        assert 10 < len(first) <= 150, path
        assert first.endswith("."), path


def test_few_files_lie_outside_of_a_room() -> None:
    root = Path(__file__).resolve().parents[1]
    flat = {path.name for package in ("infraredcity", "roma") for path in (root / package).glob("*.py")}
    assert flat <= {
        "__init__.py", "__main__.py", "clips.py", "command_line.py", "errors.py", "installation.py", "pixels.py", "progress.py",
        "showing.py", "threads.py", "train.py",
    }  # fmt: skip


def commands(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for command in group.commands.values():
        found += commands(command) if isinstance(command, click.Group) else [command]
    return found


def test_the_workflow_may_read_alone_and_names_what_it_runs_by_commit() -> None:
    text = (Path(__file__).resolve().parents[1] / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    used = re.findall(r"uses: (.*)", text)
    assert len(used) >= 4
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_every_command_has_help() -> None:
    assert cli.help
    found = commands(cli)
    assert len(found) >= 6
    for command in found:
        assert command.help, command.name
        assert command.help.strip().splitlines()[0].endswith("."), command.name


@pytest.mark.parametrize("arguments", [["-m", "infraredcity", "--help"], ["-m", "infraredcity", "extract", "--help"]])
def test_the_command_answers_from_another_folder(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: infraredcity")


def test_the_installed_command_answers_from_another_folder(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("infraredcity")
    if not command.exists():
        pytest.skip("the package is not installed with its commands")
    done = subprocess.run(
        [command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert "infraredcity, version" in done.stdout
