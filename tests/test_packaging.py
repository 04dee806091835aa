"""What a user installs: the wheel outside the checkout, the extras, and a bare install without any of them."""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from processes import PATIENCE_S

CHECKOUT = Path(__file__).resolve().parents[1]
EVERY_EXTRA = (
    "fsspec",
    "urllib3",
    "webdataset",
    "av",
    "cv2",
    "pandas",
    "pyarrow",
    "torch",
    "decord",
    "tensorboard",
    "jaxtyping",
    "safetensors",
    "beartype",
    "jinja2",
)


def requirements(extra: str | None) -> set[str]:
    """Names of the distributions that an extra, or the base, asks for directly."""
    names = set()
    for line in importlib.metadata.requires("infraredcity") or []:
        name = re.match(r"[\w-]+", line)
        assert name is not None
        marker = re.search(r"extra == ['\"](\w+)['\"]", line)
        if (marker.group(1) if marker else None) == extra:
            names.add(name.group())
    return names


def in_bare_install(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a Python that finds none of the optional packages."""
    code = (
        "import sys, runpy\n"
        f"for name in {EVERY_EXTRA!r}: sys.modules[name] = None\n"
        f"sys.argv = {list(arguments)!r}\n"
        f"runpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=True)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_base_and_loader_stay_small():
    assert requirements(None) == {"click", "msgspec", "numpy", "simplejpeg"}
    assert requirements("loader") == {"torch"}
    assert "torch" not in requirements("extract")


@pytest.mark.parametrize("command", ["infraredcity", "roma"])
def test_help_works_in_a_bare_install(command: str):
    ended = in_bare_install(command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Commands:" in ended.stdout


def test_catalogue_works_in_a_bare_install():
    assert "city_clear" in in_bare_install("infraredcity", "clips").stdout


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("infraredcity", "probe", "x.mp4"), "PyAV", "extract"),
        (("infraredcity", "sample", "never-made"), "opencv-python-headless", "extract"),
        (("roma", "train", "--out", "x"), "", "train"),
        (("roma", "translate", "s.pt", "v.mp4", "-o", "o.mp4"), "", "train"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    arguments: tuple[str, ...], package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    ended = in_bare_install(*arguments)
    assert ended.returncode == 1
    command = re.escape(f"pip install -e {shlex.quote(f'{CHECKOUT}[{extra}]')}")
    assert re.fullmatch(rf"Error: .*{package}.*{command}\n", ended.stderr), ended.stderr


def test_wheel_carries_code_types_and_manifests_and_works_outside_the_checkout(tmp_path: Path):
    from hatchling.builders.wheel import WheelBuilder

    wheel = Path(next(WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path))))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    for name in ("clips", "lite", "published"):
        assert f"infraredcity/manifests/{name}.toml" in names
    assert {"infraredcity/py.typed", "roma/py.typed", "roma/train.py"} <= names
    for name in ("infraredcity/report/page", "roma/report/page"):
        assert {f"{name}.html.j2", f"{name}.css", f"{name}.js"} <= names
    assert "infraredcity/report/chart.svg.j2" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from infraredcity import clips; " \
        "from infraredcity.datasets import recipe; " \
        "print(clips.manifests_folder(), len(clips.load_catalog(environment={})), len(recipe.read_recipe().cells))"  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == [str(site / "infraredcity" / "manifests"), "9", "8"], ended.stderr


@pytest.mark.parametrize(
    ("noted", "command"),
    [
        (None, "pip install 'infraredcity[loader]'"),
        ({"url": "file:///a%20b/checkout", "dir_info": {}}, "pip install '/a b/checkout[loader]'"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "1f2e"}},
            "pip install 'infraredcity[loader] @ git+https://host/x.git@1f2e'",
        ),
        ({"url": "file:///w/x.whl", "archive_info": {}}, "pip install 'infraredcity[loader] @ file:///w/x.whl'"),
    ],
)
def test_the_hint_to_install_an_extra_follows_how_the_package_was_installed(
    noted: dict[str, object] | None, command: str, tmp_path: Path
):
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(CHECKOUT)).build(directory=str(tmp_path)))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (record,) = site.glob("*.dist-info")
    if noted is not None:
        (record / "direct_url.json").write_text(json.dumps(noted))
    code = f"import sys; sys.path.insert(0, {str(site)!r}); sys.modules['torch'] = None; from infraredcity.loader import batches"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].endswith(f"torch, which is not installed; run: {command}")


def test_both_modules_run_from_any_folder(tmp_path: Path):
    for module in ("infraredcity", "roma"):
        ended = subprocess.run(
            [sys.executable, "-m", module, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert importlib.metadata.version("infraredcity") in ended.stdout, ended.stderr
