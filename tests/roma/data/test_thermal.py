import numpy as np
import pytest
import torch

from roma.data.thermal import ThermalTones, degrade, fit_tones

BLUE, GRAY, RED = (60, 120, 220), (100, 100, 100), (200, 40, 40)


def frames_of(top: tuple[int, int, int], bottom: tuple[int, int, int], *, count: int = 4) -> torch.Tensor:
    """u8 [count, 3, 32, 32] of two colours."""
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    picture[:, :16] = torch.tensor(top, dtype=torch.uint8)[:, None, None]
    picture[:, 16:] = torch.tensor(bottom, dtype=torch.uint8)[:, None, None]
    return picture.expand(count, -1, -1, -1).contiguous()


def thermal(top: int, bottom: int, *, count: int = 3) -> torch.Tensor:
    picture = torch.full((count, 1, 32, 32), bottom, dtype=torch.uint8)
    picture[:, :, :16] = top
    return picture


def level(tones: ThermalTones, colour: tuple[int, int, int]) -> float:
    """The learned gray of a colour, at the nearest cell of the cube."""
    red, green, blue = (round(value / 255 * 16) for value in colour)
    return float(tones.cube[red, green, blue])


def unit(frames: torch.Tensor) -> torch.Tensor:
    return frames.float() / 127.5 - 1


def test_degraded_frames_are_gray_repeatable_and_keep_the_layout():
    target = torch.zeros(2, 3, 32, 32)
    target[:, 0, :, 16:] = 1
    target[:, 1, :, :16] = -1
    gray = degrade(target, (4, 5), seed=0)
    assert gray.shape == target.shape
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray, degrade(target, (4, 5), seed=0))
    assert torch.equal(gray[1:], degrade(target[1:], (5,), seed=0))
    assert not torch.equal(gray[1:], degrade(target[1:], (6,), seed=0))
    edges = np.abs(np.diff(gray[:, 0].mean(dim=1).numpy(), axis=1))
    assert (edges[:, 12:19].max(axis=1) > 3 * np.delete(edges, np.s_[10:21], axis=1).max(axis=1)).any()


def test_a_colour_takes_the_infrared_level_of_the_places_where_it_lies():
    tones = fit_tones(frames_of(BLUE, GRAY, count=40), thermal(40, 200))
    assert level(tones, BLUE) == pytest.approx(40 / 255, abs=0.02)
    assert level(tones, GRAY) == pytest.approx(200 / 255, abs=0.02)


def test_a_colour_that_no_day_frame_has_takes_the_mean():
    tones = fit_tones(frames_of(BLUE, GRAY), thermal(40, 200))
    assert level(tones, RED) == pytest.approx(120 / 255, abs=1e-6)


def test_levels_are_the_sorted_pixels_of_the_infrared_frames():
    tones = fit_tones(frames_of(BLUE, GRAY), thermal(40, 200, count=2))
    assert tones.levels.shape == (2, 256)
    assert torch.equal(tones.levels[0, :128], torch.full((128,), 40 / 255))
    assert torch.equal(tones.levels[0, 128:], torch.full((128,), 200 / 255))


def test_matched_tones_are_dark_where_the_infrared_is_and_random_ones_are_not_always():
    day = frames_of(BLUE, GRAY, count=60)
    tones = fit_tones(day, thermal(40, 200))
    numbers = tuple(range(60))
    brighter_below = {}
    for share in (0.0, 1.0):
        gray = degrade(unit(day), numbers, seed=0, tones=tones, matched_share=share)[:, 0]
        brighter_below[share] = float((gray[:, 18:].mean(dim=(1, 2)) > gray[:, :14].mean(dim=(1, 2))).float().mean())
    assert brighter_below[1.0] > 0.75  # up to 0.7 of a frame's tones are random
    assert 0.2 < brighter_below[0.0] < 0.8


def test_matched_frames_have_the_levels_of_an_infrared_frame():
    ramp = torch.arange(1024, dtype=torch.float32).reshape(1, 1, 32, 32).div(1024).mul(60).add(90).to(torch.uint8)
    day = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gray = degrade(unit(day), (1, 2), seed=3, tones=fit_tones(day, ramp), matched_share=1.0)
    levels = gray.add(1).mul(127.5)[:, 0].flatten(1).sort(dim=1).values
    for quantile, expected in ((0.1, 96), (0.5, 120), (0.9, 144)):
        assert levels[:, int(quantile * 1024)].tolist() == pytest.approx([expected] * 2, abs=4)
