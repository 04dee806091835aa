"""What the loader gives: windows of frames of one domain, or of several."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameWindows:
    """A batch of windows of one domain.

    Attributes:
        frames: u8 [B, T, C, H, W], 0..255; C is 1 for gray and 3 for R, G, B. In memory the channels of a pixel lie together
            (`torch.channels_last` of every frame), which is how they are decoded and what convolutions like best. With a transform
            it is whatever that returned, stacked.
        keys: For each window, the WebDataset keys of its T frames.
        positions: i64 [B], the stream positions the windows stand at.
        members: For each window and frame the bytes of the further tar members that were asked for, by suffix.
        replaced: Positions of this batch whose own window could not be read and was replaced by another.
    """

    frames: torch.Tensor
    keys: tuple[tuple[str, ...], ...]
    positions: np.ndarray
    members: tuple[tuple[Mapping[str, bytes], ...], ...] = ()
    replaced: tuple[int, ...] = field(default=())

    def pin_memory(self) -> "FrameWindows":
        """Return the same in page-locked memory, from where an upload need not wait; DataLoader calls it."""
        return replace(self, frames=self.frames.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "FrameWindows":
        """Return the same with its frames on a device."""
        return replace(self, frames=self.frames.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnpairedBatch:
    """What one rank trains on at one step: windows of two domains that have nothing to do with each other."""

    step: int
    infrared: FrameWindows
    visible: FrameWindows
