"""A snapshot: the translator's weights, its step and its config, to share and to run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

from roma.config.overlay import from_json, to_json
from roma.config.schema import TrainConfig
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, ConfigError
from roma.training.sealed_file import SNAPSHOT_FORMAT, are_weights, is_count, read_sealed, write_sealed


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A translator to run."""

    weights: dict[str, torch.Tensor]
    """State dict of its generator."""
    step: int
    """Steps it was trained for."""
    config: TrainConfig
    """Of the training: also what the generator is, and on squares of which side it was trained."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What the infrared of the training went through before the network."""


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot."""
    write_sealed(
        path,
        {
            "format": SNAPSHOT_FORMAT,
            "weights": snapshot.weights,
            "step": snapshot.step,
            "config": to_json(snapshot.config),
            "preprocessing": snapshot.preprocessing.to_json(),
        },
    )


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, or of another format.
    """
    values = read_sealed(path, SNAPSHOT_FORMAT)
    missing = next((name for name in ("weights", "step", "config", "preprocessing") if name not in values), None)
    if missing is not None:
        raise CheckpointError(f"{path}: lacks {missing!r}; train again, or fetch the snapshot anew")
    weights = values["weights"]
    for name, is_right, expected in (
        ("weights", are_weights(weights), "tensors by their names"),
        ("step", is_count(values["step"]), "a whole number"),
        ("config", is_plain(values["config"]), "settings as plain values"),
        ("preprocessing", is_plain(values["preprocessing"]), "facts as plain values"),
    ):
        if not is_right:
            found = ascii(values[name])[:80] if name == "step" else type(values[name]).__name__
            raise CheckpointError(f"{path}: its {name} is {found}, expected {expected}; fetch the snapshot anew")
    try:
        config = from_json(values["config"], where=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{str(error)[:300]}; fetch the snapshot anew") from error
    if config.generator.num_blocks > len(weights):  # each has weights of its own
        raise CheckpointError(
            f"{path}: its generator.num_blocks is {config.generator.num_blocks}, expected at most the number of its weights, "
            f"{len(weights)}; fetch the snapshot anew"
        )
    size_bytes = path.stat().st_size
    if sum(value.nbytes for value in weights.values()) > size_bytes:
        raise CheckpointError(f"{path}: its weights are larger than its {size_bytes} bytes; fetch the snapshot anew")
    try:
        preprocessing = Preprocessing.from_json(values["preprocessing"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: preprocessing: {str(error)[:300]}; fetch the snapshot anew") from error
    return Snapshot(weights=weights, step=values["step"], config=config, preprocessing=preprocessing)


def is_plain(value: object) -> bool:
    """Whether a value is a dict that json can hold."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict)
