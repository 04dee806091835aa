"""Choosing samples by any column of the manifest and by the windows they make, and writing them as shards of their own."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from infraredcity.datasets import manifest, reshard
from infraredcity.datasets.build import BuildRecord, check_apart
from infraredcity.datasets.dataset import dataset_hash, write_manifest
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import COLUMN_KINDS, COLUMNS, Columns
from infraredcity.errors import ManifestError
from infraredcity.files.lock import lock_folder
from infraredcity.files.path import AnyPath
from infraredcity.progress import OnProgress, Ticker

REPORT_NAME = "shards.json"
FORMAT = "infraredcity-shards-1"
_ORDERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*([a-z_0-9]+)\s*(<=|>=|!=|=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition on a column; of several, all must hold.

    Attributes:
        column: A column of the manifest.
        relation: "=" or "!=" with any of the values, in text columns as patterns with * and ?; "<", "<=", ">", ">=" with one.
        values: What is compared with, of the column's kind.
    """

    column: str
    relation: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parse a condition as people write it: `clip=city_clear,city_day`, `frame_index>=100`, `key=city_*`, `dup_of=`.

        Raises:
            ValueError: It names no column, or does not fit the column's kind.
        """
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ValueError(f"expected COLUMN=VALUE, or one of != < <= > >=, got {text!r}")
        column, relation, right_side = found[1], found[2], found[3].strip()
        if column not in COLUMNS:
            raise ValueError(f"unknown column {column!r}; the manifest has {', '.join(COLUMNS)}")
        kind = COLUMN_KINDS[column]
        if relation in _ORDERINGS and kind in (str, bool):
            raise ValueError(f"{column} has no order, so {relation} says nothing of it; use = or !=")
        words = [right_side] if relation in _ORDERINGS else [word.strip() for word in right_side.split(",")]
        return cls(column=column, relation=relation, values=tuple(_value(column, kind, word) for word in words))

    def holds(self, rows: Columns) -> np.ndarray:
        """Say for which rows it holds, bool [N]."""
        values = rows[self.column]
        if self.relation in _ORDERINGS:
            compared: np.ndarray = _ORDERINGS[self.relation](np.array(values), self.values[0])
            return compared
        if COLUMN_KINDS[self.column] is str:
            is_any = {
                value: any(fnmatchcase(value, pattern) for pattern in self.values) for value in dict.fromkeys(values)
            }
        else:
            is_any = {value: value in self.values for value in dict.fromkeys(values)}
        equal = np.array([is_any[value] for value in values], bool)
        return equal if self.relation == "=" else ~equal

    def __str__(self) -> str:
        values = ",".join(str(value).lower() if isinstance(value, bool) else str(value) for value in self.values)
        return f"{self.column}{self.relation}{values}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Samples of one part: `rows` is i64 [N], rows of its index, ascending."""

    part: ShardFolder
    rows: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsPart:
    """What one part of a written set holds."""

    name: str
    num_samples: int
    num_shards: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsReport:
    """What writing a selection ended with; stored as shards.json.

    Attributes:
        folder: Where the set lies.
        num_samples: Samples over all parts.
        manifest_hash: sha256 over what the samples are, see `manifest.dataset_hash`.
        parts: One for each part.
        is_new: False when the set was there already.
    """

    folder: str
    num_samples: int
    manifest_hash: str
    parts: tuple[ShardsPart, ...]
    is_new: bool = True


def choose(
    parts: Sequence[ShardFolder], conditions: Sequence[Condition] = (), *, window_frames: int = 1, stride: int = 1
) -> list[Chosen]:
    """Choose the samples for which all conditions hold and which are in a window of such samples.

    Args:
        parts: The data set.
        conditions: All of them must hold.
        window_frames: T; samples of stretches too short for one window of T frames are left out. 1 leaves out none.
        stride: Samples from one frame of a window to the next.

    Returns:
        One entry for each part of which something is left, in order.

    Raises:
        ValueError: window_frames or stride is below 1.
    """
    if window_frames < 1 or stride < 1:
        raise ValueError(f"window_frames and stride must be at least 1, got {window_frames} and {stride}")
    chosen = []
    for part in parts:
        holds = np.ones(len(part.index), bool)
        rows = part.rows()
        for condition in conditions:
            holds &= condition.holds(rows)
        numbers = np.flatnonzero(holds)
        if window_frames > 1:
            span = (window_frames - 1) * stride + 1
            stretches = part.index.take(numbers).stretches()
            kept = [np.arange(start, start + length) for start, length in stretches.tolist() if length >= span]
            numbers = numbers[np.concatenate(kept)] if kept else numbers[:0]
        if len(numbers):
            chosen.append(Chosen(part=part, rows=numbers.astype(np.int64)))
    return chosen


