"""A snapshot from a stranger that is not what it says: one line, at once, in the memory that its file has."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError
from roma.inference.translator import open_translator
from roma.models.generators.resnet import ResNetGenerator
from roma.training.checkpoint import load
from roma.training.sealed_file import CHECKPOINT_FORMAT, SNAPSHOT_FORMAT
from roma.training.sealed_file import write_sealed as write
from roma.training.snapshot import load_snapshot, save_snapshot
from tests.roma.training.test_checkpoint import snapshot

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S, LIMIT_KIB = 60, 1 << 20
MEASURED = """
import sys
from pathlib import Path
from roma.cli import main
try:
    main(["translate", sys.argv[1], "a.mp4", "-o", "b.mp4", "--device", "cpu"])
finally:
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def values(**changes: Any) -> dict[str, Any]:
    """What a snapshot file holds; groups of settings replace those of its config, all else what lies beside it."""
    weights = ResNetGenerator(width=4, num_blocks=1).state_dict()
    config = {"generator": {"width": 4, "num_blocks": 1}, "data": {"crop_size_px": 16}}
    for group in config.keys() & changes.keys():
        config[group] |= changes.pop(group)
    facts = {"preprocessing": Preprocessing().to_json() | changes.pop("preprocessing", {})}
    return {"format": SNAPSHOT_FORMAT, "weights": weights, "step": 5, "config": config, **facts, **changes}


def repacked(path: Path, packed: Path, compression: int) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return packed


