"""Which process of a training this is, what the processes say to each other, and who is to blame when they stop."""

import fcntl
import gc
import inspect
import json
import logging
import os
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Before there is a process group: DDP imports it later, and its functions then hold that group as a default value for ever.
import torch.distributed.nn
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # torch does not mark its exports
from torch.distributed.rendezvous import rendezvous

from roma.errors import DistributedError

TIMEOUT_S = 600.0
"""How long a rank waits for the others by default."""
BEAT_S = 1.0
"""How often a rank says that it lives, in a world of up to 64; rarer in larger ones, since each reads all the others."""
SILENT_BEATS = 4.0
"""A rank that was not heard for so many beats is gone."""
_NAMED = 4
"""How many missing ranks a message names."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a training.

    Attributes:
        rank: This process's number.
        world_size: How many there are.
        device: Where this one computes.
        pulse: Tells the others that this one lives; None in a world of one.
    """

    rank: int
    world_size: int
    device: torch.device
    pulse: "Pulse | None" = None

    @property
    def is_leader(self) -> bool:
        """Whether this process owns the console and the run folder."""
        return self.rank == 0

    def beat(self, step: int) -> None:
        """Say which step this process is at, for the message of a run that stops; takes less than a microsecond."""
        if self.pulse is not None:
            self.pulse.beat(step)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all ranks, or itself in a world of one; must not outlive `joined`."""
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


@dataclass(kw_only=True, slots=True)
class _Heard:
    """What was heard of a rank; times by this process's clock, so that the machines' clocks need not agree.

    Attributes:
        line: What it wrote last.
        step: The step it was at.
        reason: Why it left; "" while it runs.
        to_blame: Whether it left for a reason of its own, not because it missed others.
        heard_at: When its line last changed.
        step_at: When its step last changed.
    """

    line: bytes
    step: int
    reason: str
    to_blame: bool
    heard_at: float
    step_at: float


class Pulse:
    """What ranks tell each other of themselves beside the collectives, so that those who wait can name whom they wait for.

    A thread writes a line about this rank into the store at every beat, and reads the others'. The main thread never talks to the
    store, whose machine may be the one that is gone.

    Args:
        store: Keys of this run alone.
        rank: This rank.
        hosts: Where each rank runs.
        store_name: Where the store is, for messages.
        store_rank: The rank whose process keeps the store; None when it is torchrun's.
        beat_s: Seconds between two beats.
        hang_s: For backends whose waiting cannot be ended from within (nccl): when this rank has been at one step for so long and
            another is to blame, `on_hang` is called with the message. 0: never.
        on_hang: Called from a thread of its own; should end the process.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        hosts: Sequence[str],
        store_name: str,
        store_rank: int | None = None,
        beat_s: float = BEAT_S,
        hang_s: float = 0.0,
        on_hang: Callable[[str], None] | None = None,
    ) -> None:
        self.rank = rank
        self._store = store
        self._hosts = list(hosts)
        self._store_name = store_name
        self._store_rank = store_rank
        self._beat_s = beat_s
        self._hang_s = hang_s
        self._on_hang = on_hang
        self._count = 0
        self._own = (-1, time.monotonic())
        self._reason, self._to_blame = "", False
        self._heard: list[_Heard] = []
        self._store_at = time.monotonic()
        self._store_lost = False
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []
        self._tell()

    def start(self) -> None:
        """Begin to listen; only after every rank has made its Pulse, whose first line would else be waited for."""
        self._listen()
        self._threads = [threading.Thread(target=self._run, name="pulse", daemon=True)]
        if self._hang_s and self._on_hang is not None:
            self._threads.append(threading.Thread(target=self._watch, name="pulse-watch", daemon=True))
        for thread in self._threads:
            thread.start()

    def beat(self, step: int) -> None:
        """This rank is at `step` now."""
        self._own = (step, time.monotonic())

    def leave(self, reason: str = "", *, to_blame: bool = False) -> None:
        """End the threads, and let the others read why.

        Args:
            reason: Why, where it is not the run's end; "" writes nothing.
            to_blame: The reason lies in this rank, not in others that it misses.
        """
        self._reason, self._to_blame = reason, to_blame
        self._leaving.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._beat_s)  # a store that does not answer keeps its thread for ever
        if to_blame and self._store_rank == self.rank:
            time.sleep(2 * self._beat_s)  # the store ends with this process: let the others read the reason

    def blame(self) -> str:
        """Who keeps this rank waiting, as half a sentence; takes some beats, until silence can be told from a pause."""
        silent_s = SILENT_BEATS * self._beat_s
        deadline = time.monotonic() + silent_s + 1.5 * self._beat_s
        while True:
            found = self._gone()
            if found or time.monotonic() > deadline:
                return found or self._behind() or self._no_one()
            time.sleep(self._beat_s / 10)

    def _gone(self) -> str:
        """The ranks that have left or are silent, or that the store is; "" when there are none."""
        now = time.monotonic()
        ended = [
            f"{self._name(rank)} stopped {_at(each.step)}: {each.reason}"
            for rank, each in enumerate(self._heard)
            if rank != self.rank and each.to_blame
        ]
        if ended:
            return _listed(ended)
        silent_s = SILENT_BEATS * self._beat_s
        if self._store_lost or now - self._store_at > silent_s:
            heard = f"last heard {now - self._store_at:.0f} s ago"
            if self._store_rank is None:
                return (
                    f"the store at {self._store_name} is gone too: its machine has died or cannot be reached; {heard}"
                )
            keeper = self._store_rank
            step = self._heard[keeper].step
            return f"{self._name(keeper)} is gone, and with it the store at {self._store_name}: {heard} {_at(step)}"
        gone = [
            f"{self._name(rank)} is gone: last heard {now - each.heard_at:.0f} s ago {_at(each.step)}"
            for rank, each in enumerate(self._heard)
            if rank != self.rank and not each.reason and now - each.heard_at > silent_s
        ]
        return _listed(gone)

    def _behind(self) -> str:
        """The ranks that live and are at an earlier step than this one."""
        now = time.monotonic()
        step = self._own[0]
        return _listed(
            [
                f"{self._name(rank)} is alive, but has been {_at(each.step)} for {now - each.step_at:.0f} s"
                for rank, each in enumerate(self._heard)
                if rank != self.rank and each.step < step
            ]
        )

    def _no_one(self) -> str:
        return (
            f"all {len(self._hosts)} ranks are alive and {_at(self._own[0])}, so one of them hangs in it or the network between "
            "them fails"
        )

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"

    def _tell(self) -> None:
        self._count += 1
        line = json.dumps([self._count, self._own[0], self._reason, self._to_blame])
        self._store.set(f"rank-{self.rank}", line)

    def _listen(self) -> None:
        lines = self._store.multi_get([f"rank-{rank}" for rank in range(len(self._hosts))])
        now = time.monotonic()
        for rank, line in enumerate(lines):
            before = self._heard[rank] if rank < len(self._heard) else None
            if before is not None and before.line == line:
                continue
            _, step, reason, to_blame = json.loads(line)
            step_at = before.step_at if before is not None and before.step == step else now
            heard = _Heard(line=line, step=step, reason=reason, to_blame=to_blame, heard_at=now, step_at=step_at)
            self._heard[rank : rank + 1] = [heard]
        self._store_at = now

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._leaving.wait(self._beat_s)
            if is_last and not self._reason:
                return
            try:
                self._tell()
                self._listen()
            except RuntimeError:  # the store is gone, which at a run's end is as it should be
                self._store_lost = True
                return

    def _watch(self) -> None:
        assert self._on_hang is not None
        while not self._leaving.wait(self._beat_s):
            step, since = self._own
            if step < 0 or time.monotonic() - since < self._hang_s:
                continue
            found = self._gone() or self._behind()
            if found:
                self._on_hang(f"rank {self.rank}, step {step}: waited {self._hang_s:g} s for the others; {found}")
                return


