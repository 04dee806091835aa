"""Make the batches of a training step from windows of two domains: infrared is the source, visible the target.

Every random draw is a function of (seed, purpose, position or step), not of a generator's state, so a resumed run draws the same
numbers, at any world size.
"""

import json
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from infraredcity.clips import ColorMode
from infraredcity.loader import FrameWindows, Monitor, NativeCrop, UnpairedBatch, WindowReader, unpaired_batches
from roma.config.schema import TrainConfig
from roma.data.thermal import ThermalTones, fit_tones
from roma.world.world import World

_CROP, _CENTRES = 1, 2  # purposes of random draws; `roma.data.thermal` has 3
_TONE_FRAMES = 128
"""Number of frames of each domain from which tones are learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """One rank's share of a step, on its device."""

    step: int
    source: Float[Tensor, "B T 3 H W"]
    """Infrared windows in [-1, 1], one channel repeated."""
    target: Float[Tensor, "B T 3 H W"]
    """Day visible windows in [-1, 1], R, G, B."""
    keys: tuple[tuple[str, ...], ...]
    """Keys of the infrared frames, for messages."""
    source_positions: tuple[int, ...]
    """Stream positions of the infrared windows."""
    target_positions: tuple[int, ...]
    """Stream positions of the visible windows, which seed the random draws for them."""

    def split(self, num_windows: int) -> "list[TrainBatch]":
        """Cut the batch into parts of at most this many windows; 0 takes all of them as one."""
        size = num_windows or len(self.source)
        return [
            replace(
                self,
                source=self.source[start : start + size],
                target=self.target[start : start + size],
                keys=self.keys[start : start + size],
                source_positions=self.source_positions[start : start + size],
                target_positions=self.target_positions[start : start + size],
            )
            for start in range(0, len(self.source), size)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Domains:
    """The two readers of a run."""

    infrared: WindowReader
    visible: WindowReader

    def at_side(self, side_px: int) -> "Domains":
        """Return the same domains with whole frames, resized to squares of this side; they are closed with these."""
        size = (side_px, side_px)
        return Domains(infrared=self.infrared.at_size(size), visible=self.visible.at_size(size))

    def close(self) -> None:
        """End their threads."""
        self.infrared.close()
        self.visible.close()


def open_domains(config: TrainConfig) -> Domains:
    """Open readers of the run's shards, with frames resized to `data.load_size_px` or, with `data.fit` "crop", cut out of them.

    Raises:
        infraredcity.errors.InfraredCityError: Shards are missing, damaged or hold no window.
    """
    return Domains(
        infrared=_open_domain(
            config, config.data.infrared, config.data.infrared_weights, color="gray", seed=2 * config.seed
        ),
        visible=_open_domain(
            config, config.data.visible, config.data.visible_weights, color="rgb", seed=2 * config.seed + 1
        ),
    )


def train_batches(
    domains: Domains,
    config: TrainConfig,
    world: World,
    *,
    start_step: int,
    whole_from: int | None = None,
    monitor: Monitor | None = None,
) -> Generator[TrainBatch, None, None]:
    """Yield this rank's batches from `start_step` on, without end.

    For a GPU the next batch is cropped and copied there while a step computes.

    Args:
        domains: From `open_domains`.
        config: The whole run.
        world: This process's place.
        start_step: The first batch's step.
        whole_from: The step from which frames are whole, at `data.crop_size_px`; None crops them to the end.
        monitor: Records how fast batches arrive.
    """
    stream = _windows(domains, config, world, start_step=start_step, whole_from=whole_from, monitor=monitor)
    if world.device.type == "cuda":
        yield from _uploaded(ahead(_crop(batch, config) for batch in stream), world.device)
    for batch in stream:
        yield _to_train_batch(_crop(batch, config), world.device)


def _windows(
    domains: Domains,
    config: TrainConfig,
    world: World,
    *,
    start_step: int,
    whole_from: int | None,
    monitor: Monitor | None,
) -> Iterator[UnpairedBatch]:
    """Yield windows as they come out of the readers: at `data.load_size_px` up to `whole_from`, then at `data.crop_size_px`."""

    def windows_from(readers: Domains, step: int) -> Iterator[UnpairedBatch]:
        return unpaired_batches(
            readers.infrared,
            readers.visible,
            batch_size=config.batch_size,
            rank=world.rank,
            world_size=world.world_size,
            start_step=step,
            monitor=monitor,
        )

    if whole_from is not None and start_step < whole_from:
        yield from islice(windows_from(domains, start_step), whole_from - start_step)
        start_step = whole_from
    yield from windows_from(domains if whole_from is None else domains.at_side(config.data.crop_size_px), start_step)


_Item = TypeVar("_Item")


def ahead(items: Iterable[_Item]) -> Generator[_Item, None, None]:
    """Yield the items in their order, while a thread makes the next one.

    What making them raises is raised here. Closing ends the thread, after the item that it is making.
    """
    ready: queue.Queue[tuple[_Item | None, BaseException | None]] = queue.Queue(maxsize=1)
    is_closing = threading.Event()

    def make() -> None:
        last: tuple[_Item | None, BaseException | None] = (None, StopIteration())
        try:
            for item in items:
                ready.put((item, None))
                if is_closing.is_set():
                    return
        except BaseException as error:
            last = (None, error)
        ready.put(last)

    thread = threading.Thread(target=make, name="next batch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item, since there is no error
    finally:
        is_closing.set()
        while thread.is_alive():  # it may be waiting to deliver an item
            with suppress(queue.Empty):
                ready.get(timeout=0.05)
        thread.join()


def unreadable(domains: Domains, world: World) -> dict[str, str]:
    """Collect from all ranks the pictures that could not be read and were replaced (`data.on_bad`): the reasons by key."""
    found: dict[str, str] = {}
    for text in world.texts(json.dumps({**domains.infrared.bad, **domains.visible.bad})):
        found |= json.loads(text)
    return found


def to_unit_range(frames: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map 0..255 to -1..1."""
    return frames.float().mul_(2 / 255).sub_(1)


def to_bytes(frames: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Map -1..1 to 0..255, rounded and clipped."""
    return frames.float().add(1).mul_(255 / 2).round_().clamp_(0, 255).to(torch.uint8)


def window_centres(step: int, *, seed: int, num_windows: int, num_patches: int) -> Int64[Tensor, " K"]:
    """Draw the centres of a step's local windows: distinct patches, the same on every rank and for every image."""
    draw = np.random.default_rng([seed, _CENTRES, step])
    return torch.from_numpy(draw.permutation(num_patches)[: min(num_windows, num_patches)].astype(np.int64))


def learn_tones(domains: Domains) -> ThermalTones:
    """Learn the tones for `degrade` from frames of both domains, evenly spaced over all of them; the same on every rank."""
    infrared, visible = (
        reader.read_rows(np.linspace(0, len(reader.index) - 1, min(_TONE_FRAMES, len(reader.index))).astype(np.int64))
        for reader in (domains.infrared, domains.visible)
    )
    return fit_tones(visible, infrared)


def _open_domain(
    config: TrainConfig, sources: Sequence[str], weights: Sequence[float], *, color: ColorMode, seed: int
) -> WindowReader:
    data = config.data
    side = data.load_size_px
    return WindowReader(
        sources,
        window_frames=config.window_frames,
        stride=config.data.stride,
        color=color,
        size=(side, side) if data.fit == "square" else None,
        crop=None
        if data.fit == "square"
        else NativeCrop(crop_px=data.crop_size_px, jitter=data.scale_jitter, flip=False),
        seed=seed,
        weights=weights or None,
        on_bad=config.data.on_bad,
        max_bad=config.data.max_bad,
        tone=config.data.tone,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _CroppedBatch:
    """A cropped batch of bytes in host memory."""

    batch: UnpairedBatch
    infrared: UInt8[Tensor, "B T 1 h w"]
    visible: UInt8[Tensor, "B T 3 h w"]


def _crop(batch: UnpairedBatch, config: TrainConfig) -> _CroppedBatch:
    return _CroppedBatch(
        batch=batch,
        infrared=_squares(batch.infrared, config, domain=0),
        visible=_squares(batch.visible, config, domain=1),
    )


def _uploaded(batches: Iterable[_CroppedBatch], device: torch.device) -> Iterator[TrainBatch]:
    """Copy batches to a GPU, one ahead, on a separate stream from page-locked memory."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: TrainBatch | None = None
    for cropped in batches:
        with torch.cuda.stream(side):
            pinned = replace(cropped, infrared=cropped.infrared.pin_memory(), visible=cropped.visible.pin_memory())
            following = _to_train_batch(pinned, device)
        if waiting is not None:
            yield waiting
        # The caller's stream waits for the copy, and the memory is not reused before its work is done.
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        for frames in (following.source, following.target):
            frames.record_stream(current)
        waiting = following


def _to_train_batch(cropped: _CroppedBatch, device: torch.device) -> TrainBatch:
    infrared, visible = cropped.batch.infrared, cropped.batch.visible
    return TrainBatch(
        step=cropped.batch.step,
        source=to_unit_range(cropped.infrared.to(device, non_blocking=True)).expand(-1, -1, 3, -1, -1),
        target=to_unit_range(cropped.visible.to(device, non_blocking=True)),
        keys=infrared.keys,
        source_positions=tuple(infrared.positions.tolist()),
        target_positions=tuple(visible.positions.tolist()),
    )


def _squares(windows: FrameWindows, config: TrainConfig, *, domain: int) -> UInt8[Tensor, "B T C h w"]:
    """Crop each window: one random square, mirrored or not, for all of its frames."""
    side = config.data.crop_size_px
    slack = windows.frames.shape[-1] - side  # none in whole frames
    squares = []
    for frames, position in zip(windows.frames, windows.positions.tolist(), strict=True):
        draw = np.random.default_rng([config.seed, _CROP, domain, position])
        top, left, mirrored = int(draw.integers(slack + 1)), int(draw.integers(slack + 1)), draw.random() < 0.5
        square = frames[..., top : top + side, left : left + side]
        squares.append(square.flip(-1) if mirrored and config.data.flip else square)
    return torch.stack(squares).contiguous()
