import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from infraredcity.errors import MissingExtraError
from infraredcity.loader.crops import Boxes, Crop, CropBox, NativeCrop, ResizeCrop, ResizedCrop

ALMOST_ONE = 1 - 2.0**-53
SIDES = st.integers(1, 70)
CHANNELS = st.sampled_from([1, 3])
SEEDS = st.integers(0, 2**32)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """The hardest content for a filter: every level beside every other."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def uniforms(crop: Crop, num_windows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_windows, crop.num_numbers))


def pillow_resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Along the rows first, as every Pillow before 13 does it; 13 has the columns first where the height shrinks most."""
    channels = []
    for channel in range(frame.shape[2]):
        image = Image.fromarray(frame[:, :, channel]).resize((width, frame.shape[0]), Image.Resampling.BICUBIC)
        channels.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(channels, axis=-1)


def assert_like_pillow(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() <= 0.05 or difference.size < 500


@settings(max_examples=60)
@given(SIDES, SIDES, CHANNELS, st.integers(1, 3), st.integers(1, 60), st.integers(0, 20), SEEDS)
@example(256, 256, 3, 2, 256, 30, 0)
@example(480, 640, 1, 1, 256, 30, 0)
@example(1, 1, 3, 1, 1, 0, 0)
def test_resize_crop_is_pillows_resize_then_a_cut(
    height: int, width: int, channels: int, num_frames: int, crop_px: int, slack: int, seed: int
) -> None:
    crop = ResizeCrop(load_px=crop_px + slack, crop_px=crop_px)
    window = noise(num_frames, height, width, channels, seed=seed)
    box = crop.draw(uniforms(crop, 1, seed), height, width)[0]
    out = np.zeros((num_frames, crop_px, crop_px, channels), np.uint8)
    crop.apply(window, box, out)
    for frame, found in zip(window, out, strict=True):
        resized = pillow_resized(frame, crop.load_px, crop.load_px)
        cut = resized[box.top : box.top + crop_px, box.left : box.left + crop_px]
        assert_like_pillow(found, cut[:, ::-1] if box.flip else cut)


@settings(max_examples=60)
@given(SIDES, SIDES, CHANNELS, st.integers(1, 3), SIDES, SIDES, SEEDS)
@example(256, 256, 3, 2, 256, 256, 0)
@example(480, 640, 1, 1, 64, 96, 0)
@example(1, 1, 1, 1, 1, 5, 0)
def test_resized_crop_is_a_cut_then_pillows_resize(
    height: int, width: int, channels: int, num_frames: int, out_height: int, out_width: int, seed: int
) -> None:
    crop = ResizedCrop(size=(out_height, out_width))
    window = noise(num_frames, height, width, channels, seed=seed)
    box = crop.draw(uniforms(crop, 1, seed), height, width)[0]
    out = np.zeros((num_frames, out_height, out_width, channels), np.uint8)
    crop.apply(window, box, out)
    for frame, found in zip(window, out, strict=True):
        cut = frame[box.top : box.top + box.height, box.left : box.left + box.width]
        resized = pillow_resized(np.ascontiguousarray(cut), out_height, out_width)
        assert_like_pillow(found, resized[:, ::-1] if box.flip else resized)


@pytest.mark.parametrize("crop", [ResizeCrop(load_px=72, crop_px=64), ResizedCrop(size=(64, 48))])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_gives_what_its_frames_give_alone(crop: Crop, channels: int) -> None:
    window = noise(5, 60, 80, channels)
    height, width = crop.out_size(60, 80)
    box = crop.draw(uniforms(crop, 1), 60, 80)[0]
    together, alone = np.zeros((2, 5, height, width, channels), np.uint8)
    crop.apply(window, box, together)
    for frame, out in zip(window, alone, strict=True):
        crop.apply(frame, box, out)
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("crop", [ResizeCrop(load_px=40, crop_px=32), ResizedCrop(size=(32, 40))])
def test_all_frames_of_a_window_get_the_same_box(crop: Crop) -> None:
    window = np.stack([noise(50, 50, 3)] * 4)
    out = np.zeros((4, *crop.out_size(50, 50), 3), np.uint8)
    crop.apply(window, crop.draw(uniforms(crop, 1), 50, 50)[0], out)
    assert all(np.array_equal(out[0], other) for other in out[1:])


@pytest.mark.parametrize("crop", [ResizeCrop(load_px=40, crop_px=32), ResizedCrop(size=(32, 40))])
def test_a_mirrored_window_is_the_window_mirrored(crop: Crop) -> None:
    numbers = uniforms(crop, 1)
    straight, mirrored = np.zeros((2, 2, *crop.out_size(50, 60), 3), np.uint8)
    for coin, out in ((0.5, straight), (0.49, mirrored)):
        numbers[0, 2] = coin
        crop.apply(noise(2, 50, 60, 3), crop.draw(numbers, 50, 60)[0], out)
    assert np.array_equal(mirrored, straight[:, :, ::-1])
    assert not np.array_equal(mirrored, straight)


def test_pictures_of_the_load_size_are_only_cut() -> None:
    frame = noise(286, 286, 3)
    out = np.zeros((256, 256, 3), np.uint8)
    ResizeCrop().apply(frame, CropBox(top=30, left=4, height=256, width=256, flip=True), out)
    assert np.array_equal(out, frame[30:286, 4:260][:, ::-1])


def test_a_box_of_the_right_size_is_only_cut() -> None:
    frame = noise(40, 50, 1)
    out = np.zeros((20, 30, 1), np.uint8)
    ResizedCrop(size=(20, 30)).apply(frame, CropBox(top=20, left=7, height=20, width=30, flip=False), out)
    assert np.array_equal(out, frame[20:40, 7:37])


@pytest.mark.parametrize("crop", [ResizeCrop(load_px=40, crop_px=32), ResizedCrop(size=(32, 32))])
def test_only_the_places_of_the_window_are_written(crop: Crop) -> None:
    batch = np.full((3, 2, 34, 34, 3), 7, np.uint8)
    window, box = np.zeros((2, 50, 50, 3), np.uint8), crop.draw(uniforms(crop, 1), 50, 50)[0]
    crop.apply(window, box, batch[1, :, 1:-1, 1:-1])
    assert not batch[1, :, 1:-1, 1:-1].any()
    batch[1, :, 1:-1, 1:-1] = 7
    assert (batch == 7).all()


def test_threads_do_not_disturb_each_other() -> None:
    crop = ResizedCrop(size=(64, 64))
    windows = noise(48, 2, 60, 80, 3)
    boxes = crop.draw(uniforms(crop, 48), 60, 80)
    alone, together = np.zeros((2, 48, 2, 64, 64, 3), np.uint8)
    for window in range(48):
        crop.apply(windows[window], boxes[window], alone[window])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda window: crop.apply(windows[window], boxes[window], together[window]), range(48)))
    assert np.array_equal(alone, together)


