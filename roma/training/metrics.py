"""Numbers and pictures of a run as it goes: metrics.jsonl, TensorBoard events, sample grids, on request Weights & Biases.

metrics.jsonl has two kinds of lines, one JSON object each. Lines with losses and held-out numbers are the same in every equal run,
resumed or not. Speed (`images_per_s`, `wait_share`, `memory_mib`) has lines of its own, for it never is.
"""

import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from torch.utils.tensorboard.writer import SummaryWriter

from infraredcity.errors import OutputError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import MAX_SIDECAR_BYTES, parse_json, read_json, read_whole
from infraredcity.installation import install_command
from infraredcity.stills.formats import encode
from roma.errors import ConfigError

METRICS_NAME = "metrics.jsonl"
WANDB_NAME = "wandb.json"
"""Which run of Weights & Biases a run folder belongs to."""
SPEED_MARK = "images_per_s"
"""The number that only lines of speed have."""
_CAPTION_PX = 14

logger = logging.getLogger(__name__)


class MetricsLog:
    """Lines of metrics.jsonl, and the same as TensorBoard scalars and, on request, in Weights & Biases. Only for rank 0.

    Args:
        run: The run's folder.
        resumed_at: Steps already done; what an earlier process logged beyond them is dropped, since those steps come again.
        wandb_project: Project of Weights & Biases; "" sends nothing.
        config: What Weights & Biases shows as the run's settings.

    Raises:
        ConfigError: Weights & Biases is asked for and cannot be used.
        OutputError: The folder cannot be written.
    """

    def __init__(
        self, run: Path, *, resumed_at: int, wandb_project: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        self._path = run / METRICS_NAME
        write_atomic(self._path, b"".join(raw for raw, line in _lines(self._path) if line["step"] <= resumed_at))
        self._wandb = _open_wandb(run, wandb_project, config or {}) if wandb_project else None
        self._file = self._path.open("ab")
        self._events = SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, values: Mapping[str, float | int]) -> None:
        """Append one line; `step` must be among the values. Units are in the names.

        Raises:
            OutputError: The disk is full.
        """
        try:
            self._file.write((json.dumps(dict(values)) + "\n").encode())
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {(error.strerror or str(error)).lower()}") from error
        step = int(values["step"])
        numbers = {name: value for name, value in values.items() if name != "step"}
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def write_speed(self, step: int, speed: Mapping[str, float]) -> None:
        """Append a line of numbers that differ from run to run; `images_per_s` must be among them."""
        assert SPEED_MARK in speed
        self.write({"step": step, **speed})

    def picture(self, name: str, grid: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Show a picture in TensorBoard and Weights & Biases."""
        self._events.add_image(name, grid, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(grid)}, step=step)

    def sync(self) -> None:
        """Bring to the disk what was written so far, so that a checkpoint has no line missing before it."""
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(run: Path) -> list[dict[str, float | int]]:
    """Read the lines of a run's metrics.jsonl that equal runs share, oldest first; a half-written last line is left out."""
    return [line for _, line in _lines(run / METRICS_NAME) if SPEED_MARK not in line]


def read_speed(run: Path) -> list[dict[str, float | int]]:
    """Read the lines of a run's metrics.jsonl that say how fast it was, oldest first."""
    return [line for _, line in _lines(run / METRICS_NAME) if SPEED_MARK in line]


def check_wandb(project: str) -> None:
    """Check that numbers can be sent to Weights & Biases, as far as that is known without its server.

    Raises:
        ConfigError: They are asked for, and the package is missing.
    """
    if not project:
        return
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"output.wandb={project} needs the package {error.name}: {install_command('wandb')}, or --set output.wandb="
        ) from error


def _open_wandb(run: Path, project: str, config: Mapping[str, Any]) -> Any:
    """Open the run's own run of Weights & Biases, the same one after each resume; WANDB_MODE=offline keeps it on this disk."""
    check_wandb(project)
    import wandb

    path = run / WANDB_NAME
    try:
        known = read_json(path)
        number = str(known["id"]) if known["project"] == project else None
    except FileNotFoundError:
        number = None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error}); delete it to begin a new run of Weights & Biases") from error
    if number is None:
        number = secrets.token_hex(4)
        write_atomic(path, (json.dumps({"project": project, "id": number}) + "\n").encode())
    # The terminal is the progress line's; what wandb would gather of this process holds the command line, and so passwords in URLs.
    settings = wandb.Settings(silent=True, console="off", x_disable_meta=True)
    try:
        return wandb.init(
            project=project,
            id=number,
            name=run.name,
            dir=str(run),
            resume="allow",
            config=dict(config),
            settings=settings,
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"output.wandb={project}: {str(error).splitlines()[0]}; log in with `wandb login`, set WANDB_MODE=offline, or "
            "--set output.wandb="
        ) from error


def _lines(path: Path) -> list[tuple[bytes, dict[str, float | int]]]:
    """Read whole lines, raw and parsed. A last line without its end was being written when the process was killed."""
    if not path.exists():
        return []
    found = []
    for number, raw in enumerate(read_whole(path, MAX_SIDECAR_BYTES).splitlines(keepends=True), start=1):
        if not raw.endswith(b"\n"):
            continue
        try:
            line = parse_json(raw)
            for name, value in line.items():
                if not isinstance(value, int | float):
                    raise ValueError(f"{name} is no number")
                float(value)  # an integer may be too large for a chart
            found.append((raw, line | {"step": int(line["step"])}))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            logger.warning("%s: line %d is damaged and left out (%s)", path, number, error)
    return found


def grid_of(
    rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]], *, gap_px: int = 4, captions: Sequence[str] = ()
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Join pictures of one size in rows, on white, with a caption above each column where there are captions."""
    height, width, _ = rows[0][0].shape
    columns = max(len(row) for row in rows)
    grid = np.full((len(rows) * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + gap_px), x * (width + gap_px)
            grid[top : top + height, left : left + width] = picture
    if not captions:
        return grid
    strip = np.full((_CAPTION_PX, grid.shape[1], 3), 255, np.uint8)
    for x, caption in enumerate(captions):
        cell = np.full((_CAPTION_PX, width, 3), 255, np.uint8)  # what is too long is cut
        cv2.putText(cell, caption, (1, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
        strip[:, x * (width + gap_px) : x * (width + gap_px) + width] = cell
    return np.concatenate([strip, grid])


def save_picture(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a PNG, whole or not at all."""
    write_atomic(path, encode(picture, "png"))
