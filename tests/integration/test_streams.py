"""Commands whose output nobody can take: closed, full, a reader that went; and names that the system refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S
from synthetic import Shelf

INFRAREDCITY = f"{sys.executable} -m infraredcity"
ROMA = f"{sys.executable} -m roma"


def shell(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, text=True,
        capture_output=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.fixture
def clips(shelf: Shelf, tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    shutil.copy(shelf.gray, tmp_path / "clips" / f"city_clear{shelf.gray.suffix}")
    return tmp_path


def test_a_closed_stderr_changes_nothing_but_that_nobody_reads_it(clips: Path):
    done = shell(f"{INFRAREDCITY} extract --clips-dir clips --clip city_clear --out out 2>&-", clips)
    assert (done.returncode, done.stderr) == (0, "")
    assert (clips / "out" / "city_clear" / "index.npz").is_file()
    done = shell(f"{INFRAREDCITY} verify out 2>&- >said; echo $?; cat said", clips)
    assert done.stdout.startswith("0\n")
    assert ": OK" in done.stdout
    done = shell(f"{INFRAREDCITY} verify none 2>&-", clips)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_file_that_is_opened_does_not_become_the_closed_stderr(clips: Path):
    # What a library writes to the number 2 would otherwise land in it.
    code = (
        "import os, sys; from infraredcity.command_line import exit_code_of; from pathlib import Path; "
        "sys.exit(exit_code_of(lambda: (open('data', 'w'), os.write(2, b'complaint'), 0)[2]))"
    )
    done = shell(f'{sys.executable} -c "{code}" 2>&- <&-', clips)
    assert done.returncode == 0
    assert (clips / "data").read_bytes() == b""


def test_a_full_output_is_one_line(clips: Path):
    for line in (
        f"{INFRAREDCITY} clips --clips-dir clips >/dev/full",
        f"{INFRAREDCITY} clips --clips-dir clips --json >/dev/full",
        f"{ROMA} train --out run --preset tiny --dry-run >/dev/full",
    ):
        done = shell(line, clips)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "Error: no space left on device"
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_a_full_stderr_is_silence(clips: Path):
    for line in (f"{INFRAREDCITY} verify none 2>/dev/full", f"{ROMA} report none -o a.html 2>/dev/full"):
        done = shell(line, clips)
        assert (done.returncode, done.stdout) == (1, "")


def test_a_reader_that_went_is_silence(clips: Path):
    done = shell(f"set -o pipefail; {INFRAREDCITY} clips --clips-dir clips | true", clips)
    assert done.returncode in (0, 1)  # the pipe may break before or after the last line
    assert done.stderr == ""


LONG = "n" * 300


@pytest.mark.parametrize(
    "command",
    [
        f"{INFRAREDCITY} extract --clips-dir clips --clip city_clear --out {LONG}",
        f"{INFRAREDCITY} verify {LONG}",
        f"{INFRAREDCITY} probe {LONG}",
        f"{ROMA} report {LONG} -o a.html",
        f"{ROMA} train --preset tiny --infrared a.tar --visible b.tar --out {LONG}",
    ],
)
def test_a_name_that_is_too_long_is_one_line(clips: Path, command: str):
    done = shell(command, clips)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"Error: {LONG}")
    assert "file name too long" in done.stderr
