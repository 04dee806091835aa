import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import sample_index

from infraredcity.loader.order import (
    BLOCK_WINDOWS,
    MIX_POSITIONS,
    NUM_LANES,
    MixedOrder,
    WindowOrder,
    part_of,
    substitute,
    uniforms,
    window_table,
)

DATA = "0123456789abcdef" * 4


def order(num_windows: int, seed: int = 0, data_hash: str = DATA) -> WindowOrder:
    return WindowOrder(num_windows=num_windows, seed=seed, data_hash=data_hash)


def epoch(of: WindowOrder, number: int = 0) -> np.ndarray:
    return of.window_at(np.arange(of.num_windows, dtype=np.int64) + number * of.num_windows)


@settings(max_examples=60)
@given(
    num_windows=st.one_of(st.integers(1, 3000), st.integers(3000, 400_000)),
    seed=st.integers(-(2**40), 2**40),
    number=st.integers(0, 10**6),
)
def test_every_window_comes_once_an_epoch(num_windows: int, seed: int, number: int) -> None:
    assert np.array_equal(np.sort(epoch(order(num_windows, seed), number)), np.arange(num_windows))


@pytest.mark.parametrize(
    "num_windows",
    [1, 2, 1025, NUM_LANES - 1, NUM_LANES, NUM_LANES + 1, 2 * NUM_LANES - 1, 2 * NUM_LANES,
     NUM_LANES * BLOCK_WINDOWS - 1, NUM_LANES * BLOCK_WINDOWS, NUM_LANES * BLOCK_WINDOWS + 1, NUM_LANES * (BLOCK_WINDOWS + 1),
     579_976],
)  # fmt: skip
def test_every_window_comes_once_at_the_borders_of_lanes_and_blocks(num_windows: int) -> None:
    assert np.array_equal(np.sort(epoch(order(num_windows), 3)), np.arange(num_windows))


@settings(max_examples=60)
@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_a_batch_gives_what_each_position_gives_alone(num_windows: int, positions: list[int]) -> None:
    of = order(num_windows)
    together = of.window_at(np.array(positions))
    alone = [int(of.window_at(np.array([position]))[0]) for position in positions]
    assert together.tolist() == alone
    assert all(0 <= window < num_windows for window in alone)


def test_epochs_seeds_and_data_give_other_orders() -> None:
    of = order(5000)
    orders = [epoch(of), epoch(of, 1), epoch(of, 2), epoch(order(5000, seed=1)), epoch(order(5000, data_hash="f" * 64))]
    for number, one in enumerate(orders):
        for other in orders[number + 1 :]:
            assert np.mean(one == other) < 0.05


def test_the_order_is_the_same_on_every_machine() -> None:
    # Written down once: a change here makes every resumed run see other samples.
    assert epoch(order(100_000))[:8].tolist() == [99725, 46335, 51871, 6029, 80181, 29557, 67267, 15836]
    assert epoch(order(100_000), 1)[:8].tolist() == [87529, 13752, 50174, 46089, 84733, 7660, 64310, 30346]


def stretch_of(windows: np.ndarray, of: WindowOrder, number: int = 0) -> np.ndarray:
    """The lanes that windows come from in an epoch, by asking for all of them."""
    positions = np.arange(of.num_windows, dtype=np.int64) + number * of.num_windows
    lane = np.zeros(of.num_windows, np.int64)
    lane[of.window_at(positions)] = of.lane_at(positions)
    return lane[windows]


