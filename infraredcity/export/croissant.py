"""Describe a data set as Croissant JSON-LD: its files with sizes and hashes, its manifest and its pictures as records.

Source: Croissant Format Specification 1.0 (http://mlcommons.org/croissant/1.0). Written without a library of that name, so that
describing a data set needs no more than reading its index.
"""

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import COLUMN_KINDS, COLUMNS
from infraredcity.errors import OutputError
from infraredcity.export.about import About, checked_rows, sha256_of
from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import read_json
from infraredcity.stills.formats import MIMES

FILE_NAME = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES: dict[type, str] = {str: "sc:Text", int: "sc:Integer", float: "sc:Float", bool: "sc:Boolean"}
_COLUMN_TEXTS = {
    "key": "Name of the sample, unique in the data set: the clip and the frame's index in it.",
    "clip": "The clip that the frame is from.",
    "modality": "What the camera saw: infrared or visible.",
    "time_of_day": "night or day.",
    "scene": "What is filmed.",
    "weather": "clear, overcast, or any where the data set does not tell them apart.",
    "split": "all, train or test.",
    "frame_index": "Index of the frame in its clip, from 0.",
    "pts": "Presentation time in units of the clip's time base.",
    "time_s": "Presentation time in seconds.",
    "run_id": "Unbroken stretch of its clip that the frame belongs to: neighbours in one run are neighbours in time.",
    "shard": "The shard that holds the sample, from the folder of the manifest.",
    "offset": "Byte of the shard where the picture begins.",
    "size": "Bytes of the picture.",
    "sha256": "Hash of the picture's bytes.",
    "width": "Width of the picture in pixels.",
    "height": "Height of the picture in pixels.",
    "dup_of": "Key of another sample that shows the same or nearly so, or empty.",
    "suspect": "Whether the frame follows damage in its clip.",
    "mark": "suspect, repeat, frozen, joined by +, or empty.",
}
_MANIFESTS = "manifests"
_PICTURES = "picture-files"


@dataclass(frozen=True, slots=True, kw_only=True)
class CroissantReport:
    """What was written."""

    path: str
    """The file."""
    num_samples: int
    """Records of samples."""
    num_shards: int
    """Shards that are named with size and hash."""
    missing: tuple[str, ...]
    """What the specification asks for and was not stated, by the options that state it."""
    is_new: bool
    """False when the same file was there already."""


def write(root: Path, about: About, *, output: Path | None = None, overwrite: bool = False) -> CroissantReport:
    """Write `root`/croissant.json.

    A data set without a manifest of all its parts (several extracted clips) is described by the manifests of the parts, so that
    nothing has to be written anew to describe it.

    Args:
        root: A data set.
        about: What people say of it.
        output: Another file; paths in it start from `root`, so it works only from there.
        overwrite: Replace a file that is no Croissant description.

    Raises:
        ManifestError: The set is empty, unfinished or damaged, or a manifest contradicts its shards.
        OutputError: `output` is something else, or cannot be written.
    """
    parts = open_dataset(root)
    path = output or root / FILE_NAME
    data = (json.dumps(_described(root, parts, about), indent=1, ensure_ascii=False) + "\n").encode()
    is_new = not path.is_file() or path.read_bytes() != data
    if path.exists() and not overwrite and not _is_description(path):
        raise OutputError(f"{path}: is there and is no Croissant description; use another -o, or --overwrite")
    write_atomic(path, data)
    return CroissantReport(
        path=str(path),
        num_samples=sum(len(part.index) for part in parts),
        num_shards=sum(len(part.index.shards) for part in parts),
        missing=tuple(
            option
            for option, value in (
                ("--license", about.license),
                ("--creator", about.creators),
                ("--url", about.url),
                ("--cite-as", about.cite_as),
                ("--data-version", about.version),
                ("--date-published", about.date_published),
            )
            if not value
        ),
        is_new=is_new,
    )


def _is_description(path: Path) -> bool:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("conformsTo", "")).startswith("http://mlcommons.org/croissant/")


