"""Prepare a frame to become a still: fill masks, crop, resize, invert the polarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infraredcity.clips import Polarity
from infraredcity.errors import ImageError
from infraredcity.stills.opencv import load_cv2

Fit = Literal["squash", "crop", "pad"]
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")
PolarityChoice = Literal["white-hot", "black-hot", "invert"]
"""How stills show heat: as named, whatever the clip does, or "invert" for the opposite of the clip."""
POLARITY_CHOICES: tuple[PolarityChoice, ...] = ("white-hot", "black-hot", "invert")
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame."""
_MASK_MARGIN_PX = 2
"""How far the fill reaches beyond a mask: display text has soft edges, and lossy coding spreads them into the pixels around."""
_FILL_RADIUS_PX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a frame becomes a still: fill masks, then crop, then resize.

    Attributes:
        masks: Boxes in pixels of the source whose content is filled from their surroundings, see `fill_masks`.
        crop: (x, y, width, height) in pixels of the source, or None for all of it.
        size: (width, height) of the still in pixels, or None to keep the size.
        fit: "squash" stretches to the size, "crop" fills it and cuts off what is outside, "pad" fits inside, on black.
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
        """Return the still: u8 [H, W, C] -> u8 [H', W', C], or u16 [H, W, 1] -> u16 [H', W', 1]; C-contiguous.

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
    """Resize a frame: the mean over each pixel's area when shrinking, bicubic when growing.

    Args:
        frame: u8 [H, W, C] or u16 [H, W, 1].
        width_px: Width of the result.
        height_px: Height of the result.

    Returns:
        [height_px, width_px, C], of the frame's dtype.
    """
    if (width_px, height_px) == (frame.shape[1], frame.shape[0]):
        return np.ascontiguousarray(frame)
    cv2 = load_cv2("changing the size of frames")
    shrinks = width_px <= frame.shape[1] and height_px <= frame.shape[0]
    resized: np.ndarray = cv2.resize(
        frame, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return resized.reshape(height_px, width_px, frame.shape[2])


def fill_masks(picture: np.ndarray, masks: Sequence[Box]) -> np.ndarray:
    """Replace what is inside the masks, and up to 2 pixels beside them, from its surroundings; for burnt-in display text.

    The same pixels give the same fill. On a constant background it is exact, on a gradient a faint seam is left in the middle.
    Source: M. Bertalmio et al., Navier-Stokes, fluid dynamics, and image and video inpainting, 2001, in OpenCV's version, radius 3.

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
    cv2 = load_cv2("filling masks")
    source = np.ascontiguousarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
    filled: np.ndarray = cv2.inpaint(source, hidden, _FILL_RADIUS_PX, cv2.INPAINT_NS)
    return filled.reshape(picture.shape)


def invert(picture: np.ndarray) -> np.ndarray:
    """Invert a picture: 255 - x for u8, 65535 - x for u16; turns white-hot into black-hot and back.

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


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference of two pictures of one shape and dtype, in levels or counts."""
    cv2 = load_cv2("comparing pictures")
    return float(cv2.norm(one, other, cv2.NORM_L1)) / one.size


def is_inverted(clip_polarity: Polarity, wanted: PolarityChoice | None) -> bool:
    """Return whether an infrared clip's frames must be inverted to show heat as wanted; None keeps them."""
    return wanted == "invert" or (wanted is not None and wanted != clip_polarity)


def _check_box(what: str, box: Box) -> None:
    if min(box[:2]) < 0 or min(box[2:]) < 1:
        raise ValueError(f"{what} must be x,y,width,height with positive width and height, got {box}")


def _check_inside(what: str, box: Box, frame: np.ndarray) -> None:
    x, y, width, height = box
    if x + width > frame.shape[1] or y + height > frame.shape[0]:
        raise ImageError(
            f"{what} {x},{y},{width},{height} reaches outside the {frame.shape[1]}x{frame.shape[0]} frame; make it smaller"
        )
