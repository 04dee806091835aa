import math
from pathlib import Path

import numpy as np
import pytest
import torch

from infraredcity.errors import ShardError
from infraredcity.loader import WindowReader
from roma.evaluation import baselines
from roma.evaluation.baselines import DayDomain, day_domain, reinhard


def ruderman(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """L, alpha, beta of one pixel in (0, 1], written from Reinhard et al. 2001."""
    long = math.log10(0.3811 * red + 0.5783 * green + 0.0402 * blue)
    middle = math.log10(0.1967 * red + 0.7244 * green + 0.0782 * blue)
    short = math.log10(0.0241 * red + 0.1288 * green + 0.8444 * blue)
    return (
        (long + middle + short) / math.sqrt(3),
        (long + middle - 2 * short) / math.sqrt(6),
        (long - middle) / math.sqrt(2),
    )


def rgb(lightness: float, alpha: float, beta: float) -> list[float]:
    """Back, by the inverse that the paper prints."""
    a, b, c = lightness * math.sqrt(3) / 3, alpha * math.sqrt(6) / 6, beta * math.sqrt(2) / 2
    long, middle, short = 10 ** (a + b + c), 10 ** (a + b - c), 10 ** (a - 2 * b)
    return [
        4.4679 * long - 3.5873 * middle + 0.1193 * short,
        -1.2186 * long + 2.3809 * middle - 0.1624 * short,
        0.0497 * long - 0.2439 * middle + 1.2045 * short,
    ]


def day_of(means: list[float], deviations: list[float]) -> DayDomain:
    return DayDomain(
        num_frames=1,
        mean_picture=torch.zeros(3, 4, 4, dtype=torch.uint8),
        means=torch.tensor(means, dtype=torch.float64),
        deviations=torch.tensor(deviations, dtype=torch.float64),
    )


def moved_slowly(image: np.ndarray, means: list[float], deviations: list[float]) -> np.ndarray:
    """u8 [3, H, W] by a loop over pixels; a deviation below 1e-6 counts as none."""
    _, height, width = image.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    values = [ruderman(*(max(int(level), 1) / 255 for level in image[:, y, x])) for y, x in places]
    result = np.zeros_like(image)
    columns = list(zip(*values, strict=True))
    own_means = [sum(column) / len(column) for column in columns]
    own = [
        math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        for column, mean in zip(columns, own_means, strict=True)
    ]
    for (y, x), pixel in zip(places, values, strict=True):
        moved = [
            (pixel[c] - own_means[c]) * (deviations[c] / own[c] if own[c] > 1e-6 else 0) + means[c] for c in range(3)
        ]
        result[:, y, x] = [min(255, max(0, round(value * 255))) for value in rgb(*moved)]
    return result


MEANS, DEVIATIONS = [-0.7, 0.03, -0.01], [0.25, 0.05, 0.02]


def test_reinhard_against_a_slow_loop_from_the_formula():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    found = reinhard(torch.from_numpy(image)[None], day_of(MEANS, DEVIATIONS))[0].numpy()
    expected = moved_slowly(image, MEANS, DEVIATIONS)
    assert np.ptp(expected) > 100
    assert np.abs(found.astype(int) - expected).max() <= 2  # their printed inverse is rounded


def test_gray_is_tinted_evenly_and_not_with_noise():
    gray = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 8, 8), dtype=np.uint8), 3, axis=0)
    found = reinhard(torch.from_numpy(gray)[None], day_of(MEANS, DEVIATIONS))[0].numpy()
    assert np.abs(found.astype(int) - moved_slowly(gray, MEANS, DEVIATIONS)).max() <= 2
    unclipped = (found > 40).all(axis=0) & (found < 255).all(axis=0)
    assert unclipped.sum() > 10
    tints = found[:, unclipped] / found[:, unclipped].mean(axis=0)
    assert np.ptp(tints, axis=1).max() < 0.03


def test_each_picture_is_moved_by_its_own_statistics():
    dark = np.random.default_rng(2).integers(10, 60, (1, 3, 6, 6), dtype=np.uint8)
    batch = torch.from_numpy(np.concatenate([dark, dark * 3]))
    day = day_of(MEANS, DEVIATIONS)
    together = reinhard(batch, day)
    assert torch.equal(together, torch.cat([reinhard(batch[:1], day), reinhard(batch[1:], day)]))
    # Three times the light is one more constant in the logarithm, so nothing is left of it.
    assert (together[0].int() - together[1].int()).abs().max() <= 1


def frames_of(pattern: str) -> np.ndarray:
    """u8 [N, 3, 36, 40], every frame of the day shards."""
    reader = WindowReader([pattern], window_frames=1, color="rgb")
    frames: np.ndarray = reader.read_rows(list(range(len(reader.index)))).numpy()
    reader.close()
    return frames


def squares(frames: np.ndarray) -> np.ndarray:
    """Of 36x40 pictures, 4x4: means over 9x10 pixels."""
    return frames.astype(np.float64).reshape(-1, 3, 4, 9, 4, 10).mean(axis=(3, 5))


def test_mean_day_picture_and_statistics_of_all_frames(domains: tuple[str, str]):
    day = day_domain((domains[1],), size_px=4)
    assert day.num_frames == 13
    small = squares(frames_of(domains[1]))
    assert np.abs(day.mean_picture.numpy() - small.mean(axis=0)).max() <= 1
    values = np.array([ruderman(*(pixel / 255)) for picture in small for pixel in picture.reshape(3, -1).T])
    assert day.means.tolist() == pytest.approx(values.mean(axis=0), abs=0.003)
    assert day.deviations.tolist() == pytest.approx(values.std(axis=0), abs=0.003)
    assert values.std(axis=0).min() > 0.01


def test_of_many_day_frames_evenly_spaced_ones_are_taken(domains: tuple[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines, "NUM_DAY_FRAMES", 4)
    day = day_domain((domains[1],), size_px=4)
    assert day.num_frames == 4
    taken = squares(frames_of(domains[1])[[0, 3, 6, 9]])  # of 13
    assert np.abs(day.mean_picture.numpy() - taken.mean(axis=0)).max() <= 1


def test_day_shards_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(ShardError, match="no shard matches"):
        day_domain((f"{tmp_path}/*.tar",), size_px=4)
