"""The order of training windows: a pure function from a position in an endless stream to a window of frames.

Position p belongs to epoch p // N and place q = p % N, and to one of 4,096 lanes, each a stretch of neighbouring windows. Slot
p % 4096 finds its lane by a scrambled van der Corput sequence; a lane's next window comes from a keyed permutation of the blocks of
64 windows in its stretch, and of the windows in the block. So

- every window comes exactly once per epoch, and rank, worker and batch size only choose WHICH positions are read;
- neighbours in a batch come from far apart: 4,096 positions in a row are in 4,096 stretches, and any few in a row lie evenly over
  all the data;
- a rank that takes its share of each batch by lane (`WindowOrder.share`) keeps to its own part of the shards, in every epoch to the
  same;
- any position is found in O(1), so resuming is a number, also with another number of ranks.

All arithmetic is on u64 arrays, so a batch of positions costs one pass.

Sources: J. G. van der Corput, Verteilungsfunktionen, 1935 (bits in reverse); A. B. Owen, Randomly permuted (t,m,s)-nets and
(t,s)-sequences, 1995 (each bit flipped by a hash of the bits before it, which keeps the even spread); Feistel networks walked until
inside: J. Black, P. Rogaway, Ciphers with arbitrary finite domains, 2002.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from infraredcity.shards.index import SampleIndex

NUM_LANES = 4096
BLOCK_WINDOWS = 64
MIX_POSITIONS = 1 << 16
"""Positions after which the pattern of weighted sources repeats; weights are met to one part in that number."""
_LANE_BITS = NUM_LANES.bit_length() - 1
_MOST_EPOCHS = 16
"""Epochs whose lanes are held at once; positions further apart are looked up one group after the other."""
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
        """Look up rows of the index, i64 [B, T], of window numbers, i64 [B]."""
        stretch = np.searchsorted(self.ends, windows, side="right")
        before = np.where(stretch > 0, self.ends[np.maximum(stretch - 1, 0)], 0)
        first = self.first_rows[stretch] + (windows - before)
        rows: np.ndarray = first[:, None] + np.arange(self.window_frames, dtype=np.int64) * self.stride
        return rows

    def shifted(self, num_rows: int) -> "WindowTable":
        """Return the table of the same windows where `num_rows` rows of other samples come before theirs."""
        return replace(self, first_rows=self.first_rows + num_rows)

    @staticmethod
    def joined(tables: Sequence["WindowTable"]) -> "WindowTable":
        """Return the windows of several tables of one shape, numbered on from one to the next."""
        counts = np.concatenate([np.diff(table.ends, prepend=0) for table in tables])
        return replace(
            tables[0], first_rows=np.concatenate([table.first_rows for table in tables]), ends=np.cumsum(counts)
        )


def window_table(index: SampleIndex, *, window_frames: int, stride: int = 1) -> WindowTable:
    """List the windows of an index: T frames of one run at a constant step, every possible start."""
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


@runtime_checkable
class Order(Protocol):
    """What a reader needs of an order; `WindowOrder` and `MixedOrder` are two."""

    @property
    def num_windows(self) -> int:
        """N, windows per epoch."""

    def window_at(self, positions: np.ndarray) -> np.ndarray:
        """Look up the windows at some positions, each at least 0: i64 [B] -> i64 [B] window numbers."""

    def share(self, first_position: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
        """Return the positions that one rank reads of the batch that begins at a position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOrder:
    """The endless shuffled stream over `num_windows` windows.

    Attributes:
        num_windows: N.
        seed: Another seed is another order.
        data_hash: sha256 in hexadecimal of the samples' rows (`SampleIndex.samples_hash`): other data is another order.
    """

    num_windows: int
    seed: int
    data_hash: str
    _tables: dict[int, "_Lanes"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ValueError(f"num_windows must be at least 1, got {self.num_windows}")

    def window_at(self, positions: np.ndarray) -> np.ndarray:
        """Look up the windows at some positions, each at least 0: i64 [B] -> i64 [B] window numbers."""
        return self._grouped(positions, self._windows)

    def lane_at(self, positions: np.ndarray) -> np.ndarray:
        """Look up the lanes of positions, i64 [B] -> i64 [B] in [0, 4096): which of 4,096 nearly equal stretches of windows."""
        return self._grouped(positions, self._lanes_at)

    def share(self, first_position: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
        """Return the positions that one rank reads of the batch [first_position, first_position + batch_size).

        The batch is put in the order of its lanes and cut into `world_size` even pieces, so that a rank keeps to its part of the
        data. Over all ranks each position appears once, and the pieces one after the other are the same batch at any world size.

        Args:
            first_position: Where the batch begins in the stream.
            batch_size: Positions of the whole batch, over all ranks.
            rank: Which piece, in [0, world_size).
            world_size: How many pieces.

        Returns:
            i64 [b]; b differs by at most one between ranks.
        """
        positions = np.arange(first_position, first_position + batch_size, dtype=np.int64)
        ordered = positions[np.argsort(self.lane_at(positions), kind="stable")]
        return ordered[_piece(batch_size, rank, world_size)]

    def _grouped(self, positions: np.ndarray, look_up: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Call `look_up` on positions, of a few epochs at a time."""
        epoch = positions // self.num_windows
        if len(epoch) == 0 or epoch.max() - epoch.min() < _MOST_EPOCHS:
            return look_up(positions)
        found = np.zeros(len(positions), np.int64)
        epochs = np.unique(epoch)
        for first in range(0, len(epochs), _MOST_EPOCHS):
            of_group = np.isin(epoch, epochs[first : first + _MOST_EPOCHS])
            found[of_group] = look_up(positions[of_group])
        return found

    def _windows(self, positions: np.ndarray) -> np.ndarray:
        epoch, place, lanes, which = self._placed(positions)
        slot = positions % NUM_LANES
        lane, start, length = lanes.lane[which, slot], lanes.start[which, slot], lanes.length[which, slot]
        # The lane's slot comes up once in 4,096 places, wherever in the 4,096 the epoch began.
        turn = place // NUM_LANES

        # Blocks of the stretch: all full but the last one, which is dealt a place of its own among the others.
        key = _mixed(_mixed(_key(self.seed, self.data_hash, epoch), 3), lane)
        full_blocks = np.maximum((length - 1) // BLOCK_WINDOWS, 0)
        last_size = length - full_blocks * BLOCK_WINDOWS
        last_place = (_mixed(key, 4) % (full_blocks + 1).astype(_U64)).astype(np.int64) * BLOCK_WINDOWS
        is_last = (turn >= last_place) & (turn < last_place + last_size)
        among_full = np.where(turn >= last_place + last_size, turn - last_size, turn)
        full_block = _permuted(among_full // BLOCK_WINDOWS, full_blocks, _mixed(key, 5))
        block = np.where(is_last, full_blocks, full_block)
        size = np.where(is_last, last_size, BLOCK_WINDOWS)
        inside = np.where(is_last, turn - last_place, among_full % BLOCK_WINDOWS)
        window = _permuted(inside, size, _mixed(_mixed(key, 6), block))
        found: np.ndarray = start + block * BLOCK_WINDOWS + window
        return found

    def _lanes_at(self, positions: np.ndarray) -> np.ndarray:
        _, _, lanes, which = self._placed(positions)
        found: np.ndarray = lanes.lane[which, positions % NUM_LANES]
        return found

    def _placed(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, "_Lanes", np.ndarray]:
        """Return epoch and place of each position, the lanes of those epochs, and which of them each position needs."""
        epoch, place = np.divmod(positions.astype(np.int64), self.num_windows)
        first = int(epoch[0]) if len(epoch) else 0
        if (epoch == first).all():
            lanes = self._tables.get(first)
            if lanes is None:
                lanes = self._lanes(np.array([first], np.int64))
                if len(self._tables) > 1:
                    self._tables.clear()
                self._tables[first] = lanes
            return epoch, place, lanes, np.zeros(len(epoch), np.int64)
        epochs, which = np.unique(epoch, return_inverse=True)
        return epoch, place, self._lanes(epochs), which

    def _lanes(self, epochs: np.ndarray) -> "_Lanes":
        """Return the lanes of some epochs, by slot."""
        n = self.num_windows
        lane = _scrambled(_mixed(_key(self.seed, self.data_hash, epochs), 1))
        base, longer = divmod(n, NUM_LANES)
        # An epoch of N places, begun at slot (e * N) % 4096, comes to its first N % 4096 slots once more than to the others.
        began = np.array([int(epoch) * n % NUM_LANES for epoch in epochs], np.int64)
        length = base + ((np.arange(NUM_LANES) - began[:, None]) % NUM_LANES < longer)
        by_lane = np.zeros_like(length)
        np.put_along_axis(by_lane, lane, length, axis=1)
        start_by_lane = np.cumsum(by_lane, axis=1) - by_lane
        return _Lanes(lane=lane, start=np.take_along_axis(start_by_lane, lane, axis=1), length=length)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lanes:
    """What is at each of the 4,096 slots of E epochs: lane, its stretch's first window and number of windows; i64 [E, 4096]."""

    lane: np.ndarray
    start: np.ndarray
    length: np.ndarray


def shares_of(weights: Sequence[float | int]) -> np.ndarray:
    """Return how many of MIX_POSITIONS positions each source gets, i64 [N]; none without weights.

    Raises:
        ValueError: A weight is not positive, or so small beside the others that its source gets none.
    """
    given = np.asarray(weights, np.float64)
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise ValueError(
            f"weights must be positive numbers, got {list(weights)}; leave out a source that shall not be drawn"
        )
    counts: np.ndarray = np.diff(np.round(np.cumsum(given) / given.sum() * MIX_POSITIONS).astype(np.int64), prepend=0)
    if (counts == 0).any():
        raise ValueError(f"weights may differ by a factor of {MIX_POSITIONS} at most, got {list(weights)}")
    return counts


class MixedOrder:
    """Several orders as one stream, each with its weight: positions are dealt to them evenly, by a fixed seeded pattern.

    Each source goes through its own epochs: all its windows come once before one comes again. Over 65,536 positions in a row every
    source has exactly its share (rounded to one of 65,536), and any few in a row have nearly so.

    Args:
        orders: The sources; window numbers of a later one go on where those of the one before end.
        weights: How often each is drawn, in proportion; positive.
        seed: Another seed is another pattern.
    """

    def __init__(self, orders: Sequence[WindowOrder], weights: Sequence[float | int], *, seed: int) -> None:
        if len(orders) != len(weights):
            raise ValueError(f"weights must be one per source, got {len(weights)} for {len(orders)} sources")
        self._orders = tuple(orders)
        counts = shares_of(weights)
        borders = np.cumsum(counts)
        # Even for the same reason as the lanes are: a scrambled van der Corput sequence, looked up among the borders.
        spread = _scrambled(_mixed(np.array([seed], np.int64).astype(_U64), 7), bits=MIX_POSITIONS.bit_length() - 1)[0]
        self._source = np.searchsorted(borders, spread, side="right")
        self._counts = counts
        self._before = np.zeros(MIX_POSITIONS, np.int64)
        for source in range(len(orders)):
            at = np.flatnonzero(self._source == source)
            self._before[at] = np.arange(len(at))
        self._first_window = np.cumsum([0, *(order.num_windows for order in orders)])

    @property
    def num_windows(self) -> int:
        """Windows of all sources together."""
        return int(self._first_window[-1])

    def source_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up the source of each position, i64 [B] -> i64 [B], and i64 [B], the position in that source's own stream."""
        block, inside = np.divmod(positions.astype(np.int64), MIX_POSITIONS)
        source = self._source[inside]
        return source, block * self._counts[source] + self._before[inside]

    def window_at(self, positions: np.ndarray) -> np.ndarray:
        """Look up the windows at some positions, each at least 0: i64 [B] -> i64 [B], counted through all sources."""
        source, own = self.source_at(positions)
        found = np.zeros(len(positions), np.int64)
        for number, order in enumerate(self._orders):
            of_this = source == number
            if of_this.any():
                found[of_this] = self._first_window[number] + order.window_at(own[of_this])
        return found

    def share(self, first_position: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
        """Return what `WindowOrder.share` does, in the order of sources and then of lanes."""
        positions = np.arange(first_position, first_position + batch_size, dtype=np.int64)
        source, own = self.source_at(positions)
        lane = np.zeros(batch_size, np.int64)
        for number, order in enumerate(self._orders):
            of_this = source == number
            lane[of_this] = order.lane_at(own[of_this])
        return positions[np.lexsort((lane, source))][_piece(batch_size, rank, world_size)]


def part_of(count: int, *, rank: int, world_size: int) -> range:
    """Return one rank's part of `count` things to go through once; parts differ by one at most, and none is lost."""
    piece = _piece(count, rank, world_size)
    return range(piece.start, piece.stop)


def uniforms(seed: int, purpose: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Draw random numbers that belong to a position in [0, 1), whichever rank reads it: f64 [B, count].

    Args:
        seed: Another seed gives other numbers.
        purpose: What they are for, so that two uses of one position do not see the same.
        positions: i64 [B].
        count: Numbers per position.
    """
    key = _mixed(_mixed(np.array([seed], np.int64).astype(_U64), purpose), positions)
    drawn = _mixed(key[:, None], np.arange(count))
    # The upper 53 bits, all that a double holds.
    return (drawn >> _U64(11)).astype(np.float64) * 2.0**-53


def substitute(seed: int, positions: np.ndarray, attempt: int, num_windows: int) -> np.ndarray:
    """Choose the window that is read for the one of a position when that cannot be read: i64 [B] in [0, num_windows)."""
    key = _mixed(_mixed(_mixed(np.array([seed], np.int64).astype(_U64), 8), positions), attempt)
    return (key % _U64(num_windows)).astype(np.int64)


def _piece(count: int, rank: int, world_size: int) -> slice:
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def _scrambled(keys: np.ndarray, bits: int = _LANE_BITS) -> np.ndarray:
    """Make for each of E keys an Owen-scrambled van der Corput sequence of the numbers below 2 ** bits, i64 [E, 2 ** bits].

    Any 2 ** k numbers in a row that begin at a multiple of 2 ** k fall one into each of 2 ** k equal parts of the range.
    """
    slots = np.arange(1 << bits, dtype=_U64)
    value = np.zeros((len(keys), 1 << bits), _U64)
    for number in range(bits):
        bit = (slots >> _U64(number)) & _U64(1)
        # The bits so far and how many there are: a name for the node of the tree whose two sides may change places.
        node = value | (_U64(1) << _U64(number))
        value = (value << _U64(1)) | (bit ^ (_mixed(keys[:, None], node) & _U64(1)))
    return value.astype(np.int64)


def _mixed(key: np.ndarray, value: np.ndarray | int) -> np.ndarray:
    """Mix a key and a number to a new key: the finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) over their sum."""
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
    """Permute [0, size) by a key for each element: a Feistel network on the next even number of bits, walked until inside.

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
