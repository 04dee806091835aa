"""One still: pixels to jpg, png or webp bytes and back, the ways to bring a frame to a size, and what is done to it before.

Pixels are u8, or u16 for the counts of a thermal camera. JPEG goes through libjpeg-turbo (simplejpeg), everything else through
OpenCV. All functions release the GIL in their heavy part.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg

from infraredcity.clips import COLOR_MODES, ColorMode, Polarity
from infraredcity.errors import ImageError, MissingExtraError, check_choice

ImageFormat = Literal["jpg", "png", "webp", "png16"]
"""How a still is written; "png16" is a png of 16 bits, which keeps all of a thermal camera's counts."""
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp", "png16")
Fit = Literal["squash", "crop", "pad"]
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")
PolarityChoice = Literal["white-hot", "black-hot", "invert"]
"""How stills shall show heat: as named, whatever the clip does, or "invert" for the opposite of the clip."""
POLARITY_CHOICES: tuple[PolarityChoice, ...] = ("white-hot", "black-hot", "invert")
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame."""
_MASK_MARGIN_PX = 2
"""How far the fill reaches beyond a mask: display text has soft edges, and a lossy clip smears them into the pixels around."""
_FILL_RADIUS_PX = 3
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 1 << 26
"""No still is larger (8192x8192); a file that claims more is damaged or hostile, and its pixels would fill the memory."""

MAX_SCANS = 32
"""Encoders write up to 12 of a progressive jpg. Each goes over all pixels, in .1 s of 8000x8000, though it may have six bytes."""
_JPG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""What is no byte of a picture and no mark between its rows. Source: ITU-T T.81, section B.1.1."""
_MAX_MARKERS = 4096
_STARTS_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0xD8, 0x01})


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a frame becomes a still: masks filled, then cut out, then brought to a size.

    Attributes:
        masks: Boxes in pixels of the source whose content is replaced from around them, as `fill_masks` does it.
        crop: (x, y, width, height) in pixels of the source, or None for all of it.
        size: (width, height) of the still in pixels, or None to keep the size.
        fit: "squash" stretches to the size, "crop" covers it and cuts the rest off the middle, "pad" fits inside on black.
    """

    masks: tuple[Box, ...] = ()
    crop: Box | None = None
    size: tuple[int, int] | None = None
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        for mask in self.masks:
            _check_box("mask", mask)
        if self.crop is not None:
            _check_box("crop", self.crop)
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size[0]}x{self.size[1]}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """u8 [H, W, C] -> u8 [H', W', C], or u16 [H, W, 1] -> u16 [H', W', 1]; C-contiguous.

        Raises:
            ImageError: A mask or the crop reaches outside the frame, or the masks leave nothing of it.
        """
        frame = fill_masks(frame, self.masks)
        if self.crop is not None:
            _check_inside("crop", self.crop, frame)
            x, y, width, height = self.crop
            frame = frame[y : y + height, x : x + width]
        if self.size is None or self.size == (frame.shape[1], frame.shape[0]):
            return np.ascontiguousarray(frame)
        width, height = self.size
        if self.fit == "squash":
            return resize(frame, width, height)
        scale_x, scale_y = width / frame.shape[1], height / frame.shape[0]
        if self.fit == "crop":
            scale = max(scale_x, scale_y)
            cut_w = min(frame.shape[1], max(1, round(width / scale)))
            cut_h = min(frame.shape[0], max(1, round(height / scale)))
            left, top = (frame.shape[1] - cut_w) // 2, (frame.shape[0] - cut_h) // 2
            return resize(frame[top : top + cut_h, left : left + cut_w], width, height)
        scale = min(scale_x, scale_y)
        inner_w = min(width, max(1, round(frame.shape[1] * scale)))
        inner_h = min(height, max(1, round(frame.shape[0] * scale)))
        padded = np.zeros((height, width, frame.shape[2]), frame.dtype)
        left, top = (width - inner_w) // 2, (height - inner_h) // 2
        padded[top : top + inner_h, left : left + inner_w] = resize(frame, inner_w, inner_h)
        return padded


def resize(frame: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """The mean over each pixel's area when shrinking, bicubic when growing.

    Args:
        frame: u8 [H, W, C] or u16 [H, W, 1].
        width_px: Width of the result.
        height_px: Height of the result.

    Returns:
        [height_px, width_px, C], of the frame's dtype.
    """
    if (width_px, height_px) == (frame.shape[1], frame.shape[0]):
        return np.ascontiguousarray(frame)
    cv2 = _cv2("changing the size of frames")
    shrinks = width_px <= frame.shape[1] and height_px <= frame.shape[0]
    resized: np.ndarray = cv2.resize(
        frame, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return resized.reshape(height_px, width_px, frame.shape[2])


def fill_masks(picture: np.ndarray, masks: Sequence[Box]) -> np.ndarray:
    """The picture with what is inside the masks, and up to 2 pixels beside them, replaced from what surrounds them.

    For burnt-in display text. The same pixels give the same fill; on an even ground it is exact, on a slope a faint seam runs along
    the middle. Source: M. Bertalmio et al., Navier-Stokes, fluid dynamics, and image and video inpainting, 2001, as OpenCV has it,
    radius 3.

    Args:
        picture: u8 [H, W, 1 or 3] or u16 [H, W, 1]; stays as it is.
        masks: Boxes, x, y, width, height in pixels of the picture; they may touch and overlap.

    Returns:
        An array of the picture's shape and dtype; the picture itself without masks.

    Raises:
        ValueError: A mask has a negative place or no area, or the picture is of another kind.
        ImageError: A mask reaches outside the picture, or the masks leave nothing of it to fill from.
    """
    if not masks:
        return picture
    channels = {np.dtype(np.uint8): (1, 3), np.dtype(np.uint16): (1,)}.get(picture.dtype, ())
    if picture.ndim != 3 or picture.shape[2] not in channels:
        raise ValueError(
            f"picture must be u8 [H, W, 1 or 3] or u16 [H, W, 1], got {picture.dtype} {list(picture.shape)}"
        )
    hidden = np.zeros(picture.shape[:2], np.uint8)
    for mask in masks:
        _check_box("mask", mask)
        _check_inside("mask", mask, picture)
        x, y, width, height = mask
        top, left = max(0, y - _MASK_MARGIN_PX), max(0, x - _MASK_MARGIN_PX)
        hidden[top : y + height + _MASK_MARGIN_PX, left : x + width + _MASK_MARGIN_PX] = 1
    if hidden.all():
        raise ImageError(
            f"the masks leave nothing of the {picture.shape[1]}x{picture.shape[0]} frame to fill from; make them smaller"
        )
    cv2 = _cv2("filling masks")
    seen = np.ascontiguousarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
    filled: np.ndarray = cv2.inpaint(seen, hidden, _FILL_RADIUS_PX, cv2.INPAINT_NS)
    return filled.reshape(picture.shape)


def invert(picture: np.ndarray) -> np.ndarray:
    """The negative: 255 - x for u8, 65535 - x for u16, which turns white-hot into black-hot and back.

    Args:
        picture: u8 or u16, of any shape; stays as it is.

    Returns:
        Of the picture's shape and dtype.

    Raises:
        ValueError: The picture is of another dtype.
    """
    if picture.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"picture must be u8 or u16, got {picture.dtype}")
    return np.asarray(np.invert(picture))


def use_one_thread() -> None:
    """Keep OpenCV from starting threads of its own, in a process that has as many as there are cores."""
    _cv2("extraction").setNumThreads(1)


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two pictures of one shape and dtype, in levels or counts."""
    cv2 = _cv2("comparing pictures")
    return float(cv2.norm(one, other, cv2.NORM_L1)) / one.size


