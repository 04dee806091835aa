"""Files of a run: checkpoints, from which training goes on exactly, and snapshots, the translator's weights to share and run.

Both are read with torch's `weights_only`, so a file from a stranger cannot run code, and written whole or not at all. They are the
zip files of `torch.save` whose comment, at the very end, is the sha256 of all before it: `torch.load` opens them as they are, but
does not notice a flipped bit in a tensor; what reads them here does. During training a thread writes (`CheckpointWriter`), so that
a step waits for no more than a copy of the tensors.
"""

import hashlib
import io
import json
import logging
import math
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from infraredcity.errors import InfraredCityError
from infraredcity.files.atomic import open_atomic, write_atomic
from infraredcity.files.records import read_json, read_whole
from roma.config.overlay import from_json, to_json
from roma.config.schema import TrainConfig
from roma.errors import CheckpointError, ConfigError

CHECKPOINT_FORMAT = "roma-checkpoint-2"
CHECKPOINT_FORMAT_1 = "roma-checkpoint-1"
"""Without a digest, without the data it was trained on, and without the best step."""
SNAPSHOT_FORMAT = "roma-snapshot-2"
SNAPSHOT_NAME = "snapshot.pt"
BEST_SNAPSHOT_NAME = "snapshot-best.pt"
BEST_NAME = "best.json"
FOLDER = "checkpoints"
_SEAL = b"roma-sha256:"
_NUM_SEAL_BYTES = len(_SEAL) + 64
_MAX_BYTES = 1 << 36
_ZIP_END = b"PK\x05\x06"
_NUM_ZIP_END_BYTES = 22
"""The end of a zip file without a comment; its last two bytes are the comment's length."""
_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
           MemoryError, pickle.UnpicklingError, zipfile.BadZipFile, struct.error)  # fmt: skip
"""What torch and pickle raise over bytes that are not what was written."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that going on needs. `step` is the number of finished steps, and so also the place in the data.

    Attributes:
        step: Steps done.
        config: The run's config as plain values.
        networks: State dict of each network by name.
        optimisers: State dict of each optimiser by name.
        data: For each domain what it was trained on: {"data_hash": ..., "num_frames": ...}; empty where nobody said so.
        best: The best checkpoint so far, this one included; None without any.
    """

    step: int
    config: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    optimisers: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    best: "Best | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The checkpoint of a run whose held-out number is the smallest.

    Attributes:
        by: Which number.
        step: The checkpoint's step.
        value: Its number.
    """

    by: str
    step: int
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A translator to run."""

    weights: dict[str, torch.Tensor]
    """State dict of its generator."""
    step: int
    """Steps it was trained for."""
    config: TrainConfig
    """Of the training: also what the generator is, and on squares of which side it was trained."""


def better(best: Best | None, *, by: str, step: int, value: float) -> Best | None:
    """The best checkpoint so far or another one; the earlier of equals, and never one whose number is not finite."""
    if not math.isfinite(value) or (best is not None and value >= best.value):
        return best
    return Best(by=by, step=step, value=value)


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / FOLDER / f"step-{step:08d}.pt"


