"""Windows from tars that can only be read from front to back: a pipe, stdin, a server without ranges.

```python
from infraredcity.loader.webdataset import pipeline

stream = pipeline("pipe:ssh store cat day-{000..063}.tar", batch_size=8, rank=rank, world_size=world_size)
for epoch in range(10):
    stream.set_epoch(epoch)
    for windows in DataLoader(stream, batch_size=None, num_workers=2):
        windows.frames  # u8 [B, T, C, H, W]
```

List of shards, split over ranks and workers, opening of URLs and shuffling are the webdataset library's. Tars are read by
`shard_reader`, since webdataset takes a tar that was cut at a block's border for a good, shorter one.
"""

import logging
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from infraredcity.clips import COLOR_MODES, ColorMode
from infraredcity.errors import MissingExtraError, ShardError, check_choice
from infraredcity.files.records import parse_json
from infraredcity.files.urls import shown_in
from infraredcity.loader.crops import resized
from infraredcity.loader.windows import FrameWindows
from infraredcity.shards.foreign import numbered, picture_suffix
from infraredcity.shards.reader import Refused, Sample, iterate
from infraredcity.stills.decode import decode
from infraredcity.stills.formats import READ_SUFFIXES

try:
    import webdataset  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise MissingExtraError("webdataset", extra="webdataset", needed_for="infraredcity.loader.webdataset") from error

logger = logging.getLogger(__name__)


