"""The file backbone.safetensors: a pretrained ViT in timm's names, and what it was trained on in the file's metadata."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import parse_json
from roma.errors import WeightsError

BACKBONE_FORMAT = "roma-backbone-1"
BACKBONE_NAME = "backbone.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFacts:
    """The pictures of one domain."""

    shards: tuple[str, ...]
    """Tar files or patterns, as they were given."""
    num_frames: int
    """Pictures in them."""
    rows_sha256: str
    """Hash of what they are (`SampleIndex.samples_hash`), wherever they lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneFacts:
    """What a backbone was trained on."""

    infrared: DomainFacts
    """The night infrared pictures."""
    visible: DomainFacts
    """The day visible pictures."""
    step: int
    """Steps it was trained for."""
    seed: int
    """Seed of its training."""
    config: dict[str, Any]
    """The training's config as plain values."""


def save_backbone(path: Path, weights: dict[str, Tensor], facts: BackboneFacts) -> None:
    """Write weights and facts, whole or not at all; equal ones give equal bytes."""
    values = {"format": BACKBONE_FORMAT, "step": str(facts.step), "seed": str(facts.seed)}
    values["config"] = json.dumps(facts.config)
    for name, domain in (("infrared", facts.infrared), ("visible", facts.visible)):
        values[f"{name}_shards"] = json.dumps(domain.shards)
        values[f"{name}_num_frames"] = str(domain.num_frames)
        values[f"{name}_rows_sha256"] = domain.rows_sha256
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_atomic(path, _in_order(to_safetensors(tensors, metadata=values)))


def backbone_facts(path: Path) -> BackboneFacts:
    """Read what a backbone file says it was trained on.

    Raises:
        WeightsError: The file is missing, damaged, or was not written by `roma pretrain`.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file; check the path, or make it with roma pretrain")
    try:
        with safe_open(path, framework="pt") as file:
            values: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: cannot be read as .safetensors ({str(error).splitlines()[0]}); copy it again, or make it anew with "
            "roma pretrain"
        ) from error
    found = values.get("format")
    if found != BACKBONE_FORMAT:
        raise WeightsError(
            f"{path}: format is {found!r}, expected {BACKBONE_FORMAT!r}; only files of roma pretrain say what they were "
            "trained on"
        )
    try:
        infrared, visible = (
            DomainFacts(
                shards=tuple(parse_json(values[f"{name}_shards"])),
                num_frames=int(values[f"{name}_num_frames"]),
                rows_sha256=values[f"{name}_rows_sha256"],
            )
            for name in ("infrared", "visible")
        )
        return BackboneFacts(
            infrared=infrared,
            visible=visible,
            step=int(values["step"]),
            seed=int(values["seed"]),
            config=parse_json(values["config"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: its metadata is incomplete ({type(error).__name__}: {error}); make it anew with roma pretrain"
        ) from error


def _in_order(content: bytes) -> bytes:
    """Sort the metadata of a file by name; safetensors writes them in a new order every time."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks that tensors begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
