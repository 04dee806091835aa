"""Checkpoints of a run, from which training goes on exactly, and which of them is the best.

They are written whole or not at all. During training a thread writes (`CheckpointWriter`), so that a step waits for no more than a
copy of the tensors.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from infraredcity.errors import InfraredCityError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import read_json
from roma.errors import CheckpointError
from roma.training.sealed_file import CHECKPOINT_FORMAT, SNAPSHOT_NAME, is_count, read_sealed, write_sealed
from roma.training.snapshot import Snapshot, is_plain, load_snapshot, save_snapshot

BEST_SNAPSHOT_NAME = "snapshot-best.pt"
BEST_NAME = "best.json"
FOLDER = "checkpoints"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The checkpoint of a run whose held-out number is the smallest."""

    by: str
    """Which number."""
    step: int
    """The checkpoint's step."""
    value: float
    """Its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that going on needs. `step` is the number of finished steps, and so also the place in the data."""

    step: int
    """Steps done."""
    config: dict[str, Any]
    """The run's config as plain values."""
    networks: dict[str, dict[str, Any]]
    """State dict of each network by name."""
    optimisers: dict[str, dict[str, Any]]
    """State dict of each optimiser by name."""
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each domain what it was trained on: {"data_hash": ..., "num_frames": ...}."""
    best: Best | None = None
    """The best checkpoint so far, this one included; None without any."""


def better(best: Best | None, *, by: str, step: int, value: float) -> Best | None:
    """Choose between the best checkpoint so far and another; the earlier of equals, and never one whose number is not finite."""
    if not math.isfinite(value) or (best is not None and value >= best.value):
        return best
    return Best(by=by, step=step, value=value)


def path_of(run: Path, step: int) -> Path:
    """Say where the checkpoint of a step lies."""
    return run / FOLDER / f"step-{step:08d}.pt"


def save(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `run`/checkpoints/step-<step>.pt and delete all but the newest `keep` and the best."""
    path = path_of(run, checkpoint.step)
    best = checkpoint.best
    write_sealed(
        path,
        {
            "format": CHECKPOINT_FORMAT,
            "step": checkpoint.step,
            "config": checkpoint.config,
            "networks": checkpoint.networks,
            "optimisers": checkpoint.optimisers,
            "data": checkpoint.data,
            "best": None if best is None else asdict(best),
        },
    )
    _drop_old(run, keep=keep, best=best)
    return path


