import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from roma.metrics import MetricsLog, grid_of, mae, psnr, read_metrics, ssim


def picture(value: int, *, size: int = 16) -> torch.Tensor:
    return torch.full((1, 3, size, size), value, dtype=torch.uint8)


def test_psnr_and_mae_of_a_constant_difference_by_hand():
    # A difference of 5 everywhere: MSE 25, so 10 log10(65025 / 25) = 34.1514 dB.
    assert float(psnr(picture(10), picture(15))) == pytest.approx(34.1514, abs=1e-4)
    assert float(mae(picture(10), picture(15))) == 5
    assert float(psnr(picture(10), picture(10))) == 100


def test_ssim_of_flat_pictures_by_hand():
    # Without variance only the luminance term is left: (2 ab + c1) / (a^2 + b^2 + c1), c1 = 6.5025.
    expected = (2 * 100 * 150 + 6.5025) / (100**2 + 150**2 + 6.5025)
    assert float(ssim(picture(100), picture(150))) == pytest.approx(expected, rel=1e-6)


def test_ssim_against_a_slow_loop_over_windows():
    draw = np.random.default_rng(0)
    a, b = (draw.integers(0, 256, (3, 14, 13), dtype=np.uint8) for _ in range(2))
    taps = np.array([math.exp(-0.5 * (i / 1.5) ** 2) for i in range(-5, 6)])
    weight = np.outer(taps, taps) / taps.sum() ** 2
    values = []
    for channel in range(3):
        for y in range(4):
            for x in range(3):
                p, q = (image[channel, y : y + 11, x : x + 11].astype(float) for image in (a, b))
                mp, mq = (weight * p).sum(), (weight * q).sum()
                vp, vq = (weight * p * p).sum() - mp**2, (weight * q * q).sum() - mq**2
                cov = (weight * p * q).sum() - mp * mq
                c1, c2 = 2.55**2, 7.65**2
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    found = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert float(found) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(ssim(torch.from_numpy(a)[None], torch.from_numpy(a)[None])) == pytest.approx(1)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 8x8"):
        ssim(picture(1, size=8), picture(1, size=8))


def test_resumed_log_drops_lines_of_steps_that_come_again(tmp_path: Path):
    log = MetricsLog(tmp_path, resumed_at=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    log = MetricsLog(tmp_path, resumed_at=2)
    log.write({"step": 3, "loss": 30.0})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 30.0}]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_grid_puts_pictures_in_rows_on_white():
    black = np.zeros((2, 3, 3), np.uint8)
    grid = grid_of([[black, black], [black]], gap_px=1)
    assert grid.shape == (5, 7, 3)
    assert grid[:2, :3].max() == 0
    assert grid[:, 3].min() == 255
    assert grid[3:, 4:].min() == 255
