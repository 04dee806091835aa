"""What a loader leaves behind, and how it ends: on Ctrl-C, at exit, in a forked child, without being closed.

Whatever ends or measures a whole process is a function here that runs in one of its own: `python this_file NAME ARGUMENTS`.
"""

import functools
import gc
import http.server
import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import PATIENCE_S, started
from synthetic import Shelf, barcode, clip_of

from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.files.chunk_cache import CACHE_VARIABLE
from infraredcity.loader import FrameWindows, ResizeCrop, WindowReader, batches, one_pass
from infraredcity.shards import index_file

MOST_GROWTH_KIB = 4096
"""How much larger a process may be after epoch 100 than after epoch 20; one batch lost per epoch would be 140,000."""
END_WITHIN_S = 60.0
"""A busy machine takes its time to end a program; one that waited for the silent server would never end."""


def start(name: str, *arguments: object) -> "AbstractContextManager[subprocess.Popen[str]]":
    """A function of this file in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, name, *arguments]
    return started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def result_of(name: str, *arguments: object) -> Any:
    """What such a function printed, as JSON; it must have ended well and said nothing else."""
    with start(name, *arguments) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (0, "")
    return json.loads(stdout)


def shows_its_keys(windows: FrameWindows) -> bool:
    """Whether the barcode of each frame is the frame index in its key."""
    shown = [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for window in windows.frames]
    return shown == [[int(key[-8:]) for key in keys] for keys in windows.keys]


def decoding_threads() -> int:
    return sum(thread.name.startswith("decode-") for thread in threading.enumerate())


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture(scope="module")
def tiny_shards(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames in 25 shards of two."""
    out = tmp_path_factory.mktemp("tiny-shards")
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=2), out)
    return out / "city_clear"


# --- leaks -------------------------------------------------------------------------------------------------------------------