@settings(max_examples=100)
@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.floats(0.001, 1.0),
    st.floats(0.001, 1.0),
    st.floats(0.05, 20.0),
    st.floats(0.05, 20.0),
    SEEDS,
)
@example(1, 1, 0.001, 0.001, 1.0, 1.0, 0)
@example(1, 2000, 0.3, 1.0, 0.75, 1.25, 0)
def test_every_box_lies_inside_the_picture(
    height: int, width: int, scale: float, other_scale: float, ratio: float, other_ratio: float, seed: int
) -> None:
    crop = ResizedCrop(
        scale=(min(scale, other_scale), max(scale, other_scale)),
        ratio=(min(ratio, other_ratio), max(ratio, other_ratio)),
    )
    numbers = np.concatenate([uniforms(crop, 30, seed), np.full((1, 23), ALMOST_ONE), np.zeros((1, 23))])
    boxes = crop.draw(numbers, height, width)
    assert len(boxes) == 32
    assert min(boxes.top.min(), boxes.left.min()) >= 0
    assert min(boxes.height.min(), boxes.width.min()) >= 1
    assert (boxes.top + boxes.height).max() <= height
    assert (boxes.left + boxes.width).max() <= width


@settings(max_examples=30)
@given(st.integers(1, 5000), st.integers(0, 5000))
def test_resize_crop_reaches_the_first_and_the_last_place_and_no_further(crop_px: int, slack: int) -> None:
    crop = ResizeCrop(load_px=crop_px + slack, crop_px=crop_px)
    boxes = crop.draw(np.array([[0.0, ALMOST_ONE, 0.0], [ALMOST_ONE, 0.0, 0.5]]), 9, 9)
    assert boxes.top.tolist() == [0, slack]
    assert boxes.left.tolist() == [slack, 0]
    assert boxes.flip.tolist() == [True, False]


