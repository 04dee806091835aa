"""Which process of a training this is, where it computes, and what the processes compute together."""

import inspect
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roma.errors import DistributedError
from roma.world.pulse import Pulse


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a training."""

    rank: int
    """This process's number."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Where this one computes."""
    pulse: Pulse | None = None
    """Tells the others that this one lives; None in a world of one."""

    @property
    def is_leader(self) -> bool:
        """Whether this process owns the console and the run folder."""
        return self.rank == 0

    def beat(self, step: int) -> None:
        """Say which step this process is at, for the message of a run that stops; takes less than a microsecond."""
        if self.pulse is not None:
            self.pulse.beat(step)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over all ranks, or itself in a world of one; it must not outlive `joined`."""
        if self.world_size == 1:
            return module
        wrapper = nn.parallel.DistributedDataParallel
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Our buffers are constant blur kernels: nothing to keep in step. Torch 2.13 renamed the option that says so.
        renamed = "forward_sync_buffers" in inspect.signature(wrapper).parameters
        keep_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        return wrapper(module, device_ids=ids, gradient_as_bucket_view=True, **keep_buffers)

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor of any shape over ranks; a collective."""
        return values if self.world_size == 1 else self.sum(values) / self.world_size

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor of any shape over ranks; a collective."""
        if self.world_size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def texts(self, text: str) -> list[str]:
        """Gather a text of each rank, by rank; a collective."""
        if self.world_size == 1:
            return [text]
        texts: list[Any] = [None] * self.world_size
        dist.all_gather_object(texts, text)
        return [str(each) for each in texts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


def check_batch(batch_size: int, world_size: int) -> None:
    """Raise a DistributedError where some rank would get nothing to train on."""
    if batch_size < world_size:
        raise DistributedError(
            f"batch_size {batch_size} cannot feed {world_size} processes; "
            f"use --set batch_size={world_size} or more, or fewer processes"
        )


def rank_of_environment() -> tuple[int, int]:
    """Return (rank, world size) as torchrun set them, or (0, 1)."""
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise DistributedError(f"RANK and WORLD_SIZE must be numbers ({error}); start through torchrun") from error


def use_threads() -> None:
    """Share this machine's cores among its processes, and let equal runs give equal numbers."""
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))


def device_of(device: str) -> torch.device:
    """Choose where this process computes.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        DistributedError: There is no such device for this process.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DistributedError(
            "--device cuda: torch finds no CUDA device here; use --device cpu or a CUDA build of torch"
        )
    if device == "cpu" or not has_cuda:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise DistributedError(
            f"process {local_rank} of this machine has no GPU of its own: {torch.cuda.device_count()} found; "
            "start fewer processes"
        )
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place
