"""How fast a loader is and what it waits for, while training runs."""

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from infraredcity.errors import ManifestError, OutputError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import converted, read_json

logger = logging.getLogger(__name__)

FORMAT = "infraredcity-loader-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderFacts:
    """What one rank's loader did since it was made.

    Attributes:
        rank: Which of the ranks.
        world_size: How many there are.
        position: Where the next batch begins in the stream.
        seconds: Since the first batch was asked for.
        windows: Windows delivered.
        frames: Frames decoded; one that two windows of a batch share counts once.
        bytes_read: Bytes of pictures read, from disk, cache or network.
        frames_per_s: Frames decoded per second.
        megabytes_per_s: 10^6 bytes read per second.
        read_share: Share of the time of the decoding threads that went into reading.
        decode_share: The same for decoding and cropping.
        wait_share: Share of the consumer's time that it waited for a batch; near 0 where training is what takes the time.
        cache_hits: Chunks that the disk cache had.
        cache_misses: Chunks that it had to fetch.
        fetched_bytes: Bytes of shards that came from other machines; what the disk cache had did not.
        replaced: Windows that could not be read and were replaced.
        bad_samples: Different samples that could not be read.
    """

    rank: int
    world_size: int
    position: int
    seconds: float
    windows: int
    frames: int
    bytes_read: int
    frames_per_s: float
    megabytes_per_s: float
    read_share: float
    decode_share: float
    wait_share: float
    cache_hits: int
    cache_misses: int
    fetched_bytes: int
    replaced: int
    bad_samples: int


@dataclass(slots=True)
class Work:
    """Sums of what the decoding threads of one reader did."""

    frames: int = 0
    bytes_read: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0


class Tally:
    """Where decoding threads add up what they did."""

    def __init__(self) -> None:
        self._sum = Work()
        self._lock = threading.Lock()

    def add(self, work: Work) -> None:
        """Count a task's work."""
        with self._lock:
            self._sum.frames += work.frames
            self._sum.bytes_read += work.bytes_read
            self._sum.read_s += work.read_s
            self._sum.decode_s += work.decode_s

    def sum(self) -> Work:
        """Return what was added so far."""
        with self._lock:
            return Work(self._sum.frames, self._sum.bytes_read, self._sum.read_s, self._sum.decode_s)

    def __getstate__(self) -> tuple[()]:
        return ()  # for None, pickle would not call __setstate__

    def __setstate__(self, state: tuple[()]) -> None:
        self.__init__()  # type: ignore[misc]


class Monitor:
    """Keeps a loader's facts in `folder`/rank-000.json, written anew every few seconds while batches are taken.

    Args:
        folder: Shared by all ranks, for example `runs/city/loader`.
        interval_s: Least seconds between two writings.
    """

    def __init__(self, folder: Path, *, interval_s: float = 5.0) -> None:
        self.folder = folder
        self.interval_s = interval_s
        self._written = -interval_s

    def is_due(self) -> bool:
        """Say whether the last writing is long enough ago."""
        return time.monotonic() - self._written >= self.interval_s

    def write(self, facts: LoaderFacts) -> None:
        """Put the facts into the rank's file, whole or not at all. A disk that refuses them is logged: training is worth more."""
        self._written = time.monotonic()
        text = json.dumps({"format": FORMAT, "written": time.time(), **asdict(facts)}, indent=1) + "\n"
        try:
            write_atomic(self.folder / f"rank-{facts.rank:03d}.json", text.encode())
        except OutputError as error:
            logger.warning("%s; what the loader does cannot be watched for now", error)


def read(folder: Path) -> list[tuple[float, LoaderFacts]]:
    """Read what each rank wrote last, and when (seconds since 1970), by rank.

    Raises:
        ManifestError: There is nothing, or a file is not one of a loader.
    """
    found = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            record = read_json(path)
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            found.append((float(record.pop("written")), converted(record, LoaderFacts)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"{path}: no facts of a loader ({error}); remove it") from error
    if not found:
        raise ManifestError(f"{folder}: no rank-*.json of a loader; name the `loader` folder of a run that has begun")
    return found
