"""Baselines that a translation must beat: a transfer of colour statistics, and one mean day picture for everything."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from infraredcity.loader import WindowReader
from infraredcity.stills.framing import resize

NUM_DAY_FRAMES = 2000
_BATCH_FRAMES = 32
# Reinhard et al. 2001: R, G, B to L, M, S, and log10 of these to Ruderman's l, alpha, beta.
_LMS_OF_RGB = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
_RUDERMAN_OF_LMS = (
    (1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5),
    (1 / 6**0.5, 1 / 6**0.5, -2 / 6**0.5),
    (1 / 2**0.5, -1 / 2**0.5, 0.0),
)
# In a gray picture, alpha and beta vary only by rounding; divided by that, they would become noise.
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DayDomain:
    """Statistics of the day frames of a training set.

    Attributes:
        num_frames: Frames that were read.
        mean_picture: The mean of all of them, pixel by pixel.
        means: Mean l, alpha and beta over all their pixels.
        deviations: Standard deviations of the same.
    """

    num_frames: int
    mean_picture: UInt8[Tensor, "3 H W"]
    means: Float64[Tensor, " 3"]
    deviations: Float64[Tensor, " 3"]


def day_domain(patterns: tuple[str, ...], *, size_px: int) -> DayDomain:
    """Compute the statistics of the day frames of some shards, resized to squares: at most 2,000 frames, evenly spaced.

    Raises:
        InfraredCityError: Shards are missing or damaged.
    """
    reader = WindowReader(patterns, window_frames=1, color="rgb")
    try:
        count = min(len(reader.index), NUM_DAY_FRAMES)
        rows = [place * len(reader.index) // count for place in range(count)]
        picture = torch.zeros(3, size_px, size_px, dtype=torch.float64)
        sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for start in range(0, count, _BATCH_FRAMES):
            frames = [
                reader.read_rows([row])[0].permute(1, 2, 0).numpy() for row in rows[start : start + _BATCH_FRAMES]
            ]
            small = np.stack([resize(frame, size_px, size_px) for frame in frames])
            batch = torch.from_numpy(small).permute(0, 3, 1, 2)
            picture += batch.double().sum(dim=0)
            ruderman = _to_ruderman(batch)
            sums += ruderman.sum(dim=(0, 2, 3))
            squares += ruderman.square().sum(dim=(0, 2, 3))
    finally:
        reader.close()
    num_pixels = count * size_px**2
    means = sums / num_pixels
    return DayDomain(
        num_frames=count,
        mean_picture=(picture / count).round().to(torch.uint8),
        means=means,
        deviations=(squares / num_pixels - means.square()).clamp(min=0).sqrt(),
    )


def reinhard(images: UInt8[Tensor, "N 3 H W"], day: DayDomain) -> UInt8[Tensor, "N 3 H W"]:
    """Transfer the day domain's colours: move each picture's mean and standard deviation in l-alpha-beta to the day frames'.

    Source: Reinhard et al. 2001, "Color Transfer between Images", section "Statistics and color correction". We invert their
    matrices exactly instead of using their rounded inverses, and treat level 0 as 1, since 0 has no logarithm. A constant channel,
    such as alpha and beta of a gray picture, is only moved to the mean.
    """
    ruderman = _to_ruderman(images)
    mean = ruderman.mean(dim=(2, 3), keepdim=True)
    deviation = (ruderman - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
    scale = torch.where(deviation > _LEAST_DEVIATION, day.deviations[:, None, None] / deviation, 0.0)
    moved = (ruderman - mean) * scale + day.means[:, None, None]
    log_lms = torch.einsum("kc,nchw->nkhw", torch.linalg.inv(_matrix(_RUDERMAN_OF_LMS)), moved)
    rgb = torch.einsum("kc,nchw->nkhw", torch.linalg.inv(_matrix(_LMS_OF_RGB)), 10**log_lms)
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)


def _to_ruderman(images: Tensor) -> Tensor:
    """Convert R, G, B in [1 / 255, 1] to l-alpha-beta, f64 [N, 3, H, W]."""
    lms = torch.einsum("kc,nchw->nkhw", _matrix(_LMS_OF_RGB), images.double().clamp(min=1) / 255)
    return torch.einsum("kc,nchw->nkhw", _matrix(_RUDERMAN_OF_LMS), lms.log10())


def _matrix(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