def _described(root: Path, parts: Sequence[ShardFolder], about: About) -> dict[str, Any]:
    rows, is_joint = checked_rows(root, parts)
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.name_for(root),
        "description": about.description_for(rows),
    }
    stated = {
        "url": about.url,
        "license": about.license,
        "creator": [{"@type": "sc:Organization", "name": name} for name in about.creators],
        "citeAs": about.cite_as,
        "version": about.version,
        "datePublished": about.date_published,
    }
    described |= {name: value for name, value in stated.items() if value}
    described["keywords"] = sorted({*rows["modality"], *rows["scene"], *rows["time_of_day"], "webdataset"})
    manifests = [
        path
        for folder in ([root] if is_joint else [root / part.name for part in parts])
        for path in (folder / manifest.PARQUET_NAME, folder / manifest.CSV_NAME)
    ]
    described["distribution"] = [
        *(_manifest_file(root, path) for path in manifests),
        *([] if is_joint else [_manifest_set(root, manifests)]),
        *(_shard_file(part, number) for part in parts for number in range(len(part.index.shards))),
        _picture_set(parts),
    ]
    source = {"fileObject": {"@id": manifest.PARQUET_NAME}} if is_joint else {"fileSet": {"@id": _MANIFESTS}}
    described["recordSet"] = [_samples(source), _pictures()]
    return described


def _manifest_file(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": "One row per sample.",
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet" if path.suffix == ".parquet" else "text/csv",
        "sha256": sha256_of(path),
    }


def _manifest_set(root: Path, manifests: Sequence[Path]) -> dict[str, Any]:
    tables = [path.relative_to(root).as_posix() for path in manifests if path.suffix == ".parquet"]
    return {
        "@type": "cr:FileSet",
        "@id": _MANIFESTS,
        "name": _MANIFESTS,
        "description": "The manifests of all parts.",
        "encodingFormat": "application/x-parquet",
        "includes": [glob.escape(table) for table in tables],
    }


def _shard_file(part: ShardFolder, number: int) -> dict[str, Any]:
    info = part.index.shards[number]
    name = _named(part, info.name)
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": f"A WebDataset shard of {info.num_samples} samples.",
        "contentUrl": name,
        "contentSize": f"{info.size_bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": info.sha256,
    }


def _picture_set(parts: Sequence[ShardFolder]) -> dict[str, Any]:
    formats = sorted({part.index.image_format for part in parts})
    return {
        "@type": "cr:FileSet",
        "@id": _PICTURES,
        "name": _PICTURES,
        "description": "The pictures inside the shards, each named by its sample's key.",
        "containedIn": [{"@id": _named(part, info.name)} for part in parts for info in part.index.shards],
        "encodingFormat": [MIMES[name] for name in formats],
        "includes": [f"*.{name}" for name in formats],
    }


def _samples(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "The manifest: what is known of each sample, without its picture.",
        "key": {"@id": "samples/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"samples/{column}",
                "name": column,
                "description": _COLUMN_TEXTS[column],
                "dataType": _TYPES[COLUMN_KINDS[column]],
                "source": {**source, "extract": {"column": column}},
            }
            for column in COLUMNS
        ],
    }


def _pictures() -> dict[str, Any]:
    """Describe the pictures as records of their own, since a reader has to unpack the shards for them."""

    def field(name: str, text: str, data_type: str, source: dict[str, Any]) -> dict[str, Any]:
        return {
            "@type": "cr:Field",
            "@id": f"pictures/{name}",
            "name": name,
            "description": text,
            "dataType": data_type,
            "source": {"fileSet": {"@id": _PICTURES}, **source},
        }

    stem = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"^(.*)\.[a-z0-9]+$"}}
    return {
        "@type": "cr:RecordSet",
        "@id": "pictures",
        "name": "pictures",
        "description": "The pictures by the keys of their samples.",
        "key": {"@id": "pictures/key"},
        "field": [
            field("key", "Key of the sample, as in samples.", "sc:Text", stem),
            field("image", "The picture.", "sc:ImageObject", {"extract": {"fileProperty": "content"}}),
        ],
    }


def _named(part: ShardFolder, name: str) -> str:
    return name if part.name == "." else f"{part.name}/{name}"
