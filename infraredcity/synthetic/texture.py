"""Draw smooth random pictures: texture of the ground, clouds, uneven warmth."""

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic.opencv import cv2

Picture = NDArray[np.float32]


def fractal_noise(
    rng: np.random.Generator, height_px: int, width_px: int, *, cell_px: tuple[float, float], octaves: int
) -> Picture:
    """Draw noise of mean 0 and standard deviation 1 that is smooth at the scale of `cell_px` (height, width) [H, W]."""
    total = np.zeros((height_px, width_px), np.float32)
    for octave in range(octaves):
        rows = max(2, round(height_px * 2**octave / cell_px[0]) + 1)
        columns = max(2, round(width_px * 2**octave / cell_px[1]) + 1)
        grid = rng.standard_normal((min(rows, height_px), min(columns, width_px)), dtype=np.float32)
        total += cv2.resize(grid, (width_px, height_px), interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), dtype=np.float32)


def tile(rng: np.random.Generator, size_px: int = 512) -> Picture:
    """Draw noise of mean 0 and standard deviation 1 that tiles without a seam [size, size]."""
    frequency = np.fft.fftfreq(size_px)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.standard_normal((size_px, size_px))) / radius**0.75
    spectrum[0, 0] = 0.0
    noise = np.fft.ifft2(spectrum).real
    return np.asarray(noise / noise.std(), dtype=np.float32)
