"""What bench_loader.py runs in the environment of the other packages, one process per measurement.

Every peer reads the same jpgs, written once in its own format, and gives batches u8 [64, T, 3, 256, 256]. All of them let a user
say how a batch is made, and all are given `batch_of`, the fastest we know: simplejpeg straight into the batch, in a worker straight
into memory that it shares with the main process. Where a peer has no windows, each pair is stored as a sample of its own, as its
users have to do; only webdataset in order gets its pairs from the stream of single frames, each decoded once.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simplejpeg import decode_jpeg  # noqa: TID251  # peers decode without our package
from torch.utils.data import DataLoader, get_worker_info

BATCH_WINDOWS = 64
SIDE_PX = 256
SHUFFLE_BUFFER = 1000
"""Samples that webdataset and Energon mix; both take it from a user, and their examples take about as many."""
LIMIT_S = 300
"""A measurement that takes longer is ended, so that a peer that hangs does not stop the others."""

PACKAGES = (
    "torch", "numpy", "simplejpeg", "webdataset", "mosaicml-streaming", "litdata", "spdl", "megatron-energon",
)  # fmt: skip

Pictures = tuple[bytes, ...]
Batches = Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement: what is read, how, and how much of it.

    Attributes:
        root: Folder of the set in all its formats.
        shuffled: In a shuffled order, or in the frames' own.
        window_frames: T: 1 for single frames, 2 for pairs of neighbours.
        workers: Processes that load; 0 for none.
        warm_up_batches: Not timed.
        timed_batches: After those.
    """

    root: Path
    shuffled: bool
    window_frames: int
    workers: int
    warm_up_batches: int
    timed_batches: int

    @property
    def pairs(self) -> str:
        """Last part of the name of a folder that holds pairs, or nothing."""
        return "-pairs" if self.window_frames == 2 else ""


def measure(peer: str, root: str, **options: Any) -> None:
    """Print how fast a peer is, or what is missing to run it, as JSON."""
    signal.alarm(LIMIT_S)
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # or it asks the internet
    job = Job(root=Path(root), **options)
    try:
        batches = PEERS[peer](job)
    except ImportError as error:
        print(json.dumps({"missing": f"{peer}: {error}"}))
    else:
        print(json.dumps(timed(batches, job)))


def timed(batches: Batches, job: Job) -> dict[str, float]:
    """Windows per second after the warm-up, and seconds from making the loader to its first batch."""
    torch.set_num_threads(1)
    shape = (BATCH_WINDOWS, job.window_frames, 3, SIDE_PX, SIDE_PX)
    begun = time.perf_counter()
    stream = iter(batches())
    first = next(stream)
    first_batch_s = time.perf_counter() - begun
    if first.dtype != torch.uint8 or first.shape != shape:
        raise ValueError(f"a batch must be u8 {shape}, got {first.dtype} {tuple(first.shape)}")
    del first
    count_batches(islice(stream, job.warm_up_batches - 1))
    begun = time.perf_counter()
    count = count_batches(islice(stream, job.timed_batches))
    wall_s = time.perf_counter() - begun
    if count != job.timed_batches:
        raise ValueError(f"expected {job.timed_batches} batches after the warm-up, found {count}")
    return {"windows_per_s": count * BATCH_WINDOWS / wall_s, "first_batch_s": first_batch_s}


def count_batches(stream: Iterator[torch.Tensor]) -> int:
    """How many there are, each let go when the next one is there."""
    return sum(1 for _ in stream)


def empty_batch(num_windows: int, window_frames: int) -> torch.Tensor:
    """u8 [B, T, H, W, 3] to decode into; in a worker it is memory that the main process shares."""
    shape = (num_windows, window_frames, SIDE_PX, SIDE_PX, 3)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's default_collate does it: a tensor of the worker's own would be copied once more on its way.
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)


def batch_of(samples: Sequence[Pictures]) -> torch.Tensor:
    """u8 [B, T, 3, H, W] of the jpgs of B windows."""
    batch = empty_batch(len(samples), len(samples[0]))
    for window, pictures in zip(batch.numpy(), samples, strict=True):
        for frame, jpg in zip(window, pictures, strict=True):
            decode_jpeg(jpg, "RGB", buffer=frame)
    return batch.permute(0, 1, 4, 2, 3)


def batch_of_named(samples: Sequence[dict[str, bytes]]) -> torch.Tensor:
    """`batch_of` for samples whose pictures are called "0", "1"."""
    return batch_of([tuple(sample[name] for name in sorted(sample)) for sample in samples])


