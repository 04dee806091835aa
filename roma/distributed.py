"""Which process of a training this is, and what the processes say to each other."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roma.errors import DistributedError

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a training.

    Attributes:
        rank: This process's number.
        world_size: How many there are.
        device: Where this one computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_leader(self) -> bool:
        """Whether this process owns the console and the run folder."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all ranks, or itself in a world of one."""
        if self.world_size == 1:
            return module
        wrapper = nn.parallel.DistributedDataParallel
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Our buffers are constant blur kernels: nothing to keep in step. Torch 2.13 renamed the option that says so.
        renamed = "forward_sync_buffers" in inspect.signature(wrapper).parameters
        keep_buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        return wrapper(module, device_ids=ids, gradient_as_bucket_view=True, **keep_buffers)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks of a tensor of any shape; a collective."""
        return values if self.world_size == 1 else self.sum(values) / self.world_size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of a tensor of any shape; a collective."""
        if self.world_size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def texts(self, text: str) -> list[str]:
        """What each rank says, by rank; a collective."""
        if self.world_size == 1:
            return [text]
        said: list[Any] = [None] * self.world_size
        dist.all_gather_object(said, text)
        return [str(each) for each in said]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


def check_batch(batch_size: int, world_size: int) -> None:
    """DistributedError when some rank would get nothing to train on."""
    if batch_size < world_size:
        raise DistributedError(
            f"batch_size {batch_size} cannot feed {world_size} processes; "
            f"use --set batch_size={world_size} or more, or fewer processes"
        )


def rank_of_environment() -> tuple[int, int]:
    """(rank, world size) as torchrun set them, or (0, 1)."""
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise DistributedError(f"RANK and WORLD_SIZE must be numbers ({error}); start through torchrun") from error


def use_threads() -> None:
    """Share this machine's cores among its processes, and let equal runs give equal numbers."""
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))


@contextmanager
def joined(device: str) -> Iterator[World]:
    """This process's place in the world, left again at the end: nccl on GPUs, gloo on CPUs.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        DistributedError: The device is missing, or the other processes cannot be reached.
    """
    rank, world_size = rank_of_environment()
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DistributedError(
            "--device cuda: torch finds no CUDA device here; use --device cpu or a CUDA build of torch"
        )
    if device == "cpu" or not has_cuda:
        place = torch.device("cpu")
    else:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise DistributedError(
                f"process {local_rank} of this machine has no GPU of its own: {torch.cuda.device_count()} found; "
                "start fewer processes"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    if world_size == 1:
        yield World(rank=0, world_size=1, device=place)
        return
    try:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"rank {rank}: the {world_size} processes cannot meet ({error}); start through torchrun"
        ) from error
    try:
        yield World(rank=rank, world_size=world_size, device=place)
    finally:
        dist.destroy_process_group()
