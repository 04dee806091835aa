"""The same windows for torch's own DataLoader, and for trainers that are built around one.

```python
dataset = WindowDataset(WindowReader(["lite/city/infrared-train/*.tar"]))
sampler = PositionSampler(dataset, batch_size=32)
loader = sampler.counted(DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=4))
for batch in loader:  # one epoch, or what is left of it after `loader.load_state_dict(state)`
    batch["frames"]  # u8 [b, T, C, H, W], this rank's share of 32
```

accelerate and Lightning rebuild a DataLoader that is handed to them, and share it out among the ranks. Ours is shared out already,
so it goes to them as what `counted` gives, or, without worker processes, as `Epochs`: sized and with a state, but of no type that
they know.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, NoReturn, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from torch import distributed
from torch.utils.data import BatchSampler, Dataset, DistributedSampler

from infraredcity.loader.reader import WindowReader
from infraredcity.loader.streams import STATE_FORMAT, Batches, check_share, check_state
from infraredcity.loader.windows import FrameWindows

_Batch = TypeVar("_Batch")


class WindowItem(TypedDict):
    """One window, or a batch of them, in the plain types that every collate function and device mover knows.

    `frames` is u8 [T, C, H, W] or [B, T, C, H, W]; `position` an int or i64 [B]; `replaced` a bool or bool [B], whether another
    window stands in for one that cannot be read; `keys` the keys of the T frames, or one such list for each window; and where the
    reader was asked for further `members`, their bytes by suffix, in lists as the keys.
    """

    frames: torch.Tensor
    position: int | torch.Tensor
    replaced: bool | torch.Tensor
    keys: list[Any]
    members: NotRequired[list[Any]]


class WindowDataset(Dataset[WindowItem]):
    """Map-style: positions of the endless stream -> windows. Safe to fork and to pickle; each process opens its own files.

    `dataset[p]` is one window, `dataset[[p, q, ...]]` a batch in one tensor (for DataLoader with `batch_size=None`). Random draws
    belong to positions: with `shuffle=True` instead of a `PositionSampler`, every epoch sees the same crops.

    Args:
        reader: Whose windows. Its threads are not used: DataLoader has processes.
    """

    def __init__(self, reader: WindowReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        """Return the number of windows per epoch; positions go on beyond it."""
        return self.reader.num_windows

    def __iter__(self) -> Iterator[WindowItem]:
        """Return the windows of the first epoch; without this, Python would count positions up for ever."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int | np.integer | Sequence[int] | np.ndarray) -> WindowItem:
        if isinstance(position, int | np.integer):
            return self.__getitems__([int(position)])[0]
        windows = self._read(position)
        item = WindowItem(
            frames=windows.frames,
            position=torch.from_numpy(windows.positions),
            replaced=torch.from_numpy(np.isin(windows.positions, windows.replaced)),
            keys=[list(keys) for keys in windows.keys],
        )
        if windows.members:
            item["members"] = [list(members) for members in windows.members]
        return item

    def __getitems__(self, positions: Sequence[int]) -> list[WindowItem]:
        """Read the windows of a batch together, one by one; DataLoader with a `batch_size` calls this."""
        windows = self._read(positions)
        items = [
            WindowItem(frames=frames, position=position, replaced=position in windows.replaced, keys=list(keys))
            for frames, position, keys in zip(windows.frames, windows.positions.tolist(), windows.keys, strict=True)
        ]
        for item, members in zip(items, windows.members, strict=False):
            item["members"] = list(members)
        return items

    def _read(self, positions: Sequence[int] | np.ndarray) -> FrameWindows:
        if len(positions) and min(positions) < 0:
            raise IndexError(f"positions of the stream begin at 0, got {min(positions)}")
        return self.reader.read_here(positions)


