import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import PATIENCE_S

from roma.config.overlay import resolve
from roma.errors import CheckpointError
from roma.training.checkpoint import (
    Best,
    Checkpoint,
    CheckpointWriter,
    better,
    complete,
    load,
    load_newest,
    on_host,
    path_of,
    publish,
    read_best,
    save,
)
from roma.training.snapshot import Snapshot, load_snapshot, save_snapshot


def checkpoint(step: int, *, best: Best | None = None) -> Checkpoint:
    return Checkpoint(
        step=step,
        config={"seed": 1},
        networks={"generator": {"weight": torch.full((2,), float(step))}},
        optimisers={"generator": {"state": {}, "param_groups": []}},
        data={"infrared": {"data_hash": "abc", "num_frames": 3}},
        best=best,
    )


def snapshot(step: int = 7) -> Snapshot:
    config = resolve("tiny", mode=None, config_file=None, settings=["generator.width=4", "generator.num_blocks=1"])
    return Snapshot(weights={"w": torch.ones(2)}, step=step, config=config)


def writer_to(run: Path, *, keep: int) -> CheckpointWriter:
    """A writer of checkpoints and their snapshots."""

    def write(saved: Checkpoint) -> None:
        save(run, saved, keep=keep)
        publish(run, saved, lambda of: snapshot(of.step))

    return CheckpointWriter(write)