def is_inverted(clip_polarity: Polarity, wanted: PolarityChoice | None) -> bool:
    """Whether an infrared clip's frames must be inverted to show heat as wanted; None keeps them as they are."""
    return wanted == "invert" or (wanted is not None and wanted != clip_polarity)


def suffix_of(image_format: ImageFormat) -> str:
    """What a still's file name ends in, without the dot: "png" for "png16", else the format's name."""
    return "png" if image_format == "png16" else image_format


def encode(picture: np.ndarray, image_format: ImageFormat, *, quality: int = 95) -> bytes:
    """One still's file bytes; the same bytes for the same pixels and library versions.

    Args:
        picture: u8 [H, W, C], C is 1 (gray) or 3 (R, G, B); for "png16" u16 [H, W, 1].
        image_format: "jpg" (4:2:0 for colour, like the video it comes from), "png" (lossless), "webp" or "png16" (lossless).
        quality: 1..100 for jpg and webp; the others ignore it.

    Raises:
        ValueError: The picture is not of the format's kind.
        ImageError: The encoder refuses the picture.
    """
    check_choice("image_format", image_format, IMAGE_FORMATS)
    if image_format == "png16":
        if picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 1:
            raise ValueError(f"picture must be u16 [H, W, 1] for png16, got {picture.dtype} {list(picture.shape)}")
    elif picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"picture must be u8 [H, W, 1 or 3], got {picture.dtype} {list(picture.shape)}")
    if image_format == "jpg":
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
    cv2 = _cv2(f"writing {image_format}")
    options = [cv2.IMWRITE_WEBP_QUALITY, quality] if image_format == "webp" else []
    ok, data = cv2.imencode(
        f".{suffix_of(image_format)}", picture[:, :, ::-1] if picture.shape[2] == 3 else picture, options
    )
    if not ok:
        raise ImageError(f"a {picture.shape[1]}x{picture.shape[0]} picture cannot become a {image_format}")
    return bytes(data)


