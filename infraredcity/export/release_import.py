"""Write the folders of the published Lite as a data set: shards, index, manifest, runs.

The layout carries less than a data set: no times, no clips, and numbers only in file names. What is made of it here:

- A folder is a clip of the catalogue: City/clearday/trainA is `city_clear`, City/*/trainB is `city_day`, and so on. Where
  `release.json` of `infraredcity export` is there too, files named by its clips keep their clips, runs and rates.
- Every name ends in a number, the frame's index in its clip: no two files of a clip have the same one. Frames whose numbers follow
  each other and whose names are otherwise the same are one run. Runs never go from one folder to another.
- trainB is shared by the weathers of a scene: a picture whose bytes are in the first weather's folder is taken once.
- A picture of Double is two frames: number k gives the indices 2k and 2k + 1, a run of two, so that no window crosses pairs.

What does not fit is refused with one line: other files, pictures of several sizes in a clip or of
several formats in a part, numbers that occur twice, links out of the release. Where numbers occur twice because each folder counts
from 0, `renumber` counts the pictures of a clip anew, folder after folder; clips.json then lists their names.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from infraredcity.datasets.build import BuildRecord
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import dataset_hash, write_manifest
from infraredcity.datasets.folder import ShardFolder, write_folder
from infraredcity.datasets.walk import part_names
from infraredcity.errors import ImageError, ManifestError, OutputError
from infraredcity.export.release_layout import (
    Kind,
)
from infraredcity.export.release_read import (
    MAX_FPS,
    MIN_FPS,
    MIN_THREADS,
    Block,
    FrameFormat,
    ReleaseFile,
    check_fit,
    find_kind,
    read_blocks,
    read_clip_notes,
)
from infraredcity.files.lock import lock_folder
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards import index as sample_index
from infraredcity.shards import sample_json
from infraredcity.shards.index import IndexEntry, SampleIndex, ShardInfo
from infraredcity.shards.names import shard_name
from infraredcity.shards.writer import open_shard
from infraredcity.stills import formats
from infraredcity.stills.decode import decode_any
from infraredcity.threads import num_cores

IMPORT_NAME = "import.json"
FORMAT = "infraredcity-import-2"
SAMPLES_PER_SHARD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """What one folder of the layout gave to one clip."""

    source: str
    """The folder."""
    folder: str
    """The part of the data set."""
    clip: str
    """The clip."""
    weather: str
    """Of the clip."""
    split: str
    """"train" or "test"."""
    num_frames: int
    """Frames written."""
    num_runs: int
    """Stretches of consecutive frames among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import ended with; stored as import.json."""

    folder: str
    """Where the data set is."""
    kind: Kind
    """What was read: "single" or "double"."""
    num_frames: int
    """Frames over all rows."""
    manifest_hash: str
    """sha256 over what the samples are, see `manifest.dataset_hash`."""
    rows: tuple[ImportRow, ...]
    """One for each folder and clip."""
    num_shared: int = 0
    """Pictures of a second weather's trainB that are in the first one's too and were taken once."""
    is_new: bool = True
    """False when the set was there already."""


def import_release(
    root: Path,
    out: Path,
    *,
    kind: Kind | None = None,
    fps: float | None = None,
    frame_step: int = 1,
    frame_format: FrameFormat = "png",
    renumber: bool = False,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Write the pictures of a release's folders as `out`/<scene>/{infrared-train, infrared-test, visible-train}.

    Single's bytes are copied.

    Args:
        root: The folder that holds Single, Double or both; or one of these.
        out: Folder to write.
        kind: "single" or "double"; by default Single where it is there.
        fps: Frames per second of the clips; pts is the frame index. By default as release.json says, else 25.
        frame_step: How far the numbers of neighbours in time are apart; release.json, where it is there, says it for its clips.
        frame_format: How Double's halves are written: "png" keeps what was decoded, "jpg" is of quality 95.
        renumber: Count the pictures of each clip anew, train before test and `RENUMBER_GAP` apart, in the order of the text and the
            number of their names. A run goes on where the number of a name does, and the text before it is the same.
        samples_per_shard: Samples in a full shard.
        overwrite: Replace another import in `out`.
        on_progress: Called with the pictures read and written.

    Raises:
        ManifestError: There is nothing to import, something does not fit the layout, or release.json is damaged.
        OutputError: `out` holds another data set, lies in the release, or cannot be written.
    """
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps must be {MIN_FPS} to {MAX_FPS}, got {fps}")
    if frame_step < 1 or samples_per_shard < 1:
        raise ValueError(f"frame_step and samples_per_shard must be at least 1, got {frame_step}, {samples_per_shard}")
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; name one that holds Single or Double")
    if out.resolve().is_relative_to(root.resolve()):
        raise OutputError(f"{out}: lies in the release itself; use another --out")
    found_kind, base = find_kind(root, kind)
    blocks, num_shared = read_blocks(root, base, read_clip_notes(root, base), fps, frame_step, renumber, on_progress)
    check_fit(blocks, found_kind, frame_format)
    folders = sorted({block.part for block in blocks})
    record = BuildRecord(
        out=out,
        record_name=IMPORT_NAME,
        what="an import",
        format=FORMAT,
        report_type=ImportReport,
        inputs={
            "kind": found_kind,
            "fps": fps,
            "frame_step": frame_step,
            "frame_format": frame_format if found_kind == "double" else None,
            "samples_per_shard": samples_per_shard,
            **({"renumber": True} if renumber else {}),
            "blocks": [_identity_of(block) for block in blocks],
        },
        folders=folders,
    )
    with lock_folder(out):
        for folder in folders:
            if not (out / folder).resolve().is_relative_to(out.resolve()):
                raise OutputError(f"{out / folder}: leads out of {out}; remove the link, or use another --out")
        earlier = record.find(overwrite=overwrite)
        if earlier is not None:
            return earlier
        others = [name for name in part_names(out) if name not in folders]
        if others:
            raise OutputError(f"{out / others[0]}: is a part of another data set; use another --out")
        record.begin()
        total = sum(len(block.files) for block in blocks)
        writer = _Writer(out, found_kind, frame_format, samples_per_shard, total, on_progress, names_files=renumber)
        parts = [writer.write(name, [block for block in blocks if block.part == name]) for name in folders]
        write_manifest(out, parts)
        report = ImportReport(
            folder=str(out),
            kind=found_kind,
            num_frames=sum(len(part.index) for part in parts),
            manifest_hash=dataset_hash(parts),
            rows=tuple(writer.rows),
            num_shared=num_shared,
        )
        return record.end(report)


