"""Perceptual hashes of pictures: 64 bits, of which few differ where two pictures look alike; the same on any machine."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from infraredcity.stills.decode import decode_small
from infraredcity.threads import num_cores

_SIDE = 32
_ROWS_AT_ONCE = 128


class Hasher:
    """Hash pictures that are added one by one, in threads.

    Args:
        on_samples: Called with the number of pictures just hashed.
    """

    def __init__(self, on_samples: Callable[[int], None] | None = None) -> None:
        self._on_samples = on_samples
        self._num_threads = num_cores()
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="hash")
        self._next: list[tuple[str, bytes]] = []
        self._under_way: deque[Future[np.ndarray]] = deque()
        self._hashed: list[np.ndarray] = [np.zeros(0, np.uint64)]

    def __enter__(self) -> "Hasher":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, name: str, picture: bytes) -> None:
        """Add one picture, the bytes of a still; wait where the threads are far behind.

        Raises:
            ImageError: An earlier picture is damaged.
        """
        self._next.append((name, picture))
        if len(self._next) == _ROWS_AT_ONCE:
            self._begin()
            if len(self._under_way) > 2 * self._num_threads:
                self._end()

    def hashes(self) -> np.ndarray:
        """Return u64 [N], the hashes of all pictures so far, in their order.

        Raises:
            ImageError: A picture is damaged.
        """
        self._begin()
        while self._under_way:
            self._end()
        return np.concatenate(self._hashed)

    def _begin(self) -> None:
        self._under_way.append(self._pool.submit(_hashes_of_files, self._next))
        self._next = []

    def _end(self) -> None:
        values = self._under_way.popleft().result()
        self._hashed.append(values)
        if self._on_samples is not None:
            self._on_samples(len(values))


def _hashes_of_files(named: Sequence[tuple[str, bytes]]) -> np.ndarray:
    pictures = [decode_small(data, 2 * _SIDE, name=name) for name, data in named]
    if len({picture.shape for picture in pictures}) == 1:
        return hashes_of(np.stack(pictures))
    return np.concatenate([np.zeros(0, np.uint64), *(hashes_of(picture[None]) for picture in pictures)])


def hashes_of(gray: np.ndarray) -> np.ndarray:
    """Return u64 [N], the perceptual hashes of N pictures, u8 or u16 [N, H, W]; see `similarity.perceptual_hashes`."""
    sums = _box_sums(_box_sums(gray.astype(np.int64)).transpose(0, 2, 1)).transpose(0, 2, 1)
    means = sums * 256 // (gray.shape[1] * gray.shape[2])
    waves = (_COSINES @ means @ _COSINES.T).reshape(len(gray), 64)
    twice_the_median = np.sort(waves, axis=1)[:, 31:33].sum(axis=1, keepdims=True)
    bits = np.packbits(2 * waves > twice_the_median, axis=1)
    return bits.view(">u8")[:, 0].astype(np.uint64)


def _box_sums(values: np.ndarray) -> np.ndarray:
    """Return i64 [N, 32, W]: the sums over 32 boxes of equal height, times 32, so that a row in two boxes is split exactly."""
    height = values.shape[1]
    above = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0), (0, 0)))
    whole, rest = np.divmod(np.arange(_SIDE + 1) * height, _SIDE)
    padded = np.pad(values, ((0, 0), (0, 1), (0, 0)))
    edges: np.ndarray = _SIDE * above[:, whole] + rest[:, None] * padded[:, whole]
    return np.diff(edges, axis=1)


# Rows 1 to 8 of the type II cosine transform of 32 values, times 4,096.
_COSINES = np.round(
    4096 * np.cos(np.pi * (2 * np.arange(_SIDE)[None, :] + 1) * np.arange(1, 9)[:, None] / (2 * _SIDE))
).astype(np.int64)
