import math

import cv2
import numpy as np
import pytest
import torch

from roma.evaluation.measures import ab_distance, chroma, edge_correlation, mae, psnr, rgb_to_lab, ssim, warping_error

# CIELAB of the corners of sRGB under D65, as published in colour tables.
LAB_OF_RGB = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
}


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


def noise(*, seed: int = 0, size: tuple[int, int] = (12, 14)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, *size), dtype=np.uint8))


def plain(colour: tuple[int, int, int], *, size: int = 4) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, size, size).contiguous()


def test_edges_of_a_picture_agree_with_itself_and_its_negative_and_with_nothing_flat():
    image = noise()
    assert float(edge_correlation(image, image)) == pytest.approx(1)
    assert float(edge_correlation(image, 255 - image)) == pytest.approx(1)
    assert float(edge_correlation(image, picture(90, size=16)[..., :12, :14])) == 0
    assert float(edge_correlation(plain((10, 200, 30)), plain((10, 200, 30)))) == 0


def test_edge_correlation_by_hand():
    # A step of 100 between columns 2 and 3 of five: Sobel gives 4 * 100 at the two valid columns beside it, 0 at the other.
    step = torch.zeros(1, 3, 3, 5, dtype=torch.uint8)
    step[..., 3:] = 100
    early = step.flip(-1)  # between columns 1 and 2
    # Magnitudes (0, 400, 400) and (400, 400, 0): deviations from the means -8/3, 4/3, 4/3 and 4/3, 4/3, -8/3 hundreds.
    # Sum of products (-32 + 16 - 32) / 9, of squares (64 + 16 + 16) / 9: -48 / 96.
    assert float(edge_correlation(step, early)) == pytest.approx(-0.5)


def test_edge_correlation_against_a_slow_loop_over_places():
    images = [noise(seed=seed, size=(6, 7))[0].double().numpy() for seed in (1, 2)]
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    magnitudes = []
    for image in images:
        luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        cuts = [luma[y : y + 3, x : x + 3] for y in range(4) for x in range(5)]
        magnitudes.append([math.hypot((kernel * cut).sum(), (kernel.T * cut).sum()) for cut in cuts])
    found = edge_correlation(noise(seed=1, size=(6, 7)), noise(seed=2, size=(6, 7)))
    assert float(found) == pytest.approx(np.corrcoef(*magnitudes)[0, 1], rel=1e-6)


@pytest.mark.parametrize(("colour", "expected"), LAB_OF_RGB.items())
def test_lab_of_the_corners_of_srgb(colour: tuple[int, int, int], expected: tuple[float, float, float]):
    assert rgb_to_lab(plain(colour))[0, :, 0, 0].tolist() == pytest.approx(expected, abs=0.006)


def test_lab_agrees_with_opencv():
    image = noise(size=(40, 40))
    theirs = cv2.cvtColor(image[0].permute(1, 2, 0).numpy().astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    ours = rgb_to_lab(image)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() < 0.5  # OpenCV interpolates in tables
    assert np.abs(ours - theirs).mean() < 0.1


def test_distance_of_colours_knows_no_lightness():
    gray = picture(60, size=4)
    assert float(ab_distance(gray, picture(200, size=4))) == pytest.approx(0, abs=1e-5)
    red = plain((255, 0, 0))
    assert float(ab_distance(gray, red)) == pytest.approx(math.hypot(80.09, 67.20), abs=0.01)
    half = torch.cat([red[..., :2], plain((0, 0, 255))[..., 2:]], dim=-1)
    apart = math.hypot(80.09 - 79.19, 67.20 + 107.86)
    assert float(ab_distance(half, red)) == pytest.approx(apart / 2, abs=0.01)


def test_chroma_is_the_mean_over_pixels():
    half = torch.cat([picture(60, size=4)[..., :2], plain((0, 255, 0))[..., 2:]], dim=-1)
    assert float(chroma(half)) == pytest.approx(math.hypot(86.18, 83.18) / 2, abs=0.01)
    assert float(chroma(picture(60, size=4))) == pytest.approx(0, abs=1e-5)


def flow_of(right: float, down: float, *, size: tuple[int, int] = (12, 14)) -> torch.Tensor:
    return torch.tensor([right, down], dtype=torch.float32)[None, :, None, None].expand(1, 2, *size).contiguous()


def everywhere(*, size: tuple[int, int] = (12, 14)) -> torch.Tensor:
    return torch.ones(1, *size, dtype=torch.bool)


def test_a_picture_moved_by_whole_pixels_has_no_warping_error_under_that_flow_alone():
    now = noise()
    following = now.roll((1, 2), dims=(2, 3))  # everything moves down by 1 and right by 2
    assert float(warping_error(now, following, flow_of(2, 1), everywhere())) == 0
    assert float(warping_error(now, following, flow_of(0, 0), everywhere())) > 0.05
    assert float(warping_error(now, following, flow_of(1, 2), everywhere())) > 0.05
    assert float(warping_error(now, following, flow_of(-2, -1), everywhere())) > 0.05


def test_warping_error_by_hand():
    # 51 levels are 0.2 of the range.
    assert float(
        warping_error(picture(100), picture(151), flow_of(0, 0, size=(16, 16)), everywhere(size=(16, 16)))
    ) == (pytest.approx(0.04))
    # One channel of three changes by the whole range: 1 / 3.
    assert float(
        warping_error(plain((0, 9, 9)), plain((255, 9, 9)), flow_of(0, 0, size=(4, 4)), everywhere(size=(4, 4)))
    ) == (pytest.approx(1 / 3))
    # Half a pixel to the right on a ramp of 10 levels a pixel lies 5 levels higher; the last column's way ends outside.
    ramp = (torch.arange(4, dtype=torch.uint8) * 10).expand(1, 3, 4, 4).contiguous()
    error = warping_error(ramp, ramp, flow_of(0.5, 0, size=(4, 4)), everywhere(size=(4, 4)))
    assert float(error) == pytest.approx((5 / 255) ** 2)


def test_hidden_pixels_do_not_count_in_the_warping_error():
    now, following = picture(0, size=4), picture(0, size=4)
    following[..., :2, :] = 255
    visible = everywhere(size=(4, 4))
    assert float(warping_error(now, following, flow_of(0, 0, size=(4, 4)), visible)) == 0.5
    visible[:, :2] = False
    assert float(warping_error(now, following, flow_of(0, 0, size=(4, 4)), visible)) == 0
    assert math.isnan(warping_error(now, following, flow_of(0, 0, size=(4, 4)), ~everywhere(size=(4, 4))))
    assert math.isnan(warping_error(now, following, flow_of(0, 9, size=(4, 4)), everywhere(size=(4, 4))))
