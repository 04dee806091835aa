"""How the processes of a training meet, and what an operator reads when one of them is lost."""

import fcntl
import gc
import logging
import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Before there is a process group: DDP imports it later, and its functions then hold that group as a default value for ever.
import torch.distributed.nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not mark its exports
from torch.distributed.rendezvous import rendezvous

from roma.errors import DistributedError
from roma.world.pulse import BEAT_S, SILENT_BEATS, Pulse
from roma.world.world import World, device_of, rank_of_environment

TIMEOUT_S = 600.0
"""How long a rank waits for the others by default."""


logger = logging.getLogger(__name__)


@contextmanager
def joined(device: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """Join the world and yield this process's place in it, left again at the end: nccl on GPUs, gloo on CPUs.

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
    """Whether a collective or the store failed, in torch's types or, from gloo, only in words."""
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
    """Count how often torchrun has started the ranks before.

    Torch 2.13 lets all starts on a machine meet in one store, where a rank may find the addresses of the start before. Several
    machines count their starts apart: docs/clusters.md gives them a new store each time.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if _num_machines() == 1 else 0


def _num_machines() -> int:
    """Count the torchruns; 1 without torchrun."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _address_of(probe: socket.socket, interface: str) -> str:
    """Look up the IPv4 address of an interface; "" when it has none."""
    siocgifaddr = 0x8915  # linux/sockios.h
    try:
        answer = fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return ""
    return socket.inet_ntoa(answer[20:24])
