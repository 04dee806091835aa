"""Files of a run: checkpoints, from which training goes on exactly, and snapshots, the translator's weights to share and run.

Both are read with torch's `weights_only`, so a file from a stranger cannot run code, and written whole or not at all.
"""

import io
import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infraredcity.storage import write_atomic
from roma.errors import CheckpointError
from roma.models import Architecture

CHECKPOINT_FORMAT = "roma-checkpoint-1"
SNAPSHOT_FORMAT = "roma-snapshot-1"
SNAPSHOT_NAME = "snapshot.pt"
FOLDER = "checkpoints"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that going on needs. `step` is the number of finished steps, and so also the place in the data.

    Attributes:
        step: Steps done.
        config: The run's config as plain values.
        networks: State dict of each network by name.
        optimisers: State dict of each optimiser by name.
    """

    step: int
    config: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    optimisers: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A translator to run.

    Attributes:
        width: Channels of the generator's first convolution.
        num_blocks: Its residual blocks, or further convolutions of a U-Net.
        weights: Its state dict.
        size_px: Side of the square frames it was trained on.
        step: Steps it was trained for.
        preset: Preset of its training.
        config: The training's config as plain values.
        architecture: Of the generator.
    """

    width: int
    num_blocks: int
    weights: dict[str, torch.Tensor]
    size_px: int
    step: int
    preset: str
    config: dict[str, Any]
    architecture: Architecture = "resnet"


def save(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `run`/checkpoints/step-<step>.pt and delete all but the newest `keep`."""
    path = run / FOLDER / f"step-{checkpoint.step:08d}.pt"
    _write(
        path,
        {
            "format": CHECKPOINT_FORMAT,
            "step": checkpoint.step,
            "config": checkpoint.config,
            "networks": checkpoint.networks,
            "optimisers": checkpoint.optimisers,
        },
    )
    for old in _saved(run)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that can be read, or None when it has none; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: There are checkpoints, and none can be read.
    """
    damaged: list[str] = []
    for path in reversed(_saved(run)):
        try:
            values = _read(path, CHECKPOINT_FORMAT)
            return Checkpoint(**{name: values[name] for name in ("step", "config", "networks", "optimisers")})
        except (CheckpointError, KeyError) as error:
            damaged.append(path.name)
            logger.warning("%s; going back to the one before", error)
    if damaged:
        raise CheckpointError(f"{run / FOLDER}: none of {', '.join(damaged)} can be read; delete them to start anew")
    return None


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot."""
    _write(
        path,
        {
            "format": SNAPSHOT_FORMAT,
            "width": snapshot.width,
            "num_blocks": snapshot.num_blocks,
            "architecture": snapshot.architecture,
            "weights": snapshot.weights,
            "size_px": snapshot.size_px,
            "step": snapshot.step,
            "preset": snapshot.preset,
            "config": snapshot.config,
        },
    )


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, or of another format.
    """
    values = _read(path, SNAPSHOT_FORMAT)
    values.setdefault("architecture", "resnet")  # snapshots from before there was the option
    names = ("width", "num_blocks", "architecture", "weights", "size_px", "step", "preset", "config")
    missing = [name for name in names if name not in values]
    if missing:
        raise CheckpointError(f"{path}: lacks {missing[0]!r}; train again, or fetch the snapshot anew")
    return Snapshot(**{name: values[name] for name in names})


def _saved(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("step-*.pt"))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    write_atomic(path, buffer.getvalue())


def _read(path: Path, expected: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: damaged, or not written by roma ({type(error).__name__}); expected a file of format {expected!r}"
        ) from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != expected:
        hint = ""
        if found == CHECKPOINT_FORMAT:
            hint = f"; this is a checkpoint: use the {SNAPSHOT_NAME} of its run"
        raise CheckpointError(f"{path}: format is {found!r}, expected {expected!r}{hint}")
    return dict(values)