class Files:
    """A folder of jpgs as windows of neighbours, for a DataLoader; it keeps the bytes for `batch_of`."""

    def __init__(self, folder: Path, window_frames: int) -> None:
        self.paths = jpg_paths(folder)
        self.window_frames = window_frames

    def __len__(self) -> int:
        return len(self.paths) - self.window_frames + 1

    def __getitem__(self, number: int) -> Pictures:
        return tuple(map(read_file, self.paths[number : number + self.window_frames]))


def jpg_paths(folder: Path) -> list[str]:
    """The jpgs of a folder in the order of their frames."""
    return sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(".jpg"))


def read_file(path: str) -> bytes:
    """Its bytes."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # what a loader in a hurry writes
        return file.read()


def files(job: Job) -> Batches:
    """A Dataset over a folder of jpgs in torch's DataLoader."""
    return lambda: DataLoader(
        Files(job.root / "files", job.window_frames),
        batch_size=BATCH_WINDOWS, shuffle=job.shuffled, num_workers=job.workers, collate_fn=batch_of, drop_last=True,
    )  # fmt: skip


def webdataset(job: Job) -> Batches:
    """Our own shards in a webdataset pipeline; shuffled pairs from tars of pairs."""
    import webdataset as wds

    stored_pairs = job.window_frames == 2 and job.shuffled
    tars = sorted(str(path) for path in (job.root / ("wds-pairs" if stored_pairs else "shards")).glob("*.tar"))
    shuffle = len(tars) if job.shuffled else False

    def make() -> Iterable[torch.Tensor]:
        data = wds.WebDataset(tars, shardshuffle=shuffle, select_files=_is_picture, empty_check=False)
        if job.shuffled:
            data = data.shuffle(SHUFFLE_BUFFER)
        if job.window_frames == 2 and not stored_pairs:
            data = data.compose(batches_of_neighbours)
        else:
            data = data.to_tuple(*(("0.jpg", "1.jpg") if stored_pairs else ("jpg",)))
            data = data.batched(BATCH_WINDOWS, collation_fn=batch_of, partial=False)
        return DataLoader(data, batch_size=None, num_workers=job.workers)

    return make


def _is_picture(name: str) -> bool:
    return name.endswith(".jpg")


def batches_of_neighbours(samples: Iterable[dict[str, Any]]) -> Iterator[torch.Tensor]:
    """Pairs of neighbours from webdataset's stream of single frames, each frame decoded once."""
    batch, filled = empty_batch(BATCH_WINDOWS, 2), 0
    before, before_index = np.empty(0, np.uint8), -2
    for sample in samples:
        frame_index = int(sample["__key__"][-8:])
        frame = decode_jpeg(sample["jpg"], "RGB")
        if frame_index == before_index + 1:
            pixels = batch.numpy()
            pixels[filled, 0], pixels[filled, 1] = before, frame
            filled += 1
        before, before_index = frame, frame_index
        if filled == BATCH_WINDOWS:
            yield batch.permute(0, 1, 4, 2, 3)
            batch, filled = empty_batch(BATCH_WINDOWS, 2), 0


def mosaicml(job: Job) -> Batches:
    """A StreamingDataset over local MDS shards in torch's DataLoader."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # of a run that was killed

    def make() -> Iterable[torch.Tensor]:
        data = StreamingDataset(local=str(job.root / f"mds{job.pairs}"), shuffle=job.shuffled, batch_size=BATCH_WINDOWS)
        return DataLoader(
            data, batch_size=BATCH_WINDOWS, num_workers=job.workers, collate_fn=batch_of_named, drop_last=True
        )

    return make


def litdata(job: Job) -> Batches:
    """A StreamingDataset over an optimized local folder in its StreamingDataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset

    def make() -> Iterable[torch.Tensor]:
        data = StreamingDataset(str(job.root / f"litdata{job.pairs}"), shuffle=job.shuffled, drop_last=True)
        return StreamingDataLoader(
            data, batch_size=BATCH_WINDOWS, num_workers=job.workers, collate_fn=batch_of_named, drop_last=True
        )

    return make


