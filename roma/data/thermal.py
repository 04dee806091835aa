"""Make infrared-like gray frames from day frames: the input from which `colourise` learns. Not in the paper.

Restoring the colours of such frames teaches, from unpaired domains, what colours objects have by day. Heat and brightness have no
fixed relation, so each frame gets its own tones: random ones, or ones learned from what the two domains share, the places of
objects in the picture. The sky is at the top in both, so a blue at the top of day frames becomes as dark as infrared is there.

Every random draw is a function of (seed, position), not of a generator's state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from roma.pixels import gaussian_blur

_DEGRADE = 3
"""Purpose of these random draws; `roma.data.batches` numbers the others."""
_CUBE = 17
"""Colours per axis of a learned tone cube."""
_PRIOR_PIXELS = 20.0
"""Pixels of the overall mean level that are added to each cell of the cube, so that rare colours stay near it."""
_LEVELS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ThermalTones:
    """How the infrared domain would show the day domain's colours, estimated from unpaired frames."""

    cube: Float[Tensor, "R G B"]
    """Gray level in [0, 1] for red, green, blue at equal steps of [0, 1]; a tone cube as in colour grading."""
    levels: Float[Tensor, "M L"]
    """Sorted gray levels in [0, 1] of M infrared frames, at equal steps of rank."""


