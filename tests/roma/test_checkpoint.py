from pathlib import Path

import pytest
import torch

from roma.checkpoint import Checkpoint, Snapshot, load_newest, load_snapshot, save, save_snapshot
from roma.errors import CheckpointError


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        config={"seed": 1},
        networks={"generator": {"weight": torch.full((2,), float(step))}},
        optimisers={"generator": {"state": {}, "param_groups": []}},
    )


def snapshot() -> Snapshot:
    return Snapshot(
        width=4,
        num_blocks=1,
        weights={"w": torch.ones(2)},
        size_px=32,
        step=7,
        preset="tiny",
        config={"seed": 0},
        architecture="unet",
    )


def test_newest_comes_back_and_old_ones_go(tmp_path: Path):
    assert load_newest(tmp_path) is None
    for step in (2, 4, 10):
        save(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000004.pt",
        "step-00000010.pt",
    ]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 10
    assert newest.networks["generator"]["weight"].tolist() == [10, 10]


def test_damaged_newest_falls_back_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path, checkpoint(2), keep=2)
    cut = save(tmp_path, checkpoint(4), keep=2)
    cut.write_bytes(cut.read_bytes()[:300])
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 2
    assert "step-00000004.pt" in caplog.text


def test_only_damaged_checkpoints_is_an_error(tmp_path: Path):
    save(tmp_path, checkpoint(2), keep=2).write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"none of step-00000002\.pt can be read; delete them"):
        load_newest(tmp_path)


def test_snapshot_round_trip(tmp_path: Path):
    save_snapshot(tmp_path / "s.pt", snapshot())
    back = load_snapshot(tmp_path / "s.pt")
    assert (back.width, back.num_blocks, back.size_px, back.step, back.preset) == (4, 1, 32, 7, "tiny")
    assert torch.equal(back.weights["w"], torch.ones(2))


def test_snapshot_errors_say_what_the_file_is(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        load_snapshot(tmp_path / "gone.pt")
    path = save(tmp_path, checkpoint(2), keep=1)
    with pytest.raises(CheckpointError, match=r"this is a checkpoint: use the snapshot\.pt of its run"):
        load_snapshot(path)
    torch.save({"format": "roma-snapshot-0"}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="format is 'roma-snapshot-0', expected 'roma-snapshot-1'"):
        load_snapshot(tmp_path / "old.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="format is None"):
        load_snapshot(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt: damaged, or not written by roma"):
        load_snapshot(tmp_path / "text.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump(Evil(), file, protocol=2)
    with pytest.raises(CheckpointError, match="damaged, or not written by roma"):
        load_snapshot(tmp_path / "evil.pt")