class PositionSampler(DistributedSampler[list[int]], BatchSampler):
    """One rank's positions, a list for each batch, from any position on; for `DataLoader(sampler=..., batch_size=None)`.

    A pass over it is an epoch: it ends where the position comes to a multiple of `len(sampler)` batches, so after a resume in the
    middle it is the rest. The next pass goes on behind it.

    It is a DistributedSampler by type, which tells Lightning that the ranks are told apart already, and a BatchSampler, since
    accelerate loses a sampler without a word if it is none.

    Args:
        dataset: Whose positions.
        batch_size: Windows of a batch over all ranks.
        rank: Which of the ranks; without it torch.distributed is asked when a pass begins, and a program of its own is rank 0 of 1.
        world_size: How many there are; given together with `rank`.
        start_position: Where in the stream to begin.
        num_batches: Batches of an epoch; by default as many as it takes to show all windows.

    Raises:
        ValueError: The batch is smaller than the world, or a number is out of range.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        *,
        batch_size: int,
        rank: int | None = None,
        world_size: int | None = None,
        start_position: int = 0,
        num_batches: int | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError(f"give rank and world_size together or neither, got {rank} and {world_size}")
        if start_position < 0 or (num_batches is not None and num_batches < 1):
            raise ValueError(
                f"start_position must be at least 0 and num_batches at least 1, got {start_position} and {num_batches}"
            )
        check_share(batch_size, rank or 0, world_size or 1)
        super().__init__(dataset, num_replicas=world_size or 1, rank=rank or 0)
        self.position = start_position
        self.batch_size = batch_size
        self.num_batches = num_batches or -(-len(dataset) // batch_size)
        self._reader = dataset.reader
        self._asks_for_rank = rank is None
        self._has_begun = self._is_counted = False
        self._given_out = start_position

    @property
    def sampler(self) -> NoReturn:  # type: ignore[override]
        """Refuse: there is none inside. A program that asks for it would deal our batches out to the ranks once more and lose most.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "PositionSampler has shared its batches out among the ranks already, and accelerate's prepare, or another trainer, is "
            "about to do it again; give it sampler.counted(loader) in the place of the DataLoader"
        )

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = self._place()
        self._has_begun = True
        if not self._is_counted:
            self.position = max(self.position, self._given_out)
        first = self.position
        behind = first + _batches_left(first, self.batch_size, self.num_batches) * self.batch_size
        for position in range(first, behind, self.batch_size):
            share = self._reader.order.share(position, batch_size=self.batch_size, rank=rank, world_size=world_size)
            # Not behind the loop: a consumer that knows the length asks for nothing after the last batch.
            if position + self.batch_size == behind:
                self._given_out = behind
            yield share.tolist()

    def counted(self, batches: Iterable[_Batch]) -> "CountedBatches[_Batch]":
        """Wrap a loader over this sampler so that its batches are counted when they are handed over; give a trainer this.

        A DataLoader asks a sampler for more than it has delivered, so only the consumer of the batches knows where the stream is.
        """
        return CountedBatches(self, batches)

    def count(self) -> None:
        """Count one more batch as taken; for programs that must have the DataLoader itself, and so cannot use `counted`."""
        self._is_counted = True
        self.position += self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, since the epoch follows from the position. Trainers call this on every DistributedSampler."""

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream, as `Batches.state_dict`; the two understand each other.

        Raises:
            ValueError: Batches were given out that nobody counted.
        """
        if self._has_begun and not self._is_counted:
            raise ValueError(
                "nobody counted what was taken from this sampler, so its place in the stream is not known; "
                "iterate over sampler.counted(loader)"
            )
        return self._state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the next pass begins there.

        Raises:
            ManifestError: The state is of other data, of another seed, or of other windows.
        """
        check_state(state, self._state())
        self.position = self._given_out = int(state["position"])

    def _place(self) -> tuple[int, int]:
        """Ask for rank and world size, as late as possible: trainers build their loaders before their processes know each other."""
        if self._asks_for_rank and distributed.is_available() and distributed.is_initialized():
            self.rank, self.num_replicas = distributed.get_rank(), distributed.get_world_size()
            check_share(self.batch_size, self.rank, self.num_replicas)
        return self.rank, self.num_replicas

    def _state(self) -> dict[str, Any]:
        return {"format": STATE_FORMAT, "position": self.position, "streams": [self._reader.stream]}


class CountedBatches(Generic[_Batch]):
    """What `PositionSampler.counted` gives: an epoch for each `for`, or the rest of one, and a state that is what was handed over.

    Args:
        sampler: Whose positions.
        batches: A DataLoader over that sampler.
    """

    def __init__(self, sampler: PositionSampler, batches: Iterable[_Batch]) -> None:
        self._sampler = sampler
        self._batches = batches

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[_Batch]:
        for batch in self._batches:
            self._sampler.count()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return what `PositionSampler.state_dict` does."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as `PositionSampler.load_state_dict` does."""
        self._sampler.load_state_dict(state)


class Epochs(Generic[_Batch]):
    """The endless stream of the decoding threads in the shape that trainers expect: sized, an epoch for each `for`, with a state.

    Lightning takes one batch ahead of its training where it does not know the length, so a checkpoint of `batches(...)` itself
    would go on one batch too far; give it this. It keeps the state in its checkpoints, and `fit(ckpt_path=...)` goes on from there.

    Args:
        stream: What `batches`, `unpaired_batches` or `domain_batches` gave.
        num_batches: Batches of an epoch; -(-reader.num_windows // batch_size) shows every window. After a resume in the middle the
            first epoch is the rest of it.
    """

    def __init__(self, stream: Batches[_Batch], *, num_batches: int) -> None:
        if num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        self.stream = stream
        self.num_batches = num_batches

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[_Batch]:
        return islice(self.stream, _batches_left(self.stream.position, self.stream.batch_size, self.num_batches))

    def state_dict(self) -> dict[str, Any]:
        """Return what `Batches.state_dict` does."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as `Batches.load_state_dict` does."""
        self.stream.load_state_dict(state)


def _batches_left(position: int, batch_size: int, num_batches: int) -> int:
    """Count the batches from a position to the end of its epoch, where epochs are of `num_batches`."""
    epoch_positions = num_batches * batch_size
    return -(-(epoch_positions - position % epoch_positions) // batch_size)
