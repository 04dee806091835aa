"""An extraction job: one clip, its job spec and the segments to write; what is done of it, and opening or joining its folder."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from infraredcity.clips import Clip
from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.gaps import GAPS_NAME
from infraredcity.datasets.walk import JOB_NAME, SEGMENTS_FOLDER
from infraredcity.errors import OutputError, VideoDecodeError
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.segments import Segment, segment_of, segments
from infraredcity.extraction.spec import (
    JobSpec,
    describe_difference,
    describe_other_source,
    frames_sha256,
    read_spec,
    sources_of,
)
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath, RemotePath, size_of, sizes_in
from infraredcity.files.records import converted, read_json
from infraredcity.files.temporary import TEMPORARY_PREFIX, remove_temporaries
from infraredcity.shards import index_file, sidecars
from infraredcity.stills.formats import FORMATS, SUFFIXES
from infraredcity.stills.tone import ToneMap
from infraredcity.video import ClipVideo, DecoderName, choose_decoder, find_decoder, open_clip

_SKIPPED_FOLDER = "hangs"
"""A folder, so that what each part reads does not grow with the shards that lie beside it."""
_BYTES_LIBRARIES = {
    "av": ("av",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "simplejpeg": ("simplejpeg",),
}
"""Libraries that shape the bytes of every run, and the packages that each may come in; a decoder may bring more."""
_HAS_COLOR = "its pictures have colour, of which gray stills keep the luma alone; --color rgb keeps it"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRange:
    """Frames, half-open, that are not decoded, since the decoder hung at the first of them."""

    start_frame: int
    stop_frame: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractJob:
    """The extraction of one clip: what to read, how, and where it goes; plain data that other processes can take."""

    clip: Clip
    video: ClipVideo
    config: ExtractConfig
    decoder: DecoderName
    folder: AnyPath
    segments: tuple[Segment, ...]
    """The segments to write: of the whole clip, or of a part."""
    versions: Mapping[str, str]
    device: str
    """"cpu" or "cuda:N"."""
    skipped: tuple[SkippedRange, ...] = ()
    """Frames at which a decoder hung, in this run or an earlier one."""
    tone: ToneMap | None = None
    """How counts become levels; None where there are no counts, where they are kept, or not yet (see `needs_tone`)."""
    identity: str = ""
    """Identity of the job spec in the folder; empty before `bind_folder`."""

    @property
    def is_deep(self) -> bool:
        """Return whether the clip holds counts of more than 8 bits."""
        return self.video.files[0].is_deep

    @property
    def needs_tone(self) -> bool:
        """Return whether the tone has to be fitted to the clip's frames before anything can be written."""
        return self.is_deep and not FORMATS[self.config.image_format].is_deep and self.tone is None

    def make_spec(self) -> JobSpec:
        """Return the job spec; this hashes the times of all frames of the clip."""
        spec = JobSpec(
            clip=replace(self.clip, paths=(), expected_frames=None),
            config=replace(self.config, device=self.device.partition(":")[0]),
            decoder=self.decoder,
            tone=self.tone,
            sources=sources_of(self.video),
            versions=self.versions,
            time_base=str(self.video.time_base),
            nominal_fps=self.video.files[0].nominal_fps,
            num_frames=self.video.num_frames,
            frames_sha256=frames_sha256(self.video),
            break_frames=self.video.break_frames,
            is_deep=self.is_deep,
            suspect=self.video.suspect,
            notes=self.video.notes,
        )
        if spec.color == "gray" and not self.is_deep and any(file.has_color for file in self.video.files):
            return replace(spec, suspect=(*spec.suspect, _HAS_COLOR))
        return spec

    def first_decoded(self, frame_index: int) -> int:
        """Return the first frame at or after `frame_index` that is not skipped."""
        for skipped in sorted(self.skipped, key=lambda each: each.start_frame):
            if skipped.start_frame <= frame_index < skipped.stop_frame:
                frame_index = skipped.stop_frame
        return frame_index

    @property
    def can_start_anywhere(self) -> bool:
        """Return whether a worker may begin in the middle of the clip without decoding what comes before."""
        return find_decoder(self.decoder).can_start_anywhere and all(file.is_seekable for file in self.video.files)


def open_job(clip: Clip, config: ExtractConfig, out: AnyPath, *, overwrite: bool = False) -> ExtractJob:
    """Scan the clip, plan its segments and go on with what is done in `out`/<clip_id>. The caller is the only one who writes there.

    The job may still need its tone; `bind_folder` it before segments are written.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip.
        overwrite: Delete what an earlier extraction left in the clip's folder.

    Raises:
        CatalogError: The clip's file is missing.
        VideoDecodeError: It is no video, the decoder cannot be trusted with it, or it is no clip for the asked format or tone.
        OutputError: The folder holds an extraction with other settings or from another file.
        MissingExtraError: A package that writing the manifest needs is missing.
    """
    manifest.check_packages()
    folder = out / clip.clip_id
    video = open_clip(clip.existing_paths(), kept_in=folder, stream=config.stream)
    job = _job(clip, video, config, folder, *choose_decoder(video, config.decoder, config.device))
    job = replace(job, segments=segments(clip.clip_id, job.video.num_frames, config))
    # A run that finished no segment (a crop outside the picture, a device that is not there) binds nobody to its settings.
    is_begun = (folder / JOB_NAME).exists()
    if overwrite or (is_begun and not any_done(folder)):
        _clear(folder)
    elif is_begun:
        job = _resume(job)
    (folder / SEGMENTS_FOLDER).mkdir(exist_ok=True)
    return replace(job, skipped=read_skipped(folder))


