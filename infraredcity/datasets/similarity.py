"""How alike pictures are: perceptual hashes, near-duplicate runs, and how close test frames come to train frames.

Pixels are compared, not what they mean: another car on the same empty road at night may be as close as the same car a moment later.
Everything is computed in whole numbers, so that the same pictures give the same hashes on any machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from infraredcity.datasets.folder import ShardFolder
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.names import BLOCK_BYTES
from infraredcity.stills.phash import Hasher

NEAR_BITS = 4
"""Two pictures whose hashes differ in at most this many of 64 bits count as nearly the same."""
_MAX_RUN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """How close the test samples of a modality come to its train samples.

    Attributes:
        modality: "infrared" or "visible".
        distance_bits: The smallest number of bits, of 64, in which a test sample's hash differs from a train sample's.
        train_key: Such a train sample.
        test_key: The test sample it is close to.
        near_bits: What counts as nearly the same.
        num_test: Test samples that were compared.
        num_near: Those of them that are nearly the same as some train sample.
    """

    modality: str
    distance_bits: int
    train_key: str
    test_key: str
    near_bits: int
    num_test: int
    num_near: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateRun:
    """A run of which at least half of the samples are nearly the same as samples of one other run.

    Attributes:
        part: Name of the part that holds it.
        first_key: Its first sample.
        num_samples: Its samples.
        num_near: Those that are nearly the same as a sample of the other run.
        of_part: Name of the part that holds the other run.
        of_first_key: The other run's first sample.
    """

    part: str
    first_key: str
    num_samples: int
    num_near: int
    of_part: str
    of_first_key: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Similarity:
    """What in a data set looks alike.

    Attributes:
        dup_of: For each part, S [N]: keys of samples that show nearly the same in another run; where there is none, what the part's
            index says of repeats.
        runs: The near-duplicate runs, in the order in which they were looked at: train before test.
        leakage: For each modality that has both train and test samples.
    """

    dup_of: tuple[np.ndarray, ...]
    runs: tuple[DuplicateRun, ...]
    leakage: tuple[Leakage, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """Neighbouring samples of one part: its number, their rows, and their hashes."""

    part: int
    rows: np.ndarray
    hashes: np.ndarray


def perceptual_hashes(
    parts: Sequence[ShardFolder], on_samples: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """Hash what each picture looks like: u64 [N] for each part.

    Gray, brought to 32x32 by means over areas; of its discrete cosine transform the 8x8 lowest frequencies without the constant row
    and column; each of the 64 bits says whether one of them is above their median. Two pictures are as alike as few bits differ.
    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2 (without its 7x7 mean
    filter, since means over areas smooth already), in whole numbers.

    Args:
        parts: The parts; their shards are read.
        on_samples: Called with the number of samples just looked at.

    Raises:
        ShardError, ImageError: A shard is missing, a picture is damaged.
    """
    hashed = []
    for part in parts:
        index = part.index
        with ShardFiles(index, part.path) as files, Hasher(on_samples) as hasher:
            for row, sample in enumerate(files.samples(np.arange(len(index)))):
                hasher.add(index.key(row), sample[BLOCK_BYTES : BLOCK_BYTES + int(index.size[row])])
            hashed.append(hasher.hashes())
    return hashed


def find(
    parts: Sequence[ShardFolder],
    *,
    hashed: Sequence[np.ndarray] | None = None,
    on_samples: Callable[[int], None] | None = None,
) -> Similarity:
    """Find near-duplicate runs and leakage of a data set; time grows with the square of its samples, 41,000 take seconds.

    A run is a near-duplicate if at least half of its samples are within NEAR_BITS of samples of one run that is looked at before
    it, train before test. Runs of more than 64 samples are looked at in pieces of 64. Infrared and visible are never compared.

    Args:
        parts: The parts of the data set.
        hashed: Their `perceptual_hashes`; without them their shards are read.
        on_samples: Called with the number of samples just looked at.

    Raises:
        ShardError, ImageError: A shard is missing, a picture is damaged.
    """
    if hashed is None:
        hashed = perceptual_hashes(parts, on_samples)
    order = sorted(range(len(parts)), key=lambda number: (parts[number].split == "test", number))
    runs = [
        _Run(part=number, rows=(rows := np.arange(start, start + length)), hashes=hashed[number][rows])
        for number in order
        for start, length in _pieces(parts[number].index.stretches(spans_stills=True))
    ]
    near: dict[tuple[int, int], str] = {}
    duplicates: list[DuplicateRun] = []
    leakage: list[Leakage] = []
    for modality in ("infrared", "visible"):
        of_modality = [run for run in runs if _modality(parts[run.part], int(run.rows[0])) == modality]
        duplicates += _duplicates(parts, of_modality, near)
        leakage += _leakage(parts, of_modality, modality)
    return Similarity(
        dup_of=tuple(_named(part, number, near) for number, part in enumerate(parts)),
        runs=tuple(duplicates),
        leakage=tuple(leakage),
    )


def _pieces(stretches: np.ndarray) -> list[tuple[int, int]]:
    """Return first row and number of rows of each stretch, long ones cut: a piece is compared with everything at once."""
    return [
        (piece, min(_MAX_RUN, start + length - piece))
        for start, length in stretches.tolist()
        for piece in range(start, start + length, _MAX_RUN)
    ]


def _modality(part: ShardFolder, row: int) -> str:
    return part.clips[part.index.clips[int(part.index.clip[row])]].modality


def _duplicates(
    parts: Sequence[ShardFolder], runs: Sequence[_Run], near: dict[tuple[int, int], str]
) -> list[DuplicateRun]:
    """Find the near-duplicates among runs of one modality; `near` gets the key that each of their samples is close to."""
    found = []
    looked_at = np.zeros(0, np.uint64)
    first_of_run = np.zeros(0, np.int64)
    for number, run in enumerate(runs):
        hashes, inverse = np.unique(run.hashes, return_inverse=True)
        if number:
            is_near = np.bitwise_count(hashes[:, None] ^ looked_at[None, :]) <= NEAR_BITS
            by_run = np.logical_or.reduceat(is_near, first_of_run, axis=1)[
                inverse
            ]  # [samples of the run, earlier runs]
            counts = by_run.sum(axis=0)
            best = int(counts.argmax())
            if 2 * int(counts[best]) >= len(run.rows):
                other = runs[best]
                distances = np.bitwise_count(run.hashes[:, None] ^ other.hashes[None, :])
                closest = distances.argmin(axis=1)
                for place in np.flatnonzero(by_run[:, best]).tolist():
                    like = parts[other.part].index.key(int(other.rows[closest[place]]))
                    near[run.part, int(run.rows[place])] = like
                found.append(
                    DuplicateRun(
                        part=parts[run.part].name,
                        first_key=parts[run.part].index.key(int(run.rows[0])),
                        num_samples=len(run.rows),
                        num_near=int(counts[best]),
                        of_part=parts[other.part].name,
                        of_first_key=parts[other.part].index.key(int(other.rows[0])),
                    )
                )
        first_of_run = np.append(first_of_run, len(looked_at))
        looked_at = np.concatenate([looked_at, hashes])
    return found


def _leakage(parts: Sequence[ShardFolder], runs: Sequence[_Run], modality: str) -> list[Leakage]:
    """Measure the leakage of one modality; nothing where it lacks train or test samples."""
    train = [run for run in runs if parts[run.part].split == "train"]
    test = [run for run in runs if parts[run.part].split == "test"]
    if not train or not test:
        return []
    train_hashes = np.concatenate([run.hashes for run in train])
    smallest_bits, place_of_train = 65, 0
    test_key = ""
    num_near = 0
    for run in test:
        distances = np.bitwise_count(run.hashes[:, None] ^ train_hashes[None, :])
        smallest = distances.min(axis=1)
        num_near += int(np.count_nonzero(smallest <= NEAR_BITS))
        row = int(smallest.argmin())
        if int(smallest[row]) < smallest_bits:
            smallest_bits, place_of_train = int(smallest[row]), int(distances[row].argmin())
            test_key = parts[run.part].index.key(int(run.rows[row]))
    train_places = [(run.part, int(row)) for run in train for row in run.rows]
    part, row = train_places[place_of_train]
    return [
        Leakage(
            modality=modality,
            distance_bits=smallest_bits,
            train_key=parts[part].index.key(row),
            test_key=test_key,
            near_bits=NEAR_BITS,
            num_test=sum(len(run.rows) for run in test),
            num_near=num_near,
        )
    ]


def _named(part: ShardFolder, number: int, near: dict[tuple[int, int], str]) -> np.ndarray:
    """Return the `dup_of` of one part."""
    keys = [near.get((number, row), "").encode() or stored for row, stored in enumerate(part.index.dup_of.tolist())]
    return np.array(keys, "S") if any(keys) else np.zeros(len(keys), "S1")
