"""One still: u8 pixels to jpg, png or webp bytes and back, and the ways to bring a frame to a size.

JPEG goes through libjpeg-turbo (simplejpeg), everything else through OpenCV. All functions release the GIL in their heavy part.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg

from infraredcity.catalog import ColorMode
from infraredcity.errors import ImageError, MissingExtraError

ImageFormat = Literal["jpg", "png", "webp"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp")
Fit = Literal["squash", "crop", "pad"]
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a frame becomes a still: first cut out, then brought to a size.

    Attributes:
        crop: (x, y, width, height) in pixels of the source, or None for all of it.
        size: (width, height) of the still in pixels, or None to keep the size.
        fit: "squash" stretches to the size, "crop" covers it and cuts the rest off the middle, "pad" fits inside on black.
    """

    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if self.crop is not None and (min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1):
            raise ValueError(f"crop must be x,y,width,height with positive width and height, got {self.crop}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size[0]}x{self.size[1]}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """u8 [H, W, C] -> u8 [H', W', C], C-contiguous.

        Raises:
            ImageError: The crop reaches outside the frame.
        """
        if self.crop is not None:
            x, y, width, height = self.crop
            if x + width > frame.shape[1] or y + height > frame.shape[0]:
                raise ImageError(
                    f"crop {x},{y},{width},{height} reaches outside the {frame.shape[1]}x{frame.shape[0]} frame; "
                    "make it smaller"
                )
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
        padded = np.zeros((height, width, frame.shape[2]), np.uint8)
        left, top = (width - inner_w) // 2, (height - inner_h) // 2
        padded[top : top + inner_h, left : left + inner_w] = resize(frame, inner_w, inner_h)
        return padded


def resize(frame: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """u8 [H, W, C] -> u8 [height_px, width_px, C]: the mean over each pixel's area when shrinking, bicubic when growing."""
    if (width_px, height_px) == (frame.shape[1], frame.shape[0]):
        return np.ascontiguousarray(frame)
    cv2 = _cv2("changing the size of frames")
    shrinks = width_px <= frame.shape[1] and height_px <= frame.shape[0]
    resized: np.ndarray = cv2.resize(
        frame, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return resized.reshape(height_px, width_px, frame.shape[2])


def encode(picture: np.ndarray, image_format: ImageFormat, *, quality: int = 95) -> bytes:
    """One still's file bytes; the same bytes for the same pixels and library versions.

    Args:
        picture: u8 [H, W, C], C is 1 (gray) or 3 (R, G, B).
        image_format: "jpg" (4:2:0 for colour, like the video it comes from), "png" (lossless) or "webp".
        quality: 1..100 for jpg and webp; png ignores it.

    Raises:
        ImageError: The encoder refuses the picture.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
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
    ok, data = cv2.imencode(f".{image_format}", picture[:, :, ::-1] if picture.shape[2] == 3 else picture, options)
    if not ok:
        raise ImageError(f"a {picture.shape[1]}x{picture.shape[0]} picture cannot become a {image_format}")
    return bytes(data)


def decode(data: bytes, color: ColorMode, *, name: str = "image") -> np.ndarray:
    """Pixels of a still.

    Args:
        data: The file's bytes; jpg is told from the rest by its first two bytes.
        color: "gray" gives C = 1, "rgb" C = 3, whatever the file holds.
        name: What to call the still in an error.

    Returns:
        u8 [H, W, C].

    Raises:
        ImageError: The bytes are damaged or no picture.
    """
    if data[:2] == b"\xff\xd8":
        try:
            picture = simplejpeg.decode_jpeg(data, "GRAY" if color == "gray" else "RGB")
        except ValueError as error:
            raise ImageError(f"{name}: damaged jpg ({str(error).lower()}); extract the frame again") from error
        return np.asarray(picture)
    cv2 = _cv2("reading png and webp")
    flag = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if decoded is None:
        raise ImageError(f"{name}: not a picture that can be decoded; extract the frame again")
    return decoded[:, :, None] if color == "gray" else np.ascontiguousarray(decoded[:, :, ::-1])


def _cv2(needed_for: str) -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenCV", extra="extract", needed_for=needed_for) from error
    return cv2
