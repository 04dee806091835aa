"""The formats of stills: one table with the suffix, media type, encoder and encoding time of each.

A new format is its function and a line in FORMATS. Pixels are u8, or u16 for the counts of a thermal camera. JPEG goes through
libjpeg-turbo (simplejpeg), everything else through OpenCV. All encoders release the GIL in their heavy part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg

from infraredcity.errors import ImageError, check_choice
from infraredcity.stills.opencv import load_cv2

ImageFormat = Literal["jpg", "png", "webp", "png16"]
"""How a still is written; "png16" is a png of 16 bits, which keeps all of a thermal camera's counts."""


def _jpg(picture: np.ndarray, quality: int) -> bytes:
    gray = picture.shape[2] == 1
    try:
        return bytes(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(picture),
                quality=quality,
                colorspace="GRAY" if gray else "RGB",
                colorsubsampling="Gray" if gray else "420",
            )
        )
    except ValueError as error:
        raise ImageError(f"a {picture.shape[1]}x{picture.shape[0]} picture cannot become a jpg: {error}") from error


def _png(picture: np.ndarray, _quality: int) -> bytes:
    return _by_opencv(picture, "png", [])


def _webp(picture: np.ndarray, quality: int) -> bytes:
    return _by_opencv(picture, "webp", [load_cv2("writing webp").IMWRITE_WEBP_QUALITY, quality])


def _by_opencv(picture: np.ndarray, suffix: str, options: list[int]) -> bytes:
    cv2 = load_cv2(f"writing {suffix}")
    ok, data = cv2.imencode(f".{suffix}", picture[:, :, ::-1] if picture.shape[2] == 3 else picture, options)
    if not ok:
        raise ImageError(f"a {picture.shape[1]}x{picture.shape[0]} picture cannot become a {suffix}")
    return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class StillFormat:
    """One format of stills."""

    suffix: str
    """Suffix of its files, without the dot."""
    mime: str
    """Its media type."""
    encode: Callable[[np.ndarray, int], bytes]
    """Encode a picture [H, W, C] with quality 1..100 to a file's bytes."""
    cost_s: tuple[float, float, float]
    """Seconds of encoding on one core of a server of 2023: per pixel, per value (one per pixel in gray, three in colour) and per
    byte of the file. Fitted to 18 clips."""
    is_deep: bool = False
    """Whether it has 16 bits (gray only) instead of 8."""


FORMATS: dict[ImageFormat, StillFormat] = {
    "jpg": StillFormat(suffix="jpg", mime="image/jpeg", encode=_jpg, cost_s=(0.0, 0.9e-9, 3.3e-9)),
    "png": StillFormat(suffix="png", mime="image/png", encode=_png, cost_s=(0.0, 3.7e-9, 16e-9)),
    "webp": StillFormat(suffix="webp", mime="image/webp", encode=_webp, cost_s=(52e-9, 0.0, 180e-9)),
    "png16": StillFormat(suffix="png", mime="image/png", encode=_png, cost_s=(0.0, 3.7e-9, 16e-9), is_deep=True),
}
DEFAULT_FORMAT: ImageFormat = "jpg"
IMAGE_FORMATS: tuple[ImageFormat, ...] = tuple(FORMATS)
SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(each.suffix for each in FORMATS.values()))
"""Suffixes of the stills that we write, without the dot."""
DEEP_SUFFIXES = frozenset(each.suffix for each in FORMATS.values() if each.is_deep)
"""The suffixes of files that may have 16 bits."""
SPELLINGS = {"jpeg": "jpg"}
"""Other spellings of suffixes, and ours."""
READ_SUFFIXES: tuple[str, ...] = ("jpg", *SPELLINGS, *(suffix for suffix in SUFFIXES if suffix != "jpg"))
"""Suffixes of pictures that we read, without the dot: ours and their other spellings."""
MIMES: dict[str, str] = {each.suffix: each.mime for each in FORMATS.values()}
"""The media type of each suffix."""


def suffix_of(image_format: ImageFormat) -> str:
    """Return the suffix of a still's file, without the dot: "png" for "png16", else the format's name."""
    return FORMATS[image_format].suffix


def our_suffix(suffix: str) -> str:
    """Return our spelling of a suffix of other people's files."""
    return SPELLINGS.get(suffix, suffix)


def encode(picture: np.ndarray, image_format: ImageFormat, *, quality: int = 95) -> bytes:
    """Encode one still; the same bytes for the same pixels and library versions.

    Args:
        picture: u8 [H, W, C], C is 1 (gray) or 3 (R, G, B); for "png16" u16 [H, W, 1].
        image_format: "jpg" (4:2:0 for colour, like the video it comes from), "png" (lossless), "webp" or "png16" (lossless).
        quality: 1..100 for jpg and webp; the others ignore it.

    Raises:
        ValueError: The picture is not of the format's kind.
        ImageError: The encoder refuses the picture.
    """
    check_choice("image_format", image_format, IMAGE_FORMATS)
    if FORMATS[image_format].is_deep:
        if picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 1:
            raise ValueError(
                f"picture must be u16 [H, W, 1] for {image_format}, got {picture.dtype} {list(picture.shape)}"
            )
    elif picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"picture must be u8 [H, W, 1 or 3], got {picture.dtype} {list(picture.shape)}")
    return FORMATS[image_format].encode(picture, quality)
