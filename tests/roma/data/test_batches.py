import dataclasses
import itertools
import threading

import pytest
import torch

from infraredcity.errors import ShardError
from roma.config.overlay import resolve
from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch, ahead, open_domains, to_bytes, to_unit_range, train_batches, window_centres
from roma.world.world import World

CPU = torch.device("cpu")


def first_batch(config: TrainConfig, *, rank: int = 0, world_size: int = 1, step: int = 0) -> TrainBatch:
    domains = open_domains(config)
    try:
        batches = train_batches(domains, config, World(rank=rank, world_size=world_size, device=CPU), start_step=step)
        batch = next(batches)
        batches.close()
        return batch
    finally:
        domains.close()


def test_batch_has_the_asked_shape_and_range(config: TrainConfig):
    batch = first_batch(config)
    assert batch.source.shape == batch.target.shape == (2, 2, 3, 32, 32)
    assert torch.equal(batch.source[:, :, 0], batch.source[:, :, 2])
    assert -1 <= float(batch.source.min()) < float(batch.source.max()) <= 1
    assert not torch.equal(batch.target[:, :, 0], batch.target[:, :, 1])


def test_frames_of_a_window_are_neighbours_under_one_crop_and_one_mirror(config: TrainConfig):
    for step in range(4):
        batch = first_batch(config, step=step)
        for keys in batch.keys:
            first, second = (int(key.rpartition("_")[2]) for key in keys)
            assert second == first + 1
    # The same frame as second of one window and first of another, uncropped and unmirrored, is the same picture.
    plain = resolve(
        None, mode=None, config_file=None,
        settings=[f"data.infrared={list(config.data.infrared)}".replace("'", '"'),
                  f"data.visible={list(config.data.visible)}".replace("'", '"'),
                  "data.load_size_px=32", "data.crop_size_px=32", "batch_size=19"],
    )  # fmt: skip
    batch = first_batch(plain)
    pictures: dict[str, torch.Tensor] = {}
    for window, keys in zip(batch.source, batch.keys, strict=True):
        for frame, key in zip(window, keys, strict=True):
            assert torch.equal(pictures.setdefault(key, frame), frame)
    assert len(pictures) == 20


def test_two_ranks_get_the_halves_of_what_one_rank_gets(config: TrainConfig):
    whole = first_batch(config, step=3)
    halves = [first_batch(config, rank=rank, world_size=2, step=3) for rank in range(2)]
    assert torch.equal(torch.cat([half.source for half in halves]), whole.source)
    assert torch.equal(torch.cat([half.target for half in halves]), whole.target)
    assert halves[0].keys + halves[1].keys == whole.keys


def batches_of(config: TrainConfig, *, start_step: int, whole_from: int | None, count: int) -> list[TrainBatch]:
    domains = open_domains(config)
    try:
        world = World(rank=0, world_size=1, device=CPU)
        stream = train_batches(domains, config, world, start_step=start_step, whole_from=whole_from)
        taken = list(itertools.islice(stream, count))
        stream.close()
        return taken
    finally:
        domains.close()


def test_from_the_decay_on_the_same_windows_come_whole_and_no_more_cut(config: TrainConfig):
    wide = dataclasses.replace(config, data=dataclasses.replace(config.data, load_size_px=64, flip=False))
    cut = batches_of(wide, start_step=0, whole_from=None, count=5)
    found = batches_of(wide, start_step=0, whole_from=3, count=5)
    assert [batch.step for batch in found] == [0, 1, 2, 3, 4]
    assert [(batch.keys, batch.source_positions, batch.target_positions) for batch in found] == [
        (batch.keys, batch.source_positions, batch.target_positions) for batch in cut
    ]
    for before, batch in zip(cut[:3], found[:3], strict=True):
        assert torch.equal(before.source, batch.source)
        assert torch.equal(before.target, batch.target)
    domains = open_domains(dataclasses.replace(wide, data=dataclasses.replace(wide.data, load_size_px=32)))
    rows_of = {domains.infrared.index.key(row): row for row in range(20)}
    for batch in found[3:]:
        rows = [rows_of[key] for window in batch.keys for key in window]
        whole = to_unit_range(domains.infrared.read_rows(rows)).expand(-1, 3, -1, -1)
        assert torch.equal(batch.source.flatten(0, 1), whole)
    domains.close()


def test_a_run_that_goes_on_in_the_decay_sees_the_same(config: TrainConfig):
    whole = batches_of(config, start_step=0, whole_from=2, count=6)
    for start in (1, 2, 4):
        for first, second in zip(
            whole[start:], batches_of(config, start_step=start, whole_from=2, count=6 - start), strict=True
        ):
            assert first.step == second.step
            assert torch.equal(first.source, second.source)
            assert torch.equal(first.target, second.target)


def test_bytes_survive_the_unit_range():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_unit_range(levels)), levels)
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_window_centres_are_distinct_and_a_function_of_seed_and_step():
    centres = window_centres(7, seed=1, num_windows=64, num_patches=576)
    assert len(set(centres.tolist())) == 64
    assert torch.equal(centres, window_centres(7, seed=1, num_windows=64, num_patches=576))
    assert not torch.equal(centres, window_centres(8, seed=1, num_windows=64, num_patches=576))
    assert len(window_centres(0, seed=0, num_windows=64, num_patches=16)) == 16


def test_ahead_keeps_the_order_and_makes_no_more_than_the_next_item_and_one_to_hand_over():
    made = []

    def numbers():
        for number in range(50):
            made.append(number)
            yield number

    stream = ahead(numbers())
    taken = []
    for item in stream:
        taken.append(item)
        assert len(made) <= len(taken) + 2
    assert taken == list(range(50))


def test_what_goes_wrong_ahead_is_raised_where_the_item_is_asked_for():
    def numbers():
        yield 1
        raise ShardError("broken.tar: is cut")

    stream = ahead(numbers())
    assert next(stream) == 1
    with pytest.raises(ShardError, match=r"broken\.tar: is cut"):
        next(stream)


def test_closing_ends_the_thread_though_nobody_takes_its_item():
    stream = ahead(itertools.count())
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert "next batch" not in {thread.name for thread in threading.enumerate()}
