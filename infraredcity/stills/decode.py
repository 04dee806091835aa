"""Decode stills: whole or reduced, 8 or 16 bits, into new or given memory; refuse damaged files and decompression bombs."""

import re

import numpy as np
import simplejpeg

from infraredcity.clips import COLOR_MODES, ColorMode
from infraredcity.errors import ImageError, check_choice
from infraredcity.stills.opencv import load_cv2

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 1 << 26
"""No still is larger (8192x8192); a file that claims more is damaged or hostile, and its pixels would fill the memory."""

MAX_SCANS = 32
"""Encoders write up to 12 scans. A scan may have only six bytes, but decoding it takes .1 s at 8000x8000 pixels."""
_JPG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker other than stuffed bytes and restart markers. Source: ITU-T T.81, section B.1.1."""
_MAX_MARKERS = 4096
_STARTS_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0xD8, 0x01})


def decode(data: bytes, color: ColorMode, *, name: str = "image") -> np.ndarray:
    """Decode a still of 8 bits; `decode_deep` decodes those of 16.

    Args:
        data: The file's bytes; a jpg is recognised by its first two bytes.
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
        raise ImageError(f"{name}: a png of 16 bits, expected 8; read it with infraredcity.stills.decode.decode_deep")
    cv2 = load_cv2("reading png and webp")
    flag = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if decoded is None:
        raise ImageError(f"{name}: not a picture that can be decoded; copy or extract it again")
    return decoded[:, :, None] if color == "gray" else np.ascontiguousarray(decoded[:, :, ::-1])


def decode_into(data: bytes, out: np.ndarray, *, name: str = "image") -> tuple[int, int]:
    """Decode a still of 8 bits into existing memory; `decode` gives the same pixels.

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
    """Decode a still as gray, reduced where that is faster, but to no less than `side_px` in width and height.

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
    """Decode the counts of a still of 16 bits, the "png16" of `encode`.

    Args:
        data: The file's bytes.
        name: What to call the still in an error.

    Returns:
        u16 [H, W, 1].

    Raises:
        ImageError: The bytes are damaged, or not a gray png of 16 bits.
    """
    if not is_deep_png(data):
        raise ImageError(f"{name}: not a png of 16 bits; read it with infraredcity.stills.decode.decode")
    size_of(data, name=name)
    cv2 = load_cv2("reading png")
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ImageError(f"{name}: not a picture that can be decoded; copy or extract it again")
    if decoded.ndim != 2:
        raise ImageError(f"{name}: a png of 16 bits with {decoded.shape[2]} channels, expected one; make it gray")
    counts: np.ndarray = decoded[:, :, None]
    return counts


def size_of(data: bytes, *, name: str = "image") -> tuple[int, int]:
    """Read width and height in pixels from the header of a jpg, png or webp, without decoding it.

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
    """Refuse a jpg of more than MAX_SCANS scans, each of which libjpeg would decode, or of more than _MAX_MARKERS markers."""
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
                raise ImageError(f"{name}: a jpg of more than {MAX_SCANS} scans, which no encoder writes; remove it")
        if code not in _WITHOUT_LENGTH:
            place += int.from_bytes(data[place : place + 2], "big")
    raise ImageError(f"{name}: a jpg of more than {_MAX_MARKERS:,} markers, which no encoder writes; remove it")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read width and height from a webp's header; 0 where it is damaged. Source: RFC 9649, sections 2.5 to 2.7."""
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
    """Decode a still as stored: u8 [H, W, 3], or u16 [H, W, 1] for a png of 16 bits.

    Args:
        data: The file's bytes.
        name: What to call the still in an error.

    Raises:
        ImageError: The bytes are damaged or no picture.
    """
    return decode_deep(data, name=name) if is_deep_png(data) else decode(data, "rgb", name=name)


def is_deep_png(data: bytes) -> bool:
    """Return whether a still is a png of 16 bits, which `decode_deep` reads."""
    # The magic, the header's length (4) and name (4), width (4), height (4), and then the bits of a channel.
    return data[:8] == _PNG_MAGIC and data[24:25] == b"\x10"
