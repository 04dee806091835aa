"""Write a data set's README.md for the Hugging Face hub and its `datasets`: front matter names the shards of each split.

Source: the hub's documentation of dataset cards and of the front matter's `configs` and `dataset_info`.
"""

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import Columns
from infraredcity.errors import OutputError
from infraredcity.export.about import About, checked_rows, counted
from infraredcity.files.atomic import write_atomic
from infraredcity.shards import sample_json

FILE_NAME = "README.md"
_MARK = re.compile(r"<!-- written by infraredcity export hf-card, ([0-9a-f]{64}) -->\n")
_SIZES = (
    ("n<1K", 1_000),
    ("1K<n<10K", 10_000),
    ("10K<n<100K", 100_000),
    ("100K<n<1M", 1_000_000),
    ("1M<n<10M", 10_000_000),
)
_LICENSES = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "odc-by", "odbl", "pddl", "cdla-permissive-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0",
    "unlicense", "unknown", "other",
})  # fmt: skip
"""Identifiers that the hub knows and data sets have; every other licence is "other" with a name."""
_ARROW_NAMES: dict[type, str] = {str: "string", int: "int64", float: "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSplit:
    """The samples of one split of a configuration: `name` as the hub knows it, and its parts."""

    name: str
    parts: tuple[ShardFolder, ...]

    @property
    def num_samples(self) -> int:
        """Count the samples of its parts."""
        return sum(len(part.index) for part in self.parts)

    @property
    def size_bytes(self) -> int:
        """Count the bytes of its shards."""
        return sum(info.size_bytes for part in self.parts for info in part.index.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig:
    """What `load_dataset(DIR, name=...)` loads: samples of one scene and modality."""

    name: str
    image_format: str
    splits: tuple[CardSplit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReport:
    """What was written."""

    path: str
    """The file."""
    num_samples: int
    """Samples over all configurations."""
    configs: tuple[str, ...]
    """Names of the configurations."""
    is_new: bool
    """False when the same file was there already."""


def write(root: Path, about: About, *, output: Path | None = None, overwrite: bool = False) -> CardReport:
    """Write `root`/README.md.

    A card that somebody has changed since, or wrote by hand, is not replaced: its mark holds the hash of what was written.

    Args:
        root: A data set.
        about: What people say of it.
        output: Another file; paths in it start from `root`, so it works only from there.
        overwrite: Replace whatever is there.

    Raises:
        ManifestError: The set is empty, unfinished or damaged, or a manifest contradicts its shards.
        OutputError: Another README.md is there, or the folder cannot be written.
    """
    parts = open_dataset(root)
    rows, _ = checked_rows(root, parts)
    configs = configs_of(parts)
    data = _marked(_front_matter(root, rows, configs, about), _body(root, rows, configs, about)).encode()
    path = output or root / FILE_NAME
    existing = path.read_bytes() if path.is_file() else None
    if path.exists() and existing != data and not overwrite and not _is_ours(existing):
        raise OutputError(
            f"{path}: is there and is not what this command wrote; use another -o, or --overwrite to replace it"
        )
    write_atomic(path, data)
    return CardReport(
        path=str(path),
        num_samples=len(rows["key"]),
        configs=tuple(config.name for config in configs),
        is_new=existing != data,
    )


def configs_of(parts: Sequence[ShardFolder]) -> list[CardConfig]:
    """Group a data set into configurations: a scene and modality each, and time of day and image format where those differ.

    A part of several scenes or modalities is a configuration of its own. Split "all" is called train: the hub keeps that word.
    """
    words_of: dict[str, tuple[str, ...]] = {}
    for part in parts:
        facts = [part.clips[clip_id] for clip_id in part.index.clips]
        of_part = {(each.scene, each.modality, each.time_of_day) for each in facts}
        if len(of_part) == 1:
            words_of[part.name] = (*of_part.pop(), part.index.image_format)
        else:
            words_of[part.name] = ("samples" if part.name == "." else part.name.replace("/", "-"),)
    by_config: dict[tuple[str, ...], list[ShardFolder]] = {}
    for part in parts:
        by_config.setdefault(words_of[part.name], []).append(part)
    configs = []
    for words, members in by_config.items():
        splits: dict[str, list[ShardFolder]] = {}
        for part in members:
            splits.setdefault("train" if part.split == "all" else part.split, []).append(part)
        configs.append(
            CardConfig(
                name=_config_name(words, list(by_config)),
                image_format=members[0].index.image_format,
                splits=tuple(
                    CardSplit(name=name, parts=tuple(splits[name]))
                    for name in sorted(splits, key=lambda name: (name != "train", name))
                ),
            )
        )
    return sorted(configs, key=lambda config: config.name)


def _config_name(words: tuple[str, ...], all_words: Sequence[tuple[str, ...]]) -> str:
    """Choose as few of the words as distinguish it from all others."""
    for count in range(2, len(words)):
        if sum(words[:count] == other[:count] for other in all_words) == 1:
            return "-".join(words[:count])
    return "-".join(words)


def _patterns(part: ShardFolder) -> list[str]:
    """List patterns of a part's shards: one where the folder holds only these, else each shard's name."""
    before = "" if part.name == "." else f"{glob.escape(part.name)}/"
    names = sorted(info.name for info in part.index.shards)
    there = sorted(path.name for path in part.path.glob("*.tar") if not path.name.startswith("."))
    return [f"{before}*.tar"] if there == names else [f"{before}{name}" for name in names]


def _front_matter(root: Path, rows: Columns, configs: Sequence[CardConfig], about: About) -> dict[str, Any]:
    num_samples = len(rows["key"])
    matter: dict[str, Any] = {"pretty_name": about.name_for(root), **_license(about.license)}
    matter["task_categories"] = ["image-to-image"]
    matter["tags"] = sorted({"webdataset", "video-frames", *rows["modality"], *rows["scene"], *rows["time_of_day"]})
    matter["size_categories"] = [next((name for name, below in _SIZES if num_samples < below), "n>10M")]
    matter["configs"] = [
        {
            "config_name": config.name,
            "data_files": [
                {"split": split.name, "path": [name for part in split.parts for name in _patterns(part)]}
                for split in config.splits
            ],
        }
        for config in configs
    ]
    matter["dataset_info"] = [
        {
            "config_name": config.name,
            "features": [
                {"name": config.image_format, "dtype": "image"},
                {
                    "name": "json",
                    "struct": [
                        {"name": name, "dtype": _ARROW_NAMES[kind]} for name, kind in sample_json.FIELDS.items()
                    ],
                },
                {"name": "__key__", "dtype": "string"},
                {"name": "__url__", "dtype": "string"},
            ],
            # num_bytes is what the hub calls the size of the data; the shards' is the nearest that is known before it is loaded.
            "splits": [
                {"name": split.name, "num_bytes": split.size_bytes, "num_examples": split.num_samples}
                for split in config.splits
            ],
        }
        for config in configs
    ]
    return matter


def _license(stated: str | None) -> dict[str, str]:
    if stated is None:
        return {"license": "unknown"}
    if stated.lower() in _LICENSES:
        return {"license": stated.lower()}
    is_address = re.match("https?://", stated) is not None
    return {"license": "other", "license_link" if is_address else "license_name": stated}


def _marked(matter: Mapping[str, Any], body: str) -> str:
    front = "\n".join(["---", *_yaml(matter, ""), "---", ""])
    digest = hashlib.sha256((front + body).encode()).hexdigest()
    return f"{front}<!-- written by infraredcity export hf-card, {digest} -->\n{body}"


def _is_ours(data: bytes | None) -> bool:
    """Return whether a card is as it was written."""
    if data is None:
        return False
    text = data.decode("utf-8", "replace")
    found = _MARK.search(text)
    if found is None:
        return False
    rest = text[: found.start()] + text[found.end() :]
    return hashlib.sha256(rest.encode()).hexdigest() == found[1]


def _yaml(value: Any, indent: str) -> Iterator[str]:
    """Yield plain values as YAML; texts are quoted as in JSON, so that none is read as a number or a date."""
    items = value.items() if isinstance(value, Mapping) else [(None, item) for item in value]
    for name, item in items:
        start = f"{indent}- " if name is None else f"{indent}{name}:"
        if isinstance(item, Mapping):
            first, *rest = _yaml(item, indent + "  ")
            yield start + first.lstrip() if name is None else start
            yield from rest if name is None else (first, *rest)
        elif isinstance(item, list):
            yield start
            yield from _yaml(item, indent + "  ")
        else:
            text = json.dumps(item, ensure_ascii=False)
            yield start + (text if name is None else f" {text}")


def _body(root: Path, rows: Columns, configs: Sequence[CardConfig], about: About) -> str:
    first = configs[0]
    first_split = first.splits[0]
    first_part = first_split.parts[0]
    folder = "" if first_part.name == "." else f"{first_part.name}/"
    shard = f"{folder}{first_part.index.shards[0].name}"
    table = "\n".join(
        f"| {config.name} | {split.name} | {split.num_samples:,} | {sum(len(p.index.shards) for p in split.parts):,} "
        f"| {split.size_bytes / 1e6:,.1f} MB | {_sizes(split)} | {_clips(split)} |"
        for config in configs
        for split in config.splits
    )
    license_text = (
        f"Licence: {about.license}."
        if about.license
        else "No licence was stated when this card was written. Ask the owner of the data before you share or use it."
    )
    sentences = [f"Made by {', '.join(about.creators)}."] if about.creators else []
    sentences += [f"More: <{about.url}>."] if about.url else []
    sentences += [license_text]
    cite = f"\n```bibtex\n{about.cite_as.strip()}\n```\n" if about.cite_as else ""
    undivided = (
        "\nSplit `train` holds all frames: these clips were not divided into train and test.\n"
        if any(part.split == "all" for config in configs for split in config.splits for part in split.parts)
        else ""
    )
    return f"""
# {about.name_for(root)}

{about.description_for(rows)}

## What it holds

{counted(rows)}.

| config | split | frames | shards | size | pixels | clips |
|---|---|---|---|---|---|---|
{table}
{undivided}
Each sample is a picture (`{first.image_format}`) and its facts (`json`): clip, scene, weather, modality, time of day,
frame index and presentation time. Frames are in the order of their clips. `manifest.parquet` has a row for each sample, with
the hash of its picture and the run of consecutive frames that it belongs to.

Hash of the manifest's rows: `{manifest.dataset_hash(rows)}`.

## Loading

With [datasets](https://huggingface.co/docs/datasets):

```python
from datasets import load_dataset

frames = load_dataset("path/to/this/folder", name="{first.name}", split="{first_split.name}", streaming=True)
for frame in frames:
    frame["{first.image_format}"], frame["json"]["frame_index"]
```

With [webdataset](https://github.com/webdataset/webdataset):

```python
import json, webdataset

for sample in webdataset.WebDataset("{shard}", shardshuffle=False):
    sample["__key__"], sample["{first.image_format}"], json.loads(sample["json"])
```

With wids, by index; with `localname` it reads the shards in place, without it copies each of them into a cache first:

```python
import wids

samples = wids.ShardListDataset("{folder}index.json", localname=lambda path: path, transformations=[])
samples[0]["__key__"], samples[0][".{first.image_format}"].read()
```

With infraredcity, windows of consecutive frames in an order that can be resumed:

```python
from infraredcity.loader import WindowReader, batches

reader = WindowReader(["{folder}*.tar"], window_frames=2)
for windows in batches(reader, batch_size=8):
    windows.frames  # u8 [8, 2, C, H, W]
```

## Licence and citation

{" ".join(sentences)}
{cite}"""


def _sizes(split: CardSplit) -> str:
    sizes = {size for part in split.parts for size in part.index.picture_sizes()}
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes))


def _clips(split: CardSplit) -> str:
    return ", ".join(sorted({clip_id for part in split.parts for clip_id in part.index.clips}))
