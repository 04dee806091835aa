"""From clips to the published layout and back by the commands, also while somebody kills them."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import RunCommand
from processes import PATIENCE_S
from synthetic import LITE_RECIPE

from infraredcity.datasets import dataset
from infraredcity.loader import WindowReader
from infraredcity.shards.by_row import ShardFiles

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lite(extracted: Path, infraredcity: RunCommand, tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(LITE_RECIPE)
    ran = infraredcity(
        "make-lite", "--from", extracted, "--out", tmp_path / "lite", "--recipe", tmp_path / "recipe.toml"
    )
    assert ran.code == 0, ran.stderr
    return tmp_path / "lite"


def pictures(root: Path) -> dict[tuple[str, str], bytes]:
    found = {}
    for part in dataset.open_dataset(root):
        with ShardFiles(part.index, part.path) as files:
            found |= {(part.name, part.index.key(row)): files.image(row) for row in range(len(part.index))}
    return found


def stretches(root: Path) -> dict[str, list[tuple[str, int]]]:
    return {
        part.name: [(part.index.key(start), length) for start, length in part.index.stretches().tolist()]
        for part in dataset.open_dataset(root)
    }


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_lite_set_goes_out_and_comes_back_whole(lite: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("export", "release", lite, "--to", tmp_path / "release", "--kind", "single", "--json")
    assert ran.code == 0, ran.stderr
    assert {row["folder"]: row["num_pictures"] for row in ran.json["rows"]} == {
        "Single/Traffic/City/clearday/testA": 8,
        "Single/Traffic/City/clearday/trainA": 16,
        "Single/Traffic/City/clearday/trainB": 20,
    }
    back = infraredcity("import", tmp_path / "release", "--layout", "release", "--out", tmp_path / "back", "--json")
    assert back.code == 0, back.stderr
    assert {(row["folder"], row["num_frames"]) for row in back.json["rows"]} == {
        ("city/infrared-test", 8),
        ("city/infrared-train", 16),
        ("city/visible-train", 20),
    }
    assert len(pictures(lite)) == 44
    assert pictures(tmp_path / "back") == pictures(lite)
    assert stretches(tmp_path / "back") == stretches(lite)
    verified = infraredcity("verify", tmp_path / "back", "--decode", "all")
    assert verified.code == 0, verified.stdout
    reader = WindowReader([tmp_path / "back/city/infrared-train/*.tar"], window_frames=2, threads=1)
    first = WindowReader([lite / "city/infrared-train/*.tar"], window_frames=2, threads=1)
    assert reader.num_windows == first.num_windows == 14
    reader.close()
    first.close()


def test_the_commands_tell_what_they_did(lite: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("export", "release", lite, "--to", tmp_path / "release")
    assert ran.code == 0
    # Train and test are two runs of 8 and one; the visible ones runs of 8, 8 and 4.
    assert f"{'Double/Traffic/City/clearday/trainA':42} {14:9,}" in ran.stdout.splitlines()
    assert ran.stderr.splitlines()[-1] == f"{tmp_path / 'release'}: {44 + 14 + 7 + 17} pictures, written"
    again = infraredcity("export", "release", lite, "--to", tmp_path / "release")
    assert (again.stdout, again.stderr.splitlines()[-1][-13:]) == (ran.stdout, "nothing to do")
    broken = tmp_path / "release/Single/Traffic/City/clearday/trainA/broken.jpg"
    broken.write_bytes(b"none")
    back = infraredcity("import", tmp_path / "release", "--layout", "release", "--out", tmp_path / "back")
    assert back.code == 1
    assert back.stderr.startswith(f"Error: {broken}: expected a jpg or png whose name ends in a number")
    double = infraredcity(
        "import", tmp_path / "release", "--layout", "release", "--out", tmp_path / "double", "--kind", "double"
    )
    assert double.stderr.splitlines()[-1] == f"{tmp_path / 'double'}: 76 frames of double, written"
    assert infraredcity("verify", tmp_path / "double").code == 0


def test_a_release_whose_folders_all_count_from_0_is_imported_when_asked(
    lite: Path, infraredcity: RunCommand, tmp_path: Path
) -> None:
    infraredcity("export", "release", lite, "--to", tmp_path / "release", "--kind", "single")
    (tmp_path / "release/release.json").unlink()
    for folder in sorted((tmp_path / "release/Single").rglob("t*A")):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{number}.jpg")
    command = ["import", tmp_path / "release", "--layout", "release", "--out", tmp_path / "back"]
    refused = infraredcity(*command)
    assert (refused.code, "--renumber" in refused.stderr) == (1, True)
    assert infraredcity(*command, "--renumber").code == 0
    assert infraredcity("verify", tmp_path / "back").code == 0


def test_descriptions_are_written_beside_the_data(lite: Path, infraredcity: RunCommand) -> None:
    ran = infraredcity("export", "croissant", lite)
    assert ran.code == 0
    assert ran.stdout == f"{lite / 'croissant.json'}: 44 samples in 3 shards\n"
    assert "--license, --creator, --url" in ran.stderr
    assert json.loads((lite / "croissant.json").read_text())["name"] == "lite"
    ran = infraredcity("export", "hf-card", lite, "--name", "Night", "--license", "CC0-1.0", "--json")
    assert ran.json["configs"] == ["city-infrared", "city-visible"]
    assert 'pretty_name: "Night"\nlicense: "cc0-1.0"\n' in (lite / "README.md").read_text()
    assert infraredcity("verify", lite).code == 0


def test_a_description_elsewhere_says_where_it_belongs(lite: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("export", "croissant", lite, "-o", tmp_path / "x.json")
    assert f"the paths in {tmp_path / 'x.json'} are relative to {lite}" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["release"], "Missing option '--to'"),
        (["release", "--to", "x", "--license", "MIT"], "No such option '--license'"),
        (["croissant", "--kind", "both"], "No such option '--kind'"),
        (["hf-card", "--data-version", "1.0.0"], "No such option '--data-version'"),
        (["croissant", "--data-version", "1"], "version must be MAJOR.MINOR.PATCH, got '1'"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    infraredcity: RunCommand, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ran = infraredcity("export", arguments[0], tmp_path, *arguments[1:])
    assert ran.code == 2
    assert message in ran.stderr


@pytest.mark.parametrize("arguments", [["export", "croissant"], ["import", "--layout", "release", "--out", "out"]])
def test_a_folder_that_is_none_is_one_line(infraredcity: RunCommand, tmp_path: Path, arguments: list[str]) -> None:
    ran = infraredcity(*arguments, tmp_path / "gone")
    assert ran.code == 1
    assert ran.stderr.startswith(f"Error: {tmp_path / 'gone'}: no such folder")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["export", "import"])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_killed_ends_with_the_same_bytes(
    lite: Path, infraredcity: RunCommand, infraredcity_process: Start, tmp_path: Path, command: str, seed: int
) -> None:
    assert infraredcity("export", "release", lite, "--to", tmp_path / "release").code == 0

    def start(out: Path) -> "subprocess.Popen[str]":
        if command == "export":
            return infraredcity_process("export", "release", lite, "--to", out)
        return infraredcity_process(
            "import", tmp_path / "release", "--layout", "release", "--out", out, "--samples-per-shard", 1
        )

    def is_data(path: Path) -> bool:
        return path.suffix in (".jpg", ".tar") and not path.name.startswith(".tmp-")

    process = start(tmp_path / "whole")
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    whole = files(tmp_path / "whole")
    out = tmp_path / "killed"
    wanted = random.Random(seed).randint(1, 30)
    process = start(out)
    while process.poll() is None and sum(map(is_data, out.rglob("*"))) < wanted:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    for name, data in files(out).items():
        if "/.tmp-" not in f"/{name}" and name not in ("release.json", "import.json"):
            assert data == whole[name], name
    process = start(out)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "written" in stderr
    assert files(out) == whole
