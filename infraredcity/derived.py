"""Data sets made from others: begun with a record that has no report, ended with one, so that a killed run is known and done again.

The record names the folders that belong to the set and a hash of everything it was made from: the same command finds its work done,
another one does not overwrite it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infraredcity import index as sample_index
from infraredcity import manifest
from infraredcity.errors import OutputError
from infraredcity.manifest import is_inside
from infraredcity.storage import remove_temporaries, write_atomic


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

    out: Path
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
                record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
            if (self.out / folder).is_dir():
                _clear(self.out / folder, below=self.out)
        return None


def _clear(folder: Path, *, below: Path) -> None:
    """Delete a part as far as we wrote it, its marks of completeness first; then folders that are empty, up to `below`."""
    names = (
        manifest.CLIPS_NAME,
        sample_index.INDEX_NAME,
        manifest.CSV_NAME,
        manifest.PARQUET_NAME,
        manifest.WIDS_NAME,
    )
    remove_temporaries(folder)
    for path in [*(folder / name for name in names), *sorted(folder.glob("*.tar")), *sorted(folder.glob("*.idx"))]:
        path.unlink(missing_ok=True)
    place = folder
    while place != below:
        with suppress(OSError):  # something of the user's is in there
            place.rmdir()
        place = place.parent


def _is_whole(folder: Path) -> bool:
    if not (folder / manifest.CLIPS_NAME).is_file() or not (folder / sample_index.INDEX_NAME).is_file():
        return False
    infos = sample_index.load(folder).shards
    return all(
        (folder / info.name).is_file() and (folder / info.name).stat().st_size == info.size_bytes for info in infos
    )