def _at(step: int) -> str:
    return f"at step {step}" if step >= 0 else "before its first step"


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more


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
def joined(device: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """This process's place in the world, left again at the end: nccl on GPUs, gloo on CPUs.

    A collective that fails inside the block, because another rank is dead, hangs or cannot be reached, becomes a DistributedError
    that names that rank.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        timeout_s: How long this rank waits for the others, when they meet and at every collective.

    Raises:
        DistributedError: The device is missing, or the other processes cannot be reached or are lost on the way.
    """
    rank, world_size = rank_of_environment()
    place = device_of(device)
    if world_size == 1:
        yield World(rank=0, world_size=1, device=place)
        return
    pulse = _meet(rank, world_size, place, timeout_s)
    try:
        yield World(rank=rank, world_size=world_size, device=place, pulse=pulse)
        dist.barrier()  # the store may end with rank 0, so nobody leaves while another still speaks
    except BaseException as error:
        blamed = pulse.blame() if _is_of_a_collective(error) else ""
        pulse.leave(blamed or f"{type(error).__name__}: {_first_line(error)}", to_blame=not blamed)
        if place.type == "cpu":  # nccl's own end could wait for kernels that never finish
            _leave_group()
        if not blamed:
            raise
        raise DistributedError(
            f"rank {rank}: the others cannot be waited for ({_first_line(error)}); {blamed}; "
            "start the same command again to go on from the newest checkpoint"
        ) from error
    pulse.leave()
    _leave_group()


_groups_in_use: list[Any] = []
"""Process groups that were left while something still held them."""


def _leave_group() -> None:
    """End the process group, and with it gloo's threads unless something still holds the group.

    A thread that lets go of its last tensor while the interpreter goes down aborts the program ("terminate called without an active
    exception"), so they should be gone by then. Whoever drops the last reference waits for them. That must be Python, which lets
    them have the interpreter meanwhile: DDP's reducer would wait with it locked, for a thread that may wait for the lock.
    """
    gc.collect()  # what wraps modules may be part of a cycle
    group = dist.group.WORLD
    dist.destroy_process_group()
    if sys.getrefcount(group) > 2:  # ours, and the argument of getrefcount
        _groups_in_use.append(group)


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


def _meet(rank: int, world_size: int, place: torch.device, timeout_s: float) -> Pulse:
    """Form the process group and begin to listen to the other ranks."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdigit():
        raise DistributedError(
            f"rank {rank}: MASTER_ADDR {host!r} and MASTER_PORT {port!r} do not say where the {world_size} processes meet; "
            "start through torchrun"
        )
    uses_nccl = place.type == "cuda"
    if not uses_nccl:
        _use_interface_towards(host)
    try:
        # nccl's watchdog aborts the process without a word about who is missing: ours speaks first.
        timeout = timedelta(seconds=timeout_s + (4 * SILENT_BEATS * BEAT_S if uses_nccl else 0))
        store = next(rendezvous("env://", rank, world_size, timeout=timeout))[0]
        store.set_timeout(timeout)
        group_store = PrefixStore(f"start-{_num_starts()}", store)
        backend = "nccl" if uses_nccl else "gloo"
        dist.init_process_group(backend, store=group_store, rank=rank, world_size=world_size, timeout=timeout)
        greetings: list[Any] = [None] * world_size
        dist.all_gather_object(greetings, [secrets.token_hex(8), socket.gethostname()])
        # A connection of its own: the process group's one is locked while it waits.
        own = TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
        has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        pulse = Pulse(
            PrefixStore(f"pulse-{greetings[0][0]}", own),
            rank=rank,
            hosts=[greeting[1] for greeting in greetings],
            store_name=f"{host}:{port}",
            store_rank=None if has_agent else 0,
            beat_s=BEAT_S * max(1.0, world_size / 64),
            hang_s=timeout_s if uses_nccl else 0.0,
            on_hang=_end_with,
        )
        dist.barrier()
        pulse.start()
    except (RuntimeError, ValueError) as error:
        if dist.is_initialized() and not uses_nccl:
            dist.destroy_process_group()
        raise DistributedError(
            f"rank {rank} on {socket.gethostname()}: the {world_size} processes cannot meet at {host}:{port} "
            f"({_first_line(error)}); look whether all were started within {timeout_s:g} s and reach that address"
        ) from error
    return pulse


def _end_with(message: str) -> None:
    """End a process whose main thread waits in a kernel for ever."""
    logger.critical("%s; start the same command again to go on from the newest checkpoint", message)
    logging.shutdown()
    os._exit(1)


def _is_of_a_collective(error: BaseException) -> bool:
    """Whether a collective or the store failed, in torch's types or, from gloo, in words alone."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Socket closed", "NCCL")
    return type(error) is RuntimeError and any(word in str(error) for word in words)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # gloo begins with "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] " and goes on with good wishes.
    line = lines[0]
    if line.startswith("[/") and "] " in line:
        line = line.partition("] ")[2].partition(". ")[0]
    return line


def _use_interface_towards(host: str) -> None:
    """Let gloo listen on the interface that faces rank 0.

    By itself gloo takes the one to which this machine's name resolves: often 127.0.1.1, which no other machine reaches.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing; the kernel picks the way
        address = probe.getsockname()[0]
        if address.startswith("127.") and not host.startswith(("127.", "localhost")) and _num_machines() > 1:
            logger.warning(
                "%s is %s on this machine, which no other machine reaches; give each machine's torchrun --local-addr=ADDRESS",
                host, address,
            )  # fmt: skip
        for _, name in socket.if_nameindex():
            if _address_of(probe, name) == address:
                os.environ["GLOO_SOCKET_IFNAME"] = name
                return


def _num_starts() -> int:
    """How often torchrun has started the ranks before.

    Torch 2.13 lets all starts on a machine meet in one store, where a rank may find the addresses of the start before. Several
    machines count their starts apart: docs/clusters.md gives them a new store each time.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if _num_machines() == 1 else 0


def _num_machines() -> int:
    """How many torchruns there are; 1 without torchrun."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _address_of(probe: socket.socket, interface: str) -> str:
    """The IPv4 address of an interface; "" when it has none."""
    siocgifaddr = 0x8915  # linux/sockios.h
    try:
        answer = fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return ""
    return socket.inet_ntoa(answer[20:24])