def snapshot_of(saved: Checkpoint) -> Snapshot:
    return snapshot(saved.step)


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


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_anywhere_is_noticed_and_the_one_before_is_taken(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    save(tmp_path, checkpoint(2), keep=2)
    path = save(tmp_path, checkpoint(4), keep=2)
    good = path.read_bytes()
    draw = random.Random(seed)
    # Everywhere, and each byte of the end, where the digest stands.
    places = draw.sample(range(len(good)), 60) + [len(good) - 1 - number for number in range(seed, 100, 3)]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        newest = load_newest(tmp_path)
        assert newest is not None
        assert newest.step == 2, place
    path.write_bytes(good)
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 4
    assert "step-00000004.pt" in caplog.text


@pytest.mark.parametrize("missing_bytes", [1, 40, 76, 77, 90, 500])
def test_a_file_cut_anywhere_at_its_end_is_noticed(missing_bytes: int, tmp_path: Path):
    save(tmp_path, checkpoint(2), keep=2)
    path = save(tmp_path, checkpoint(4), keep=2)
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 2


def test_a_flipped_bit_of_a_weight_in_a_snapshot_is_one_line(tmp_path: Path):
    path = tmp_path / "s.pt"
    save_snapshot(path, snapshot())
    data = bytearray(path.read_bytes())
    data[bytes(data).index(torch.ones(2).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["step"] == 7  # torch by itself does not notice
    with pytest.raises(CheckpointError, match=r"s\.pt: damaged: sha256 is \w{8}\.\.\., the file says \w{8}\.\.\."):
        load_snapshot(path)


def test_a_checkpoint_of_another_version_is_refused_with_what_to_do(tmp_path: Path):
    path = path_of(tmp_path, 3)
    path.parent.mkdir()
    torch.save({"format": "roma-checkpoint-1", "step": 3, "config": {}, "networks": {}, "optimisers": {}}, path)
    with pytest.raises(CheckpointError, match=r"'roma-checkpoint-1', expected 'roma-checkpoint-2'; .* train again"):
        load(path)


def test_everything_of_a_checkpoint_comes_back(tmp_path: Path):
    best = Best(by="held_out_edges", step=2, value=0.25)
    path = save(tmp_path, checkpoint(4, best=best), keep=2)
    found = load(path)
    assert (found.best, found.data, found.config) == (best, checkpoint(4).data, {"seed": 1})
    assert torch.load(path, weights_only=True)["step"] == 4  # also with only torch


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path):
    best = None
    for step, value in ((2, 3.0), (4, 1.0), (6, 1.0), (8, float("nan")), (10, 2.0)):
        best = better(best, by="held_out_distance", step=step, value=value)
        save(tmp_path, checkpoint(step, best=best), keep=2)
    assert best == Best(by="held_out_distance", step=4, value=1.0)
    names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["step-00000004.pt", "step-00000008.pt", "step-00000010.pt"]


def test_the_writer_keeps_what_was_there_when_it_was_asked_and_names_the_best(tmp_path: Path):
    weight = torch.zeros(3)
    may_write = threading.Event()
    first = Best(by="held_out_edges", step=1, value=0.5)

    def write(saved: Checkpoint) -> None:
        assert may_write.wait(PATIENCE_S)
        save(tmp_path, saved, keep=2)
        publish(tmp_path, saved, lambda of: snapshot(of.step))

    writer = CheckpointWriter(write)

    asked = Checkpoint(step=1, config={}, networks={"g": {"w": weight}}, optimisers={}, best=first)
    writer.save(asked)
    weight += 1  # the next step
    assert not path_of(tmp_path, 1).exists()  # it is not this thread that writes
    may_write.set()
    writer.save(checkpoint(2, best=first))
    assert path_of(tmp_path, 1).exists()  # the save before is done first
    writer.close()
    assert load(path_of(tmp_path, 1)).networks["g"]["w"].tolist() == [0, 0, 0]
    assert load_snapshot(tmp_path / "snapshot.pt").step == 2
    assert load_snapshot(tmp_path / "snapshot-best.pt").step == 1
    assert read_best(tmp_path) == first


@pytest.mark.parametrize("end", [lambda writer: writer.close(), lambda writer: writer.save(checkpoint(2))])
def test_what_fails_in_the_thread_is_raised_by_the_next_call(end: Callable[[CheckpointWriter], Any], tmp_path: Path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    writer = writer_to(tmp_path, keep=2)
    writer.save(checkpoint(1))
    with pytest.raises(CheckpointError, match=r"the checkpoint is not on the disk: .*checkpoints.*cannot be written"):
        end(writer)
    writer.close()


def test_snapshots_are_made_again_when_a_kill_came_between_two_files(tmp_path: Path):
    best = Best(by="held_out_edges", step=2, value=0.5)
    save(tmp_path, checkpoint(2, best=best), keep=1)
    save(tmp_path, checkpoint(4, best=best), keep=1)
    newest = load_newest(tmp_path)
    assert newest is not None
    complete(tmp_path, newest, snapshot_of)
    assert load_snapshot(tmp_path / "snapshot.pt").step == 4
    assert load_snapshot(tmp_path / "snapshot-best.pt").step == 2
    assert read_best(tmp_path) == best
    # A best one of steps that come again is no longer the best one.
    complete(tmp_path, checkpoint(1), snapshot_of)
    assert not (tmp_path / "best.json").exists()
    assert not (tmp_path / "snapshot-best.pt").exists()


def test_copies_on_the_host_share_no_memory():
    weight = torch.arange(3.0)
    copy = on_host({"a": [weight, 1], "b": {"c": (weight, "x")}})
    weight.zero_()
    assert copy["a"][0].tolist() == copy["b"]["c"][0].tolist() == [0, 1, 2]
    assert (copy["a"][1], copy["b"]["c"][1]) == (1, "x")


def test_what_is_one_network_under_two_names_is_copied_and_written_once(tmp_path: Path):
    weight = torch.zeros(100_000)
    writer = writer_to(tmp_path, keep=1)
    twice = {"generator": {"w": weight}, "averaged": {"w": weight.detach()}}
    writer.save(Checkpoint(step=1, config={}, networks=twice, optimisers={}))
    writer.close()
    assert 400_000 < path_of(tmp_path, 1).stat().st_size < 410_000


def test_snapshot_round_trip(tmp_path: Path):
    save_snapshot(tmp_path / "s.pt", snapshot())
    back = load_snapshot(tmp_path / "s.pt")
    assert (back.step, back.config) == (7, snapshot().config)
    assert torch.equal(back.weights["w"], torch.ones(2))


def test_snapshot_errors_say_what_the_file_is(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        load_snapshot(tmp_path / "gone.pt")
    path = save(tmp_path, checkpoint(2), keep=1)
    with pytest.raises(CheckpointError, match=r"this is a checkpoint: use the snapshot\.pt of its run"):
        load_snapshot(path)
    torch.save({"format": "roma-snapshot-0"}, tmp_path / "old.pt")
    with pytest.raises(
        CheckpointError, match="format is 'roma-snapshot-0', expected 'roma-snapshot-3'; it is of another version"
    ):
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


@pytest.mark.parametrize(("step", "value"), [("Infinity", "1"), ("1", "1" + 400 * "0")])
def test_a_best_json_with_numbers_of_no_size_is_a_damaged_one(tmp_path: Path, step: str, value: str):
    (tmp_path / "best.json").write_text(f'{{"by": "a", "step": {step}, "value": {value}}}')
    assert read_best(tmp_path) is None
