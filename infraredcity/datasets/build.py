"""Data sets made from others: begun with a record that has no report, ended with one, so that a killed run is known and done again.

The record names the folders that belong to the set and a hash of everything it was made from: the same command finds its work done,
another one does not overwrite it. A set may be made on another machine (`--out s3://...`), where no lock is held: two commands that
make one set there at a time would mix their shards, which is for the user to avoid and for `verify` to find.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infraredcity.datasets import clip_facts, manifest
from infraredcity.errors import OutputError
from infraredcity.files.atomic import TEMPORARY_PREFIX, write_atomic
from infraredcity.files.path import Place, is_below, sizes_in
from infraredcity.files.records import read_json
from infraredcity.shards import index_file, sidecars
from infraredcity.shards.names import is_inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A data set that is made.

    Attributes:
        out: Its folder.
        record_name: File of the record in it, such as lite.json.
        what: What it is, for errors: "a Lite set".
        format: Format of the record.
        inputs: What it is made from, as plain values.
        folders: Its parts.
    """

    out: Place
    record_name: str
    what: str
    format: str
    inputs: Mapping[str, Any]
    folders: Sequence[str]

    @property
    def inputs_hash(self) -> str:
        """sha256 over all it is made from."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()

    def write_record(self, report: Mapping[str, Any] | None) -> None:
        """Write the record: None before the first shard, the report after all else."""
        record = {
            "format": self.format,
            "inputs_hash": self.inputs_hash,
            "inputs": self.inputs,
            "folders": list(self.folders),
            "report": report,
        }
        write_atomic(self.out / self.record_name, (json.dumps(record, indent=1) + "\n").encode())

    def standing(self, *, overwrite: bool) -> dict[str, Any] | None:
        """The report of the same set if it stands in `out` whole; otherwise the place is cleared, or found to be taken.

        The caller holds the folder's lock.

        Raises:
            OutputError: Another set, or shards that no record knows, stand there, and `overwrite` is not given.
        """
        path = self.out / self.record_name
        stale = {*self.folders}
        if path.exists():
            try:
                record: dict[str, Any] = read_json(path)
                report = None if record["report"] is None else dict(record["report"])
                same = record["inputs_hash"] == self.inputs_hash
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
                    return report
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


def check_apart(out: Place, source: Place) -> None:
    """OutputError where a set would be written into what it is made from, or around it: its samples would then count twice."""
    if is_below(out, source):
        is_same = is_below(source, out)
        raise OutputError(
            f"{out}: {'is' if is_same else f'lies in {source},'} where the samples come from; use another --out"
        )
    if is_below(source, out):
        raise OutputError(
            f"{out}: holds {source}, where the samples come from; use another --out, such as a folder beside that"
        )


def _clear(folder: Place) -> None:
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


def _is_whole(folder: Place) -> bool:
    there = sizes_in(folder)
    if clip_facts.CLIPS_NAME not in there or index_file.INDEX_NAME not in there:
        return False
    return all(there.get(info.name) == info.size_bytes for info in index_file.load(folder).shards)
