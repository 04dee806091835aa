"""Our windows in torch's own DataLoader: worker processes, forked and spawned, stopped in the middle, and killed."""

import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PATIENCE_S, started, wait_for_end
from synthetic import barcode, sample_index
from torch.multiprocessing import active_children
from torch.utils.data import DataLoader, Subset

from infraredcity.errors import ManifestError, ShardError
from infraredcity.loader import WindowReader, batches
from infraredcity.loader.torch_dataset import Epochs, PositionSampler, WindowDataset, WindowItem
from infraredcity.shards import index_file

pytestmark = [
    # A machine of one core does for these tests.
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
    # From Python 3.12 on a fork beside threads is warned of. Ours is safe: a forked reader makes its own threads, locks and files.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
BATCH = 7
EPOCH = [(frame, frame + 1) for frame in range(49)]
"""The windows of two frames of a clip of 50, by what they show."""
HOW = [(0, None), (2, "fork"), (2, "spawn")]


def shown(batch: WindowItem) -> list[tuple[int, ...]]:
    """What the pictures of a batch say they are, which is what its keys say."""
    assert batch["frames"].dtype == torch.uint8
    codes = [tuple(barcode(frame.permute(1, 2, 0).numpy()) for frame in window) for window in batch["frames"]]
    assert codes == [tuple(int(key[-8:]) for key in keys) for keys in batch["keys"]]
    return codes


def loader_of(
    dataset: WindowDataset, sampler: PositionSampler, workers: int, method: str | None
) -> DataLoader[WindowItem]:
    return DataLoader(
        dataset, sampler=sampler, batch_size=None, num_workers=workers, multiprocessing_context=method,
        persistent_workers=workers > 0, timeout=PATIENCE_S if workers else 0,
    )  # fmt: skip


@pytest.fixture
def reader(extracted: Path) -> WindowReader:
    return WindowReader([extracted / "city_clear"], seed=5, threads=2)


@pytest.mark.parametrize(("workers", "method"), HOW)
def test_every_window_comes_once_an_epoch_over_ranks_and_workers_while_the_readers_threads_run(
    reader: WindowReader, workers: int, method: str | None
) -> None:
    dataset = WindowDataset(reader)
    stream = batches(reader, batch_size=BATCH)
    taken = list(itertools.islice(stream, 14))  # files are open, threads are decoding ahead
    shares: list[list[WindowItem]] = []
    for rank in range(2):
        sampler = PositionSampler(dataset, batch_size=BATCH, rank=rank, world_size=2)
        loader = sampler.counted(loader_of(dataset, sampler, workers, method))
        next(stream)
        shares.append([*loader, *loader])
        assert len(loader) == 7
        assert sampler.position == 98
    assert [[len(batch["keys"]) for batch in share] for share in shares] == [[3] * 14, [4] * 14]
    for epoch in range(2):
        windows = [window for share in shares for batch in share[epoch * 7 : epoch * 7 + 7] for window in shown(batch)]
        assert sorted(windows) == EPOCH
    for step, whole in enumerate(taken):
        parts = [share[step] for share in shares]
        assert torch.equal(torch.cat([part["frames"] for part in parts]), whole.frames)
        assert torch.cat([torch.as_tensor(part["position"]) for part in parts]).tolist() == whole.positions.tolist()
    reader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_stopped_in_the_middle_goes_on_at_another_world_size_with_what_was_not_delivered(
    reader: WindowReader, workers: int
) -> None:
    dataset = WindowDataset(reader)
    states, before = [], []
    for rank in range(2):
        sampler = PositionSampler(dataset, batch_size=BATCH, rank=rank, world_size=2)
        loader = sampler.counted(loader_of(dataset, sampler, workers, None))
        # Workers have been asked for four batches more than these three.
        before += [window for batch in itertools.islice(loader, 3) for window in shown(batch)]
        states.append(loader.state_dict())
    assert states[0] == states[1] == batches(reader, batch_size=BATCH).state_dict() | {"position": 21}
    after, lengths = [], []
    for rank in range(3):
        sampler = PositionSampler(dataset, batch_size=BATCH, rank=rank, world_size=3)
        loader = sampler.counted(loader_of(dataset, sampler, workers, None))
        loader.load_state_dict(states[0])
        rest = [shown(batch) for batch in loader]
        lengths.append(len(rest))
        after += [window for windows in rest for window in windows]
        assert len(list(loader)) == 7
        assert loader.state_dict()["position"] == 98
    assert lengths == [4, 4, 4]
    assert len(before) == 21
    assert sorted(before + after) == EPOCH
    # A loader that is left in the middle and taken up again goes on, too.
    sampler = PositionSampler(dataset, batch_size=BATCH)
    loader = sampler.counted(loader_of(dataset, sampler, workers, None))
    parts = [*itertools.islice(loader, 2), *loader]
    assert sorted(window for batch in parts for window in shown(batch)) == EPOCH
    reader.close()


def test_a_state_is_of_its_data_alone(reader: WindowReader, extracted: Path) -> None:
    sampler = PositionSampler(WindowDataset(reader), batch_size=BATCH)
    other = PositionSampler(WindowDataset(WindowReader([extracted / "city_clear"], seed=6)), batch_size=BATCH)
    with pytest.raises(ManifestError, match="stream 0: seed was 6 when the state was saved and is 5 now"):
        sampler.load_state_dict(other.state_dict())
    stream = batches(reader, batch_size=BATCH)
    next(stream)
    sampler.load_state_dict(stream.state_dict())
    assert next(iter(sampler)) == reader.order.share(7, batch_size=7, rank=0, world_size=1).tolist()
    reader.close()


def test_without_counting_epochs_follow_each_other_and_there_is_no_state(reader: WindowReader) -> None:
    dataset = WindowDataset(reader)
    sampler = PositionSampler(dataset, batch_size=BATCH)
    loader = loader_of(dataset, sampler, 0, None)
    start = sampler.state_dict()
    epochs = [[shown(batch) for batch in loader] for _ in range(2)]
    # Lightning knows how many batches there are, and does not ask for one more to hear that it was the last.
    epochs += [[shown(batch) for batch in itertools.islice(loader, 7)] for _ in range(2)]
    assert all(one != other for one, other in itertools.combinations(epochs, 2))
    for epoch in epochs:
        assert sorted(window for windows in epoch for window in windows) == EPOCH
    with pytest.raises(ValueError, match=r"nobody counted what was taken .* iterate over sampler\.counted\(loader\)"):
        sampler.state_dict()
    sampler.load_state_dict(start)
    assert [shown(batch) for batch in loader] == epochs[0]
    reader.close()


def dark(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Barcodes survive it."""
    return torch.cat([frames // 2, torch.full_like(frames[..., :1], int(draw.integers(256)))], dim=-1)


@pytest.mark.parametrize(("workers", "method"), HOW)
def test_a_map_style_loader_collates_shuffles_and_transforms(extracted: Path, workers: int, method: str | None) -> None:
    reader = WindowReader([extracted / "city_clear"], transform=dark, members=["json"], seed=5)
    dataset = WindowDataset(reader)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=8,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method,
        timeout=PATIENCE_S if workers else 0,
    )
    found = list(loader)
    assert [len(batch["frames"]) for batch in found] == [8] * 6 + [1]
    order = [position for batch in found for position in batch["position"].tolist()]
    assert sorted(order) == list(range(49))
    assert order != sorted(order)
    alone = reader.read(order)
    assert torch.equal(torch.cat([batch["frames"] for batch in found]), alone.frames)
    assert alone.frames.shape == (49, 2, 3, 64, 97)
    # The default collate function turns lists of windows into lists by frame.
    assert [keys for batch in found for keys in zip(*batch["keys"], strict=True)] == list(alone.keys)
    for batch in found:
        told = [[json.loads(facts)["frame_index"] for facts in members["json"]] for members in batch["members"]]
        assert told == [[int(key[-8:]) for key in keys] for keys in batch["keys"]]
    assert not any(batch["replaced"].any() for batch in found)
    reader.close()


def test_in_order_by_subset_and_one_by_one_the_windows_are_the_same(reader: WindowReader) -> None:
    dataset = WindowDataset(reader)
    whole = reader.read(range(49))
    in_order: DataLoader[Any] = DataLoader(dataset, batch_size=8, sampler=range(8, 49))
    assert torch.equal(torch.cat([batch["frames"] for batch in in_order]), whole.frames[8:])
    part: DataLoader[Any] = DataLoader(Subset(dataset, [40, 3, 3]), batch_size=3)
    assert torch.equal(next(iter(part))["frames"], whole.frames[[40, 3, 3]])
    as_batches: DataLoader[Any] = DataLoader(
        dataset, batch_sampler=PositionSampler(dataset, batch_size=BATCH, rank=1, world_size=2)
    )
    assert [batch["position"].tolist() for batch in as_batches] == list(
        PositionSampler(dataset, batch_size=BATCH, rank=1, world_size=2)
    )
    assert len(list(dataset)) == len(dataset) == 49
    assert dataset[np.int64(98)]["position"] == 98
    for wrong in (-1, [3, -1]):
        with pytest.raises(IndexError, match="positions of the stream begin at 0, got -1"):
            dataset[wrong]
    assert dataset[[]]["frames"].shape == (0, 2, 3, 64, 96)
    reader.close()


@pytest.fixture
def copied(extracted: Path, tmp_path: Path) -> Path:
    """city_clear, for tests that damage it."""
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))


def test_what_workers_replace_is_told_with_the_batch(copied: Path) -> None:
    index = index_file.load(copied)
    shard = copied / index.shards[0].name
    data = bytearray(shard.read_bytes())
    data[int(index.offset[5]) : int(index.offset[5]) + 40] = bytes(40)
    shard.write_bytes(data)
    reader = WindowReader([copied], on_bad="replace")
    dataset = WindowDataset(reader)
    sampler = PositionSampler(dataset, batch_size=BATCH)
    told = [
        position
        for batch in sampler.counted(loader_of(dataset, sampler, 2, None))
        for position in torch.as_tensor(batch["position"])[batch["replaced"]].tolist()
    ]
    assert len(told) == 2  # frame 5 is in the windows 4-5 and 5-6
    collated: DataLoader[Any] = DataLoader(dataset, batch_size=8)
    assert sorted(told) == [p for batch in collated for p in batch["position"][batch["replaced"]].tolist()]
    assert [dataset[position]["replaced"] for position in told] == [True, True]


def test_an_error_in_a_worker_is_the_same_error_here(copied: Path) -> None:
    shard = sorted(copied.glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[:-1024])
    dataset = WindowDataset(WindowReader([copied]))
    sampler = PositionSampler(dataset, batch_size=49)
    with pytest.raises(ShardError, match=rf"{shard.name}: is \d+ bytes, the index says \d+; copy the shard again"):
        list(sampler.counted(loader_of(dataset, sampler, 2, None)))
    assert sampler.position == 0


def read_for_ever(folder: str) -> None:
    """Its workers' ids, and what each batch showed, on stdout as JSON lines; a process of its own, for somebody to hurt."""
    dataset = WindowDataset(WindowReader([folder], seed=5))
    sampler = PositionSampler(dataset, batch_size=BATCH, num_batches=100_000)
    for number, batch in enumerate(sampler.counted(loader_of(dataset, sampler, 2, None))):
        if number == 0:
            print(json.dumps([worker.pid for worker in active_children()]), flush=True)  # noqa: T201
        print(json.dumps([sampler.position, shown(batch)]), flush=True)  # noqa: T201


def test_a_worker_that_is_killed_ends_the_program_and_leaves_nothing_behind(extracted: Path) -> None:
    with started(
        [sys.executable, "-W", "ignore", __file__, extracted / "city_clear"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        workers = json.loads(process.stdout.readline())
        batches_before = [process.stdout.readline() for _ in range(20)]
        os.kill(workers[0], signal.SIGKILL)
        batches_after, errors = process.communicate(timeout=PATIENCE_S)
    # torch says so from its signal handler, or meets the dead worker's closed socket first.
    assert process.returncode == 1, errors
    assert f"(pid {workers[0]}) is killed by signal: Killed" in errors or "Connection" in errors
    taken = [json.loads(line) for line in [*batches_before, *batches_after.splitlines()]]
    assert [position for position, _ in taken] == [(number + 1) * BATCH for number in range(len(taken))]
    for epoch in range(len(taken) // 7):
        windows = [tuple(window) for _, codes in taken[epoch * 7 : epoch * 7 + 7] for window in codes]
        assert sorted(windows) == EPOCH
    assert len(workers) == 2
    assert wait_for_end(workers) == []
    ours = {str(pid) for pid in (process.pid, *workers)}
    left = [path for path in Path("/dev/shm").iterdir() if ours & set(path.name.split("_"))]
    # torch makes a segment and takes its name away at once; who is killed between the two leaves that one.
    assert len(left) <= 1
    assert all(str(workers[0]) in path.name.split("_") for path in left)
    for path in left:
        path.unlink(missing_ok=True)


@st.composite
def made_up_sets(draw: st.DrawFn) -> list[tuple[int, frozenset[int], list[int]]]:
    """For each of some clips: frames, those that are missing, and samples of each shard."""
    sets = []
    for _ in range(draw(st.integers(1, 3))):
        num_frames = draw(st.integers(20, 100))
        missing = draw(st.frozensets(st.integers(0, num_frames - 1), max_size=4))
        left, sizes = num_frames - len(missing), []
        while left:
            sizes.append(min(left, draw(st.integers(1, 40))))
            left -= sizes[-1]
        sets.append((num_frames, missing, sizes))
    return sets


def reader_of(
    sets: Sequence[tuple[int, frozenset[int], list[int]]], root: Path, window_frames: int, stride: int
) -> WindowReader:
    """A reader over clips that were never filmed: an index knows all that an order needs."""
    for number, (num_frames, missing, sizes) in enumerate(sets):
        index = sample_index(num_frames, clip_id=f"clip_{number}", missing=missing)
        shards = tuple(
            replace(index.shards[0], name=f"made-up-clip_{number}-{place:06d}.tar", num_samples=size)
            for place, size in enumerate(sizes)
        )
        of_shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        folder = root / str(number)
        folder.mkdir()
        for shard in shards:
            (folder / shard.name).touch()
        index_file.save(replace(index, shards=shards, shard=of_shard), folder)
    folders = [root / str(number) for number in range(len(sets))]
    return WindowReader(folders, window_frames=window_frames, stride=stride, threads=1)


@given(
    sets=made_up_sets(),
    nodes=st.integers(1, 3),
    ranks_per_node=st.integers(1, 4),
    workers=st.integers(1, 5),
    window_frames=st.integers(1, 4),
    stride=st.integers(1, 3),
    spare=st.integers(0, 20),
    start_epoch=st.integers(0, 3),
)
@settings(max_examples=40)
def test_over_nodes_ranks_and_workers_every_window_comes_once_an_epoch_in_the_same_batches(
    tmp_path_factory: pytest.TempPathFactory,
    sets: list[tuple[int, frozenset[int], list[int]]],
    nodes: int,
    ranks_per_node: int,
    workers: int,
    window_frames: int,
    stride: int,
    spare: int,
    start_epoch: int,
) -> None:
    possible = [
        (number, first)
        for number, (num_frames, missing, _) in enumerate(sets)
        for first in range(num_frames - (window_frames - 1) * stride)
        if not missing & set(range(first, first + (window_frames - 1) * stride + 1))
    ]
    world_size = nodes * ranks_per_node
    batch_size = world_size + spare
    reader = reader_of(sets, tmp_path_factory.mktemp("made-up"), window_frames, stride)
    num_windows = reader.num_windows
    assert num_windows == len(possible)
    dataset = WindowDataset(reader)
    start = start_epoch * num_windows
    options = {"batch_size": batch_size, "start_position": start, "num_batches": 10_000}
    num_steps = -(-num_windows // batch_size)
    alone = list(itertools.islice(PositionSampler(dataset, **options), num_steps))  # type: ignore[arg-type]
    copies = [pickle.loads(pickle.dumps(dataset)) for _ in range(workers)]
    together: list[list[int]] = [[] for _ in range(num_steps)]
    windows: dict[int, int] = {}
    for rank in range(world_size):
        sampler = PositionSampler(dataset, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]
        for step, positions in enumerate(itertools.islice(sampler, num_steps)):
            together[step] += positions
            # DataLoader deals batches to its workers in turn; each has a copy of the dataset.
            order = copies[step % workers].reader.order
            windows |= dict(zip(positions, order.window_at(np.array(positions)).tolist(), strict=True))
        assert abs(len(positions) - batch_size / world_size) < 1
    assert together == alone
    assert sorted(windows) == list(range(start, start + num_steps * batch_size))
    epoch = [windows[position] for position in range(start, start + num_windows)]
    assert sorted(epoch) == list(range(num_windows))
    rows = reader.table.rows(np.array(epoch))
    first_frames = zip(
        reader.index.clip[rows[:, 0]].tolist(), reader.index.frame_index[rows[:, 0]].tolist(), strict=True
    )
    assert sorted(first_frames) == possible
    steps = np.diff(reader.index.frame_index[rows], axis=1)
    assert (steps == stride).all()


@given(
    num_batches=st.integers(1, 9),
    batch_size=st.integers(1, 9),
    start=st.integers(0, 200),
    taken=st.lists(st.integers(0, 9), max_size=6),
)
@settings(max_examples=60)
def test_however_often_an_epoch_is_left_and_taken_up_positions_follow_each_other(
    tmp_path_factory: pytest.TempPathFactory, num_batches: int, batch_size: int, start: int, taken: list[int]
) -> None:
    reader = reader_of([(60, frozenset(), [60])], tmp_path_factory.mktemp("made-up"), 1, 1)
    sampler = PositionSampler(
        WindowDataset(reader), batch_size=batch_size, start_position=start, num_batches=num_batches
    )
    loader = sampler.counted(sampler)
    seen = [position for most in taken for part in itertools.islice(loader, most) for position in sorted(part)]
    seen += [position for part in loader for position in sorted(part)]
    assert seen == list(range(start, start + len(seen)))
    # The last pass went to the first batch that reaches the end of an epoch.
    assert (start + len(seen)) % (num_batches * batch_size) < batch_size


def test_the_stream_of_the_threads_can_be_cut_into_epochs(reader: WindowReader) -> None:
    epochs = Epochs(batches(reader, batch_size=BATCH), num_batches=7)
    assert len(epochs) == 7
    first = [keys for batch in itertools.islice(epochs, 4) for keys in batch.keys]
    state = epochs.state_dict()
    assert state["position"] == 28
    rest = [keys for batch in epochs for keys in batch.keys]
    assert len(set(first + rest)) == len(first + rest) == 49
    again = Epochs(batches(reader, batch_size=BATCH, rank=1, world_size=2), num_batches=7)
    again.load_state_dict(state)
    assert [len(list(again)) for _ in range(2)] == [3, 7]
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        Epochs(batches(reader, batch_size=BATCH), num_batches=0)
    reader.close()


def test_wrong_uses_say_what_to_do(reader: WindowReader) -> None:
    dataset = WindowDataset(reader)
    with pytest.raises(ValueError, match="give rank and world_size together or neither, got 1 and None"):
        PositionSampler(dataset, batch_size=8, rank=1)
    with pytest.raises(ValueError, match="a global batch of 1 cannot feed 2 ranks"):
        PositionSampler(dataset, batch_size=1, rank=0, world_size=2)
    with pytest.raises(
        ValueError, match="start_position must be at least 0 and num_batches at least 1, got -7 and None"
    ):
        PositionSampler(dataset, batch_size=8, start_position=-7)
    with pytest.raises(
        ValueError, match=r"shared its batches out .* give it sampler\.counted\(loader\) in the place of"
    ):
        _ = PositionSampler(dataset, batch_size=8).sampler
    reader.close()


if __name__ == "__main__":
    read_for_ever(sys.argv[1])
