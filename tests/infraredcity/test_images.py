import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infraredcity.errors import ImageError
from infraredcity.images import Framing, decode, encode, resize


def columns(*levels: int, height: int = 2) -> np.ndarray:
    """u8 [height, len(levels), 1]: one level per column."""
    return np.repeat(np.array(levels, np.uint8)[None, :, None], height, axis=0)


def smooth(channels: int) -> np.ndarray:
    """u8 [24, 32, C] without sharp edges, each channel another ramp."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 6 + 20, y * 8 + 20, 200 - x * 3 - y], axis=2).astype(np.uint8)[:, :, :channels]


def test_squash_takes_the_mean_over_each_pixels_area() -> None:
    squashed = Framing(size=(2, 1)).apply(columns(10, 30, 100, 200))
    assert squashed.tolist() == [[[20], [150]]]


def test_crop_covers_the_size_and_cuts_the_middle_out() -> None:
    # 6x2 to 2x2: the scale is 1, so the columns 2 and 3 stay.
    cropped = Framing(size=(2, 2), fit="crop").apply(columns(0, 1, 2, 3, 4, 5))
    assert cropped[:, :, 0].tolist() == [[2, 3], [2, 3]]
    # 8x4 to 2x2: the scale is 1/2, so the columns 2 to 5 stay and pairs of them are averaged.
    halved = Framing(size=(2, 2), fit="crop").apply(columns(0, 0, 10, 20, 30, 50, 0, 0, height=4))
    assert halved[:, :, 0].tolist() == [[15, 40], [15, 40]]


def test_pad_fits_inside_on_black() -> None:
    padded = Framing(size=(4, 4), fit="pad").apply(columns(10, 20, 30, 40))
    assert padded[:, :, 0].tolist() == [[0] * 4, [10, 20, 30, 40], [10, 20, 30, 40], [0] * 4]


def test_the_crop_box_comes_before_the_size() -> None:
    framing = Framing(crop=(1, 1, 4, 2), size=(2, 1))
    frame = np.zeros((4, 6, 1), np.uint8)
    frame[1:3, 1:5, 0] = [[10, 20, 30, 40], [30, 40, 50, 60]]
    assert framing.apply(frame).tolist() == [[[25], [45]]]


def test_without_a_size_pixels_stay_as_they_are() -> None:
    frame = smooth(3)
    assert np.array_equal(Framing().apply(frame), frame)
    assert np.array_equal(Framing(crop=(3, 4, 5, 6)).apply(frame), frame[4:10, 3:8])
    assert Framing(crop=(3, 4, 5, 6)).apply(frame).flags.c_contiguous


@given(
    st.sampled_from(["squash", "crop", "pad"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 3]),
)
def test_every_fit_gives_the_asked_size(fit: str, shape: tuple[int, int], size: tuple[int, int], channels: int) -> None:
    framed = Framing(size=size, fit=fit).apply(np.full((*shape, channels), 77, np.uint8))  # type: ignore[arg-type]
    assert framed.shape == (size[1], size[0], channels)
    assert framed.dtype == np.uint8
    assert set(np.unique(framed)) <= ({77} if fit != "pad" else {0, 77})


def test_growing_keeps_the_levels() -> None:
    grown = resize(smooth(3), 64, 48)
    assert grown.shape == (48, 64, 3)
    assert abs(float(grown.mean()) - float(smooth(3).mean())) < 1


def test_a_crop_outside_the_frame_is_an_error() -> None:
    with pytest.raises(ImageError, match="crop 20,0,20,10 reaches outside the 32x24 frame; make it smaller"):
        Framing(crop=(20, 0, 20, 10)).apply(smooth(3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": (0, 0, 0, 5)}, "crop must be x,y,width,height with positive width"),
        ({"crop": (-1, 0, 5, 5)}, "crop must be"),
        ({"size": (0, 5)}, "size must be positive, got 0x5"),
    ],
)
def test_an_impossible_framing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Framing(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
@pytest.mark.parametrize(("channels", "color"), [(1, "gray"), (3, "rgb")])
def test_a_still_survives_the_round_trip(image_format: str, channels: int, color: str) -> None:
    data = encode(smooth(channels), image_format)  # type: ignore[arg-type]
    back = decode(data, color)  # type: ignore[arg-type]
    assert back.shape == (24, 32, channels)
    difference = np.abs(back.astype(int) - smooth(channels))
    assert difference.max() == 0 if image_format == "png" else difference.mean() < 3
    assert encode(smooth(channels), image_format) == data  # type: ignore[arg-type]


@pytest.mark.parametrize(("image_format", "magic"), [("jpg", b"\xff\xd8\xff"), ("png", b"\x89PNG"), ("webp", b"RIFF")])
def test_the_bytes_are_of_the_asked_format(image_format: str, magic: bytes) -> None:
    assert encode(smooth(3), image_format).startswith(magic)  # type: ignore[arg-type]


def test_gray_files_hold_one_channel_and_are_read_in_either_colour() -> None:
    gray = encode(smooth(1), "jpg")
    assert gray[gray.index(b"\xff\xc0") + 9] == 1  # components in the frame header
    as_rgb = decode(gray, "rgb")
    assert as_rgb.shape == (24, 32, 3)
    assert np.array_equal(as_rgb[:, :, 0], decode(gray, "gray")[:, :, 0])
    assert decode(encode(smooth(3), "png"), "gray").shape == (24, 32, 1)


def test_quality_decides_the_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for image_format in ("jpg", "webp"):
        assert len(encode(noise, image_format, quality=30)) < len(encode(noise, image_format, quality=95))  # type: ignore[arg-type]
    assert encode(noise, "png", quality=30) == encode(noise, "png", quality=95)


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_a_damaged_still_is_named(image_format: str) -> None:
    data = encode(smooth(3), image_format)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"city_00000003: (damaged jpg .*|not a picture that can be decoded); extract"):
        decode(data[: len(data) // 3], "rgb", name="city_00000003")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0nothing", b"text", bytes(100)])
def test_what_is_no_picture_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"image: .*extract the frame again"):
        decode(data, "gray")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (4, 4, 4)])
def test_pictures_of_another_shape_are_a_callers_mistake(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"u8 \[H, W, 1 or 3\]"):
        encode(np.zeros(shape, np.uint8), "jpg")


def test_a_picture_too_large_for_jpg_is_an_error() -> None:
    with pytest.raises(ImageError, match="a 70000x1 picture cannot become a jpg"):
        encode(np.zeros((1, 70_000, 1), np.uint8), "jpg")
