"""Run segments on a Ray cluster: a task for each few neighbouring segments, which runs a watched worker process on its node.

A task writes shards and segment records where all nodes see them, as a part of a plan does, and sends back the heads of its
records; neither pictures nor indexes travel. Ray runs a task again whose node or process died; it goes on behind the last record.
"""

import logging
import os
import re
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from infraredcity.errors import InfraredCityError, MissingExtraError, OutputError, RemoteError, RemoteMissingError
from infraredcity.extraction import segment_record
from infraredcity.extraction.executors.local import LocalExecutor
from infraredcity.extraction.executors.worker import Failed
from infraredcity.extraction.job import ExtractJob, pending, read_skipped, versions_here
from infraredcity.extraction.segment_record import SegmentHead
from infraredcity.extraction.segments import Segment
from infraredcity.extraction.spec import read_spec
from infraredcity.files import traffic, urls
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.traffic import Traffic
from infraredcity.video import choose_decoder

_MAX_SEGMENTS = 16
"""Most segments of a task: its progress is reported, and its core free for others, when all of them are done."""
_TASKS_PER_SLOT = 4
"""Tasks for each one that runs at a time: when the last ones end, a node has waited for a quarter of its work at most."""
_MAX_DEATHS = 5
"""How often Ray runs a task again; machines that are lent may be taken away several times."""
_MAX_CUTS = 2
"""How often a task is run again that could not reach another machine within its deadline, perhaps on a node that can."""
_CHECK_S = 5.0
"""How long to wait for a task before checking again how much room there is."""
_ROOM_S = 300.0
"""How long to wait for a node that can run a task at all; a cluster that grows by itself needs minutes for one."""
_CONNECT_S = 10.0
_END_S = 20.0
_VISIBLE_S = 120.0
"""A network file system shows a new file of another machine late: by the minute for which it keeps what a folder held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a task."""

    heads: tuple[SegmentHead, ...]
    """The heads of its segments' records, in order."""
    moved: Traffic
    """What the task moved from and to other machines."""
    failed: Failed | None = None
    """The error that ended it, if one did."""


@dataclass(slots=True, kw_only=True)
class _Share:
    """Segments that one task writes, and how often it could not reach another machine."""

    todo: tuple[Segment, ...]
    num_cuts: int = 0


