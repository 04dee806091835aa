"""Look at some pictures of a file: colour, depth, interlacing, rotation, the curve of their levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_GLANCE_PX = 160
_NEUTRAL_CHROMA = 128
_CHROMA_SLACK = 4
_PQ, _HLG = 16, 18
"""ITU-T H.273, transfer characteristics of BT.2100."""


@dataclass(slots=True)
class PictureFacts:
    """What the pictures show that were looked at."""

    num_looked: int = 0
    num_false_keys: int = 0
    """Key frames that show nothing when they are decoded without the frames before them."""
    has_color: bool = False
    is_interlaced: bool = False
    bits: int = 0
    has_luma_plane: bool = True
    """Whether the first plane holds luma and nothing else, in at most 16 bits."""
    rotation_deg: int = 0
    transfer: int = 0

    def add(self, frame: Any) -> None:
        """Look at a picture."""
        if self.num_looked == 0:
            self.rotation_deg = int(frame.rotation)
            self.transfer = int(frame.color_trc)
        self.num_looked += 1
        self.is_interlaced |= frame.interlaced_frame
        first = [component for component in frame.format.components if component.plane == 0]
        self.bits = max(self.bits, first[0].bits)
        self.has_luma_plane = self.has_luma_plane and len(first) == 1 and first[0].bits <= 16
        self.has_color = self.has_color or _has_color(frame)

    @property
    def is_deep(self) -> bool:
        """Whether pictures are counts of more than 8 bits, in a plane of their own."""
        return self.bits > 8 and self.has_luma_plane and not self.has_color

    @property
    def hdr(self) -> str:
        """See `VideoInfo.hdr`."""
        return {_PQ: "PQ", _HLG: "HLG"}.get(self.transfer, "")

    @classmethod
    def of_all(cls, several: "Sequence[PictureFacts]") -> "PictureFacts":
        """Sum up the pictures of several streams; where none was looked at, they count as coloured."""
        first = several[0]
        return cls(
            num_looked=sum(each.num_looked for each in several),
            num_false_keys=sum(each.num_false_keys for each in several),
            has_color=any(each.has_color for each in several) or first.num_looked == 0,
            is_interlaced=any(each.is_interlaced for each in several),
            bits=max(each.bits for each in several),
            has_luma_plane=all(each.has_luma_plane for each in several),
            rotation_deg=first.rotation_deg,
            transfer=first.transfer,
        )


def _has_color(frame: Any) -> bool:
    """Whether a picture has chroma that is not neutral, in more than a hundredth of its places."""
    if frame.format.name.startswith("gray"):
        return False
    width, height = min(frame.width, _GLANCE_PX), min(frame.height, _GLANCE_PX)
    glance = frame.reformat(width, height, format="yuv444p", interpolation="POINT", threads=1)
    spread = [
        np.abs(plane[:height, :width].astype(np.int16) - _NEUTRAL_CHROMA) for plane in map(_lines, glance.planes[1:])
    ]
    return any(float(np.mean(each > _CHROMA_SLACK)) > 0.01 for each in spread)


def _lines(plane: Any) -> np.ndarray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