def pipeline(
    urls: str | Sequence[str],
    *,
    batch_size: int,
    window_frames: int = 2,
    stride: int = 1,
    frame_step: int = 1,
    color: ColorMode = "rgb",
    size: tuple[int, int] | None = None,
    seed: int = 0,
    shuffle_buffer: int = 1000,
    rank: int = 0,
    world_size: int = 1,
) -> "WindowStream":
    """Return one rank's batches of an epoch, for a DataLoader with `batch_size=None`, or to be iterated as they are.

    A window is T samples of one shard whose clip and frame index follow one another; the json member says these, or else the key
    (text, then number), or else a sample's place in its shard is its number. It spans no gap and no two shards.

    What this promises: each shard is read by exactly one worker of one rank, each window comes once an epoch, and the order is the
    same for the same shards, seed, epoch, ranks and workers. A tar that is damaged or cut short is an error.

    What it does NOT promise: that ranks get as many batches as one another (a collective then waits for ever), resuming inside an
    epoch, the same order at another number of ranks or workers, and breaks that only an index knows (cuts, frozen and suspect
    frames). The last batch of each worker may be smaller, and a frame that two windows share is decoded twice. Where shards can be
    read by place, be it over a network, take `infraredcity.loader.WindowReader` and `batches`, which promise all of these.

    Args:
        urls: The shards as webdataset takes them: a list, or a text with `{000..012}` and `::`. `pipe:` runs a command of your
            shell, `-` is stdin.
        batch_size: Windows per batch over all ranks together; this rank's batches hold its share.
        window_frames: T, frames per window.
        stride: Samples from one frame of a window to the next.
        frame_step: How much the frame index grows from one sample to the next, as of `extract --every`.
        color: "gray" or "rgb": channels of the frames, whatever the files hold.
        size: (height, width) that frames are resized to (bicubic, antialiased), or None to take them as they are.
        seed: Another seed is another order.
        shuffle_buffer: Windows, as encoded, from which each next one is drawn; 0 keeps the order of shards and windows.
        rank: This process among `world_size`.
        world_size: How many processes train together.

    Raises:
        ValueError: The batch is smaller than the world, there are fewer shards than ranks, or a number makes no sense.
        ShardError: While iterating: a shard cannot be opened or read, is damaged, or frames differ in size.
        ImageError: While iterating: a picture is damaged.
    """
    check_choice("color", color, COLOR_MODES)
    shards = list(webdataset.SimpleShardList(urls).urls) if urls else []
    if min(window_frames, stride, frame_step) < 1 or shuffle_buffer < 0:
        raise ValueError(
            f"window_frames, stride and frame_step must be at least 1 and shuffle_buffer at least 0, got {window_frames}, "
            f"{stride}, {frame_step} and {shuffle_buffer}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    if batch_size < world_size:
        raise ValueError(
            f"a global batch of {batch_size} cannot feed {world_size} ranks; make it at least {world_size}"
        )
    if len(shards) < world_size:
        raise ValueError(f"{len(shards)} shards cannot feed {world_size} ranks; cut the data into smaller shards")
    return WindowStream(
        shards,
        batch_windows=batch_size * (rank + 1) // world_size - batch_size * rank // world_size,
        span=(window_frames - 1) * stride + 1,
        stride=stride,
        frame_step=frame_step,
        color=color,
        size=size,
        seed=seed,
        shuffle_buffer=shuffle_buffer,
        rank=rank,
        world_size=world_size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A picture as encoded, and where it is; `clip` is None where only its place in the shard is known."""

    key: str
    clip: str | None
    frame_index: int
    data: bytes


class WindowStream(IterableDataset[FrameWindows]):
    """What `pipeline` returns; see there."""

    def __init__(
        self,
        shards: Sequence[str],
        *,
        batch_windows: int,
        span: int,
        stride: int,
        frame_step: int,
        color: ColorMode,
        size: tuple[int, int] | None,
        seed: int,
        shuffle_buffer: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._shards = list(shards)
        self._batch_windows = batch_windows
        self._span = span
        self._stride = stride
        self._frame_step = frame_step
        self._color: ColorMode = color
        self._size = size
        self._seed = seed
        self._shuffle_buffer = shuffle_buffer
        self._rank = rank
        self._world_size = world_size
        # In shared memory, so that workers that live on (`persistent_workers`) see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch; without it every epoch comes in the same one."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[FrameWindows]:
        worker = get_worker_info()
        order = f"{self._seed}/{int(self._epoch)}"
        shuffles = self._shuffle_buffer > 0
        draw = random.Random(f"{order}/{self._rank}/{0 if worker is None else worker.id}")
        stages = webdataset.DataPipeline(
            # All ranks shuffle alike, so that of the shuffled list each takes what the others do not.
            webdataset.SimpleShardList(self._shards, seed=order if shuffles else None),
            webdataset.slice(self._rank, None, self._world_size),
            webdataset.split_by_worker,
            self._windows,
            webdataset.shuffle(self._shuffle_buffer, initial=self._shuffle_buffer, rng=draw) if shuffles else None,
            self._batches,
        )
        yield from stages

    def _windows(self, shards: Iterable[Mapping[str, str]]) -> Iterator[tuple[_Frame, ...]]:
        for shard in shards:
            url = shard["url"]
            name = self._name(url)
            refused: list[Refused] = []
            run: deque[_Frame] = deque(maxlen=self._span)
            place = num_windows = num_without_picture = 0
            for place, sample in enumerate(_samples(url, name, refused), start=1):
                frame = _frame_of(name, sample, place * self._frame_step)
                if frame is None:
                    num_without_picture += 1
                    continue
                if run and (run[-1].clip, run[-1].frame_index + self._frame_step) != (frame.clip, frame.frame_index):
                    run.clear()
                run.append(frame)
                if len(run) == self._span:
                    num_windows += 1
                    yield tuple(run)[:: self._stride]
            if num_windows == 0 or num_without_picture or refused:
                logger.warning(
                    "%s: %d windows from %d samples; left out %d samples without a picture (%s) and %d members that are no plain "
                    "files of a sample; where too few windows come, check frame_step (%d)",
                    name,
                    num_windows,
                    place,
                    num_without_picture,
                    ", ".join(READ_SUFFIXES),
                    len(refused),
                    self._frame_step,
                )

    def _name(self, url: str) -> str:
        """Name a shard for messages, without what may be secret: of a command its first word, and which of the shards it is."""
        if not url.startswith("pipe:"):
            return shown_in(url)
        word, is_setting, _ = (
            url.removeprefix("pipe:").strip().partition(" ")[0].partition("=")
        )  # as in `TOKEN=... curl`
        rest = "=..." if is_setting else " ..."
        return f"pipe:{shown_in(word)}{rest} (shard {self._shards.index(url) + 1} of {len(self._shards)})"

    def _batches(self, windows: Iterable[tuple[_Frame, ...]]) -> Iterator[FrameWindows]:
        batch: list[tuple[_Frame, ...]] = []
        for window in windows:
            batch.append(window)
            if len(batch) == self._batch_windows:
                yield self._decoded(batch)
                batch = []
        if batch:
            yield self._decoded(batch)

    def _decoded(self, batch: Sequence[tuple[_Frame, ...]]) -> FrameWindows:
        pictures = [self._picture(frame) for window in batch for frame in window]
        if len(shapes := sorted({tuple(picture.shape) for picture in pictures})) > 1:
            (a, b) = shapes[:2]
            raise ShardError(f"one batch holds frames of {a[1]}x{a[0]} and {b[1]}x{b[0]}; give the pipeline a size")
        stacked = torch.stack(pictures)
        frames = stacked.reshape(len(batch), -1, *stacked.shape[1:])
        return FrameWindows(
            frames=frames.permute(0, 1, 4, 2, 3),
            keys=tuple(tuple(frame.key for frame in window) for window in batch),
            positions=np.full(len(batch), -1, np.int64),
        )

    def _picture(self, frame: _Frame) -> torch.Tensor:
        """Decode the picture, u8 [H, W, C]."""
        picture = decode(frame.data, self._color, name=frame.key)
        fits = self._size is None or picture.shape[:2] == self._size
        return torch.from_numpy(picture if fits or self._size is None else resized(picture, self._size))


def _frame_of(name: str, sample: Sample, place: int) -> _Frame | None:
    """Return the picture of a sample, and which frame of which clip it is; None where it has none."""
    suffix = picture_suffix(list(sample.members), where=f"{name}: sample {sample.key[:80]!a}")
    if suffix is None:
        return None
    clip, frame_index = _frame_in_json(name, sample) or numbered(sample.key) or (None, place)
    return _Frame(key=sample.key, clip=clip, frame_index=frame_index, data=sample.members[suffix])


def _frame_in_json(name: str, sample: Sample) -> tuple[str, int] | None:
    """Read clip and frame index from a json member like ours; None where there is none that has both."""
    if "json" not in sample.members:
        return None
    try:
        facts = parse_json(sample.members["json"])
    except ValueError as error:
        raise ShardError(f"{name}: the json of sample {sample.key!a} is none ({error}); rebuild the shard") from error
    if isinstance(facts, dict) and isinstance(facts.get("clip"), str) and type(facts.get("frame_index")) is int:
        return facts["clip"], facts["frame_index"]
    return None


def _samples(url: str, name: str, refused: list[Refused]) -> Iterator[Sample]:
    stream = _Stream(url, name)
    try:
        yield from iterate(stream, naming="webdataset", on_refused=refused.append)
        stream.finish()
    finally:
        stream.close()


class _Stream:
    """What webdataset opened under a URL, as the shard reader's TarSource; its size is not known before its end."""

    size_bytes = sys.maxsize
    version = ""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._place = 0
        self._is_over = False
        try:
            self._stream = webdataset.gopen(url)
        except (OSError, ValueError) as error:
            # Not "from error", here and below: a traceback would show what it says, the whole command or URL.
            raise ShardError(
                f"{name}: cannot be opened ({shown_in(str(error))}); check the URL, and the command if it is a pipe"
            ) from None

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes from a place that was not passed yet, fewer where the stream ends."""
        assert offset >= self._place
        while self._place < offset and self._next(min(offset - self._place, 1 << 20)):
            pass
        return self._next(size)

    def finish(self) -> None:
        """Read what follows the tar's end, so that a command ends by itself and its exit status tells whether it could do all."""
        while self._next(1 << 20):
            pass

    def close(self) -> None:
        """Give up; a command that has not ended fails at its next write, and nobody needs to know."""
        with suppress(OSError):
            self._stream.close()

    def _next(self, size: int) -> bytes:
        if self._is_over:
            return b""
        try:
            data: bytes = self._stream.read(size)
            if len(data) < size:
                self._is_over = True
                self._stream.close()  # which raises when a command failed
        except (OSError, ValueError) as error:
            status = getattr(self._stream, "status", None)  # of a command, which the error quotes whole
            reason = f"exit {status}" if status else shown_in(str(error))
            raise ShardError(
                f"{self.name}: cannot be read ({reason}); check the URL, and the command if it is a pipe"
            ) from None
        self._place += len(data)
        return data