def test_a_whole_one_opens(tmp_path: Path):
    write(tmp_path / "a.pt", values())
    assert open_translator(tmp_path / "a.pt", torch.device("cpu")).snapshot.step == 5


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": {"num_blocks": 10**9}}, r"its generator\.num_blocks is 1000000000, expected at most the number of its w"),
        ({"generator": {"num_blocks": -1}}, r"generator\.num_blocks must be at least 0, got -1"),
        ({"generator": {"num_blocks": 9}}, r"its weights do not fit its generator \('net\.\d+\.body\.1\.weight' is None, expected"),
        ({"generator": {"width": 10**9}}, r"no generator has its sizes|its weights do not fit its generator"),
        ({"generator": {"width": 10**6}}, r"its weights do not fit its generator"),
        ({"generator": {"width": 0}}, r"generator\.width must be at least 1, got 0"),
        ({"generator": {"width": "a"}}, r"generator\.width must be int, got 'a'"),
        ({"generator": {"width": True}}, r"generator\.width must be int, got True"),
        ({"generator": {"width": 4.0}}, r"generator\.width must be int, got 4\.0"),
        ({"generator": {"width": 10**500}}, r"generator\.width must be at most \d+, got 1000"),
        ({"generator": {"height": 4}}, r"no setting is called generator\.height"),
        ({"generator": {"architecture": "../x"}}, r"generator\.architecture must be one of resnet, unet, got '\.\./x'"),
        ({"generator": {"architecture": ["resnet"]}}, r"generator\.architecture must be str, got"),
        ({"generator": {"architecture": "unet"}, "data": {"crop_size_px": 32}}, r"its weights do not fit its generator"),
        ({"data": {"crop_size_px": 10**9}}, r"data\.crop_size_px must be in \[8, 2048\], got 1000000000"),
        ({"data": {"crop_size_px": 18}}, r"data\.crop_size_px must be a multiple of 4"),
        ({"data": {"crop_size_px": 4}}, r"data\.crop_size_px must be in \[8, 2048\], got 4"),
        ({"generator": {"architecture": "unet"}}, r"data\.crop_size_px must be a multiple of 16, at least 32, for .*=unet, got 16"),
        ({"preprocessing": {"tone": "bright"}}, r"preprocessing: Invalid enum value 'bright' - at `\$\.tone`"),
        ({"preprocessing": {"masks": [[0, 0, 10**9]]}}, r"preprocessing: .*length 4, got 3 - at `\$\.masks"),
        ({"preprocessing": {"crop": [0, 0, -1, 5]}}, r"preprocessing: a mask, a crop or a size has a negative side"),
        ({"preprocessing": {"tone": "fixed"}}, r"preprocessing: tone_range goes with tone fixed"),
        ({"preprocessing": {"weather": "fog"}}, r"preprocessing: unknown field 'weather'"),
        ({"step": -1}, r"its step is -1"),
        ({"config": [1]}, r"its config is list, expected settings as plain values"),
        ({"config": {"a": torch.ones(1)}}, r"its config is dict, expected settings as plain values"),
        ({"weights": {}}, r"its generator\.num_blocks is 1, expected"),
        ({"weights": [1, 2]}, r"its weights is list, expected tensors by their names"),
        ({"weights": {"a": 1}}, r"its weights is dict, expected tensors by their names"),
        ({"weights": {"a": torch.eye(2).to_sparse()}}, r"its weights is dict, expected tensors by their names"),
        ({"weights": {"a": torch.ones(1).expand(1 << 40)}}, r"its weights are larger than its \d+ bytes"),
    ],
)  # fmt: skip
def test_a_snapshot_that_is_not_what_it_says_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str):
    write(tmp_path / "a.pt", values(**changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_translator(tmp_path / "a.pt", torch.device("cpu"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_weights_of_another_type_are_refused(tmp_path: Path):
    weights = {name: value.int() for name, value in ResNetGenerator(width=4, num_blocks=1).state_dict().items()}
    write(tmp_path / "a.pt", values(weights=weights))
    with pytest.raises(CheckpointError, match=r"its weights are of type torch\.int32, expected floats"):
        open_translator(tmp_path / "a.pt", torch.device("cpu"))


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path: Path):
    save_snapshot(tmp_path / "a.pt", snapshot())
    assert load_snapshot(repacked(tmp_path / "a.pt", tmp_path / "stored.pt", zipfile.ZIP_STORED)).step == 7
    for packed in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with pytest.raises(CheckpointError, match=r"packed\.pt: its members are packed, as roma writes none"):
            load_snapshot(repacked(tmp_path / "a.pt", tmp_path / "packed.pt", packed))


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path):
    torch.save({"format": SNAPSHOT_FORMAT}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"a\.pt: damaged, or not written by roma \(BadZipFile\)"):
        load_snapshot(tmp_path / "a.pt")


def test_settings_deeper_than_the_stack_are_refused(tmp_path: Path):
    write(tmp_path / "a.pt", values())
    # In opcodes of pickle: `}` a new dict, `X....a` its key, `s` puts the value above them in.
    deeper = b"}X\1\0\0\0a" * 10_000 + b"}" + b"s" * 10_000
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "deep.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, re.sub(rb"(?s)(X\x06\0\0\0configq.)}", lambda found: found[1] + deeper, data))
    with pytest.raises(CheckpointError, match=r"deep\.pt: its config is dict, expected settings as plain values"):
        load_snapshot(tmp_path / "deep.pt")


@pytest.mark.timeout(LIMIT_S)
def test_a_pipe_is_no_snapshot(tmp_path: Path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: no such file"):
        load_snapshot(tmp_path / "a.pt")


@pytest.mark.timeout(4 * LIMIT_S)
def test_a_bomb_ends_in_bounded_memory(tmp_path: Path):
    write(tmp_path / "blocks.pt", values(generator={"num_blocks": 10**9}))
    write(tmp_path / "width.pt", values(generator={"width": 10**6}, weights={"a": torch.ones(1)}))
    write(tmp_path / "large.pt", values(weights={"a": torch.zeros(1 << 28)}))
    repacked(tmp_path / "large.pt", tmp_path / "packed.pt", zipfile.ZIP_DEFLATED)
    (tmp_path / "large.pt").unlink()
    for name in ("blocks.pt", "width.pt", "packed.pt"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / name)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        assert int(done.stdout) < LIMIT_KIB, name


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "a"},
        {"step": -1},
        {"networks": [1]},
        {"networks": {"generator": 7}},
        {"optimisers": 7},
        {"config": 7},
        {"data": {"elsewhere": {"data_hash": "a", "num_frames": 1}}},
        {"data": {"infrared": 7}},
        {"best": {"by": "a", "step": "b", "value": 1}},
        {"best": 7},
        {"best": {"by": "a", "step": float("inf"), "value": 1}},
        {"best": {"by": "a", "step": 1, "value": 10**400}},
        {"data": {"infrared": {"data_hash": "a", "num_frames": float("inf")}}},
    ],
)
def test_a_checkpoint_of_other_types_is_one_line(tmp_path: Path, changes: dict[str, Any]):
    whole = {
        "format": CHECKPOINT_FORMAT,
        "step": 1,
        "config": {},
        "networks": {},
        "optimisers": {},
        "data": {},
        "best": None,
    }
    write(tmp_path / "whole.pt", whole)
    assert load(tmp_path / "whole.pt").step == 1
    write(tmp_path / "a.pt", {**whole, **changes})
    with pytest.raises(CheckpointError, match=r"a\.pt: (its step, config|lacks )"):
        load(tmp_path / "a.pt")
