"""Data sets made from others: begun with a record that has no report, ended with one, so that a killed run is known and done again.

The record names the folders that belong to the set and a hash of everything it was made from: the same command finds its work done,
another one does not overwrite it. A set may be made on another machine (`--out s3://...`), where no lock is held: two commands that
make one set there at a time would mix their shards, which is for the user to avoid and for `verify` to find.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from infraredcity.datasets import clip_facts, manifest
from infraredcity.errors import OutputError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath, is_below, sizes_in
from infraredcity.files.records import converted, read_json
from infraredcity.files.temporary import TEMPORARY_PREFIX
from infraredcity.shards import index_file, sidecars
from infraredcity.shards.names import is_inside

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord(Generic[Report]):
    """How a data set is made: written without a report when it begins, and with one when it is whole.

    Attributes:
        out: Its folder.
        record_name: File of the record in it, such as lite.json.
        what: What it is, for errors: "a Lite set".
        format: Format of the record.
        report_type: The dataclass of its report, with the fields `folder` and `is_new`, which are not stored.
        inputs: What it is made from, as plain values.
        folders: Its parts.
    """

    out: AnyPath
    record_name: str
    what: str
    format: str
    report_type: type[Report]
    inputs: Mapping[str, Any]
    folders: Sequence[str]

    def begin(self) -> None:
        """Write the record without a report, before the first shard."""
        self._write(None)

    def end(self, report: Report) -> Report:
        """Write the record with its report, after all else; return the report."""
        self._write(stored(report))
        return report

    def _write(self, report: Mapping[str, Any] | None) -> None:
        record = {
            "format": self.format,
            "inputs_hash": hash_of(self.inputs),
            "inputs": self.inputs,
            "folders": list(self.folders),
            "report": report,
        }
        write_atomic(self.out / self.record_name, (json.dumps(record, indent=1) + "\n").encode())

    def find(self, *, overwrite: bool) -> Report | None:
        """Return the report of the same set if it is in `out` whole; otherwise clear the place, or find it taken.

        The caller holds the folder's lock.

        Raises:
            OutputError: Another set, or shards that no record knows, are there, and `overwrite` is not given.
        """
        path = self.out / self.record_name
        stale = {*self.folders}
        if path.exists():
            try:
                record: dict[str, Any] = read_json(path)
                report = None if record["report"] is None else dict(record["report"])
                same = record["inputs_hash"] == hash_of(self.inputs)
                stale |= {str(folder) for folder in record["folders"] if folder == "." or is_inside(str(folder))}
            except (OSError, ValueError, KeyError, TypeError) as error:
                if not overwrite:
                    raise OutputError(f"{path}: damaged ({error}); build it anew with --overwrite") from error
                report = None
            if report is not None and not overwrite:
                if not same:
                    raise OutputError(
                        f"{self.out}: holds {self.what} of other settings or another source; use another --out, or --overwrite"
                    )
                if all(_is_whole(self.out / folder) for folder in self.folders):
                    return restored(self.report_type, report, path, folder=str(self.out), is_new=False)
        elif not overwrite:
            taken = sorted(folder for folder in stale if any((self.out / folder).glob("*.tar")))
            if taken:
                raise OutputError(
                    f"{self.out / taken[0]}: holds shards that are of no {self.record_name}; "
                    "use another --out, or --overwrite to delete them"
                )
        path.unlink(missing_ok=True)
        for folder in sorted(stale):
            _clear(self.out / folder)
            if isinstance(self.out, Path):
                _remove_empty(self.out / folder, below=self.out)
        return None


def hash_of(inputs: Mapping[str, Any]) -> str:
    """Hash all that a set is made from, by sha256."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def stored(report: Any, without: Sequence[str] = ("folder", "is_new")) -> dict[str, Any]:
    """Return what a record keeps of a report: all but where it lies now and what is found anew."""
    return {name: value for name, value in asdict(report).items() if name not in without}


def restored(report_type: type[Report], report: Mapping[str, Any], path: AnyPath, **known: Any) -> Report:
    """Make a report from what `stored` kept of it.

    Args:
        report_type: Its dataclass.
        report: What was kept.
        path: The record, for the error.
        known: The fields that are not kept.

    Raises:
        OutputError: It lacks a field, or has an unknown one.
    """
    try:
        return converted({**report, **known}, report_type)
    except ValueError as error:
        raise OutputError(
            f"{path}: of another version of this program ({error}); make it anew with --overwrite"
        ) from error


def check_apart(out: AnyPath, source: AnyPath) -> None:
    """Raise OutputError where a set would be written into what it is made from, or around it: samples would then count twice."""
    if is_below(out, source):
        is_same = is_below(source, out)
        raise OutputError(
            f"{out}: {'is' if is_same else f'lies in {source},'} where the samples come from; use another --out"
        )
    if is_below(source, out):
        raise OutputError(
            f"{out}: holds {source}, where the samples come from; use another --out, such as a folder beside that"
        )


def _clear(folder: AnyPath) -> None:
    """Delete a part as far as we wrote it, its marks of completeness first."""
    there = sizes_in(folder)
    marks = (
        clip_facts.CLIPS_NAME,
        index_file.INDEX_NAME,
        manifest.CSV_NAME,
        manifest.PARQUET_NAME,
        sidecars.WIDS_NAME,
    )
    ours = sorted(name for name in there if name.endswith((".tar", ".idx")) or name.startswith(TEMPORARY_PREFIX))
    for name in (*(name for name in marks if name in there), *ours):
        (folder / name).unlink(missing_ok=True)


def _remove_empty(folder: Path, *, below: Path) -> None:
    """Delete folders that are empty, from `folder` up to `below`."""
    while folder != below:
        with suppress(OSError):  # something of the user's is in there
            folder.rmdir()
        folder = folder.parent


def _is_whole(folder: AnyPath) -> bool:
    there = sizes_in(folder)
    if clip_facts.CLIPS_NAME not in there or index_file.INDEX_NAME not in there:
        return False
    return all(there.get(info.name) == info.size_bytes for info in index_file.load(folder).shards)
