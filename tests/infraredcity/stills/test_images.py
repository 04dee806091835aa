import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infraredcity.errors import ImageError
from infraredcity.stills.decode import MAX_SCANS, decode, decode_deep, decode_into, decode_small, size_of
from infraredcity.stills.formats import IMAGE_FORMATS, ImageFormat, encode, suffix_of
from infraredcity.stills.framing import POLARITY_CHOICES, Framing, fill_masks, invert, is_inverted, resize


def columns(*levels: int, height: int = 2) -> np.ndarray:
    """u8 [height, len(levels), 1]: one level per column."""
    return np.repeat(np.array(levels, np.uint8)[None, :, None], height, axis=0)


def smooth(channels: int) -> np.ndarray:
    """u8 [24, 32, C] without sharp edges, each channel another ramp."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 6 + 20, y * 8 + 20, 200 - x * 3 - y], axis=2).astype(np.uint8)[:, :, :channels]


def counts(*levels: int) -> np.ndarray:
    """u16 [1, len(levels), 1]: counts as a thermal camera gives them."""
    return np.array(levels, np.uint16)[None, :, None]


def shares(num_out: int, num_in: int) -> np.ndarray:
    """f64 [num_out, num_in]: how much of each output pixel an input pixel covers; the rows add up to 1."""
    rows = np.zeros((num_out, num_in))
    for i in range(num_out):
        start, stop = i * num_in / num_out, (i + 1) * num_in / num_out
        for j in range(num_in):
            rows[i, j] = max(0.0, min(stop, j + 1) - max(start, j)) * num_out / num_in
    return rows


def test_squash_takes_the_mean_over_each_pixels_area() -> None:
    squashed = Framing(size=(2, 1)).apply(columns(10, 30, 100, 200))
    assert squashed.tolist() == [[[20], [150]]]


@pytest.mark.parametrize(
    ("from_size", "to_size"),
    [((640, 512), (256, 256)), ((1280, 720), (256, 256)), ((333, 257), (100, 77)), ((97, 64), (96, 64))],
)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1)])
def test_shrinking_is_the_exact_mean_over_each_pixels_area_to_one_level(
    from_size: tuple[int, int], to_size: tuple[int, int], dtype: type[np.unsignedinteger], channels: int
) -> None:
    shape = (from_size[1], from_size[0], channels)
    noise = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    shrunk = resize(noise, *to_size)
    across, down = shares(to_size[0], from_size[0]), shares(to_size[1], from_size[1])
    for channel in range(channels):
        expected = down @ noise[:, :, channel].astype(np.float64) @ across.T
        assert np.abs(shrunk[:, :, channel] - expected).max() <= 1
    assert shrunk.dtype == dtype


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


def test_counts_are_framed_like_levels_and_keep_their_16_bits() -> None:
    row = counts(30_000, 30_002, 65_535, 65_535)
    assert Framing(size=(2, 1)).apply(row).tolist() == [[[30_001], [65_535]]]
    assert Framing(crop=(1, 0, 2, 1)).apply(row).tolist() == [[[30_002], [65_535]]]
    assert Framing(size=(2, 1), fit="crop").apply(row).tolist() == [[[30_002], [65_535]]]
    padded = Framing(size=(4, 3), fit="pad").apply(row)
    assert padded[:, :, 0].tolist() == [[0] * 4, [30_000, 30_002, 65_535, 65_535], [0] * 4]
    grown = resize(np.full((3, 4, 1), 40_000, np.uint16), 9, 8)
    assert (grown.shape, grown.dtype, grown.min(), grown.max()) == ((8, 9, 1), np.uint16, 40_000, 40_000)


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
        ({"masks": ((0, 0, 5, 5), (0, 0, 5, 0))}, r"mask must be x,y,width,height .*, got \(0, 0, 5, 0\)"),
        ({"size": (0, 5)}, "size must be positive, got 0x5"),
    ],
)
def test_an_impossible_framing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Framing(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1)])
def test_a_mask_makes_text_disappear(dtype: type[np.unsignedinteger], channels: int) -> None:
    step = 1 if dtype == np.uint8 else 257
    y, x = np.mgrid[0:60, 0:120]
    scene = np.repeat(((40 + x + y) * step).astype(dtype)[:, :, None], channels, axis=2)
    text = np.zeros((60, 120, 1), np.uint8)
    cv2.putText(text, "-20 C", (32, 34), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    shown = np.where(text > 0, np.iinfo(dtype).max, scene).astype(dtype)
    untouched = shown.copy()
    mask = (30, 20, 50, 18)
    # The scene ends below 40 + 80 + 38 in the mask, so that the text stands out by 97 steps and more.
    assert np.abs(shown[20:38, 30:80].astype(int) - scene[20:38, 30:80]).max() >= 97 * step
    filled = fill_masks(shown, (mask,))
    assert (filled.shape, filled.dtype) == (scene.shape, scene.dtype)
    # The scene rises by 1 step a pixel and what surrounds the 22 filled rows is up to 11 away; OpenCV adds a few levels.
    assert np.abs(filled.astype(int) - scene).max() <= (11 + 4) * step
    assert np.array_equal(shown, untouched)
    assert np.array_equal(fill_masks(shown, (mask,)), filled)
    outside = np.ones((60, 120), bool)
    outside[18:40, 28:82] = False
    assert np.array_equal(filled[outside], shown[outside])


@pytest.mark.parametrize(
    ("dtype", "channels", "ground"), [(np.uint8, 1, 90), (np.uint8, 3, 255), (np.uint16, 1, 30_000)]
)
def test_masks_may_overlap_and_touch_the_frames_edge(
    dtype: type[np.unsignedinteger], channels: int, ground: int
) -> None:
    frame = np.full((24, 32, channels), ground, dtype)
    frame[0:6, 0:10] = frame[9:12, 20:28] = frame[10:16, 24:30] = 0
    filled = fill_masks(frame, ((0, 0, 10, 6), (20, 9, 8, 3), (24, 10, 6, 6)))
    # OpenCV's fill adds up to the root of 2 per pixel, so that an even ground comes back but for a few levels or counts.
    assert np.abs(filled.astype(int) - ground).max() <= 8


def test_masks_are_filled_before_the_crop_and_the_size() -> None:
    frame = np.full((12, 16, 1), 90, np.uint8)
    frame[5:7, 6:10] = 255
    framing = Framing(masks=((6, 5, 4, 2),), crop=(5, 4, 6, 4), size=(3, 2))
    # Each pixel is the mean of 2x2, one or two of which were white: 90 + 165 / 4 without the mask.
    assert Framing(crop=(5, 4, 6, 4), size=(3, 2)).apply(frame)[0, 0, 0] == 131
    assert np.abs(framing.apply(frame).astype(int) - 90).max() <= 4
    assert frame[5, 6, 0] == 255


def test_without_masks_the_picture_is_returned_as_it_is() -> None:
    frame = smooth(3)
    assert fill_masks(frame, ()) is frame


def test_a_mask_outside_the_frame_is_an_error() -> None:
    with pytest.raises(ImageError, match="mask 20,0,13,10 reaches outside the 32x24 frame; make it smaller"):
        fill_masks(smooth(1), ((0, 0, 2, 2), (20, 0, 13, 10)))
    with pytest.raises(ImageError, match="mask 0,20,32,5 reaches outside the 32x24 frame; make it smaller"):
        Framing(masks=((0, 20, 32, 5),)).apply(smooth(1))


def test_masks_that_leave_nothing_are_an_error() -> None:
    # Two pixels beside a mask are filled as well, so that 28x20 in the middle of 32x24 is all of it.
    with pytest.raises(ImageError, match="the masks leave nothing of the 32x24 frame to fill from; make them smaller"):
        fill_masks(smooth(3), ((2, 2, 28, 20),))
    assert fill_masks(smooth(3), ((2, 2, 27, 20),)).shape == (24, 32, 3)


def test_masks_are_for_pictures_alone() -> None:
    with pytest.raises(ValueError, match=r"must be u8 \[H, W, 1 or 3\] or u16 \[H, W, 1\], got uint16 \[4, 4, 3\]"):
        fill_masks(np.zeros((4, 4, 3), np.uint16), ((0, 0, 1, 1),))
    with pytest.raises(ValueError, match=r"mask must be x,y,width,height .*, got \(-1, 0, 2, 2\)"):
        fill_masks(smooth(1), ((-1, 0, 2, 2),))


def test_inverting_mirrors_the_whole_range() -> None:
    levels = columns(0, 1, 100, 255, height=1)
    assert invert(levels).tolist() == [[[255], [254], [155], [0]]]
    assert levels[0, 1, 0] == 1
    deep = invert(counts(0, 1, 30_000, 65_535))
    assert deep.dtype == np.uint16
    assert deep.tolist() == [[[65_535], [65_534], [35_535], [0]]]
    with pytest.raises(ValueError, match="picture must be u8 or u16, got int16"):
        invert(levels.astype(np.int16))


def test_frames_are_inverted_when_the_clip_shows_heat_the_other_way() -> None:
    found = {wanted: [is_inverted(clip, wanted) for clip in ("white-hot", "black-hot")] for wanted in POLARITY_CHOICES}
    assert found == {"white-hot": [False, True], "black-hot": [True, False], "invert": [True, True]}
    assert not is_inverted("white-hot", None)
    assert not is_inverted("black-hot", None)


def test_the_suffix_of_a_16_bit_png_is_png() -> None:
    assert [suffix_of(image_format) for image_format in IMAGE_FORMATS] == ["jpg", "png", "webp", "png"]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_16_bit_png_keeps_all_bits(height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 65_536, (height, width, 1), np.uint16)
    data = encode(picture, "png16")
    assert data.startswith(b"\x89PNG")
    back = decode_deep(data)
    assert back.dtype == np.uint16
    assert np.array_equal(back, picture)
    assert encode(picture, "png16", quality=1) == data


def test_a_16_bit_png_holds_what_stands_in_the_standard() -> None:
    data = encode(counts(0, 255, 256, 65_535), "png16")
    # Width 4, height 1, 16 bits, gray.
    assert data[16:26] == b"\x00\x00\x00\x04\x00\x00\x00\x01\x10\x00"
    assert decode_deep(data).tolist() == [[[0], [255], [256], [65_535]]]


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_a_16_bit_png_is_not_cut_to_8_bits(color: str) -> None:
    message = r"^city_00000003: a png of 16 bits.*decode_deep$"
    with pytest.raises(ImageError, match=message):
        decode(encode(counts(1, 2), "png16"), color, name="city_00000003")  # type: ignore[arg-type]


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_a_still_of_8_bits_is_not_read_as_16(image_format: str) -> None:
    data = encode(smooth(1), image_format)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"^still: not a png of 16 bits; read it with .*decode$"):
        decode_deep(data, name="still")


def test_a_damaged_or_coloured_16_bit_png_is_named() -> None:
    data = encode(np.random.default_rng(0).integers(0, 65_536, (24, 32, 1), np.uint16), "png16")
    with pytest.raises(ImageError, match="still: not a picture that can be decoded; copy or extract it again"):
        decode_deep(data[: len(data) // 3], name="still")
    coloured = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint16))[1].tobytes()
    with pytest.raises(ImageError, match="still: a png of 16 bits with 3 channels, expected one; make it gray"):
        decode_deep(coloured, name="still")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4, 1), np.uint8), ((4, 4, 3), np.uint16), ((4, 4), np.uint16), ((4, 4, 1), np.int32)]
)
def test_only_counts_become_a_16_bit_png(shape: tuple[int, ...], dtype: type[np.integer]) -> None:
    with pytest.raises(ValueError, match=rf"u16 \[H, W, 1\] for png16, got {np.dtype(dtype)} \[4, 4"):
        encode(np.zeros(shape, dtype), "png16")


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_counts_become_nothing_of_8_bits(image_format: str) -> None:
    with pytest.raises(ValueError, match=r"picture must be u8 \[H, W, 1 or 3\], got uint16 \[1, 2, 1\]"):
        encode(counts(1, 2), image_format)  # type: ignore[arg-type]


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
    with pytest.raises(ImageError, match=r"city_00000003: (damaged jpg .*|not a picture that can be decoded); copy or"):
        decode(data[: len(data) // 3], "rgb", name="city_00000003")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0nothing", b"text", bytes(100)])
def test_what_is_no_picture_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"image: .*copy or extract it again"):
        decode(data, "gray")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (4, 4, 4)])
def test_pictures_of_another_shape_are_a_callers_mistake(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"u8 \[H, W, 1 or 3\]"):
        encode(np.zeros(shape, np.uint8), "jpg")


def test_a_picture_too_large_for_jpg_is_an_error() -> None:
    with pytest.raises(ImageError, match="a 70000x1 picture cannot become a jpg"):
        encode(np.zeros((1, 70_000, 1), np.uint8), "jpg")


SIZED = [(7, 5), (64, 48), (300, 2)]


@pytest.mark.parametrize("size", SIZED)
@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_the_size_is_read_from_the_header(image_format: ImageFormat, size: tuple[int, int]) -> None:
    dtype, channels = (np.uint16, 1) if image_format == "png16" else (np.uint8, 3)
    data = encode(np.zeros((size[1], size[0], channels), dtype), image_format)
    assert size_of(data) == size


def test_the_size_of_a_lossless_webp_is_read_too() -> None:
    done, data = cv2.imencode(".webp", np.zeros((30, 40, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    assert bytes(data)[12:16] == b"VP8L"
    assert size_of(bytes(data)) == (40, 30)


def bomb(kind: str) -> bytes:
    """A small picture whose header claims 60,000x60,000 pixels."""
    if kind == "png":
        header = struct.pack(">II", 60_000, 60_000) + bytes([8, 0, 0, 0, 0])
        chunk = b"IHDR" + header
        pixels = b"IDAT" + zlib.compress(bytes(10_000))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, pixels)
        )
    data = bytearray(encode(np.zeros((16, 16, 1), np.uint8), "jpg"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_picture_that_claims_billions_of_pixels_is_refused_unread(kind: str) -> None:
    data = bomb(kind)
    assert len(data) < 1000
    for read in (lambda: decode(data, "gray", name="x"), lambda: decode_small(data, 32, name="x")):
        with pytest.raises(ImageError, match="x: claims 60000x60000 pixels, more than 67,108,864; remove it"):
            read()


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBPVP8 ", b"GIF89a" + bytes(50), bytes(100)]
)
def test_what_is_no_picture_has_no_size(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"x: (not a picture that can be decoded|damaged jpg)"):
        size_of(data, name="x")


def test_a_small_copy_is_gray_whatever_the_file_holds() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    for image_format in ("jpg", "png", "webp"):
        assert decode_small(encode(picture, image_format), 8).ndim == 2  # type: ignore[arg-type]
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4, 1) * 5000
    assert (decode_small(encode(deep, "png16"), 2) == deep[:, :, 0]).all()


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive jpg whose last scan stands there so often again."""
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def progressive(side_px: int) -> bytes:
    draw = np.random.default_rng(0)
    picture = draw.integers(0, 256, (side_px, side_px, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])


