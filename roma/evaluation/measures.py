"""Measure how good translated pictures are: one function per measure, and the table MEASURES from which reports are made.

A new measure is a function and its entry in MEASURES, whose order is that of evaluation.json and of the report. Each function gives
one number per picture, or per pair of pictures; a gray picture has three equal channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from roma.pixels import gaussian_blur, luma

# Smallest variance of gradient magnitudes, in squared levels, that is above the rounding of a flat picture.
_LEAST_VARIANCE = 1e-10
_SSIM_SIDE_PX = 11
# IEC 61966-2-1: linear R, G, B of sRGB to CIE X, Y, Z. Its white is the sum of each row, D65, so grays have a* = b* = 0.
_XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def psnr(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Compute the peak signal-to-noise ratio of each image in dB: 10 log10(255^2 / MSE) over all channels; 100 for equal images."""
    error = (image.float() - truth.float()).square().mean(dim=(1, 2, 3))
    return torch.where(error > 0, 10 * (2 * math.log10(255) - torch.log10(error.clamp(min=1e-12))), torch.tensor(100.0))


def ssim(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Compute the structural similarity of each image, the mean over places and the three channels; 1 for equal images.

    Source: Wang et al. 2004, "Image quality assessment", equation 13: an 11x11 Gaussian window of sigma 1.5, K1 = 0.01,
    K2 = 0.03, L = 255, valid places only. The paper measures gray pictures; we average R, G and B.
    """
    if min(image.shape[-2:]) < _SSIM_SIDE_PX:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {image.shape[-1]}x{image.shape[-2]}")

    def local_mean(values: Tensor) -> Tensor:
        planes = values.flatten(0, 1)[:, None]
        filtered = gaussian_blur(planes, sigma_px=1.5, radius_px=_SSIM_SIDE_PX // 2, border="valid")
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


def mae(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Compute the mean absolute error of each image in levels of 255, over all channels."""
    return (image.float() - truth.float()).abs().mean(dim=(1, 2, 3))


def edge_correlation(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Correlate each image's gradient magnitudes with the truth's (Pearson, in [-1, 1]); high when edges are in the same places.

    Gray is ITU-R BT.601 luma. The gradient is Sobel's 3x3 at valid places. Its magnitude sqrt(gx^2 + gy^2) has neither sign nor
    colour, so a picture and its negative agree. 0 where all magnitudes of one picture are equal, as in a picture without edges.
    """
    a, b = (_gradient_magnitudes(pictures).flatten(1) for pictures in (image, truth))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    var_a, var_b = a.square().mean(dim=1), b.square().mean(dim=1)
    known = (var_a > _LEAST_VARIANCE) & (var_b > _LEAST_VARIANCE)
    deviations = torch.where(known, var_a * var_b, 1.0).sqrt()
    return torch.where(known, (a * b).mean(dim=1) / deviations, 0.0).float()


def ab_distance(image: UInt8[Tensor, "N 3 H W"], truth: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Compute the mean colour distance of each image from the truth, without lightness: sqrt(da*^2 + db*^2) in CIELAB units."""
    a, b = (rgb_to_lab(pictures)[:, 1:] for pictures in (image, truth))
    return (a - b).square().sum(dim=1).sqrt().mean(dim=(1, 2)).float()


def chroma(image: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
    """Compute each image's mean colourfulness: CIELAB's C*ab = sqrt(a*^2 + b*^2) over all pixels, 0 for gray, 134 for pure blue."""
    return rgb_to_lab(image)[:, 1:].square().sum(dim=1).sqrt().mean(dim=(1, 2)).float()


def warping_error(
    frames_t: UInt8[Tensor, "N 3 H W"],
    frames_t1: UInt8[Tensor, "N 3 H W"],
    flow: Float[Tensor, "N 2 H W"],
    visible: Bool[Tensor, "N H W"],
) -> Float[Tensor, " N"]:
    """Compare each frame with the next one warped back onto it; in [0, 1], 0 when things keep their look as they move.

    Source: E_warp of Lai et al. 2018, arXiv 1808.00449: the mean over visible pixels of the squared difference, here of values
    in [0, 1] and over channels. We warp bilinearly, and leave out pixels that the flow moves outside the next frame.

    Args:
        frames_t: Frames t.
        frames_t1: Frames t + 1.
        flow: Where each pixel of frame t goes, in pixels: right, down.
        visible: Whether the pixel is still visible in frame t + 1.

    Returns:
        One value per pair; NaN where no pixel stays visible.
    """
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    to_x, to_y = x + flow[:, 0].double(), y + flow[:, 1].double()
    counted = visible & (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    left, top = (to.nan_to_num().floor().long() for to in (to_x, to_y))
    left, top = left.clamp(0, max(0, width - 2)), top.clamp(0, max(0, height - 2))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    following = (frames_t1.double() / 255).flatten(2)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        places = (rows * width + columns).flatten(1)[:, None].expand(-1, 3, -1)
        return following.gather(2, places).reshape(-1, 3, height, width)

    share_x, share_y = (to_x - left)[:, None], (to_y - top)[:, None]
    upper = torch.lerp(at(top, left), at(top, right), share_x)
    lower = torch.lerp(at(bottom, left), at(bottom, right), share_x)
    error = (frames_t.double() / 255 - torch.lerp(upper, lower, share_y)).square().mean(dim=1)
    return (torch.where(counted, error, 0.0).sum(dim=(1, 2)) / counted.sum(dim=(1, 2))).float()


def rgb_to_lab(image: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Convert sRGB pictures to CIELAB under D65: L* (0..100), a* and b*.

    Source: IEC 61966-2-1 for the linear values and X, Y, Z; CIE 15 for L* = 116 f(Y/Yn) - 16, a* = 500 (f(X/Xn) - f(Y/Yn)),
    b* = 200 (f(Y/Yn) - f(Z/Zn)), where f(t) is the cube root above (6/29)^3 and t / (3 (6/29)^2) + 4/29 below.
    """
    encoded = image.double() / 255
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64, device=image.device)
    relative = torch.einsum("kc,nchw->nkhw", matrix / matrix.sum(dim=1, keepdim=True), linear)
    edge = 6 / 29
    f_x, f_y, f_z = torch.where(
        relative > edge**3, relative.clamp(min=edge**3) ** (1 / 3), relative / (3 * edge**2) + 4 / 29
    ).unbind(dim=1)
    return torch.stack([116 * f_y - 16, 500 * (f_x - f_y), 200 * (f_y - f_z)], dim=1)


def _gradient_magnitudes(image: Tensor) -> Tensor:
    """Compute the gradient magnitudes of each picture's luma, f64 [N, H - 2, W - 2]; exactly 0 where the luma is flat."""
    gray = luma(image.double())[:, 0]
    if min(gray.shape[-2:]) < 3:
        raise ValueError(f"edges need pictures of at least 3x3 pixels, got {gray.shape[-1]}x{gray.shape[-2]}")
    down = gray[:, :-2] + 2 * gray[:, 1:-1] + gray[:, 2:]
    across = gray[:, :, :-2] + 2 * gray[:, :, 1:-1] + gray[:, :, 2:]
    return torch.hypot(down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One measure: what it is called and shown as, and the one function that computes it (exactly one of the last three)."""

    name: str
    """Its name in evaluation.json."""
    heading: str
    """Name and unit, short, for tables."""
    decimals: int
    """Digits after the decimal point."""
    better: Literal["higher is better", "lower is better", "best near the truth's"]
    """Which values are good."""
    says: str
    """What it measures, for people."""
    beside_truth: Callable[[Tensor, Tensor], Tensor] | None = None
    """Compute it from pictures and their truth."""
    of_pictures: Callable[[Tensor], Tensor] | None = None
    """Compute it from pictures without their truth."""
    of_pairs: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    """Compute it from frames t, frames t + 1, the flow between them, and the pixels that stay visible."""


MEASURES = (
    Measure(name="psnr_db", heading="PSNR dB", decimals=2, better="higher is better", beside_truth=psnr,
            says="likeness pixel by pixel"),
    Measure(name="ssim", heading="SSIM", decimals=3, better="higher is better", beside_truth=ssim,
            says="likeness of local structure, 1 at most"),
    Measure(name="mae", heading="MAE", decimals=1, better="lower is better", beside_truth=mae,
            says="mean error in levels of 255"),
    Measure(name="edge_correlation", heading="edges", decimals=3, better="higher is better", beside_truth=edge_correlation,
            says="correlation of gradient magnitudes with the truth's, 1 at most"),
    Measure(name="ab_distance", heading="a*b* dist", decimals=1, better="lower is better", beside_truth=ab_distance,
            says="distance of colours from the truth's in CIELAB a*, b*"),
    Measure(name="chroma", heading="chroma", decimals=1, better="best near the truth's", of_pictures=chroma,
            says="colourfulness in CIELAB"),
    Measure(name="warping_error", heading="warping", decimals=5, better="best near the truth's", of_pairs=warping_error,
            says="mean square between a frame and the next one moved back onto it, values in [0, 1]"),
)  # fmt: skip
"""All measures, in the order in which they are written and shown."""