class RayExecutor:
    """Writes segments in tasks on a running Ray cluster, one core each; an `executors.local.Executor`.

    All nodes need these packages in the same versions, and see the clips and the output under the names that they have here.

    Args:
        address: The cluster, as "HOST:PORT", "ray://HOST:PORT" or "auto" for one that this machine is a node of; None takes what
            RAY_ADDRESS says, else "auto".
        num_gpus: Fraction of a GPU that each task gets.
        max_in_flight: Tasks at a time; None takes as many as the cluster has room for, also when it grows.
        room_s: Seconds to wait while no node has room for a task, busy ones not counted.

    Raises:
        MissingExtraError: Ray is not installed.
        RemoteError: There is no such cluster, or it is of another version.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        num_gpus: float = 0.0,
        max_in_flight: int | None = None,
        room_s: float = _ROOM_S,
    ) -> None:
        self._ray = _import_ray()
        _connect(address or os.environ.get("RAY_ADDRESS") or "auto")
        self._num_gpus = num_gpus
        self._max_in_flight = max_in_flight
        self._room_s = room_s
        # Spread, since a node's disk and network are shared by the tasks on it.
        options = {"num_cpus": 1, "num_gpus": num_gpus, "max_retries": _MAX_DEATHS, "scheduling_strategy": "SPREAD"}
        self._write = self._ray.remote(**options)(write_share)

    def __call__(
        self, job: ExtractJob, todo: Sequence[Segment], *, deadline_s: float, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        """Write the segments, see `executors.local.Executor`; frames are reported when their task is done.

        Raises:
            InfraredCityError: The first that ends a task, behind the name of its node; OutputError when tasks die again and again,
                or what they wrote is not visible here; RemoteError when no node has room for a task.
        """
        job_ref = self._ray.put(_with_absolute_paths(job))
        waiting = deque(_shares(job, todo, self._num_slots()))
        under_way: dict[Future[Answer], tuple[Any, _Share]] = {}
        had_room = time.monotonic()
        try:
            while waiting or under_way:
                slots = self._num_slots()
                if slots > 0:
                    had_room = time.monotonic()
                elif time.monotonic() - had_room > self._room_s:
                    raise self._no_room()
                while waiting and len(under_way) < (self._max_in_flight or max(slots, 1)):
                    share = waiting.popleft()
                    ref = self._write.remote(job_ref, share.todo, deadline_s)
                    under_way[ref.future()] = (ref, share)
                # Not ray.wait, in which a signal whose handler raises anything but KeyboardInterrupt ends as a SystemError.
                for future in futures.wait(under_way, min(_CHECK_S, self._room_s), futures.FIRST_COMPLETED).done:
                    _, share = under_way.pop(future)
                    answer = _answer(job, future)
                    traffic.count_elsewhere(answer.moved)
                    if answer.failed is None:
                        _check_records(job, share.todo, answer.heads)
                        on_frames(sum(head.shard.num_samples for head in answer.heads if head.shard is not None))
                    elif _may_help_elsewhere(answer.failed.error) and share.num_cuts < _MAX_CUTS:
                        share.num_cuts += 1
                        waiting.append(share)
                    else:
                        answer.failed.raise_again()
        finally:
            # None may still write where its leftovers are about to be removed.
            for ref, _ in under_way.values():
                self._ray.cancel(ref)
            futures.wait(under_way, _END_S)
        _await_records(job, todo)
        return replace(job, skipped=read_skipped(job.folder))

    def _num_slots(self) -> int:
        """Count the tasks that the cluster can run at a time now, if nobody else uses it."""
        slots = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                cpus, gpus = (node["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
                slots += int(min(cpus, gpus / self._num_gpus) if self._num_gpus else cpus)
        return slots

    def _no_room(self) -> RemoteError:
        gpus = f" and {self._num_gpus:g} GPU" if self._num_gpus else ""
        return RemoteError(
            f"Ray cluster: no node has a CPU{gpus} for a task, for {self._room_s:g} s; add nodes"
            f"{' or lower --ray-gpus' if gpus else ''}, then run the same command again to go on"
        )


def _may_help_elsewhere(error: InfraredCityError | str) -> bool:
    """Return whether another node, or another moment, may have what this one could not read."""
    return isinstance(error, RemoteError) and not isinstance(error, RemoteMissingError)


def write_share(job: ExtractJob, todo: tuple[Segment, ...], deadline_s: float) -> Answer:
    """Write what is outstanding of some segments, on a node.

    Args:
        job: From `job.bind_folder`.
        todo: Some of its segments.
        deadline_s: Seconds after which a decoder that gives no frame counts as stuck.

    Returns:
        The heads of the records, or the error that ended it: Ray would wrap that, or could not carry it.
    """
    before = traffic.traffic()
    heads: tuple[SegmentHead, ...] = ()
    failed = None
    try:
        heads = _written(job, todo, deadline_s)
    except InfraredCityError as error:
        error.args = (f"node {socket.gethostname()}: {error}",)
        failed = Failed(error=error)
    except Exception:
        failed = Failed(error=traceback.format_exc())
    return Answer(heads=heads, moved=traffic.traffic() - before, failed=failed)


def _written(job: ExtractJob, todo: tuple[Segment, ...], deadline_s: float) -> tuple[SegmentHead, ...]:
    _check_node(job)
    # What an earlier try of this task found, on another node.
    job = replace(job, segments=todo, skipped=read_skipped(job.folder))
    left = pending(job)
    if left:
        with LocalExecutor(1, cores=1) as local:
            local(job, left, deadline_s=deadline_s)
    heads = segment_record.read_heads(job.folder, [segment.number for segment in todo])
    return tuple(head for _, head in heads if head is not None)


def _check_node(job: ExtractJob) -> None:
    """Check that this node would write the right bytes to the right place; OutputError or VideoDecodeError if not."""
    spec = read_spec(job.folder)
    if spec is None or spec.identity != job.identity:
        what = "no extract.json" if spec is None else "the extract.json of another job"
        raise OutputError(
            f"{job.folder}: holds {what} on this node, expected that of this run; put --out on a disk that all nodes share "
            "under one name, or behind a URL"
        )
    job.clip.existing_paths()
    if job.device != "cpu":
        choose_decoder(job.video, job.decoder, job.device)  # raises if it cannot
    here = versions_here(job.decoder)
    for name, version in job.versions.items():
        if here.get(name) != version:
            raise OutputError(
                f"{name} is {here.get(name)} here, expected {version}; other versions may give other bytes, so install the same on "
                "all nodes"
            )


def _import_ray() -> Any:
    """Load Ray, which comes as an extra; MissingExtraError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", extra="ray", needed_for="--executor ray") from error
    return ray


