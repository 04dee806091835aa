"""From bytes in memory to numbers on a device, while the step before still computes."""

from collections.abc import Iterable, Iterator

import torch

from infraredcity.loader.windows import FrameWindows


def uploaded(
    batches: Iterable[FrameWindows],
    device: torch.device | str,
    *,
    mean: float = 127.5,
    scale: float = 127.5,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[torch.Tensor, FrameWindows]]:
    """Yield each batch's frames as (x - mean) / scale on a device, and the batch itself.

    Bytes travel, a quarter of what float32 would be, and become numbers on the device. On CUDA both happen on a stream of their
    own, from page-locked memory: a copy runs beside the computation on the batch before, as long as nobody waits for that.
    No batch is taken before it is asked for, so the stream's state is what was handed over. On a CPU it is plain arithmetic.

    Args:
        batches: Of `batches` or `one_pass`.
        device: Where to.
        mean: Taken off the bytes.
        scale: Divides them; 127.5 and 127.5 give [-1, 1], 0 and 255 give [0, 1].
        dtype: Of the result.

    Yields:
        Numbers [B, T, C, H, W] on the device, and the batch they come from.
    """
    place = torch.device(device)
    if place.type != "cuda":
        for windows in batches:
            yield _normalised(windows.frames.to(place), mean, scale, dtype), windows
        return
    side = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
    for windows in batches:
        with torch.cuda.stream(side):
            pinned = windows.frames.pin_memory()
            numbers = _normalised(pinned.to(place, non_blocking=True), mean, scale, dtype)
        # What follows on the caller's stream waits for the upload; and the memory is not given to others before that is done.
        current = torch.cuda.current_stream(place)
        current.wait_stream(side)
        numbers.record_stream(current)
        yield numbers, windows


def _normalised(frames: torch.Tensor, mean: float, scale: float, dtype: torch.dtype) -> torch.Tensor:
    return frames.to(dtype).sub_(mean).div_(scale)