def _identity_of(block: Block) -> list[Any]:
    """Say what a block is, for the hash that tells whether two imports are the same."""
    clip = block.clip
    digest = hashlib.sha256()
    for file in block.files:
        digest.update(f"{file.number},{file.sha256}\n".encode())
    return [
        block.source,
        *clip.description().values(),
        block.fps,
        block.frame_step,
        list(block.run_starts),
        digest.hexdigest(),
    ]


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that is written: its index, its block and picture, the bytes."""

    frame_index: int
    block: int
    picture: int
    data: bytes
    sha256: str
    size_px: tuple[int, int]


class _Writer:
    """Write parts, and gather what each folder gave."""

    def __init__(
        self,
        out: Path,
        kind: Kind,
        frame_format: FrameFormat,
        samples_per_shard: int,
        total: int,
        on_progress: OnProgress | None,
        *,
        names_files: bool,
    ) -> None:
        self.rows: list[ImportRow] = []
        self._out = out
        self._kind = kind
        self._frame_format = frame_format
        self._samples_per_shard = samples_per_shard
        self._names_files = names_files
        self._ticker = Ticker("import: pictures written", total, on_progress)

    def write(self, name: str, blocks: Sequence[Block]) -> ShardFolder:
        """Write the part of some folders."""
        indexes: list[SampleIndex] = []
        facts: dict[str, ClipFacts] = {}
        for clip_id in dict.fromkeys(block.clip.clip_id for block in blocks):
            of_clip = [block for block in blocks if block.clip.clip_id == clip_id]
            facts[clip_id] = self._facts(of_clip)
            indexes.append(self._write_clip(name, of_clip, facts[clip_id]))
        return write_folder(self._out, name, sample_index.concatenate(indexes), facts, split=blocks[0].place.split)

    def _facts(self, blocks: Sequence[Block]) -> ClipFacts:
        first = blocks[0]
        # Of numbers such as 29.97 the nearest fraction that a clip would have.
        rate = Fraction(first.fps).limit_denominator(1001)
        per_picture = 2 if self._kind == "double" else 1
        return ClipFacts(
            **first.clip.description(),
            time_base=f"{rate.denominator}/{rate.numerator}",
            nominal_fps=first.fps,
            frame_step=1 if self._kind == "double" else first.frame_step,
            clip_frames=(max(block.files[-1].number for block in blocks) + 1) * per_picture,
            sources=[
                {
                    "name": block.source,
                    "size_bytes": sum(file.size_bytes for file in block.files),
                    "packets_sha256": _hash_of(block),
                    "num_frames": len(block.files) * per_picture,
                    "codec": block.files[0].image_format,
                    "pixel_format": "",
                    **(_renumbered_from(block) if self._names_files else {}),
                }
                for block in blocks
            ],
            extraction={"from": "release", "kind": self._kind},
        )

    def _write_clip(self, part: str, blocks: Sequence[Block], facts: ClipFacts) -> SampleIndex:
        weather = "" if facts.weather == "any" else f"-{facts.weather}"
        dataset = f"release{weather}-{blocks[0].place.split}"
        suffix = formats.suffix_of(self._frame_format if self._kind == "double" else blocks[0].files[0].image_format)
        shards: list[tuple[ShardInfo, list[IndexEntry]]] = []
        frames: list[_Frame] = []
        for batch in self._batches(blocks):
            name = shard_name(dataset, facts.clip_id, len(shards))
            with open_shard(self._out / part, name, image_format=suffix) as handle:
                for frame in batch:
                    json_bytes = sample_json.to_bytes(
                        sample_json.facts_of(
                            facts, facts.time_base, frame.frame_index, frame.frame_index, frame.size_px
                        )
                    )
                    handle.writer.add(
                        facts.clip_id, frame.frame_index, frame.frame_index, frame.data, json_bytes,
                        size_px=frame.size_px, image_sha256=frame.sha256,
                    )  # fmt: skip
            assert handle.info is not None
            shards.append((handle.info, handle.writer.entries))
            frames += [replace(frame, data=b"") for frame in batch]
        run_ids = _run_ids(frames, facts.frame_step, blocks, is_double=self._kind == "double")
        for number, block in enumerate(blocks):
            runs = {run for frame, run in zip(frames, run_ids.tolist(), strict=True) if frame.block == number}
            self.rows.append(
                ImportRow(
                    source=block.source,
                    folder=part,
                    clip=facts.clip_id,
                    weather=facts.weather,
                    split=block.place.split,
                    num_frames=sum(frame.block == number for frame in frames),
                    num_runs=len(runs),
                )
            )
        return sample_index.from_entries(
            clip_id=facts.clip_id,
            frame_step=facts.frame_step,
            image_format=suffix,
            shards=shards,
            run_ids=run_ids,
        )

    def _batches(self, blocks: Sequence[Block]) -> Iterator[list[_Frame]]:
        """Yield the frames of a clip in order, as many at a time as a shard holds."""
        merged = sorted(
            ((number, file) for number, block in enumerate(blocks) for file in block.files),
            key=lambda pair: pair[1].number,
        )
        waiting: list[_Frame] = []
        with ThreadPoolExecutor(max(MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
            # No more pictures are in memory than a shard holds.
            for start in range(0, len(merged), self._samples_per_shard):
                some = merged[start : start + self._samples_per_shard]
                for frames in pool.map(self._frames, some):
                    waiting += frames
                self._ticker.add(len(some))
                while len(waiting) >= self._samples_per_shard:
                    yield waiting[: self._samples_per_shard]
                    del waiting[: self._samples_per_shard]
        if waiting:
            yield waiting

    def _frames(self, item: tuple[int, ReleaseFile]) -> list[_Frame]:
        """Read the frames of one picture."""
        block, file = item
        try:
            data = file.path.read_bytes()
        except OSError as error:
            raise ManifestError(
                f"{file.path}: is gone since it was first read ({error.strerror}); import again"
            ) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ManifestError(
                f"{file.path}: has changed since it was first read; import again when nothing writes there"
            )
        try:
            picture = decode_any(data, name="it")
            if self._kind == "single":
                return [_Frame(file.number, block, file.number, data, file.sha256, file.size)]
            halves = [self._encoded(half) for half in np.split(picture, 2, axis=1)]
        except ImageError as error:
            raise ManifestError(f"{file.path}: {str(error).removeprefix('it: ')}") from error
        size_px = (picture.shape[1] // 2, picture.shape[0])
        return [
            _Frame(2 * file.number + side, block, file.number, half, hashlib.sha256(half).hexdigest(), size_px)
            for side, half in enumerate(halves)
        ]

    def _encoded(self, half: np.ndarray) -> bytes:
        if half.dtype == np.uint16:
            return formats.encode(half, "png16")
        is_gray = half.shape[2] == 3 and bool((half[:, :, :1] == half[:, :, 1:]).all())
        return formats.encode(half[:, :, :1] if is_gray else half, self._frame_format, quality=95)


def _run_ids(frames: Sequence[_Frame], frame_step: int, blocks: Sequence[Block], *, is_double: bool) -> np.ndarray:
    """Number the runs, i32 [N]: each ends where the numbers do not go on, at another folder, and at each picture of Double."""
    numbers = np.array([frame.frame_index for frame in frames], np.int64)
    breaks = np.diff(numbers) != frame_step
    breaks |= np.diff([frame.block for frame in frames]) != 0
    if is_double:
        breaks |= np.diff([frame.picture for frame in frames]) != 0
    else:
        breaks |= np.isin(numbers[1:], [start for block in blocks for start in block.run_starts])
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def _hash_of(block: Block) -> str:
    """Hash the pictures' hashes, in place of the packets of a clip's file."""
    return hashlib.sha256("".join(file.sha256 for file in block.files).encode()).hexdigest()


def _renumbered_from(block: Block) -> dict[str, Any]:
    """Say which files the numbers of a block stand for: the first number, how far the next one is, and the names in order."""
    names = [file.path.name.encode(errors="backslashreplace").decode() for file in block.files]
    return {"first_number": block.files[0].number, "number_step": block.frame_step, "files": names}