def _connect(address: str) -> None:
    """Make this process a driver of the cluster, unless it is one already."""
    ray = _import_ray()
    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            raise ConnectionError('"local" would start a new one on this machine only')
        if address != "auto":
            _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds; they all mean that there is no such cluster for us
        cause = error.__cause__ or error
        words = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        reason = " ".join(words.split()).rstrip(".")
        raise RemoteError(
            f"Ray cluster {urls.shown(address)}: cannot be used: {reason}; name one that runs with --ray-address or RAY_ADDRESS, "
            "or start one with: ray start --head"
        ) from error
    finally:
        # Ray puts a handler of its own there, which ends the process with another exit code.
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _check_reachable(address: str) -> None:
    """Connect once; ConnectionError, OSError or ValueError where nothing listens. Ray itself would try for minutes and print."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("expected HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _with_absolute_paths(job: ExtractJob) -> ExtractJob:
    """Return the job with paths that mean the same in any process."""
    files = tuple(replace(file, path=_absolute(file.path)) for file in job.video.files)
    return replace(
        job,
        folder=_absolute(job.folder),
        clip=replace(job.clip, paths=tuple(_absolute(path) for path in job.clip.paths)),
        video=replace(job.video, files=files),
    )


def _absolute(path: AnyPath) -> AnyPath:
    return path if isinstance(path, RemotePath) else path.absolute()


def _shares(job: ExtractJob, todo: Sequence[Segment], slots: int) -> list[_Share]:
    """Split the segments into shares of one size; all in one where each would decode what comes before it."""
    if not job.can_start_anywhere:
        return [_Share(todo=tuple(todo))]
    size = min(max(1, len(todo) // (_TASKS_PER_SLOT * max(slots, 1))), _MAX_SEGMENTS)
    return [_Share(todo=tuple(todo[start : start + size])) for start in range(0, len(todo), size)]


def _answer(job: ExtractJob, future: Future[Answer]) -> Answer:
    """Return the answer of a task that ended; OutputError where it could not begin, or Ray gave up running it."""
    ray = _import_ray()
    try:
        return future.result()
    except ray.exceptions.RayTaskError as error:  # `write_share` itself raises nothing
        address = re.search(r"\bip=([^\s,)]+)", str(error))
        raise OutputError(
            f"{f'node {address[1]}' if address else 'a node'}: this program cannot be loaded there "
            f"({str(error).strip().splitlines()[-1]}); install infraredcity[extract,ray] with the same versions on all nodes"
        ) from error
    except ray.exceptions.RayError as error:
        raise OutputError(
            f"{job.folder}: a task died, and so did all that took its place ({_MAX_DEATHS} at most): "
            f"{str(error).splitlines()[0]}; run the same command again to go on"
        ) from error


def _check_records(job: ExtractJob, todo: Sequence[Segment], heads: Sequence[SegmentHead]) -> None:
    """Check that a task returned a record of each of its segments; OutputError if not."""
    done = {head.number for head in heads if head.job_identity == job.identity}
    lost = [segment.number for segment in todo if segment.number not in done]
    if lost:
        raise OutputError(
            f"{job.folder}: a task ended and left no record of segment {lost[0]}; run the same command again to go on"
        )


def _await_records(job: ExtractJob, todo: Sequence[Segment]) -> None:
    """Wait until what other machines have written is visible here; an object store shows it at once."""
    deadline_s = time.monotonic() + _VISIBLE_S
    invisible = replace(job, segments=tuple(todo))
    while not isinstance(job.folder, RemotePath) and (left := pending(invisible)):
        if time.monotonic() > deadline_s:
            raise OutputError(
                f"{job.folder}: segment {left[0].number} was written by a node and is not visible here after {_VISIBLE_S:g} s; put "
                "--out on a disk that all nodes and this machine share under one name"
            )
        invisible = replace(job, segments=tuple(left))
        time.sleep(0.5)