def test_a_jpg_of_ever_more_scans_is_refused_before_it_is_decoded() -> None:
    data = progressive(64)
    assert data.count(b"\xff\xda") == 10
    assert decode(data, "rgb").shape == (64, 64, 3)
    bomb = with_scans(data, MAX_SCANS - 9)
    out = np.zeros((64, 64, 1), np.uint8)
    for read in (
        lambda: decode(bomb, "gray", name="a.jpg"),
        lambda: decode_small(bomb, 8, name="a.jpg"),
        lambda: decode_into(bomb, out, name="a.jpg"),
    ):
        with pytest.raises(ImageError, match=r"a\.jpg: a jpg of more than 32 scans"):
            read()
    with pytest.raises(ImageError, match="damaged jpg"):  # as many scans as allowed, but not in a right order
        decode(with_scans(data, MAX_SCANS - 10), "gray")


def test_a_scan_for_each_colour_over_and_over_is_refused_too() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytes(cv2.imencode(".jpg", picture)[1])
    assert data.count(b"\xff\xda") == 1
    start = data.index(b"\xff\xda")
    one_colour = b"\xff\xda\0\x08\1\1\0\0\x3f\0\0"
    with pytest.raises(ImageError, match="a jpg of more than 32 scans"):
        decode(data[:start] + one_colour * 40 + data[start:], "gray")


def test_bytes_like_a_scan_in_a_thumbnail_or_behind_the_end_are_none() -> None:
    data = progressive(64)
    comment = b"\xff\xda" * 100
    behind = data + comment
    inside = data[:2] + b"\xff\xe1" + (2 + len(comment)).to_bytes(2, "big") + comment + data[2:]
    for padded in (behind, inside):
        assert np.array_equal(decode(padded, "rgb"), decode(data, "rgb"))


def test_a_jpg_of_ever_more_marks_is_not_walked_through() -> None:
    data = progressive(64)
    with pytest.raises(ImageError, match=r"^a\.jpg: a jpg of more than 4,096 markers"):
        decode(data[:2] + b"\xff\xfe\0\2" * 5000 + data[2:], "gray", name="a.jpg")