def rows_of_chosen(chosen: Sequence[Chosen]) -> Columns:
    """Return the manifest of a choice; shards are named from the data set's folder."""
    return manifest.concatenate([manifest.take(each.part.rows(), each.rows) for each in chosen])


def find_rows(parts: Sequence[ShardFolder], rows: Columns) -> list[Chosen]:
    """Find the samples that a manifest names: each by its key, in the part where its shard lies.

    Args:
        parts: The data set.
        rows: A manifest of some of its samples, as `rows_of_chosen` or a user made it.

    Raises:
        ManifestError: A sample is not in the data set, is named twice, or is another picture than the manifest's hash says.
    """
    by_name = {part.name: part for part in parts}
    places = {name: {key: row for row, key in enumerate(part.index.keys())} for name, part in by_name.items()}
    found: dict[str, list[int]] = {}
    for key, shard, sha256 in zip(rows["key"], rows["shard"], rows["sha256"], strict=True):
        name = shard.rpartition("/")[0] or "."
        row = places.get(name, {}).get(key)
        if row is None:
            raise ManifestError(f"the manifest names {key!a} in {shard!a}, which the data set lacks; select anew")
        if by_name[name].index.sha256[row].tobytes().hex() != sha256:
            raise ManifestError(
                f"{key}: the manifest says sha256 {sha256[:8]!a}..., the data set holds another picture; it is of another "
                "build, select anew"
            )
        found.setdefault(name, []).append(row)
    chosen = []
    for part in parts:
        numbers = np.array(sorted(found.get(part.name, ())), np.int64)
        doubled = numbers[1:][np.diff(numbers) == 0]
        if len(doubled):
            raise ManifestError(f"the manifest names {part.index.key(int(doubled[0]))} twice; remove one of its rows")
        if len(numbers):
            chosen.append(Chosen(part=part, rows=numbers))
    return chosen


def write(
    chosen: Sequence[Chosen],
    out: AnyPath,
    *,
    samples_per_shard: int,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ShardsReport:
    """Write samples as shards of their own, bytes copied, in parts of the same names, with index and manifest.

    What samples are stays as it is: keys, times, runs, marks. The same samples keep the manifest's hash and the loader's order.

    Args:
        chosen: What to write.
        out: Folder of the new data set.
        samples_per_shard: Samples in a full shard.
        overwrite: Replace another set in `out`.
        on_progress: Told of samples copied.

    Raises:
        ManifestError: Nothing was chosen.
        ShardError: A sample in the source is not what its index says.
        OutputError: `out` holds another data set, is the source or lies in it, or cannot be written.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if not chosen:
        raise ManifestError("nothing was chosen, so there is nothing to write; ask for less")
    for each in chosen:
        root = each.part.path
        for _ in PurePosixPath(each.part.name).parts:
            root = root.parent
        check_apart(out, root)
        check_apart(out / each.part.name, each.part.path)
    record = BuildRecord(
        out=out,
        record_name=REPORT_NAME,
        what="a selection",
        format=FORMAT,
        report_type=ShardsReport,
        inputs={
            "samples_per_shard": samples_per_shard,
            "parts": {
                each.part.name: [each.part.split, each.part.index.take(each.rows).samples_hash()] for each in chosen
            },
        },
        folders=[each.part.name for each in chosen],
    )
    with lock_folder(out):
        earlier = record.find(overwrite=overwrite)
        if earlier is not None:
            return earlier
        record.begin()
        total = sum(len(each.rows) for each in chosen)
        ticker = Ticker("samples", total, on_progress)
        parts = [
            reshard.copy_part(each.part, each.rows, out, samples_per_shard=samples_per_shard, on_samples=ticker.add)
            for each in chosen
        ]
        if [part.name for part in parts] != ["."]:  # there, the part's manifest is that of the set
            write_manifest(out, parts)
        report = ShardsReport(
            folder=str(out),
            num_samples=total,
            manifest_hash=dataset_hash(parts),
            parts=tuple(
                ShardsPart(
                    name=part.name,
                    num_samples=len(part.index),
                    num_shards=len(part.index.shards),
                    size_bytes=sum(info.size_bytes for info in part.index.shards),
                )
                for part in parts
            ),
        )
        return record.end(report)


def _value(column: str, kind: type, word: str) -> Any:
    if kind is bool:
        if word not in ("true", "false"):
            raise ValueError(f"{column} is true or false, got {word!r}")
        return word == "true"
    try:
        return kind(word)
    except ValueError as error:
        raise ValueError(f"{column} is {'a whole number' if kind is int else 'a number'}, got {word!r}") from error
