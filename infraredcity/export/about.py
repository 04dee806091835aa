"""Hold what a description of a data set says: what people state about it, and what is counted."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import rows_of
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import Columns
from infraredcity.errors import ManifestError
from infraredcity.files.records import opened

_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What only people know of a data set; None or empty where it was not stated, and then nothing is claimed."""

    name: str | None = None
    """Its name; by default that of its folder."""
    description: str | None = None
    """A few sentences; by default what was counted."""
    url: str | None = None
    """Where it can be found."""
    license: str | None = None
    """An address, or an identifier such as "CC-BY-4.0"."""
    creators: tuple[str, ...] = ()
    """Names of people or organisations."""
    cite_as: str | None = None
    """How to cite it, best as BibTeX."""
    version: str | None = None
    """MAJOR.MINOR.PATCH."""
    date_published: str | None = None
    """As 2026-01-31."""

    def __post_init__(self) -> None:
        if self.version is not None and _VERSION.fullmatch(self.version) is None:
            raise ValueError(f"version must be MAJOR.MINOR.PATCH, got {self.version!r}")
        if self.date_published is not None:
            try:
                date.fromisoformat(self.date_published)
            except ValueError as error:
                raise ValueError(f"date_published must be a day as 2026-01-31, got {self.date_published!r}") from error

    def name_for(self, root: Path) -> str:
        """Return the stated name, or that of the folder."""
        return self.name or root.resolve().name or "dataset"

    def description_for(self, rows: Columns) -> str:
        """Return the stated description, or one of what was counted."""
        return self.description or f"{counted(rows)}, as WebDataset shards with one row per frame in the manifest."


def counted(rows: Columns) -> str:
    """Say in words what a manifest counts: "1,200 frames of 3 clips (city, highway; infrared, visible)"."""
    scenes, modalities = (", ".join(sorted({*rows[name]})) for name in ("scene", "modality"))
    clips = len({*rows["clip"]})
    return f"{len(rows['key']):,} frames of {clips} clip{'' if clips == 1 else 's'} ({scenes}; {modalities})"


def checked_rows(root: Path, parts: Sequence[ShardFolder]) -> tuple[Columns, bool]:
    """Return the rows of a data set, and whether a manifest of all of them is in its folder.

    `extract --all` writes a folder for each clip and none that joins them; make-lite, shard and import write one.

    Raises:
        ManifestError: A manifest contradicts the parts, a shard is missing or of another size, or the set is empty.
    """
    rows = rows_of(parts)
    if not rows["key"]:
        raise ManifestError(f"{root}: holds no samples, so there is nothing to describe")
    for part in parts:
        for info in part.index.shards:
            path = root / part.name / info.name
            if not path.is_file() or path.stat().st_size != info.size_bytes:
                raise ManifestError(
                    f"{path}: is missing or of another size than the index says ({info.size_bytes} bytes); "
                    'run "infraredcity verify"'
                )
    # A part in the folder itself has its own manifest there, not that of all parts.
    is_joint = [part.name for part in parts] == ["."] or (
        all(part.name != "." for part in parts)
        and any((root / name).exists() for name in (manifest.CSV_NAME, manifest.PARQUET_NAME))
    )
    if is_joint:
        _check_manifest(root, rows)
    else:
        for part in parts:
            _check_manifest(root / part.name, manifest.columns(part.index, part.clips, split=part.split))
    return rows, is_joint


def _check_manifest(folder: Path, rows: Columns) -> None:
    """Check that both files hold these rows: the bytes that they would have now, or else the rows that they hold."""
    for name in (manifest.CSV_NAME, manifest.PARQUET_NAME):
        if manifest.read(folder / name) != rows:
            raise ManifestError(
                f'{folder / name}: is not the manifest of these shards; rebuild it with "infraredcity repair"'
            )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
