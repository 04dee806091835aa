"""Numbers and pictures of a run as it goes: metrics.jsonl, TensorBoard events, sample grids. And the measures of an image."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
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


def psnr(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(255^2 / MSE) over all channels; 100 for equal images."""
    error = (image.float() - truth.float()).square().mean(dim=(1, 2, 3))
    return torch.where(error > 0, 10 * (2 * math.log10(255) - torch.log10(error.clamp(min=1e-12))), torch.tensor(100.0))


def mae(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Mean absolute error of each image in levels of 255, over all channels."""
    return (image.float() - truth.float()).abs().mean(dim=(1, 2, 3))


def ssim(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Structural similarity of each image, the mean over places and the three channels; 1 for equal images.

    Source: Wang et al. 2004, "Image quality assessment", equation 13: an 11x11 Gaussian window of sigma 1.5, K1 = 0.01,
    K2 = 0.03, L = 255, valid places only. The paper measures gray pictures; we average R, G and B.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    taps = taps / taps.sum()
    if min(image.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {image.shape[-1]}x{image.shape[-2]}")

    def local_mean(values: Tensor) -> Tensor:
        planes = values.flatten(0, 1)[:, None]
        filtered = F.conv2d(F.conv2d(planes, taps[None, None, None, :]), taps[None, None, :, None])
        return filtered.reshape(*values.shape[:2], *filtered.shape[-2:])

    a, b = image.double(), truth.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = local_mean(a * a) - mean_a**2
    var_b = local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return similarity.mean(dim=(1, 2, 3)).float()
