"""The order of training windows: a pure function from a position in an endless stream to a window of frames.

Position p belongs to epoch p // N and place q = p % N. Place q lies in lane q % 1024; keyed permutations deal the lanes to
stretches of neighbouring windows, the blocks of 256 windows inside a stretch, and the windows inside a block. So

- every window comes exactly once per epoch, and rank, worker and batch size only choose WHICH positions are read;
- neighbours in a batch come from far apart, while one rank keeps to its own part of the shards;
- any position is found in O(1), so resuming is a number, also with another number of ranks.

All arithmetic is on u64 arrays, so a batch of positions costs one pass.
"""

from dataclasses import dataclass

import numpy as np

from infraredcity.index import SampleIndex

NUM_LANES = 1024
BLOCK_WINDOWS = 256
_ROUNDS = 6
_U64 = np.uint64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowTable:
    """Which windows of T frames an index holds; window w is a number in [0, num_windows).

    Attributes:
        window_frames: T.
        stride: Samples from one frame of a window to the next.
        first_rows: i64 [S], first row of each stretch of neighbours that holds a window.
        ends: i64 [S], number of windows up to and with each stretch.
    """

    window_frames: int
    stride: int
    first_rows: np.ndarray
    ends: np.ndarray

    @property
    def num_windows(self) -> int:
        """How many windows there are."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def rows(self, windows: np.ndarray) -> np.ndarray:
        """i64 [B] window numbers -> i64 [B, T] rows of the index."""
        stretch = np.searchsorted(self.ends, windows, side="right")
        before = np.where(stretch > 0, self.ends[np.maximum(stretch - 1, 0)], 0)
        first = self.first_rows[stretch] + (windows - before)
        rows: np.ndarray = first[:, None] + np.arange(self.window_frames, dtype=np.int64) * self.stride
        return rows


def window_table(index: SampleIndex, *, window_frames: int, stride: int = 1) -> WindowTable:
    """The windows of an index: T frames of one run at a constant step, every possible start."""
    if window_frames < 1 or stride < 1:
        raise ValueError(f"window_frames and stride must be at least 1, got {window_frames} and {stride}")
    stretches = index.stretches()
    windows = stretches[:, 1] - (window_frames - 1) * stride
    holds_one = windows > 0
    return WindowTable(
        window_frames=window_frames,
        stride=stride,
        first_rows=stretches[holds_one, 0],
        ends=np.cumsum(windows[holds_one]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOrder:
    """The endless shuffled stream over `num_windows` windows.

    Attributes:
        num_windows: N.
        seed: Another seed is another order.
        data_hash: sha256 in hexadecimal of the samples' rows (`SampleIndex.rows_hash`): other data is another order.
    """

    num_windows: int
    seed: int
    data_hash: str

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ValueError(f"num_windows must be at least 1, got {self.num_windows}")

    def window_at(self, positions: np.ndarray) -> np.ndarray:
        """i64 [B] positions, each at least 0 -> i64 [B] window numbers."""
        n = self.num_windows
        epoch, place = np.divmod(positions.astype(np.int64), n)
        lane, turn = place % NUM_LANES, place // NUM_LANES
        key = _key(self.seed, self.data_hash, epoch)

        # The first `longer` stretches hold one window more, and so do the first `longer` lanes.
        base, longer = divmod(n, NUM_LANES)
        is_long = lane < longer
        dealt_long = _permuted(lane, np.full_like(lane, longer), _mixed(key, 1))
        dealt_short = _permuted(lane - longer, np.full_like(lane, NUM_LANES - longer), _mixed(key, 2))
        stretch = np.where(is_long, dealt_long, longer + dealt_short)
        start = stretch * base + np.minimum(stretch, longer)
        length = base + (stretch < longer)

        # Blocks of the stretch: all full but the last one, which is dealt a place of its own among the others.
        stretch_key = _mixed(_mixed(key, 3), stretch)
        full_blocks = np.maximum((length - 1) // BLOCK_WINDOWS, 0)
        last_size = length - full_blocks * BLOCK_WINDOWS
        last_place = (_mixed(stretch_key, 4) % (full_blocks + 1).astype(_U64)).astype(np.int64) * BLOCK_WINDOWS
        is_last = (turn >= last_place) & (turn < last_place + last_size)
        among_full = np.where(turn >= last_place + last_size, turn - last_size, turn)
        full_block = _permuted(among_full // BLOCK_WINDOWS, full_blocks, _mixed(stretch_key, 5))
        block = np.where(is_last, full_blocks, full_block)
        size = np.where(is_last, last_size, BLOCK_WINDOWS)
        inside = np.where(is_last, turn - last_place, among_full % BLOCK_WINDOWS)
        window = _permuted(inside, size, _mixed(_mixed(stretch_key, 6), block))
        found: np.ndarray = start + block * BLOCK_WINDOWS + window
        return found


def positions_of(step: int, *, batch_size: int, rank: int, world_size: int) -> range:
    """The positions that one rank reads at one step; over all ranks each position of the step's batch appears once."""
    first = step * batch_size
    return range(first + batch_size * rank // world_size, first + batch_size * (rank + 1) // world_size)


def _mixed(key: np.ndarray, value: np.ndarray | int) -> np.ndarray:
    """A new key from a key and a number: the finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) over their sum."""
    golden = _U64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        mixed = key + golden * (np.asarray(value).astype(_U64) + _U64(1))
        mixed = (mixed ^ (mixed >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> _U64(27))) * _U64(0x94D049BB133111EB)
    result: np.ndarray = mixed ^ (mixed >> _U64(31))
    return result


def _key(seed: int, data_hash: str, epoch: np.ndarray) -> np.ndarray:
    data = np.array([int(data_hash[:16], 16)], _U64)
    return _mixed(_mixed(data, np.array(seed, np.int64)), epoch)


def _permuted(values: np.ndarray, sizes: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A keyed bijection of [0, size) for each element: a Feistel network on the next even number of bits, walked until inside.

    Where a value lies outside [0, size) (the caller discards those elements) the result is 0.
    """
    inside = (values >= 0) & (values < sizes)
    limit = np.where(inside, sizes, 1).astype(_U64)
    current = np.where(inside, values, 0).astype(_U64)
    # Balanced halves: 4 ** half >= size, so at most 4 walks on average.
    bits = np.ceil(np.log2(np.maximum(limit.astype(np.float64), 2))).astype(np.int64)
    half = ((bits + 1) // 2).astype(_U64)
    mask = (_U64(1) << half) - _U64(1)
    keys = [_mixed(key, 16 + number) for number in range(_ROUNDS)]
    todo = np.ones(current.shape, bool)
    while True:
        left, right = current >> half, current & mask
        for round_key in keys:
            left, right = right, left ^ (_mixed(round_key, right) & mask)
        current = np.where(todo, (left << half) | right, current)
        todo = current >= limit
        if not todo.any():
            result: np.ndarray = current.astype(np.int64)
            return result