def fit_tones(visible: UInt8[Tensor, "N 3 H W"], infrared: UInt8[Tensor, "M 1 H W"]) -> ThermalTones:
    """Learn tones from unpaired frames of two domains with the same view of the street.

    A cell of the cube is the mean, over all day pixels of about that colour, of the infrared domain's mean picture at their
    places: E[infrared | colour] when only place links the domains. Source: the Nadaraya-Watson estimator.

    Args:
        visible: Day frames, 0..255.
        infrared: Infrared frames of the same size.
    """
    mean_picture = infrared.double().mean(dim=0)[0].div(255)
    colours = visible.permute(0, 2, 3, 1).reshape(-1, 3).long().mul(_CUBE - 1).add(127).div(255, rounding_mode="floor")
    cell = (colours[:, 0] * _CUBE + colours[:, 1]) * _CUBE + colours[:, 2]
    expected = mean_picture.flatten().repeat(len(visible))
    sums, counts = torch.zeros(2, _CUBE**3, dtype=torch.float64)
    sums.index_add_(0, cell, expected)
    counts.index_add_(0, cell, torch.ones_like(expected))
    spread = torch.stack([sums, counts]).reshape(2, 1, _CUBE, _CUBE, _CUBE)
    for axis in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):  # a colour also counts for its neighbours
        taps = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).reshape(1, 1, *axis)
        spread = F.conv3d(spread, taps, padding=tuple(size // 2 for size in axis))
    sums, counts = spread[:, 0]
    cube = (sums + _PRIOR_PIXELS * mean_picture.mean()) / (counts + _PRIOR_PIXELS)
    ranks = torch.linspace(0, infrared[0].numel() - 1, _LEVELS).round().long()
    levels = infrared.flatten(1).sort(dim=1).values[:, ranks].float().div(255)
    return ThermalTones(cube=cube.float(), levels=levels)


def degrade(
    target: Float[Tensor, "N 3 H W"],
    positions: tuple[int, ...],
    *,
    seed: int,
    tones: ThermalTones | None = None,
    matched_share: float = 0.5,
) -> Float[Tensor, "N 3 H W"]:
    """Turn day frames into infrared-like gray ones: other tones, blur, lower contrast, noise of pixels and of columns.

    Args:
        target: Values in [-1, 1].
        positions: A number for each frame that seeds its draws, such as its window's stream position.
        seed: The run's seed.
        tones: What was learned from both domains; None takes only random tones.
        matched_share: Share of the frames that get learned tones, if there are any.
    """
    outputs = []
    for frame, position in zip(target, positions, strict=True):
        draw = np.random.default_rng([seed, _DEGRADE, position])
        colours = frame.add(1).div(2).clamp(0, 1)
        if tones is not None and draw.random() < matched_share:
            gray = _learned_tones(colours, tones, draw)
        elif tones is not None and draw.random() < 0.5:
            gray = _blur_fade_and_add_noise(_random_cube_tones(colours, draw), draw)
        else:
            gray = _blur_fade_and_add_noise(_random_curve_tones(colours, draw), draw)
        outputs.append(gray.clamp(0, 1).mul(2).sub(1).expand(3, -1, -1))
    return torch.stack(outputs)


def _random_curve_tones(colours: Float[Tensor, "3 H W"], draw: np.random.Generator) -> Float[Tensor, "H W"]:
    """Mix the channels at random and apply a random piecewise linear curve, mostly rising or falling."""
    mix = colours.new_tensor(draw.dirichlet([1.0, 1.5, 1.0]))
    gray = (colours * mix[:, None, None]).sum(dim=0)
    levels = np.sort(draw.uniform(0, 1, 6)) if draw.random() < 0.7 else draw.uniform(0, 1, 6)
    if draw.random() < 0.3:
        levels = levels[::-1]
    curve = colours.new_tensor(levels.copy())
    place = gray * 5
    low = place.floor().clamp(max=4)
    toned: Tensor = torch.lerp(curve[low.long()], curve[low.long() + 1], place - low)
    return toned


def _random_cube_tones(colours: Float[Tensor, "3 H W"], draw: np.random.Generator) -> Float[Tensor, "H W"]:
    """Apply a smooth random function of colour, brought to about [0, 1]: two colours of one brightness may differ."""
    gray = _look_up(colours, colours.new_tensor(draw.normal(size=(5, 5, 5))))
    low, high = torch.quantile(gray[::4, ::4].float(), gray.new_tensor([0.02, 0.98]).float())
    stretched: Tensor = (gray - low) / (high - low).clamp(min=1e-4)
    return stretched


def _learned_tones(
    colours: Float[Tensor, "3 H W"], tones: ThermalTones, draw: np.random.Generator
) -> Float[Tensor, "H W"]:
    """Mix learned tones with random ones, add uneven warmth and blur, and take the gray levels of a true infrared frame."""
    learned = _standardised(_look_up(colours, tones.cube.to(colours)))
    other = _standardised(_look_up(colours, colours.new_tensor(draw.normal(size=(5, 5, 5)))))
    share = draw.uniform(0, 0.7)
    height, width = learned.shape
    uneven = F.interpolate(colours.new_tensor(draw.normal(size=(1, 1, 3, 3))), size=(height, width), mode="bicubic")[
        0, 0
    ]
    gray = (1 - share) * learned + share * other + 0.3 * draw.uniform() * uneven
    # A little noise, blurred with the rest, gives equal tones an order; without it they would form bands.
    gray = gray + colours.new_tensor(0.02 * draw.standard_normal((height, width), dtype=np.float32))
    gray = _blurred(gray, draw.uniform(0.3, 1.2))
    levels = tones.levels[int(draw.integers(len(tones.levels)))].to(gray)
    rank = torch.empty(gray.numel(), dtype=torch.long, device=gray.device)
    rank[gray.flatten().argsort(stable=True)] = torch.arange(gray.numel(), device=gray.device)
    ranked = levels[rank.mul(_LEVELS).div(gray.numel(), rounding_mode="floor")].reshape(height, width)
    return ranked + _sensor_noise(ranked, draw, pixels=0.008, columns=0.006)


def _blur_fade_and_add_noise(gray: Float[Tensor, "H W"], draw: np.random.Generator) -> Float[Tensor, "H W"]:
    """Blur, lower the contrast around a random level, add noise."""
    soft = _blurred(gray, draw.uniform(0.3, 1.5))
    contrast = draw.uniform(0.2, 1.0)
    noise = _sensor_noise(soft, draw, pixels=draw.uniform(0, 0.02), columns=draw.uniform(0, 0.01))
    return draw.uniform(0, 1 - contrast) + contrast * soft + noise


def _sensor_noise(
    like: Float[Tensor, "H W"], draw: np.random.Generator, *, pixels: float, columns: float
) -> Float[Tensor, "H W"]:
    height, width = like.shape
    noise = pixels * draw.standard_normal((height, width)) + columns * draw.standard_normal((1, width))
    return like.new_tensor(noise)


def _look_up(colours: Float[Tensor, "3 H W"], cube: Float[Tensor, "R G B"]) -> Float[Tensor, "H W"]:
    """Look colours up in a tone cube, trilinearly."""
    # grid_sample wants the coordinates from the last axis to the first, in [-1, 1].
    place = colours.flip(0).permute(1, 2, 0).mul(2).sub(1)[None, None]
    return F.grid_sample(cube[None, None], place, mode="bilinear", align_corners=True)[0, 0, 0]


def _standardised(gray: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Scale to mean 0 and standard deviation 1; a flat picture stays flat."""
    return (gray - gray.mean()) / gray.std().clamp(min=1e-3)


def _blurred(gray: Float[Tensor, "H W"], sigma_px: float) -> Float[Tensor, "H W"]:
    return gaussian_blur(gray[None, None], sigma_px=sigma_px, radius_px=3, border="replicate")[0, 0]