def load_newest(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint that can be read, or None where a run has none; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: There are checkpoints, and none can be read.
    """
    damaged: list[str] = []
    for path in reversed(saved(run)):
        try:
            return load(path)
        except CheckpointError as error:
            damaged.append(path.name)
            logger.warning("%s; going back to the one before", error)
    if damaged:
        raise CheckpointError(f"{run / FOLDER}: none of {', '.join(damaged)} can be read; delete them to start anew")
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        CheckpointError: The file is missing, damaged, or no checkpoint.
    """
    values = read_sealed(path, CHECKPOINT_FORMAT)
    try:
        best = values["best"]
        found = Checkpoint(
            **{name: values[name] for name in ("step", "config", "networks", "optimisers")},
            data={
                name: {"data_hash": str(facts["data_hash"]), "num_frames": int(facts["num_frames"])}
                for name, facts in values["data"].items()
            },
            best=None if best is None else _best_of(best),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: lacks {error}; it was not written by this version of roma") from error
    if not (
        is_count(found.step)
        and found.data.keys() <= {"infrared", "visible"}
        and is_plain(found.config)
        and _are_dicts(found.networks, found.optimisers)
    ):
        raise CheckpointError(f"{path}: its step, config, networks or data are not what roma writes; use another")
    return found


class CheckpointWriter:
    """Writes checkpoints in a thread, one after the other; what fails there is raised by the next call.

    Args:
        write: Writes a checkpoint whose tensors are on the host, and what belongs to it.
    """

    def __init__(self, write: Callable[[Checkpoint], None]) -> None:
        self._write_files = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the tensors, when the save before is done, and return; the thread writes the files.

        Args:
            checkpoint: May hold tensors that training goes on to change.

        Raises:
            CheckpointError: The save before failed, for example on a full disk.
        """
        begun_s = time.perf_counter()
        self._wait()
        waited_s = time.perf_counter() - begun_s
        networks, optimisers = on_host([checkpoint.networks, checkpoint.optimisers])
        copy = replace(checkpoint, networks=networks, optimisers=optimisers)
        copied_s = time.perf_counter() - begun_s - waited_s
        logger.info(
            "checkpoint of step %d: waited %.3f s for the one before, copied in %.3f s",
            checkpoint.step, waited_s, copied_s,
        )  # fmt: skip
        self._under_way = self._thread.submit(self._write, copy)

    def close(self) -> None:
        """Wait for the last save, and end the thread.

        Raises:
            CheckpointError: That save failed.
        """
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.result()
        except (InfraredCityError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint is not on the disk: {error}; make room, and the same command goes on from the one before"
            ) from error

    def _write(self, checkpoint: Checkpoint) -> None:
        begun_s = time.perf_counter()
        self._write_files(checkpoint)
        logger.info("checkpoint of step %d: written in %.3f s", checkpoint.step, time.perf_counter() - begun_s)


def publish(run: Path, checkpoint: Checkpoint, snapshot_of: Callable[[Checkpoint], Snapshot]) -> None:
    """Write the snapshot of the newest checkpoint and, where it is the best one, the best snapshot and best.json."""
    save_snapshot(run / SNAPSHOT_NAME, snapshot_of(checkpoint))
    if checkpoint.best is not None and checkpoint.best.step == checkpoint.step:
        _publish_best(run, checkpoint.best, checkpoint, snapshot_of)


def complete(run: Path, newest: Checkpoint, snapshot_of: Callable[[Checkpoint], Snapshot]) -> None:
    """Bring snapshots and best.json to what the newest checkpoint says, after a kill between two files.

    Raises:
        CheckpointError: The best checkpoint is damaged or gone, though it is the one that was to be kept.
    """
    if _snapshot_step(run / SNAPSHOT_NAME) != newest.step:
        save_snapshot(run / SNAPSHOT_NAME, snapshot_of(newest))
    best = newest.best
    if best is None:
        for name in (BEST_NAME, BEST_SNAPSHOT_NAME):
            (run / name).unlink(missing_ok=True)  # of a step that comes again
    elif read_best(run) != best or _snapshot_step(run / BEST_SNAPSHOT_NAME) != best.step:
        _publish_best(run, best, newest if best.step == newest.step else load(path_of(run, best.step)), snapshot_of)


def read_best(run: Path) -> Best | None:
    """Read what best.json of a run names; None where it is missing or damaged."""
    try:
        return _best_of(read_json(run / BEST_NAME))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def on_host(values: Any, *, copies: dict[tuple[Any, ...], torch.Tensor] | None = None) -> Any:
    """Copy a tree of dicts, lists and values, every tensor into memory of its own on the host.

    Args:
        values: The tree.
        copies: Copies made so far; what shares its memory, as an averaged generator that is the generator, is copied once.
    """
    copies = {} if copies is None else copies
    if isinstance(values, torch.Tensor):
        key = (values.device, values.data_ptr(), values.dtype, values.shape, values.stride())
        if key not in copies:
            copies[key] = values.detach().to("cpu", copy=True)
        return copies[key]
    if isinstance(values, Mapping):
        return {name: on_host(value, copies=copies) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(on_host(value, copies=copies) for value in values)
    return values


def _are_dicts(*values: object) -> bool:
    """Whether each value is a dict of dicts."""
    return all(isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()) for value in values)


def saved(run: Path) -> list[Path]:
    """List the checkpoints of a run, the oldest first."""
    return sorted((run / FOLDER).glob("step-*.pt"))


def _drop_old(run: Path, *, keep: int, best: Best | None) -> None:
    kept = None if best is None else path_of(run, best.step)
    for old in saved(run)[:-keep]:
        if old != kept:
            old.unlink(missing_ok=True)


def _publish_best(run: Path, best: Best, checkpoint: Checkpoint, snapshot_of: Callable[[Checkpoint], Snapshot]) -> None:
    save_snapshot(run / BEST_SNAPSHOT_NAME, snapshot_of(checkpoint))
    named = {"checkpoint": path_of(run, best.step).relative_to(run).as_posix(), "snapshot": BEST_SNAPSHOT_NAME}
    write_atomic(run / BEST_NAME, (json.dumps({**asdict(best), **named}, indent=1) + "\n").encode())


def _best_of(values: Mapping[str, Any]) -> Best:
    return Best(by=str(values["by"]), step=int(values["step"]), value=float(values["value"]))


def _snapshot_step(path: Path) -> int | None:
    try:
        return load_snapshot(path).step
    except CheckpointError:
        return None
