"""Random crops of windows: another place and size for each window, one for all its frames, as a pure function of uniform numbers.

```python
crop = ResizeCrop(load_px=286, crop_px=256)
boxes = crop.draw(numbers, 480, 640)  # numbers: f64 [B, crop.num_numbers] in [0, 1), which the caller makes from (seed, position)
crop.apply(window, boxes[0], out)  # u8 [T, 480, 640, C] -> u8 [T, 256, 256, C], in a thread of the loader
```

The filter is Pillow's and torchvision's: cubic convolution with a = -0.5 (R. Keys, Cubic convolution interpolation for digital
image processing, 1981), wider when it shrinks so that nothing aliases, along the rows first, rounded to u8 in between. No number is
further than 2 levels from Pillow's, and their mean difference is 0.005. (OpenCV's INTER_CUBIC has a = -0.75: 9 levels, 0.4; and
Pillow 13 filters the columns first where the height shrinks most, which earlier ones never did.)

Both passes are torch's vertical one, with OpenCV's transpose between them. It filters rows of bytes whatever they mean, while the
horizontal one costs twice as much for colour and five times as much for gray. Half of a small pass is a fixed cost, the taps, which
the frames of a window share. On one Zen 4 core, caches warm, a frame of 256x256 takes 160 us in colour by itself, 120 in a pair and
100 among four (gray: 100, 65, 45), beside 230 us of decoding (gray: 190); one of that size is cut and copied in 7 to 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from infraredcity.errors import MissingExtraError

try:
    import torch
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtraError("torch", extra="loader", needed_for="infraredcity.loader.crops") from error

_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CropBox:
    """What is kept of a picture: a box in whole pixels of the picture it is cut from, and whether it is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def __post_init__(self) -> None:
        if min(self.top, self.left) < 0 or min(self.height, self.width) < 1:
            raise ValueError(f"a box needs a place of at least 0,0 and a size of at least 1x1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """The boxes of B windows; `boxes[b]` is that of one.

    Attributes:
        top: i64 [B], first row.
        left: i64 [B], first column.
        height: i64 [B], rows.
        width: i64 [B], columns.
        flip: bool [B], mirrored left to right or not.
    """

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray

    def __post_init__(self) -> None:
        fields = (self.top, self.left, self.height, self.width, self.flip)
        if len({field.shape for field in fields}) > 1 or self.top.ndim != 1:
            raise ValueError(
                f"the fields of boxes must be of one length, got {[list(field.shape) for field in fields]}"
            )

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, window: int) -> CropBox:
        return CropBox(
            top=int(self.top[window]),
            left=int(self.left[window]),
            height=int(self.height[window]),
            width=int(self.width[window]),
            flip=bool(self.flip[window]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeCrop:
    """Resize to a square, keep a smaller square of it: what CUT and ROMA train on.

    Pictures that are `load_px` square already are only cut, which is all but free; so shards extracted at that size train fastest.

    Attributes:
        load_px: Side that a picture is resized to, whatever its shape.
        crop_px: Side of the square that is kept.
        flip: Mirror half of the windows.
    """

    load_px: int = 286
    crop_px: int = 256
    flip: bool = True
    num_numbers: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if self.crop_px < 1:
            raise ValueError(f"crop_px must be at least 1, got {self.crop_px}")
        if self.crop_px > self.load_px:
            raise ValueError(
                f"a crop of {self.crop_px} pixels does not fit into {self.load_px}; make crop_px smaller or load_px larger"
            )

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) that pictures of a size come out with."""
        _check_size(height, width)
        return self.crop_px, self.crop_px

    def draw(self, numbers: np.ndarray, height: int, width: int) -> Boxes:
        """Draw boxes in pixels of the resized picture from f64 [B, 3] uniform in [0, 1); every place is as likely as any other."""
        _check_numbers(numbers, self.num_numbers)
        _check_size(height, width)
        side = np.full(len(numbers), self.crop_px, np.int64)
        return _placed(numbers, side, side, self.load_px, self.load_px, flip=self.flip)

    def apply(self, frames: np.ndarray, box: CropBox, out: np.ndarray) -> None:
        """Cut the box out of the resized frames; see `ResizedCrop.apply`, whose arguments and errors it has."""
        self.apply_all([frames], [box], [out])

    def apply_all(self, windows: Sequence[np.ndarray], boxes: Sequence[CropBox], outs: Sequence[np.ndarray]) -> None:
        """Crop several windows of one shape as `apply` does, at less cost: the filter's taps are found once."""
        checked = []
        for frames, box, out in zip(windows, boxes, outs, strict=True):
            checked.append(_checked(frames, out, (box.height, box.width)))
            _check_inside(box, self.load_px, self.load_px)
        if checked:
            _resample(
                [frames for frames, _ in checked], (self.load_px, self.load_px), boxes, [out for _, out in checked]
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizedCrop:
    """Keep a box of any area and shape in a range, resize it: torchvision's RandomResizedCrop.

    Area and logarithm of the ratio are uniform over the pairs whose box fits, and the centre is kept where ten pairs did not fit.
    Source: C. Szegedy et al., Going deeper with convolutions, 2015, section 6, as torchvision 0.20 has it.

    Attributes:
        size: (height, width) of the result in pixels.
        scale: Smallest and largest area of the box, as a share of the picture's.
        ratio: Smallest and largest width of the box over its height.
        flip: Mirror half of the windows.
    """

    size: tuple[int, int] = (256, 256)
    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    num_numbers: ClassVar[int] = 3 + 2 * _TRIES

    def __post_init__(self) -> None:
        _check_size(*self.size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares with 0 < smallest <= largest <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise ValueError(f"ratio must be two numbers with 0 < smallest <= largest, got {self.ratio}")

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) that pictures of a size come out with."""
        _check_size(height, width)
        return self.size

    def draw(self, numbers: np.ndarray, height: int, width: int) -> Boxes:
        """Draw boxes in pixels of the picture from f64 [B, 23] uniform in [0, 1).

        Place and coin take 3 numbers and each of the ten tries 2 of its own, so the boxes are spread exactly as torchvision's.
        """
        _check_numbers(numbers, self.num_numbers)
        _check_size(height, width)
        area = height * width * _between(numbers[:, 3 : 3 + _TRIES], *self.scale)
        ratio = np.exp(_between(numbers[:, 3 + _TRIES :], *np.log(self.ratio)))
        tried = np.rint(np.sqrt([area / ratio, area * ratio])).astype(np.int64)  # [height or width, B, try]
        fits = np.all((tried >= 1) & (tried <= np.array([height, width])[:, None, None]), axis=0)
        placed = np.any(fits, axis=1)
        first = tried[:, np.arange(len(numbers)), fits.argmax(axis=1)]
        box_h, box_w = np.where(placed, first, np.array(self._centre(height, width))[:, None])
        return Boxes(
            top=np.where(placed, _place(numbers[:, 0], box_h, height), (height - box_h) // 2),
            left=np.where(placed, _place(numbers[:, 1], box_w, width), (width - box_w) // 2),
            height=box_h,
            width=box_w,
            flip=(numbers[:, 2] < 0.5) & self.flip,
        )

    def apply(self, frames: np.ndarray, box: CropBox, out: np.ndarray) -> None:
        """Cut the box out of the frames and resize it; may run in several threads at once, and seldom holds the GIL.

        Args:
            frames: u8 [H, W, C], or the frames of a window [T, H, W, C], which costs less than one at a time; C is 1 or 3.
            box: What `draw` gave for frames of this size.
            out: u8, the frames' shape with the height and width of `out_size`; written.

        Raises:
            ValueError: The arrays are of another kind or shape, or the box reaches outside.
            MissingExtraError: OpenCV is not installed.
        """
        windows, cut = _checked(frames, out, self.size)
        _check_inside(box, *windows.shape[1:3])
        inside = windows[:, box.top : box.top + box.height, box.left : box.left + box.width]
        height, width = self.size
        whole = CropBox(top=0, left=0, height=height, width=width, flip=box.flip)
        _resample([inside], self.size, [whole], [cut])

    def apply_all(self, windows: Sequence[np.ndarray], boxes: Sequence[CropBox], outs: Sequence[np.ndarray]) -> None:
        """Crop several windows as `apply` does; each of them has taps of its own."""
        for frames, box, out in zip(windows, boxes, outs, strict=True):
            self.apply(frames, box, out)

    def _centre(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the largest box of an allowed ratio."""
        if width / height < self.ratio[0]:
            return max(1, round(width / self.ratio[0])), width
        if width / height > self.ratio[1]:
            return height, max(1, round(height * self.ratio[1]))
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCrop:
    """Cut a square out of pictures at their own scale, or a little off it: all that is in a picture keeps its shape and size.

    Attributes:
        crop_px: Side of the result in pixels; a picture that is smaller is enlarged until the square fits.
        jitter: Pictures are scaled by a factor drawn from [1 - jitter, 1 + jitter] first.
        flip: Mirror half of the windows.
    """

    crop_px: int = 256
    jitter: float = 0.0
    flip: bool = True
    num_numbers: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if self.crop_px < 1:
            raise ValueError(f"crop_px must be at least 1, got {self.crop_px}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {self.jitter}")

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that pictures of a size come out with."""
        _check_size(height, width)
        return self.crop_px, self.crop_px

    def draw(self, numbers: np.ndarray, height: int, width: int) -> Boxes:
        """f64 [B, 4] uniform in [0, 1) -> boxes in pixels of the picture; every place is as likely as any other."""
        _check_numbers(numbers, self.num_numbers)
        _check_size(height, width)
        factor = _between(numbers[:, 3], 1 - self.jitter, 1 + self.jitter)
        side = np.clip(np.rint(self.crop_px / factor).astype(np.int64), 1, min(height, width))
        return _placed(numbers, side, side, height, width, flip=self.flip)

    def apply(self, frames: np.ndarray, box: CropBox, out: np.ndarray) -> None:
        """The box of the frames, resized; see `ResizedCrop.apply`, whose arguments and errors it has."""
        ResizedCrop(size=(self.crop_px, self.crop_px)).apply(frames, box, out)

    def apply_all(self, windows: Sequence[np.ndarray], boxes: Sequence[CropBox], outs: Sequence[np.ndarray]) -> None:
        """As `apply` for several windows."""
        for frames, box, out in zip(windows, boxes, outs, strict=True):
            self.apply(frames, box, out)


Crop = ResizeCrop | ResizedCrop | NativeCrop
"""What a loader can be given; all draw and apply in the same way."""


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a whole picture u8 [H, W, C] to `size` (h, w), u8 [h, w, C], by torch's bicubic filter (a = -0.5), antialiased."""
    # As a view in this order colour takes torch's fast way, which a tensor of three dimensions turned around does not.
    pixels = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
    scaled: np.ndarray = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    return scaled


def _resample(
    windows: Sequence[np.ndarray], full: tuple[int, int], boxes: Sequence[CropBox], outs: Sequence[np.ndarray]
) -> None:
    """Write what each box keeps of its window's frames [T, H, W, C] resized to the full (height, width)."""
    frames = [frame for window in windows for frame in window]
    of_frame = [box for window, box in zip(windows, boxes, strict=True) for _ in window]
    height, width, _ = frames[0].shape
    if (height, width) == full:
        rows = [_columns(frame, box) for frame, box in zip(frames, of_frame, strict=True)]
    elif width == full[1]:
        cut = [_columns(frame, box) for frame, box in zip(frames, of_frame, strict=True)]
        rows = list(_scaled(cut, full[0], transpose=False))
    else:
        wide = _scaled(frames, full[1], transpose=True)
        cut = [picture[box.left : box.left + box.width] for picture, box in zip(wide, of_frame, strict=True)]
        rows = list(_scaled(cut, full[0], transpose=True))
    places = [place for out in outs for place in out]
    for picture, box, place in zip(rows, of_frame, places, strict=True):
        kept = picture[box.top : box.top + box.height]
        place[:] = _cv2().flip(kept, 1).reshape(place.shape) if box.flip else kept


def _columns(frame: np.ndarray, box: CropBox) -> np.ndarray:
    return frame[:, box.left : box.left + box.width]


def _scaled(pictures: Sequence[np.ndarray], num_rows: int, *, transpose: bool) -> np.ndarray:
    """Resize N pictures u8 [R, K, C], or [K, R, C] to transpose, to another number of rows R: [N, num_rows, K, C]."""
    count, (height, width, channels) = len(pictures), pictures[0].shape
    if transpose:
        height, width = width, height
    numbers = count * width * channels
    # All pictures side by side, taken by torch for pixels of four bytes. Rows are an odd number of cache lines apart: with 6,144
    # bytes between them a column falls into few sets of the cache, and the whole takes twice as long.
    laid = np.empty((height, (-(-numbers // 64) | 1) * 64), np.uint8)
    places = laid[:, :numbers].reshape(height, count, width, channels).transpose(1, 0, 2, 3)
    for picture, place in zip(pictures, places, strict=True):
        if transpose and min(height, width) > 1:
            _cv2().transpose(picture, dst=place)
        else:  # OpenCV does not write into a single row or column of a larger array
            place[:] = picture.swapaxes(0, 1) if transpose else picture
    if num_rows == height:
        return places
    pixels = torch.from_numpy(laid).view(1, height, -1, 4).permute(0, 3, 1, 2)
    scaled = F.interpolate(pixels, (num_rows, pixels.shape[3]), mode="bicubic", antialias=True)
    flat = scaled.permute(0, 2, 3, 1).reshape(num_rows, -1).numpy()
    return flat[:, :numbers].reshape(num_rows, count, width, channels).transpose(1, 0, 2, 3)


def _placed(numbers: np.ndarray, box_h: np.ndarray, box_w: np.ndarray, height: int, width: int, *, flip: bool) -> Boxes:
    """Place boxes of some heights and widths in a picture, by the first two numbers of each, and mirror by the third."""
    return Boxes(
        top=_place(numbers[:, 0], box_h, height),
        left=_place(numbers[:, 1], box_w, width),
        height=box_h,
        width=box_w,
        flip=(numbers[:, 2] < 0.5) & flip,
    )


def _place(numbers: np.ndarray, box_px: np.ndarray, picture_px: int) -> np.ndarray:
    """Choose where a box begins so that it ends inside: f64 [B] in [0, 1) -> i64 [B]."""
    place: np.ndarray = np.floor(numbers * (picture_px - box_px + 1)).astype(np.int64)
    return place


def _between(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    spread: np.ndarray = low + numbers * (high - low)
    return spread


def _checked(frames: np.ndarray, out: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return both with their axis T."""
    for name, array in (("frames", frames), ("out", out)):
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3) or array.size == 0:
            raise ValueError(
                f"{name} must be u8 [H, W, C] or [T, H, W, C] with C 1 or 3, got {array.dtype} {list(array.shape)}"
            )
    wanted = (*frames.shape[:-3], *size, frames.shape[-1])
    if out.shape != wanted:
        raise ValueError(f"out must be {list(wanted)} for frames {list(frames.shape)}, got {list(out.shape)}")
    return (frames, out) if frames.ndim == 4 else (frames[None], out[None])


def _check_inside(box: CropBox, height: int, width: int) -> None:
    if box.top + box.height > height or box.left + box.width > width:
        raise ValueError(
            f"{box} reaches outside the picture of {width}x{height}; draw boxes for the size that the frames have"
        )


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")


def _check_numbers(numbers: np.ndarray, num_numbers: int) -> None:
    if numbers.dtype != np.float64 or numbers.ndim != 2 or numbers.shape[1] != num_numbers:
        raise ValueError(f"numbers must be f64 [B, {num_numbers}], got {numbers.dtype} {list(numbers.shape)}")
    if not ((numbers >= 0) & (numbers < 1)).all():
        raise ValueError(f"numbers must lie in [0, 1), got some from {numbers.min()} to {numbers.max()}")


def _cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenCV", extra="extract", needed_for="cropping windows at random") from error
    return cv2