def join_job(clip: Clip, planned: JobSpec, out: AnyPath, numbers: Sequence[int]) -> ExtractJob:
    """Open the job of some segments of a planned clip, perhaps planned on another machine; others may write there too.

    Args:
        clip: The clip, with its files as they are named here.
        planned: The job spec in the plan.
        out: Folder that has one folder per clip.
        numbers: The segments to write.

    Raises:
        CatalogError: The clip's file is missing.
        VideoDecodeError: It is no video.
        OutputError: The file differs from the planned one, the planned decoder or device does not work here, the libraries
            differ, or the folder belongs to another job.
    """
    folder = out / clip.clip_id
    spec = read_spec(folder)
    if spec is None:
        planned.write(folder)  # the same bytes, whichever part is first
    elif spec.identity != planned.identity:
        difference = describe_difference(spec, planned, with_versions=True) or describe_other_source(spec, planned)
        raise OutputError(
            f"{folder}: belongs to another job: {difference or 'another scan'}; use the plan that was made for it, or another --out"
        )
    video = open_clip(clip.existing_paths(), kept_in=folder, stream=planned.config.stream)
    _check_planned(clip, video, planned)
    job = _job(clip, video, planned.config, folder, planned.decoder, planned.config.device)
    segments_of_part = tuple(segment_of(clip.clip_id, planned.num_frames, planned.config, number) for number in numbers)
    job = replace(
        job, segments=segments_of_part, tone=planned.tone, identity=planned.identity, skipped=read_skipped(folder)
    )
    if job.versions != planned.versions and pending(job):
        versions = describe_difference(planned, job.make_spec(), with_versions=True)
        raise OutputError(
            f"clip {clip.clip_id}: was planned with {versions} here; other versions may give other bytes, so install the same"
        )
    (folder / SEGMENTS_FOLDER).mkdir(parents=True, exist_ok=True)
    return replace(job, versions=planned.versions)


def _check_planned(clip: Clip, video: ClipVideo, planned: JobSpec) -> None:
    """Check that the clip's files are those that were planned, and that the planned decoder and device work here."""
    here = replace(
        planned, sources=sources_of(video), time_base=str(video.time_base), frames_sha256=frames_sha256(video)
    )
    other = describe_other_source(planned, here)
    if other is not None:  # checked before the decoder, since what that can do depends on the file
        names = ", ".join(str(path) for path in clip.paths)
        raise OutputError(f"clip {clip.clip_id}: {names} here is not what was planned but {other}; copy the clip again")
    decoder = find_decoder(planned.decoder)
    for file in video.files:
        reason = decoder.why_not(file, planned.config.device)
        if reason is not None:
            raise OutputError(
                f"clip {clip.clip_id}: was planned with {planned.decoder} on device {planned.config.device}, and here {reason}; "
                f"run the part on a machine that can, or plan again with {decoder.instead}"
            )
    if video.num_frames != planned.num_frames:
        raise OutputError(
            f"clip {clip.clip_id}: the scan finds {video.num_frames} frames here, the plan {planned.num_frames}; "
            "install the same version of av on all machines"
        )


def _job(
    clip: Clip, video: ClipVideo, config: ExtractConfig, folder: AnyPath, decoder: DecoderName, device: str
) -> ExtractJob:
    """Make the job without its segments, of which a part has few."""
    job = ExtractJob(
        clip=clip,
        video=video,
        config=config,
        decoder=decoder,
        device=device,
        folder=folder,
        segments=(),
        versions=versions_here(decoder),
        tone=None if config.tone_range is None else ToneMap(low=config.tone_range[0], high=config.tone_range[1]),
    )
    _check_depth(job)
    return job


def bind_folder(job: ExtractJob) -> ExtractJob:
    """Write the job spec into the clip's folder, and return the job with its identity."""
    assert not job.needs_tone
    if job.identity:
        return job
    spec = job.make_spec()
    spec.write(job.folder)
    return replace(job, identity=spec.identity)


def any_done(folder: AnyPath) -> bool:
    """Return whether a segment was finished in a clip's folder."""
    return bool(segment_record.list_records(folder))


def skip_range(job: ExtractJob, skipped: SkippedRange) -> ExtractJob:
    """Return the job with one more range that is not decoded, and save it for later runs in a file of its own."""
    data = (json.dumps(asdict(skipped), indent=1) + "\n").encode()
    write_atomic(job.folder / _SKIPPED_FOLDER / f"{skipped.start_frame:08d}.json", data)
    return replace(job, skipped=tuple(sorted((*job.skipped, skipped), key=lambda each: each.start_frame)))