def test_every_place_of_resize_crop_is_as_likely_as_any_other() -> None:
    boxes = ResizeCrop().draw(uniforms(ResizeCrop(), 31_000), 256, 256)
    for places in (boxes.top, boxes.left):
        counts = np.bincount(places, minlength=31)
        assert len(counts) == 31
        assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert abs(boxes.flip.mean() - 0.5) < 0.02


def torchvision_box(crop: ResizedCrop, numbers: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params of torchvision, with our numbers in place of its own draws."""
    for attempt in range(10):
        area = height * width * (crop.scale[0] + numbers[3 + attempt] * (crop.scale[1] - crop.scale[0]))
        low, high = np.log(crop.ratio[0]), np.log(crop.ratio[1])
        ratio = np.exp(low + numbers[13 + attempt] * (high - low))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(numbers[0] * (height - h + 1)), int(numbers[1] * (width - w + 1)), h, w
    if width / height < min(crop.ratio):
        w, h = width, round(width / min(crop.ratio))
    elif width / height > max(crop.ratio):
        w, h = round(height * max(crop.ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("crop", "height", "width", "share_of_centres"),
    [
        (ResizedCrop(), 256, 256, (0.0, 0.01)),
        (ResizedCrop(scale=(0.08, 1.0)), 480, 640, (0.0, 0.01)),
        (ResizedCrop(scale=(0.9, 1.0)), 256, 256, (0.1, 0.9)),
        (ResizedCrop(scale=(1.0, 1.0)), 100, 300, (1.0, 1.0)),
        (ResizedCrop(scale=(1.0, 1.0)), 300, 100, (1.0, 1.0)),
    ],
)
def test_boxes_are_torchvisions(
    crop: ResizedCrop, height: int, width: int, share_of_centres: tuple[float, float]
) -> None:
    numbers = uniforms(crop, 2000)
    boxes = crop.draw(numbers, height, width)
    found = list(zip(*(field.tolist() for field in (boxes.top, boxes.left, boxes.height, boxes.width)), strict=True))
    assert found == [torchvision_box(crop, row, height, width) for row in numbers]
    never_fits = numbers.copy()
    never_fits[:, 3:] = ALMOST_ONE  # the largest area at the widest ratio
    centre = crop.draw(never_fits[:1], height, width)[0]
    centres = np.mean([row == (centre.top, centre.left, centre.height, centre.width) for row in found])
    assert share_of_centres[0] <= centres <= share_of_centres[1]


def test_areas_and_ratios_are_spread_evenly_where_every_box_fits() -> None:
    # Half the area at a ratio of up to 4 / 3 is at most 0.82 of a side, so no try is ever in vain.
    crop = ResizedCrop(scale=(0.1, 0.5))
    boxes = crop.draw(uniforms(crop, 20_000), 4000, 4000)
    areas = np.sort(boxes.height * boxes.width / 4000**2)
    ratios = np.sort(np.log(boxes.width / boxes.height))
    even = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(areas - (0.1 + 0.4 * even)).max() < 0.4 * 0.02
    assert np.abs(ratios - np.log(4 / 3) * (2 * even - 1)).max() < 2 * np.log(4 / 3) * 0.02
    assert abs(boxes.flip.mean() - 0.5) < 0.02


@pytest.mark.parametrize("crop", [ResizeCrop(flip=False), ResizedCrop(flip=False)])
def test_nothing_is_mirrored_without_flip(crop: Crop) -> None:
    assert not crop.draw(uniforms(crop, 100), 256, 256).flip.any()


@pytest.mark.parametrize("crop", [ResizeCrop(), ResizedCrop()])
def test_a_windows_box_does_not_depend_on_its_batch(crop: Crop) -> None:
    numbers = uniforms(crop, 20)
    boxes = crop.draw(numbers, 480, 640)
    assert [boxes[b] for b in range(20)] == [crop.draw(numbers[b : b + 1], 480, 640)[0] for b in range(20)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ResizeCrop(load_px=200, crop_px=256), "a crop of 256 pixels does not fit into 200; make crop_px smaller"),
        (lambda: ResizeCrop(crop_px=0), "crop_px must be at least 1, got 0"),
        (lambda: ResizedCrop(size=(256, 0)), "height and width must be at least 1, got 256 and 0"),
        (lambda: ResizedCrop(scale=(0.5, 1.2)), r"0 < smallest <= largest <= 1, got \(0.5, 1.2\)"),
        (lambda: ResizedCrop(ratio=(2.0, 1.0)), r"0 < smallest <= largest, got \(2.0, 1.0\)"),
        (lambda: ResizeCrop().out_size(0, 256), "height and width must be at least 1, got 0 and 256"),
        (lambda: ResizedCrop().draw(np.zeros((4, 3)), 256, 256), r"numbers must be f64 \[B, 23\], got float64 \[4, 3\]"),
        (lambda: ResizeCrop().draw(np.ones((4, 3)), 256, 256), r"numbers must lie in \[0, 1\)"),
        (lambda: CropBox(top=-1, left=0, height=1, width=1, flip=False), "a place of at least 0,0"),
        (lambda: Boxes(**dict.fromkeys(("top", "left", "height"), np.zeros(2)), width=np.zeros(3), flip=np.zeros(2)),
         "the fields of boxes must be of one length"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("frames", "out", "message"),
    [
        (
            np.zeros((9, 9, 3), np.float32),
            np.zeros((8, 8, 3), np.uint8),
            r"frames must be u8 .* got float32 \[9, 9, 3\]",
        ),
        (np.zeros((9, 9, 2), np.uint8), np.zeros((8, 8, 2), np.uint8), "frames must be u8 .* with C 1 or 3"),
        (np.zeros((9, 9, 3), np.uint8), np.zeros((8, 7, 3), np.uint8), r"out must be \[8, 8, 3\] .* got \[8, 7, 3\]"),
        (np.zeros((2, 9, 9, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), r"out must be \[2, 8, 8, 3\]"),
        (np.zeros((7, 9, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), "outside the picture of 9x7; draw boxes"),
    ],
)
def test_frames_and_out_that_do_not_fit_are_named(frames: np.ndarray, out: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResizedCrop(size=(8, 8)).apply(frames, CropBox(top=0, left=0, height=8, width=8, flip=False), out)


def test_a_box_of_other_settings_is_named() -> None:
    box = CropBox(top=20, left=0, height=8, width=8, flip=False)
    with pytest.raises(ValueError, match="outside the picture of 9x9"):
        ResizeCrop(load_px=9, crop_px=8).apply(np.zeros((40, 40, 3), np.uint8), box, np.zeros((8, 8, 3), np.uint8))


def test_without_opencv_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    crop = ResizeCrop(load_px=9, crop_px=8)
    with pytest.raises(MissingExtraError, match=r"needs OpenCV.*pip install -e '/.*\[extract\]'"):
        crop.apply(noise(20, 20, 3), crop.draw(uniforms(crop, 1), 20, 20)[0], np.zeros((8, 8, 3), np.uint8))


def test_a_native_crop_keeps_the_scale_of_what_is_in_the_picture() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 90, 3), dtype=np.uint8)
    crop = NativeCrop(crop_px=32, flip=False)
    assert crop.out_size(60, 90) == (32, 32)
    boxes = crop.draw(np.random.default_rng(1).random((200, crop.num_numbers)), 60, 90)
    assert set(boxes.height) == set(boxes.width) == {32}
    assert (boxes.top.min(), boxes.left.min()) == (0, 0)
    assert (boxes.top.max(), boxes.left.max()) == (28, 58)
    out = np.empty((2, 32, 32, 3), np.uint8)
    crop.apply(frames, boxes[3], out)
    box = boxes[3]
    assert np.array_equal(out, frames[:, box.top : box.top + 32, box.left : box.left + 32])


def test_a_native_crop_with_jitter_scales_by_its_factor_and_small_pictures_are_enlarged() -> None:
    crop = NativeCrop(crop_px=32, jitter=0.5)
    sides = crop.draw(np.random.default_rng(1).random((500, crop.num_numbers)), 100, 100).height
    assert (sides.min(), sides.max()) == (round(32 / 1.5), round(32 / 0.5) - (sides.max() < 64))
    assert (sides == crop.draw(np.random.default_rng(1).random((500, 4)), 100, 100).width).all()
    small = crop.draw(np.random.default_rng(1).random((20, crop.num_numbers)), 20, 30)
    assert small.height.max() <= 20
    out = np.empty((32, 32, 1), np.uint8)
    crop.apply(np.full((20, 30, 1), 7, np.uint8), small[0], out)
    assert (out == 7).all()
    for options, message in (
        ({"crop_px": 0}, "crop_px must be at least 1"),
        ({"jitter": 1.0}, "jitter must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            NativeCrop(**options)  # type: ignore[arg-type]
