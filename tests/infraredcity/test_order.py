import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import sample_index

from infraredcity.order import BLOCK_WINDOWS, NUM_LANES, WindowOrder, positions_of, window_table

DATA = "0123456789abcdef" * 4


def order(num_windows: int, seed: int = 0, data_hash: str = DATA) -> WindowOrder:
    return WindowOrder(num_windows=num_windows, seed=seed, data_hash=data_hash)


def epoch(of: WindowOrder, number: int = 0) -> np.ndarray:
    return of.window_at(np.arange(of.num_windows, dtype=np.int64) + number * of.num_windows)


@settings(max_examples=60, deadline=None)
@given(
    num_windows=st.one_of(st.integers(1, 3000), st.integers(3000, 400_000)),
    seed=st.integers(-(2**40), 2**40),
    number=st.integers(0, 10**6),
)
def test_every_window_comes_once_an_epoch(num_windows: int, seed: int, number: int) -> None:
    assert np.array_equal(np.sort(epoch(order(num_windows, seed), number)), np.arange(num_windows))


@pytest.mark.parametrize(
    "num_windows",
    [1, 2, 1023, 1024, 1025, 2047, 2048, NUM_LANES * BLOCK_WINDOWS, NUM_LANES * BLOCK_WINDOWS + 1,
     NUM_LANES * BLOCK_WINDOWS - 1, NUM_LANES * (BLOCK_WINDOWS + 1), 579_976],
)  # fmt: skip
def test_every_window_comes_once_at_the_borders_of_lanes_and_blocks(num_windows: int) -> None:
    assert np.array_equal(np.sort(epoch(order(num_windows), 3)), np.arange(num_windows))


@settings(max_examples=60, deadline=None)
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
    first = [47317, 51317, 57235, 41775, 4517, 29149, 25666, 34959]
    assert epoch(order(100_000))[:8].tolist() == first


def test_neighbours_in_a_batch_come_from_far_apart() -> None:
    num_windows = 200_000
    first = epoch(order(num_windows))[:64]
    gaps = np.diff(np.sort(first))
    # Each comes from another stretch of N / 1024 = 195 windows, so they cannot crowd.
    assert len(set(stretch_of(first, num_windows).tolist())) == 64
    assert np.median(gaps) > 500


def stretch_of(windows: np.ndarray, num_windows: int) -> np.ndarray:
    """The lane's stretch of neighbouring windows: 1,024 stretches, the first N % 1024 one window longer."""
    base, longer = divmod(num_windows, NUM_LANES)
    starts = np.array([number * base + min(number, longer) for number in range(NUM_LANES)])
    return np.searchsorted(starts, windows, side="right") - 1


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_a_rank_reads_its_own_part_of_the_shards(world_size: int) -> None:
    num_windows, batch_size = 300_000, 16
    positions = np.arange(num_windows)
    stretches = stretch_of(epoch(order(num_windows)), num_windows)
    rank_of = positions % batch_size * world_size // batch_size
    share = [set(stretches[rank_of == rank].tolist()) for rank in range(world_size)]
    assert [len(part) for part in share] == [NUM_LANES // world_size] * world_size
    assert set().union(*share) == set(range(NUM_LANES))
    for rank in range(world_size):
        own = [p for step in range(3) for p in positions_of(step, batch_size=16, rank=rank, world_size=world_size)]
        assert set(rank_of[own].tolist()) == {rank}


@given(step=st.integers(0, 10**6), batch_size=st.integers(1, 500), world_size=st.integers(1, 64))
def test_the_ranks_tile_each_batch(step: int, batch_size: int, world_size: int) -> None:
    shares = [positions_of(step, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [p for share in shares for p in share] == list(range(step * batch_size, (step + 1) * batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=60, deadline=None)
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
