"""The losses that the preset tiny adds to the paper's."""

import numpy as np
import pytest
import torch

from roma.losses.colourise import colourise_loss
from roma.losses.details import anchor_loss, luma_details
from roma.losses.edges import edge_loss


def test_colourise_is_the_mean_error_and_that_of_the_differences():
    truth = torch.zeros(1, 3, 2, 2)
    recoloured = torch.zeros(1, 3, 2, 2)
    recoloured[:, :, 0, 1] = 0.4  # error [[0, .4], [0, 0]]: mean .1; to the right .4 and 0: .2; downwards 0 and -.4: .2
    assert colourise_loss(recoloured, truth).item() == pytest.approx(0.1)
    assert colourise_loss(recoloured, truth, edges=2.0).item() == pytest.approx(0.1 + 2 * 0.4)


def test_a_wrong_level_costs_no_edges():
    truth = torch.rand(1, 3, 8, 8)
    assert colourise_loss(truth + 0.25, truth, edges=5.0).item() == pytest.approx(0.25, abs=1e-6)


def slow_magnitudes(picture: np.ndarray) -> np.ndarray:
    luma = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 0.7) ** 2)
    taps /= taps.sum()
    height, width = luma.shape
    soft = np.zeros((height - 4, width - 4))
    for y in range(height - 4):
        for x in range(width - 4):
            soft[y, x] = (luma[y : y + 5, x : x + 5] * np.outer(taps, taps)).sum()
    found = []
    for y in range(1, height - 5):
        for x in range(1, width - 5):
            across, down = soft[y, x + 1] - soft[y, x - 1], soft[y + 1, x] - soft[y - 1, x]
            found.append(np.sqrt(across**2 + down**2 + 1e-6))
    return np.array(found)


def test_edges_equal_a_slow_loop():
    drawn = torch.rand(2, 2, 3, 12, 14, generator=torch.Generator().manual_seed(0)).double()
    expected = [
        1 - np.corrcoef(slow_magnitudes(a.numpy()), slow_magnitudes(b.numpy()))[0, 1]
        for a, b in zip(*drawn, strict=True)
    ]
    assert edge_loss(drawn[0].float(), drawn[1].float()).item() == pytest.approx(np.mean(expected), abs=1e-5)


def test_edges_do_not_care_for_contrast_or_which_side_is_brighter():
    source = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    assert edge_loss(1 - source, source).item() == pytest.approx(0, abs=1e-4)
    assert edge_loss(0.5 * source + 0.3, source).item() == pytest.approx(0, abs=1e-3)
    assert edge_loss(source.flip(-1), source).item() > 0.5


def test_edges_of_a_flat_translation_have_a_finite_slope():
    flat = torch.zeros(1, 3, 24, 24, requires_grad=True)
    edge_loss(flat, torch.rand(1, 3, 24, 24)).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_details_hold_lines_but_neither_light_nor_colour():
    flat = torch.full((1, 3, 32, 32), 0.7)
    assert luma_details(flat).abs().max() < 1e-5
    line = flat.clone()
    line[..., 16] = 1.0
    details = luma_details(line)
    assert details[0, :, 16, 16].tolist() == pytest.approx(
        [0.3 * (1 - 0.0997)] * 3, abs=2e-3
    )  # less its share of the blur
    recoloured = line.clone()
    recoloured[:, 0] += 0.114  # red up and blue down, the luma stays
    recoloured[:, 2] -= 0.299
    torch.testing.assert_close(luma_details(recoloured), details, atol=1e-5, rtol=0)


def test_details_take_a_gaussian_of_four_pixels_away():
    dot = torch.zeros(1, 3, 41, 41)
    dot[..., 20, 20] = 1
    taken = dot - luma_details(dot)
    assert (taken[0, 0, 20, 24] / taken[0, 0, 20, 20]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert luma_details(ramp)[..., 12:-12].abs().max() < 1e-5


def test_the_anchor_holds_light_and_every_colour_and_lets_luma_details_go():
    before = torch.rand(1, 3, 32, 32)
    assert anchor_loss(before, before).item() == 0
    assert anchor_loss(before + 0.2, before).item() == pytest.approx(0.2, abs=1e-5)
    board = torch.ones(1, 3, 32, 32)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = -1
    assert anchor_loss(before + 0.2 * board, before).item() < 0.005
    red = board * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    assert anchor_loss(before + 0.2 * red, before).item() > 0.05