def save(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `run`/checkpoints/step-<step>.pt and delete all but the newest `keep` and the best."""
    path = path_of(run, checkpoint.step)
    best = checkpoint.best
    _write(
        path,
        {
            "format": CHECKPOINT_FORMAT,
            "step": checkpoint.step,
            "config": checkpoint.config,
            "networks": checkpoint.networks,
            "optimisers": checkpoint.optimisers,
            "data": checkpoint.data,
            "best": None if best is None else {"by": best.by, "step": best.step, "value": best.value},
        },
    )
    _drop_old(run, keep=keep, best=best)
    return path


def load_newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that can be read, or None when it has none; a damaged one is passed over with a warning.

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
    values = _read(path, CHECKPOINT_FORMAT, CHECKPOINT_FORMAT_1)
    try:
        best, facts = values.get("best"), values.get("data", {})
        found = Checkpoint(
            **{name: values[name] for name in ("step", "config", "networks", "optimisers")},
            data={
                name: {"data_hash": str(told["data_hash"]), "num_frames": int(told["num_frames"])}
                for name, told in facts.items()
            },
            best=None if best is None else Best(by=str(best["by"]), step=int(best["step"]), value=float(best["value"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: lacks {error}; it was not written by this version of roma") from error
    if not (
        _is_count(found.step)
        and found.data.keys() <= {"infrared", "visible"}
        and _is_plain(found.config)
        and _are_dicts(found.networks, found.optimisers)
    ):
        raise CheckpointError(f"{path}: its step, config, networks or data are not what roma writes; use another")
    return found


class CheckpointWriter:
    """Writes checkpoints and snapshots in a thread, one after the other; what fails there is raised by the next call.

    Args:
        run: The run's folder.
        keep: Newest checkpoints that are kept, beside the best one.
    """

    def __init__(self, run: Path, *, keep: int) -> None:
        self.run = run
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def save(
        self,
        checkpoint: Checkpoint,
        snapshot_of: Callable[[Checkpoint], "Snapshot"],
        *,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Copy the tensors, when the save before is done, and return; the thread writes the files.

        Args:
            checkpoint: May hold tensors that training goes on to change.
            snapshot_of: The translator out of a checkpoint.
            before: Called in the thread, first.

        Raises:
            CheckpointError: The save before failed, for example on a full disk.
        """
        begun_s = time.perf_counter()
        self._wait()
        waited_s = time.perf_counter() - begun_s
        networks, optimisers = on_host([checkpoint.networks, checkpoint.optimisers])
        copy = Checkpoint(
            step=checkpoint.step,
            config=checkpoint.config,
            networks=networks,
            optimisers=optimisers,
            data=checkpoint.data,
            best=checkpoint.best,
        )
        copied_s = time.perf_counter() - begun_s - waited_s
        logger.info(
            "checkpoint of step %d: waited %.3f s for the one before, copied in %.3f s",
            checkpoint.step, waited_s, copied_s,
        )  # fmt: skip
        self._under_way = self._thread.submit(self._write, copy, snapshot_of, before)

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

    def _write(
        self,
        checkpoint: Checkpoint,
        snapshot_of: Callable[[Checkpoint], "Snapshot"],
        before: Callable[[], None] | None,
    ) -> None:
        begun_s = time.perf_counter()
        if before is not None:
            before()
        # The checkpoint first: whatever else is missing after a kill can be made from it (`complete`).
        path = save(self.run, checkpoint, keep=self._keep)
        publish(self.run, checkpoint, snapshot_of)
        logger.info("%s: written in %.3f s", path, time.perf_counter() - begun_s)


def publish(run: Path, checkpoint: Checkpoint, snapshot_of: Callable[[Checkpoint], "Snapshot"]) -> None:
    """The snapshot of the newest checkpoint and, where it is the best one, the best snapshot and best.json."""
    save_snapshot(run / SNAPSHOT_NAME, snapshot_of(checkpoint))
    if checkpoint.best is not None and checkpoint.best.step == checkpoint.step:
        _publish_best(run, checkpoint.best, checkpoint, snapshot_of)


def complete(run: Path, newest: Checkpoint, snapshot_of: Callable[[Checkpoint], "Snapshot"]) -> None:
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
    """What best.json of a run names; None where it is missing or damaged."""
    try:
        values = read_json(run / BEST_NAME)
        return Best(by=str(values["by"]), step=int(values["step"]), value=float(values["value"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def on_host(values: Any, *, copies: dict[tuple[Any, ...], torch.Tensor] | None = None) -> Any:
    """The same tree of dicts, lists and values with every tensor copied into memory of its own on the host.

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


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot."""
    _write(
        path,
        {
            "format": SNAPSHOT_FORMAT,
            "weights": snapshot.weights,
            "step": snapshot.step,
            "config": to_json(snapshot.config),
        },
    )


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, or of another format.
    """
    values = _read(path, SNAPSHOT_FORMAT)
    missing = next((name for name in ("weights", "step", "config") if name not in values), None)
    if missing is not None:
        raise CheckpointError(f"{path}: lacks {missing!r}; train again, or fetch the snapshot anew")
    weights = values["weights"]
    for name, is_right, expected in (
        ("weights", _are_weights(weights), "tensors by their names"),
        ("step", _is_count(values["step"]), "a whole number"),
        ("config", _is_plain(values["config"]), "settings as plain values"),
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
    return Snapshot(weights=weights, step=values["step"], config=config)


def _is_count(value: object, *, least: int = 0, most: int = 1 << 62) -> bool:
    return type(value) is int and least <= value <= most


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        for name, tensor in value.items()
    )


def _are_dicts(*values: object) -> bool:
    """Whether each value is a dict of dicts."""
    return all(isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()) for value in values)


def _is_plain(value: object) -> bool:
    """Whether a value is a dict that json can hold."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((run / FOLDER).glob("step-*.pt"))


def _drop_old(run: Path, *, keep: int, best: Best | None) -> None:
    kept = None if best is None else path_of(run, best.step)
    for old in saved(run)[:-keep]:
        if old != kept:
            old.unlink(missing_ok=True)


def _publish_best(
    run: Path, best: Best, checkpoint: Checkpoint, snapshot_of: Callable[[Checkpoint], "Snapshot"]
) -> None:
    save_snapshot(run / BEST_SNAPSHOT_NAME, snapshot_of(checkpoint))
    named = {"checkpoint": path_of(run, best.step).relative_to(run).as_posix(), "snapshot": BEST_SNAPSHOT_NAME}
    values = {"by": best.by, "step": best.step, "value": best.value, **named}
    write_atomic(run / BEST_NAME, (json.dumps(values, indent=1) + "\n").encode())


def _snapshot_step(path: Path) -> int | None:
    try:
        return load_snapshot(path).step
    except CheckpointError:
        return None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    data = buffer.getbuffer()
    assert data[-_NUM_ZIP_END_BYTES:][: len(_ZIP_END)] == _ZIP_END  # torch writes no comment of its own
    data[-2:] = _NUM_SEAL_BYTES.to_bytes(2, "little")
    seal = _SEAL + hashlib.sha256(data).hexdigest().encode()
    with open_atomic(path) as file:
        file.write(data)
        file.write(seal)


def _check_members(path: Path, data: bytes) -> None:
    """Refuse what would be larger in memory than the file: torch packs nothing, and no two of its members share bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(member.file_size for member in members) > len(data)
    ):
        raise CheckpointError(f"{path}: its members are packed, as roma writes none; fetch it anew")


def _read(path: Path, *expected: str) -> dict[str, Any]:
    """The values of a file whose format is one of `expected`, the current one first."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        data = read_whole(path, _MAX_BYTES)
        is_sealed = data[-_NUM_SEAL_BYTES:].startswith(_SEAL)
        if is_sealed:
            digest = hashlib.sha256(memoryview(data)[:-_NUM_SEAL_BYTES]).hexdigest()
            told = data[-_NUM_SEAL_BYTES + len(_SEAL) :].decode("ascii", "replace")
            if digest != told:
                raise CheckpointError(
                    f"{path}: damaged: sha256 is {digest[:8]}..., the file says {told[:8]}...; copy it again, or use another"
                )
        _check_members(path, data)
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: damaged, or not written by roma ({type(error).__name__}); expected a file of format {expected[0]!r}"
        ) from error
    found = values.get("format") if isinstance(values, dict) else None
    if found not in expected:
        hint = ""
        if found in (CHECKPOINT_FORMAT, CHECKPOINT_FORMAT_1):
            hint = f"; this is a checkpoint: use the {SNAPSHOT_NAME} of its run"
        raise CheckpointError(f"{path}: format is {found!r}, expected {expected[0]!r}{hint}")
    if found == CHECKPOINT_FORMAT and not is_sealed:
        raise CheckpointError(f"{path}: damaged: its sha256 at the end is missing; copy it again, or use another")
    return dict(values)