def decode(data: bytes, color: ColorMode, *, name: str = "image") -> np.ndarray:
    """Pixels of a still of 8 bits; `decode_deep` reads those of 16.

    Args:
        data: The file's bytes; jpg is told from the rest by its first two bytes.
        color: "gray" gives C = 1, "rgb" C = 3, whatever the file holds.
        name: What to call the still in an error.

    Returns:
        u8 [H, W, C].

    Raises:
        ImageError: The bytes are damaged or no picture, claim more than MAX_PIXELS, or are a png of 16 bits, half of which would
            be lost.
    """
    check_choice("color", color, COLOR_MODES)
    size_of(data, name=name)
    if data[:2] == b"\xff\xd8":
        _check_scans(data, name)
        try:
            picture = simplejpeg.decode_jpeg(data, "GRAY" if color == "gray" else "RGB")
        except ValueError as error:
            raise ImageError(f"{name}: damaged jpg ({str(error).lower()}); copy or extract it again") from error
        return np.asarray(picture)
    if is_deep_png(data):
        raise ImageError(
            f"{name}: a png of 16 bits, which 8 cannot hold; read it with infraredcity.stills.images.decode_deep"
        )
    cv2 = _cv2("reading png and webp")
    flag = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if decoded is None:
        raise ImageError(f"{name}: not a picture that can be decoded; copy or extract it again")
    return decoded[:, :, None] if color == "gray" else np.ascontiguousarray(decoded[:, :, ::-1])


def decode_into(data: bytes, out: np.ndarray, *, name: str = "image") -> tuple[int, int]:
    """Pixels of a still of 8 bits, straight into memory that is there already; `decode` gives the same ones.

    Args:
        data: The file's bytes.
        out: u8 [H, W, C], C-contiguous; C = 1 asks for gray, C = 3 for R, G, B.
        name: What to call the still in an error.

    Returns:
        Height and width of the still. Where they are not those of `out`, nothing was written.

    Raises:
        ImageError: As `decode`.
    """
    width, height = size_of(data, name=name)
    if (height, width) != out.shape[:2]:
        return height, width
    color: ColorMode = "gray" if out.shape[2] == 1 else "rgb"
    if data[:2] != b"\xff\xd8":
        out[:] = decode(data, color, name=name)
        return height, width
    _check_scans(data, name)
    try:
        simplejpeg.decode_jpeg(data, "GRAY" if color == "gray" else "RGB", buffer=out)
    except ValueError as error:
        raise ImageError(f"{name}: damaged jpg ({str(error).lower()}); copy or extract it again") from error
    return height, width


def decode_small(data: bytes, side_px: int, *, name: str = "image") -> np.ndarray:
    """Gray pixels of a still, where that is faster at a fraction of its size, of at least `side_px` each way if it has that.

    Args:
        data: The file's bytes.
        side_px: Least width and height wanted; a jpg is unpacked at 1/8 to 8/8 of its size.
        name: What to call the still in an error.

    Returns:
        u8 [H, W], or u16 [H, W] of a png of 16 bits.

    Raises:
        ImageError: The bytes are damaged or no picture.
    """
    if data[:2] != b"\xff\xd8":
        return (decode_deep(data, name=name) if is_deep_png(data) else decode(data, "gray", name=name))[:, :, 0]
    width, height = size_of(data, name=name)
    _check_scans(data, name)
    try:
        picture = simplejpeg.decode_jpeg(data, "GRAY", min_height=min(side_px, height), min_width=min(side_px, width))
    except ValueError as error:
        raise ImageError(f"{name}: damaged jpg ({str(error).lower()}); copy or extract it again") from error
    return np.asarray(picture)[:, :, 0]


