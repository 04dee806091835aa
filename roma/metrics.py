"""Numbers and pictures of a run as it goes: metrics.jsonl, TensorBoard events, sample grids."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch.utils.tensorboard.writer import SummaryWriter

from infraredcity.images import encode
from infraredcity.storage import write_atomic

METRICS_NAME = "metrics.jsonl"


class MetricsLog:
    """One JSON object per log step, and the same as TensorBoard scalars. For rank 0 alone.

    Args:
        run: The run's folder.
        resumed_at: Steps already done; what an earlier process logged beyond them is dropped, since those steps come again.
    """

    def __init__(self, run: Path, *, resumed_at: int) -> None:
        path = run / METRICS_NAME
        kept = b"".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= resumed_at)
        write_atomic(path, kept)
        self._file = path.open("ab")
        self._events = SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, values: Mapping[str, float | int]) -> None:
        """Append one line; `step` must be among the values. Units are in the names."""
        self._file.write((json.dumps(dict(values)) + "\n").encode())
        self._file.flush()
        step = int(values["step"])
        for name, value in values.items():
            if name != "step":
                self._events.add_scalar(name, value, step)

    def picture(self, name: str, grid: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Show a picture in TensorBoard."""
        self._events.add_image(name, grid, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self._events.close()


def read_metrics(run: Path) -> list[dict[str, float | int]]:
    """The lines of a run's metrics.jsonl, oldest first; a half-written last line is left out."""
    return [json.loads(line) for line in _whole_lines(run / METRICS_NAME)]


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def grid_of(rows: Sequence[Sequence[UInt8[np.ndarray, "H W 3"]]], *, gap_px: int = 4) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Pictures of one size in rows, on white."""
    height, width, _ = rows[0][0].shape
    columns = max(len(row) for row in rows)
    grid = np.full((len(rows) * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + gap_px), x * (width + gap_px)
            grid[top : top + height, left : left + width] = picture
    return grid


def save_picture(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a PNG, whole or not at all."""
    write_atomic(path, encode(picture, "png"))