def spdl(job: Job) -> Batches:
    """A pipeline of threads over the folder of jpgs; the best of three ways.

    A thread makes a whole batch by simplejpeg. A task per picture was no faster; its own `load_image_batch`, by FFmpeg, took three
    times as long.
    """
    from spdl.pipeline import PipelineBuilder

    num_threads = len(os.sched_getaffinity(0))

    def make() -> Iterator[torch.Tensor]:
        data = Files(job.root / "files", job.window_frames)
        numbers = np.random.default_rng(0).permutation(len(data)) if job.shuffled else np.arange(len(data))
        shares = [numbers[start : start + BATCH_WINDOWS].tolist() for start in range(0, len(numbers), BATCH_WINDOWS)]

        def read(share: list[int]) -> torch.Tensor:
            return batch_of([data[number] for number in share])

        builder = PipelineBuilder().add_source(shares).pipe(read, concurrency=num_threads, output_order="input")
        pipeline = builder.add_sink(2).build(num_threads=num_threads)
        with pipeline.auto_stop():
            yield from pipeline

    return make


def energon(job: Job) -> Batches:
    """Energon over our own shards, which `energon prepare` gave an index of its own; pairs from tars of pairs."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        get_val_dataset,
        stateless,
    )

    names = ("0.jpg", "1.jpg") if job.window_frames == 2 else ("jpg",)

    @edataclass
    class Window(Sample):
        pictures: Pictures

    @stateless
    def cook(sample: dict[str, Any]) -> Window:
        return Window(**basic_sample_keys(sample), pictures=tuple(sample[name] for name in names))

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = [Cooker(cook)]  # noqa: RUF012  # so it is documented

        def batch(self, samples: list[Window]) -> torch.Tensor:
            return batch_of([sample.pictures for sample in samples])

        def encode_batch(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

    def make() -> Iterable[torch.Tensor]:
        folder = job.root / f"energon{job.pairs}"
        options = {
            "worker_config": WorkerConfig(rank=0, world_size=1, num_workers=job.workers),
            "batch_size": BATCH_WINDOWS,
            "task_encoder": Encoder(),
        }
        if job.shuffled:
            shuffling = {"shuffle_buffer_size": SHUFFLE_BUFFER, "max_samples_per_sequence": 100}
            return get_loader(get_train_dataset(folder, batch_drop_last=True, **shuffling, **options))
        return get_loader(get_val_dataset(folder, split_part="train", **options))

    return make


PEERS: dict[str, Callable[[Job], Batches]] = {
    "files": files,
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
    "spdl": spdl,
    "energon": energon,
}


def write_format(name: str, root: str, target: str) -> None:
    """Write the set in the format of a folder name, such as "mds" or "litdata-pairs", into a new folder; print what is missing."""
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
    kind, _, pairs = name.partition("-")
    data = Files(Path(root) / "files", 2 if pairs else 1)
    try:
        FORMATS[kind](data, Path(root), Path(target))
    except ImportError as error:
        print(json.dumps({"missing": f"{kind}: {error}"}))
    else:
        print(json.dumps({}))


def _write_wds(data: Files, _root: Path, target: Path) -> None:
    from webdataset import TarWriter

    target.mkdir()
    for start in range(0, len(data), 256):
        with TarWriter(str(target / f"pairs-{start // 256:06d}.tar")) as tar:
            for number in range(start, min(start + 256, len(data))):
                pictures = {f"{place}.jpg": jpg for place, jpg in enumerate(data[number])}
                tar.write({"__key__": f"pair_{number:08d}", **pictures})


def _write_mds(data: Files, _root: Path, target: Path) -> None:
    from streaming import MDSWriter

    columns = {str(place): "bytes" for place in range(data.window_frames)}
    with MDSWriter(out=str(target), columns=columns) as writer:
        for number in range(len(data)):
            writer.write(_named(data, number))


def _write_litdata(data: Files, _root: Path, target: Path) -> None:
    from litdata import optimize

    optimize(
        partial(_named, data), list(range(len(data))), output_dir=str(target), chunk_bytes="64MB", num_workers=1,
        verbose=False,
    )  # fmt: skip


def _named(data: Files, number: int) -> dict[str, bytes]:
    return {str(place): jpg for place, jpg in enumerate(data[number])}


def _link_for_energon(data: Files, root: Path, target: Path) -> None:
    """The tars by another name, since `energon prepare` writes beside them."""
    import_module("megatron.energon")
    target.mkdir()
    for tar in (root / ("wds-pairs" if data.window_frames == 2 else "shards")).glob("*.tar"):
        (target / tar.name).hardlink_to(tar)


FORMATS: dict[str, Callable[[Files, Path, Path], None]] = {
    "wds": _write_wds,
    "mds": _write_mds,
    "litdata": _write_litdata,
    "energon": _link_for_energon,
}


def versions() -> None:
    """Print the versions of the peers and of what they stand on."""
    print(json.dumps({name: _version(name) for name in PACKAGES}))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