def a_hundred_epochs(kind: str, *folders: str) -> None:
    reader = {
        "plain": lambda: WindowReader(folders),
        "cropped": lambda: WindowReader(folders, crop=ResizeCrop(load_px=64, crop_px=48), weights=[1, 2]),
        "replaced": lambda: WindowReader(folders, on_bad="replace", members=["json"], transform=halved),
    }[kind]()
    gc.collect()
    gc.disable()  # so that what only it would find counts as lost
    measured = []
    for epoch in range(1, 101):
        stream = batches(reader, batch_size=49, start_step=3 * epoch)
        for _ in itertools.islice(stream, reader.num_windows // 49):
            pass
        if epoch % 10 == 0:
            for _ in one_pass(reader, batch_size=49):
                pass
        if epoch in (20, 100):
            reader.read(range(7))  # behind what the streams had begun, so that nothing of them is under way
            rss_kib = int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
            in_shm = "/dev/shm/" in Path("/proc/self/maps").read_text()
            measured.append((rss_kib, num_open_files(), threading.active_count(), in_shm))
    reader.close()
    json.dump(measured, sys.stdout)


def halved(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    return frames[..., ::2, ::2].clone()


@pytest.mark.parametrize(
    "kind", ["plain", pytest.param("cropped", marks=pytest.mark.slow), pytest.param("replaced", marks=pytest.mark.slow)]
)
def test_a_hundred_epochs_leave_nothing_behind(extracted: Path, tmp_path: Path, kind: str) -> None:
    folders = [extracted / "city_clear", extracted / "city_day"]
    if kind == "replaced":
        folders = [with_damage(folders[0], tmp_path)]
    (early_kib, *early), (late_kib, *late) = result_of("a_hundred_epochs", kind, *folders)
    assert late_kib - early_kib < MOST_GROWTH_KIB
    assert late == early
    assert late[-1] is False  # nothing of it in /dev/shm


def with_damage(folder: Path, target: Path) -> Path:
    """A copy of some shards in which one picture is wiped."""
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    index = index_file.load(target)
    shard = target / index.shards[int(index.shard[7])].name
    data = bytearray(shard.read_bytes())
    data[int(index.offset[7]) : int(index.offset[7]) + 40] = bytes(40)
    shard.write_bytes(data)
    return target


def with_few_descriptors(limit: str, folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
    readers = [WindowReader([folder], seed=seed) for seed in range(2)]
    json.dump([shows_its_keys(reader.read(range(49))) for reader in readers for _ in range(2)], sys.stdout)


def test_more_shards_than_files_may_be_open_can_be_read(tiny_shards: Path) -> None:
    assert result_of("with_few_descriptors", 40, tiny_shards) == [True] * 4


def test_a_reader_that_is_dropped_leaves_no_thread_and_no_file_open(extracted: Path) -> None:
    next(batches(WindowReader([extracted / "city_day"]), batch_size=7))
    gc.collect()
    until = time.monotonic() + PATIENCE_S
    while decoding_threads() and time.monotonic() < until:
        time.sleep(0.01)
    files, threads = num_open_files(), threading.active_count()
    reader = WindowReader([extracted / "city_clear"], threads=3)
    stream = batches(reader, batch_size=7)
    next(stream)
    assert num_open_files() > files
    assert decoding_threads() == 3
    del reader, stream  # with three batches under way
    until = time.monotonic() + PATIENCE_S
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert (num_open_files(), threading.active_count()) == (files, threads)


def test_closing_gives_up_what_is_under_way_and_what_comes_later_opens_anew(extracted: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waits(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        begun.set()
        go_on.wait(PATIENCE_S)
        return frames

    reader = WindowReader([extracted / "city_clear"], transform=waits, threads=2)
    reading = reader.begin(range(7))
    assert begun.wait(PATIENCE_S)
    threading.Timer(0.1, go_on.set).start()
    reader.close()
    with pytest.raises(ValueError, match="the reader was closed while it read a batch; take all batches before"):
        reading.result()
    assert shows_its_keys(reader.read(range(7)))
    reader.close()


# --- ends --------------------------------------------------------------------------------------------------------------------


def reads_for_ever(how: str, *sources: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored
    crop = None if how == "closing" else ResizeCrop(load_px=286, crop_px=256)
    readers = [WindowReader([source], size=None if crop else (64, 96), crop=crop, threads=2) for source in sources]
    try:
        streams = [batches(reader, batch_size=16) for reader in readers]
        print("begins", flush=True)  # noqa: T201
        while True:
            for stream in streams:
                next(stream)
    finally:
        if how == "closing":
            for reader in readers:
                reader.close()


@pytest.fixture
def silent_url(extracted: Path) -> Iterator[str]:
    """The folder city_clear on a server that gives its index, accepts requests for shards, and never says a byte of them."""
    over = threading.Event()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".tar"):
                over.wait(PATIENCE_S)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Silent, directory=str(extracted / "city_clear"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()


@pytest.mark.parametrize("source", ["local", "silent"])
@pytest.mark.parametrize("how", ["leaving", "closing"])
def test_ctrl_c_ends_a_program_at_once(
    extracted: Path, silent_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, how: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    sources = [extracted / "city_clear", extracted / "city_day" if source == "local" else silent_url]
    with start("reads_for_ever", how, *sources) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.4)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        took_s = time.monotonic() - sent
    assert process.returncode == -signal.SIGINT, stderr
    assert took_s < END_WITHIN_S
    assert "Exception" not in stderr  # as in "Exception in thread" and "Exception ignored in"
    assert stderr.endswith("KeyboardInterrupt\n")


def ends_amid_decoding(how: str, folder: str) -> None:
    begun = threading.Event()

    def resizes(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        begun.set()
        for _ in range(10):
            torch.nn.functional.interpolate(frames, (1024, 1024), mode="bicubic", antialias=True)
        return frames

    reader = WindowReader([folder], transform=resizes, threads=4)
    stream = batches(reader, batch_size=16)
    if how == "at once":
        reader.begin(range(49))  # seconds of work, none of which may hold up the exit
        begun.wait(PATIENCE_S)
        return
    for batch in stream:
        if how == "in a loop":
            break
        raise LookupError(f"{len(batch.keys)} windows")


@pytest.mark.parametrize(
    ("how", "code", "last"),
    [("at once", 0, ""), ("in a loop", 0, ""), ("with an error", 1, "LookupError: 16 windows\n")],
)
def test_a_program_that_never_closes_its_reader_ends_well(extracted: Path, how: str, code: int, last: str) -> None:
    with start("ends_amid_decoding", how, extracted / "city_clear") as process:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, stderr  # -6 is what torch makes of a thread that outlives the interpreter
    assert stderr.endswith(last)
    assert stderr.count("Traceback") == code


# --- several at once ---------------------------------------------------------------------------------------------------------


def forks(folder: str) -> None:
    reader = WindowReader([folder], threads=2, crop=ResizeCrop(load_px=286, crop_px=48, flip=False))
    plain = WindowReader([folder], threads=2)

    def taken(stream: Iterator[FrameWindows]) -> list[object]:
        return [[batch.keys, batch.frames.sum().item()] for batch in itertools.islice(stream, 4)]

    def reads() -> bool:
        signal.alarm(600)  # ends a child that hangs
        return taken(stream) == expected and shows_its_keys(plain.read(range(20))) and decoding_threads() == 4

    expected = taken(batches(reader, batch_size=49, start_step=1))
    plain.read(range(20))
    stream = batches(reader, batch_size=49)
    next(stream)  # and now three more are under way, in threads that a child has not
    pid = os.fork()
    if pid == 0:
        os._exit(0 if reads() else 1)
    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(0 if reads() else 1))
    child.start()
    parent_is_right = reads()
    _, status = os.waitpid(pid, 0)
    child.join()
    json.dump([parent_is_right, os.waitstatus_to_exitcode(status), child.exitcode], sys.stdout)


def test_a_forked_child_goes_on_with_threads_of_its_own_and_so_does_its_parent(extracted: Path) -> None:
    assert result_of("forks", extracted / "city_clear") == [True, 0, 0]


def test_streams_over_one_reader_do_not_disturb_each_other(extracted: Path) -> None:
    reader = WindowReader([extracted / "city_clear"], seed=2)
    alone = [list(itertools.islice(batches(reader, batch_size=size), 20)) for size in (5, 8)]
    streams = [batches(reader, batch_size=size) for size in (5, 8)]
    for step in range(20):
        for number, stream in enumerate(streams):
            batch = next(stream)
            assert batch.keys == alone[number][step].keys
            assert torch.equal(batch.frames, alone[number][step].frames)
    reader.close()


def test_several_threads_may_read_at_the_same_time_from_the_first_read_on(extracted: Path) -> None:
    together = threading.Barrier(4)
    for _ in range(10):  # each time the four begin with a reader that has no threads yet
        reader = WindowReader([extracted / "city_clear"], threads=2)

        def reads(first: int, reader: WindowReader = reader) -> bool:
            together.wait(PATIENCE_S)
            return all(shows_its_keys(reader.read(range(first + k, first + k + 6))) for k in range(3))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(reads, [0, 10, 20, 30]))
        reader.close()
    assert decoding_threads() == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
