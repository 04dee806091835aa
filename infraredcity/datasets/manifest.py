"""The manifest of a folder of samples: one row per frame for people and tools, facts per clip, index files of other readers."""

import csv
import hashlib
import importlib.util
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.walk import part_names
from infraredcity.errors import ManifestError, MissingExtraError
from infraredcity.files.atomic import open_atomic
from infraredcity.files.path import AnyPath, any_path
from infraredcity.files.records import opened
from infraredcity.shards.index import BLOCK_ROWS, FROZEN, REPEAT, SUSPECT, SampleIndex
from infraredcity.shards.names import is_inside

if TYPE_CHECKING:
    import pyarrow

CSV_NAME = "manifest.csv"
PARQUET_NAME = "manifest.parquet"
_MARK_WORDS = tuple(
    "+".join(word for bit, word in ((SUSPECT, "suspect"), (REPEAT, "repeat"), (FROZEN, "frozen")) if mark & bit)
    for mark in range(SUSPECT + REPEAT + FROZEN + 1)
)


Columns = dict[str, list[Any]]
"""The manifest's columns by name, all of one length, in the order of COLUMNS."""
COLUMN_KINDS: dict[str, type] = {
    "key": str, "clip": str, "modality": str, "time_of_day": str, "scene": str, "weather": str, "split": str, "frame_index": int,
    "pts": int, "time_s": float, "run_id": int, "shard": str, "offset": int, "size": int, "sha256": str, "width": int,
    "height": int, "dup_of": str, "suspect": bool, "mark": str,
}  # fmt: skip
COLUMNS = tuple(COLUMN_KINDS)
_CSV_HEADER = (",".join(COLUMNS) + "\n").encode()
_PLACES = ("shard", "offset", "size")
"""Where a sample lies; all other columns say what it is."""