@pytest.mark.parametrize("num_windows", [200_000, 1500, 700])
@pytest.mark.parametrize("number", [0, 1, 6])
def test_lanes_are_stretches_of_neighbours_in_the_order_of_the_windows(num_windows: int, number: int) -> None:
    lanes = stretch_of(np.arange(num_windows), order(num_windows), number)
    assert np.all(np.diff(lanes) >= 0)
    lengths = np.bincount(lanes, minlength=NUM_LANES)
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("num_windows", [200_000, 5000])
def test_neighbours_in_a_batch_come_from_different_stretches_all_over_the_data(num_windows: int) -> None:
    of = order(num_windows)
    for first in (0, 777, num_windows - NUM_LANES):
        assert len(set(of.lane_at(np.arange(first, first + NUM_LANES)).tolist())) == NUM_LANES
    windows = np.sort(of.window_at(np.arange(64)))
    # One from each 64th of the data.
    assert np.array_equal(windows * 64 // num_windows, np.arange(64))


def test_successive_windows_of_a_stretch_have_nothing_in_common() -> None:
    of = order(400_000)
    positions = np.arange(of.num_windows)
    of_one = of.window_at(positions[of.lane_at(positions) == 5])
    steps = np.abs(np.diff(of_one))
    assert len(of_one) in (97, 98)
    assert np.mean(steps == 1) < 0.1


@settings(max_examples=40)
@given(
    first=st.integers(0, 10**6),
    batch_size=st.integers(1, 3000),
    world_size=st.integers(1, 64),
    num_windows=st.integers(1, 10**7),
)
def test_the_ranks_tile_each_batch_in_one_order(first: int, batch_size: int, world_size: int, num_windows: int) -> None:
    of = order(num_windows)
    whole = of.share(first, batch_size=batch_size, rank=0, world_size=1).tolist()
    shares = [of.share(first, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [p for share in shares for p in share.tolist()] == whole
    assert sorted(whole) == list(range(first, first + batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("world_size", "batch_size", "most"),
    [(2, 16, 1.0), (4, 16, 1.0), (8, 16, 1.0), (8, 8, 1.0), (64, 128, 1.0), (3, 48, 1.13), (6, 96, 1.13), (5, 100, 1.13),
     (7, 56, 1.2), (96, 960, 1.3)],
)  # fmt: skip
def test_a_rank_keeps_to_its_own_part_of_the_data(world_size: int, batch_size: int, most: float) -> None:
    of = order(300_000)
    num_steps = of.num_windows // batch_size
    for rank in sorted({0, 1, world_size // 2, world_size - 1}):
        own = [
            of.share(step * batch_size, batch_size=batch_size, rank=rank, world_size=world_size)
            for step in range(0, num_steps, max(1, num_steps // 1500))
        ]
        lanes = set(of.lane_at(np.concatenate(own)).tolist())
        assert len(lanes) <= most * NUM_LANES / world_size + 1
        assert max(lanes) - min(lanes) < most * NUM_LANES / world_size + 2


def test_a_rank_keeps_its_part_from_epoch_to_epoch() -> None:
    of = order(300_000)
    parts = []
    for number in range(3):
        first = number * 300_000 + 16
        own = np.concatenate(
            [of.share(first + step * 16, batch_size=16, rank=1, world_size=4) for step in range(15_000)]
        )
        parts.append({window // 1000 for window in of.window_at(own).tolist()})
    # Shards of a thousand: 75 are its own, one more at each border.
    assert all(len(part) <= 77 for part in parts)
    assert len(parts[0] & parts[1] & parts[2]) >= 74


@pytest.mark.parametrize("batch_size", [4096, 6000, 8192])
def test_4096_ranks_over_a_billion_samples(batch_size: int) -> None:
    """512 nodes of 8: any position at once, in memory that does not grow, and each node with its part of a million shards."""
    num_windows, samples_per_shard, num_nodes = 10**9, 1000, 512
    of = order(num_windows)
    tracemalloc.start()
    for rank in (0, 8, 2047, 4095):
        node = rank // 8
        # Slots repeat after 4,096 positions, so these steps are all that differ within an epoch.
        steps = range(NUM_LANES // math.gcd(batch_size, NUM_LANES))
        shards: set[int] = set()
        for step in steps:
            own = np.concatenate([
                of.share(step * batch_size, batch_size=batch_size, rank=each, world_size=4096)
                for each in range(node * 8, node * 8 + 8)
            ])  # fmt: skip
            for lane in set(of.lane_at(own).tolist()):
                # Everything the node will ever read of the lane in this epoch lies between these.
                shards.add(lane)
        part = len(shards) * (num_windows / NUM_LANES / samples_per_shard + 1) / (num_windows / samples_per_shard)
        assert part <= 1.3 / num_nodes, (rank, part * num_nodes)
    middle = of.window_at(np.arange(5 * 10**8, 5 * 10**8 + 4096))
    assert len(set(middle.tolist())) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def mixed(counts: tuple[int, ...], weights: tuple[float, ...], seed: int = 0) -> MixedOrder:
    return MixedOrder([order(count, data_hash=f"{n + 1:064x}") for n, count in enumerate(counts)], weights, seed=seed)


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(20, 5000), min_size=1, max_size=4),
    data=st.data(),
    first=st.integers(0, 10**7),
    world_size=st.integers(1, 9),
)
def test_weighted_sources_go_through_epochs_of_their_own(
    counts: list[int], data: st.DataObject, first: int, world_size: int
) -> None:
    weights = tuple(data.draw(st.floats(0.1, 10)) for _ in counts)
    of = mixed(tuple(counts), weights)
    positions = np.arange(20_000)
    source, own = of.source_at(positions)
    windows = of.window_at(positions)
    borders = np.cumsum([0, *counts])
    for number, count in enumerate(counts):
        at = source == number
        # Its own positions come one after the other, none twice, none left out.
        assert np.array_equal(own[at], np.arange(at.sum()))
        first_epoch = windows[at][:count] - borders[number]
        assert len(set(first_epoch.tolist())) == len(first_epoch)
        assert np.all((first_epoch >= 0) & (first_epoch < count))
    whole = of.share(first, batch_size=100, rank=0, world_size=1).tolist()
    shares = [of.share(first, batch_size=100, rank=rank, world_size=world_size).tolist() for rank in range(world_size)]
    assert [p for share in shares for p in share] == whole
    assert sorted(whole) == list(range(first, first + 100))


def test_weights_are_met_in_the_whole_and_in_every_batch() -> None:
    of = mixed((1000, 50, 7), (5.0, 3.0, 2.0))
    source, _ = of.source_at(np.arange(MIX_POSITIONS) + 3 * MIX_POSITIONS)
    assert np.bincount(source).tolist() == [32768, 19661, 13107]
    for first in range(0, 64_000, 64):
        found = np.bincount(source[first : first + 64], minlength=3)
        assert np.all(np.abs(found - [32, 19.2, 12.8]) < 4), found


def test_another_seed_deals_the_sources_in_another_order() -> None:
    one, other = (mixed((100, 100), (2.0, 1.0), seed=seed).source_at(np.arange(1000))[0] for seed in (0, 1))
    assert 200 < np.sum(one != other) < 800
    again, _ = mixed((100, 100), (2.0, 1.0)).source_at(np.arange(1000))
    assert np.array_equal(one, again)


def test_one_source_with_a_weight_is_that_source() -> None:
    of, alone = mixed((5000,), (3.0,)), order(5000, data_hash=f"{1:064x}")
    positions = np.arange(100, 200_000, 7)
    assert np.array_equal(of.window_at(positions), alone.window_at(positions))


def test_weights_that_mean_nothing_are_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match="weights must be one per source, got 1 for 2 sources"):
        mixed((5, 5), (1.0,))
    with pytest.raises(ValueError, match=r"weights must be positive numbers, got \[1.0, 0.0\]; leave out a source"):
        mixed((5, 5), (1.0, 0.0))
    with pytest.raises(ValueError, match="weights may differ by a factor of 65536 at most"):
        mixed((5, 5), (1.0, 1e9))


@given(count=st.integers(0, 10**6), world_size=st.integers(1, 5000))
def test_the_parts_of_a_pass_tile_what_is_there(count: int, world_size: int) -> None:
    parts = [part_of(count, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert parts[0].start == 0
    assert parts[-1].stop == count
    assert all(one.stop == other.start for one, other in itertools.pairwise(parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_random_numbers_belong_to_a_position() -> None:
    drawn = uniforms(3, 1, np.arange(20_000), 4)
    assert drawn.shape == (20_000, 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.allclose(drawn.mean(axis=0), 0.5, atol=0.01)
    assert np.allclose(np.histogram(drawn, 10, (0, 1))[0] / drawn.size, 0.1, atol=0.005)
    assert abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03
    assert np.array_equal(uniforms(3, 1, np.array([777]), 4)[0], drawn[777])
    for other in (uniforms(4, 1, np.arange(99), 4), uniforms(3, 2, np.arange(99), 4)):
        assert not np.any(other == drawn[:99])


def test_what_stands_in_for_a_window_is_the_same_for_everyone_and_another_at_each_attempt() -> None:
    positions = np.arange(1000)
    first, second = substitute(0, positions, 0, 50), substitute(0, positions, 1, 50)
    assert np.array_equal(first[7:9], substitute(0, np.array([7, 8]), 0, 50))
    assert set(first.tolist()) == set(range(50))
    assert np.mean(first == second) < 0.1


@settings(max_examples=60)
@given(
    num_frames=st.integers(0, 60),
    missing=st.sets(st.integers(0, 59), max_size=8),
    step=st.integers(1, 3),
    window_frames=st.integers(1, 5),
    stride=st.integers(1, 3),
)
def test_windows_are_all_true_neighbours_there_are(
    num_frames: int, missing: set[int], step: int, window_frames: int, stride: int
) -> None:
    index = sample_index(num_frames, missing=missing, frame_step=step)
    table = window_table(index, window_frames=window_frames, stride=stride)
    rows = table.rows(np.arange(table.num_windows)) if table.num_windows else np.zeros((0, window_frames), np.int64)
    found = [tuple(index.frame_index[window].tolist()) for window in rows]
    there = set(index.frame_index.tolist())
    jump = step * stride
    expected = [
        tuple(range(first, first + jump * window_frames, jump)[:window_frames])
        for first in index.frame_index.tolist()
        if all(frame in there for frame in range(first, first + jump * (window_frames - 1) + 1, step))
    ]
    assert found == expected


def test_impossible_windows_are_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match="window_frames and stride must be at least 1, got 0 and 1"):
        window_table(sample_index(5), window_frames=0)
    with pytest.raises(ValueError, match="num_windows must be at least 1, got 0"):
        order(0)