def decode_deep(data: bytes, *, name: str = "image") -> np.ndarray:
    """Counts of a still of 16 bits, as `encode` writes "png16".

    Args:
        data: The file's bytes.
        name: What to call the still in an error.

    Returns:
        u16 [H, W, 1].

    Raises:
        ImageError: The bytes are damaged, or not a gray png of 16 bits.
    """
    if not is_deep_png(data):
        raise ImageError(f"{name}: not a png of 16 bits; read it with infraredcity.stills.images.decode")
    size_of(data, name=name)
    cv2 = _cv2("reading png")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ImageError(f"{name}: not a picture that can be decoded; copy or extract it again")
    if decoded.ndim != 2:
        raise ImageError(f"{name}: a png of 16 bits with {decoded.shape[2]} channels, expected one; make it gray")
    counts: np.ndarray = decoded[:, :, None]
    return counts


def size_of(data: bytes, *, name: str = "image") -> tuple[int, int]:
    """Width and height in pixels that a jpg, png or webp claims in its header, before anything is unpacked.

    Args:
        data: The file's bytes.
        name: What to call the still in an error.

    Raises:
        ImageError: It is none of these, its header is damaged, or it claims more than MAX_PIXELS.
    """
    width = height = 0
    if data[:2] == b"\xff\xd8":
        try:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
        except ValueError as error:
            raise ImageError(f"{name}: damaged jpg ({str(error).lower()}); copy or extract it again") from error
    elif data[:8] == _PNG_MAGIC and data[12:16] == b"IHDR":
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _webp_size(data)
    if width < 1 or height < 1:
        raise ImageError(f"{name}: not a picture that can be decoded; copy or extract it again")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: claims {width}x{height} pixels, more than {MAX_PIXELS:,}; remove it, no frame is that large"
        )
    return width, height


def _check_scans(data: bytes, name: str) -> None:
    """ImageError for a jpg of more than MAX_SCANS scans, which libjpeg would go through one by one, or _MAX_MARKERS markers."""
    place = num_scans = 0
    is_progressive, components = False, b""
    for _ in range(_MAX_MARKERS):
        marker = _JPG_MARKER.search(data, place)
        if marker is None or marker[0] == b"\xff\xd9":
            return
        code, place = marker[0][1], marker.end()
        if code in _STARTS_OF_FRAME:
            is_progressive, components = code in _PROGRESSIVE, data[place + 7 : place + 8]
        elif code == _START_OF_SCAN:
            num_scans += 1
            if not is_progressive and data[place + 2 : place + 3] == components:
                return  # all that libjpeg reads is in this one
            if num_scans > MAX_SCANS:
                raise ImageError(f"{name}: a jpg of more than {MAX_SCANS} scans, as no encoder writes; remove it")
        if code not in _WITHOUT_LENGTH:
            place += int.from_bytes(data[place : place + 2], "big")
    raise ImageError(f"{name}: a jpg of more than {_MAX_MARKERS:,} markers, as no encoder writes; remove it")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height, 0 where the header is damaged. Source: RFC 9649, sections 2.5 to 2.7."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def decode_any(data: bytes, *, name: str = "image") -> np.ndarray:
    """Pixels of a still as the file holds them: u8 [H, W, 3], or u16 [H, W, 1] of a png of 16 bits.

    Args:
        data: The file's bytes.
        name: What to call the still in an error.

    Raises:
        ImageError: The bytes are damaged or no picture.
    """
    return decode_deep(data, name=name) if is_deep_png(data) else decode(data, "rgb", name=name)


def is_deep_png(data: bytes) -> bool:
    """Whether a still is a png of 16 bits, which `decode_deep` reads."""
    # The magic, the header's length (4) and name (4), width (4), height (4), and then the bits of a channel.
    return data[:8] == _PNG_MAGIC and data[24:25] == b"\x10"


def _check_box(what: str, box: Box) -> None:
    if min(box[:2]) < 0 or min(box[2:]) < 1:
        raise ValueError(f"{what} must be x,y,width,height with positive width and height, got {box}")


def _check_inside(what: str, box: Box, frame: np.ndarray) -> None:
    x, y, width, height = box
    if x + width > frame.shape[1] or y + height > frame.shape[0]:
        raise ImageError(
            f"{what} {x},{y},{width},{height} reaches outside the {frame.shape[1]}x{frame.shape[0]} frame; make it smaller"
        )


def _cv2(needed_for: str) -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenCV", extra="extract", needed_for=needed_for) from error
    return cv2