def read_skipped(folder: AnyPath) -> tuple[SkippedRange, ...]:
    """Read the ranges at which a decoder hung, as far as runs in this clip's folder found."""
    skipped: list[SkippedRange] = []
    for name in sorted(sizes_in(folder / _SKIPPED_FOLDER)):
        path = folder / _SKIPPED_FOLDER / name
        if name.startswith(TEMPORARY_PREFIX):
            continue
        try:
            skipped.append(converted(read_json(path), SkippedRange))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: damaged ({error}); delete it, then run the same command again") from error
    return tuple(skipped)


def remove_leftovers(folder: AnyPath) -> None:
    """Delete the temporary files that killed writers left in a clip's folder. The caller is the only one who writes there."""
    if isinstance(folder, RemotePath):
        return  # a store shows only what was sent whole
    for below in (folder, folder / SEGMENTS_FOLDER, folder / _SKIPPED_FOLDER):
        if below.is_dir():
            remove_temporaries(below)


def pending(job: ExtractJob) -> list[Segment]:
    """Return the segments still to be written, in order: those without a record, or whose shard is gone or of another size."""
    return [segment for segment in job.segments if not is_done(job, segment)]


def is_done(job: ExtractJob, segment: Segment) -> bool:
    """Return whether a segment has a record of this job and the shard or files that the record states."""
    try:
        head = segment_record.read_head(segment_record.record_path(job.folder, segment.number))
    except OutputError:
        return False
    segment_record.check_job(job.folder, head, job.identity)
    return segment_record.is_whole(
        job.folder,
        head,
        clip_id=job.clip.clip_id,
        clip_frames=job.video.num_frames,
        config=job.config,
        size_of=lambda name: size_of(job.folder / name),
    )


def versions_here(decoder: DecoderName) -> dict[str, str]:
    """Find the installed version of each library that shapes the bytes, those of the decoder last."""
    versions = {}
    for name, packages in {**_BYTES_LIBRARIES, **find_decoder(decoder).libraries}.items():
        found = []
        for package in packages:
            with suppress(importlib.metadata.PackageNotFoundError):
                found.append(importlib.metadata.version(package))
        versions[name] = " and ".join(dict.fromkeys(found)) or "not installed"
    return versions


def _resume(job: ExtractJob) -> ExtractJob:
    """Return the job as an earlier run began it, after checking that this run would write the same bytes."""
    before, now = read_spec(job.folder), job.make_spec()
    assert before is not None
    job = replace(job, identity=before.identity)
    difference = describe_difference(before, now, with_versions=False)
    if difference is None and before.versions != now.versions and pending(job):
        difference = describe_difference(before, now, with_versions=True)
    if difference is not None:
        raise OutputError(
            f"{job.folder}: was extracted with {difference}; use the same, another --out, or --overwrite to start anew"
        )
    other = describe_other_source(before, now)
    if other is not None:
        raise OutputError(f"{job.folder}: was extracted from {other}; use another --out, or --overwrite to start anew")
    return replace(job, versions=before.versions, tone=before.tone)


def _clear(folder: AnyPath) -> None:
    """Delete an extraction: clips.json and index first, so that a kill in the middle leaves nothing that looks finished.

    Temporary files stay: a part of a plan may be writing them.
    """
    names = sorted(sizes_in(folder))
    done = [segment_record.record_path(folder, number) for number in sorted(segment_record.list_records(folder))]
    skipped = [folder / _SKIPPED_FOLDER / name for name in sorted(sizes_in(folder / _SKIPPED_FOLDER))]
    others = (manifest.CSV_NAME, manifest.PARQUET_NAME, sidecars.WIDS_NAME, GAPS_NAME)
    rest = [
        folder / name
        for name in names
        if (name.endswith((".tar", ".idx")) and not name.startswith(TEMPORARY_PREFIX))
        or name in others
        or (name.endswith(tuple(f".{suffix}" for suffix in SUFFIXES)) and name.startswith(f"{folder.name}_"))
    ]
    first = (folder / clip_facts.CLIPS_NAME, folder / index_file.INDEX_NAME)
    for path in (*first, *done, *skipped, *rest, folder / JOB_NAME):
        path.unlink(missing_ok=True)


def _check_depth(job: ExtractJob) -> None:
    """Check that format, tone and colour suit the clip's bits per pixel; VideoDecodeError if not."""
    names = {file.pixel_format for file in job.video.files}
    if len({file.is_deep for file in job.video.files}) > 1:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: its chunks are {', '.join(sorted(names))}; chunks of one clip must have one depth"
        )
    wants_counts = FORMATS[job.config.image_format].is_deep or job.config.tone is not None
    if wants_counts and not job.is_deep:
        option = f"--format {job.config.image_format}" if FORMATS[job.config.image_format].is_deep else "--tone"
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {option} is for gray video of more than 8 bits, and this is {', '.join(names)}; leave it out"
        )
    if job.is_deep and job.config.color == "rgb":
        raise VideoDecodeError(f"clip {job.clip.clip_id}: {', '.join(names)} has no colour; use --color gray or auto")