def columns(index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> Columns:
    """Make one row per sample, in the order of the index.

    Columns: key, clip, modality, time_of_day, scene, weather, split, frame_index, pts, time_s, run_id, shard, offset (bytes), size
    (bytes), sha256 (of the image's bytes), width, height (pixels), dup_of (key of an earlier sample that shows the same or nearly
    so, or empty), suspect (whether it follows damage), mark ("suspect", "repeat", "frozen", joined by "+", or empty).
    """
    of_row = [clips[index.clips[number]] for number in index.clip.tolist()]
    time_bases = {clip_id: float(Fraction(facts.time_base)) for clip_id, facts in clips.items()}
    seconds = index.pts * np.array([time_bases[facts.clip_id] for facts in of_row], np.float64)
    marks = index.mark.tolist()
    rows: Columns = {
        "key": index.keys(),
        "clip": [facts.clip_id for facts in of_row],
        "modality": [facts.modality for facts in of_row],
        "time_of_day": [facts.time_of_day for facts in of_row],
        "scene": [facts.scene for facts in of_row],
        "weather": [facts.weather for facts in of_row],
        "split": [split] * len(index),
        "frame_index": index.frame_index.tolist(),
        "pts": index.pts.tolist(),
        "time_s": np.round(seconds, 6).tolist(),
        "run_id": index.run_id.tolist(),
        "shard": [index.shards[number].name for number in index.shard.tolist()],
        "offset": index.offset.tolist(),
        "size": index.size.tolist(),
        "sha256": [row.tobytes().hex() for row in index.sha256],
        "width": index.width.tolist(),
        "height": index.height.tolist(),
        "dup_of": [key.decode() for key in index.dup_of.tolist()],
        "suspect": [bool(mark & SUSPECT) for mark in marks],
        "mark": [_MARK_WORDS[mark] for mark in marks],
    }
    assert tuple(rows) == COLUMNS
    return rows


def blocks(
    index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all", folder: str = "."
) -> Iterator[Columns]:
    """Yield the columns of a few rows after the other, so that millions of them need little memory; `folder` as for `in_folder`."""
    for block in index.blocks():
        yield in_folder(columns(block, clips, split=split), folder)


def in_folder(rows: Columns, folder: str) -> Columns:
    """Put `folder`/ before each shard's name, for a manifest further up; "." changes nothing."""
    return rows if folder == "." else {**rows, "shard": [f"{folder}/{name}" for name in rows["shard"]]}


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Join all rows of several manifests, in the given order."""
    return {name: [value for part in parts for value in part[name]] for name in COLUMNS}


def take(rows: Columns, chosen: Sequence[int] | np.ndarray) -> Columns:
    """Return some rows, in the given order."""
    numbers = np.asarray(chosen, np.int64).tolist()
    return {name: [values[number] for number in numbers] for name, values in rows.items()}


def dataset_hash(rows: Columns) -> str:
    """Hash the canonical rows by sha256: what the samples are, sorted by split and key, whatever shards they lie in.

    A canonical row is the line that manifest.csv has for a sample, less shard, offset and size.
    """
    order = sorted(range(len(rows["key"])), key=lambda row: (rows["split"][row], rows["key"][row]))
    return hash_of_sorted(take(rows, order[start : start + BLOCK_ROWS]) for start in range(0, len(order), BLOCK_ROWS))


def hash_of_sorted(sorted_blocks: Iterable[Columns]) -> str:
    """Return the `dataset_hash` of rows that come sorted by split and key."""
    names = [name for name in COLUMNS if name not in _PLACES]
    digest = hashlib.sha256((",".join(names) + "\n").encode())
    for block in sorted_blocks:
        digest.update(_csv_lines(block[name] for name in names))
    return digest.hexdigest()


def read(path: AnyPath) -> Columns:
    """Read the rows of a manifest, as `write_rows` wrote them or as `select` did: parquet by its suffix, else csv.

    Raises:
        ManifestError: It is missing or damaged, lacks a column, or names a shard outside its folder.
        MissingExtraError: pyarrow is not installed.
    """
    return concatenate([*read_blocks(path)])


def read_blocks(path: AnyPath) -> Iterator[Columns]:
    """Read as `read`, a few rows after the other."""
    try:
        for rows in _parquet_blocks(path) if path.suffix == ".parquet" else _csv_blocks(path):
            outside = next((name for name in dict.fromkeys(rows["shard"]) if name != "." and not is_inside(name)), None)
            if outside is not None:  # "." is where a picture file of its own lies
                raise ManifestError(f"{path}: names a shard outside its folder, {outside!a}; do not use it")
            yield rows
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        OverflowError,
        NotImplementedError,
        csv.Error,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise ManifestError(f"{path}: damaged, or not a manifest ({reason}); build it again") from error


def _csv_blocks(path: AnyPath) -> Iterator[Columns]:
    with io.TextIOWrapper(opened(path), encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _check_header(header)
        while lines := [*islice(reader, BLOCK_ROWS)]:
            if any(len(line) != len(header) for line in lines):
                raise ValueError(f"a row has not {len(header)} values")
            by_name = dict(zip(header, zip(*lines, strict=True), strict=True))
            yield {name: _parsed(name, by_name[name]) for name in COLUMNS}


def _parsed(name: str, values: Sequence[str]) -> list[Any]:
    kind = COLUMN_KINDS[name]
    if kind is bool:
        words = {"true": True, "false": False}
        if not words.keys() >= {*values}:
            raise ValueError(f"{name} must be true or false")
        return [words[value] for value in values]
    return list(map(kind, values))


def _parquet_blocks(path: AnyPath) -> Iterator[Columns]:
    _, parquet = _pyarrow()
    with opened(path) as source, parquet.ParquetFile(source) as file:
        _check_header(file.schema_arrow.names)
        for batch in file.iter_batches(BLOCK_ROWS, columns=COLUMNS):
            rows: Columns = {name: batch.column(name).to_pylist() for name in COLUMNS}
            for name, values in rows.items():
                kind = COLUMN_KINDS[name]
                if not all(type(value) is kind for value in values):
                    raise ValueError(f"column {name} holds other things than {kind.__name__}")
            yield rows


def _check_header(names: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"lacks the column {missing[0]}")
    if len({*names}) != len(names):
        raise ValueError("a column occurs twice")


def write_rows(folder: AnyPath, index: SampleIndex, clips: Mapping[str, ClipFacts], *, split: str = "all") -> None:
    """Write `folder`/manifest.csv and manifest.parquet, a row for each sample of an index."""
    write_blocks(folder, blocks(index, clips, split=split))


def write_blocks(folder: AnyPath, row_blocks: Iterable[Columns]) -> None:
    """Write `folder`/manifest.csv and manifest.parquet from rows that come a few after the other, each time a row group."""
    pyarrow, parquet = _pyarrow()
    with (
        open_atomic(folder / CSV_NAME, keep_same=True) as csv_file,
        open_atomic(folder / PARQUET_NAME, keep_same=True) as parquet_file,
        parquet.ParquetWriter(parquet_file, _schema(pyarrow)) as writer,
    ):
        csv_file.write(_CSV_HEADER)
        for rows in row_blocks:
            csv_file.write(_csv_lines(rows.values()))
            writer.write_table(arrow_table(rows))


def csv_bytes(rows: Columns) -> bytes:
    """Write the columns as csv: a header, a line for each sample."""
    return _CSV_HEADER + _csv_lines(rows.values())


def _csv_lines(values: Iterable[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*map(_as_csv_shows, values), strict=True))
    return text.getvalue().encode()


def _as_csv_shows(values: list[Any]) -> list[Any]:
    """Spell true and false in small letters, as json, parquet's printers and pandas read them."""
    return [str(value).lower() for value in values] if values and type(values[0]) is bool else values


def parquet_bytes(rows: Columns) -> bytes:
    """Write the columns as parquet."""
    _, parquet = _pyarrow()
    buffer = io.BytesIO()
    parquet.write_table(arrow_table(rows), buffer)
    return buffer.getvalue()


def table(place: str | AnyPath) -> "pyarrow.Table":
    """Read the manifest of a data set or of one shard folder, or a selection in a file, as an arrow table of the columns COLUMNS.

    Where a data set has no manifest of its own, as the folder of several extracted clips, those of its folders are joined, with the
    folder's name before each shard's.

    Raises:
        ManifestError: A manifest is missing or damaged, lacks a column, or names a shard outside its folder.
        MissingExtraError: pyarrow is not installed.
    """
    path = any_path(place)
    if path.suffix in (".csv", ".parquet"):
        blocks_read = read_blocks(path)
    elif (path / PARQUET_NAME).is_file():
        blocks_read = read_blocks(path / PARQUET_NAME)
    else:
        names = part_names(path)
        if not names:
            raise ManifestError(f"{path}: holds no manifest; name a folder that extract, make-lite or shard wrote")
        blocks_read = (in_folder(rows, name) for name in names for rows in read_blocks(path / name / PARQUET_NAME))
    pyarrow, _ = _pyarrow()
    none = arrow_table(concatenate([]))  # has the columns, where there is not one row
    return pyarrow.concat_tables([none, *map(arrow_table, blocks_read)])


def arrow_table(rows: Columns) -> "pyarrow.Table":
    """Make an arrow table of the columns, from their bytes: `pyarrow.array` would load pandas, longer than a short clip takes."""
    pyarrow, _ = _pyarrow()
    schema = _schema(pyarrow)
    return pyarrow.Table.from_arrays(
        [_arrow_array(pyarrow, each.type, rows[each.name]) for each in schema], schema=schema
    )


def _schema(pyarrow: Any) -> Any:
    kinds = {str: pyarrow.large_string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    return pyarrow.schema([(name, kinds[COLUMN_KINDS[name]]) for name in COLUMNS])


def _arrow_array(pyarrow: Any, kind: Any, values: list[Any]) -> Any:
    if kind != pyarrow.large_string():
        array: np.ndarray = np.array(values, kind.to_pandas_dtype())
        packed = np.packbits(array, bitorder="little") if array.dtype == np.bool_ else array
        return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(packed)])
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    text = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(kind, len(values), text)


def check_packages() -> None:
    """Raise MissingExtraError now rather than at the end of a long extraction."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", extra="extract", needed_for="writing manifest.parquet")


def _pyarrow() -> tuple[Any, Any]:
    check_packages()
    import pyarrow
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet
