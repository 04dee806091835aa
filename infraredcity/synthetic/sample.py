"""Write the built-in sample: nine clips, their true day frames, a contact sheet, and optional further truth."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infraredcity.clips import POLARITIES
from infraredcity.errors import OutputError, check_choice
from infraredcity.files.atomic import write_atomic
from infraredcity.progress import OnProgress, Ticker
from infraredcity.synthetic.clips import CLIPS, SyntheticClip
from infraredcity.synthetic.coco import encode_boxes
from infraredcity.synthetic.encode import CountsWriter, VideoWriter
from infraredcity.synthetic.flow import encode_flow
from infraredcity.synthetic.opencv import cv2
from infraredcity.synthetic.render_infrared import Polarity
from infraredcity.synthetic.world import Kind, SceneObject, World

MARKER = ".infraredcity-sample"
"""A file that marks the folder's clips as a sample, which may be overwritten."""
_SHEET_FRAMES = 4
_CELL_PX = (128, 160)
_LABEL_PX = 18
_FLOW_DIGITS = 6
_MAX_WORKERS = 2

_Pictures = list[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleInfo:
    """What was written.

    Attributes:
        folder: Holds `<clip_id>.mp4`, truth/, and on request flow/, boxes/ and raw16/.
        clips_file: The catalogue to pass as `--clips`.
        clip_ids: The clips, in the order of the catalogue.
        contact_sheet: A few frames of each clip, with their truth below.
        num_frames: Frames in each clip.
    """

    folder: Path
    clips_file: Path
    clip_ids: tuple[str, ...]
    contact_sheet: Path
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One clip to write."""

    folder: Path
    clip: SyntheticClip
    width_px: int
    height_px: int
    num_frames: int
    seed: int
    fps: int
    polarity: Polarity
    flow: bool
    boxes: bool
    raw16: bool

    @property
    def boxes_file(self) -> Path:
        return self.folder / "boxes" / f"{self.clip.clip_id}.json"

    @property
    def flow_folder(self) -> Path:
        return self.folder / "flow" / self.clip.clip_id

    @property
    def raw16_file(self) -> Path:
        return self.folder / "raw16" / f"{self.clip.clip_id}.mkv"


def write_sample(
    folder: Path,
    *,
    width_px: int = 320,
    height_px: int = 256,
    num_frames: int = 240,
    seed: int = 0,
    clip_ids: Sequence[str] | None = None,
    fps: int = 25,
    polarity: Polarity = "white-hot",
    flow: bool = False,
    boxes: bool = False,
    raw16: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> SampleInfo:
    """Write the sample's clips as H.264; the same arguments give the same bytes.

    The folder gets

    - `<clip_id>.mp4`: the clips;
    - `truth/<clip_id>.mp4`: each infrared clip by day, frame for frame;
    - `clips.toml`, the catalogue, and `contact.png`, a few frames of each;
    - `.infraredcity-sample`, which marks the clips as a sample;
    - with `flow`, `flow/<clip_id>/<frame index, 6 digits>.png`: the optical flow from each frame but the last to the next, in the
      encoding of KITTI 2015 (see `encode_flow`; `decode_flow` reads it);
    - with `boxes`, `boxes/<clip_id>.json`: boxes of the objects in each frame, in COCO's format (see `encode_boxes`);
    - with `raw16`, `raw16/<clip_id>.mkv`: each infrared clip as the sensor's counts, 100 per kelvin, 16 bits, lossless FFV1 (see
      `World.render16`).

    An existing sample is overwritten. Its flow, boxes and counts that this run does not write are deleted, since they would belong
    to other frames.

    Args:
        folder: Folder to write; created if it is missing.
        width_px: Width of the clips, even, at least 64.
        height_px: Height of the clips, even, at least 64.
        num_frames: Frames in each clip, at least 2.
        seed: Each seed gives other streets; not negative.
        clip_ids: Some of the nine clips; all by default.
        fps: Frames per second.
        polarity: Whether the infrared clips show heat bright or dark.
        flow: Write optical flow, about 60 kB for each frame at the usual size.
        boxes: Write boxes of the visible objects.
        raw16: Write the infrared clips as counts too, about 25 MB for each at the usual size and length.
        workers: Processes that render, one clip each at a time; by default 2, or 1 on a machine with one core. With more
            than 1 the calling script needs the usual `if __name__ == "__main__"`.
        on_progress: Gets the number of finished clips.

    Raises:
        ValueError: An argument is out of its range.
        OutputError: The folder cannot be written, or holds clips of these names that are not a sample.
    """
    check_choice("polarity", polarity, POLARITIES)
    chosen = _chosen_clips(clip_ids)
    _check(width_px=width_px, height_px=height_px, num_frames=num_frames, seed=seed, fps=fps, workers=workers)
    folder = Path(folder)
    tasks = [
        _Task(
            folder=folder,
            clip=clip,
            width_px=width_px,
            height_px=height_px,
            num_frames=num_frames,
            seed=seed,
            fps=fps,
            polarity=polarity,
            flow=flow,
            boxes=boxes,
            raw16=raw16,
        )
        for clip in chosen
    ]
    _claim(folder, tasks)
    for task in tasks:
        _delete_stale(task)
    if workers is None:
        workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    stills: dict[str, list[_Pictures]] = {}
    ticker = Ticker("clips", len(tasks), on_progress)
    for clip_id, pictures in _run(tasks, min(workers, len(tasks))):
        stills[clip_id] = pictures
        ticker.add()

    contact_sheet = folder / "contact.png"
    write_atomic(contact_sheet, _contact_sheet(chosen, stills))
    clips_file = folder / "clips.toml"
    write_atomic(clips_file, _catalogue(chosen, num_frames, polarity).encode())
    return SampleInfo(
        folder=folder,
        clips_file=clips_file,
        clip_ids=tuple(clip.clip_id for clip in chosen),
        contact_sheet=contact_sheet,
        num_frames=num_frames,
    )


def _chosen_clips(clip_ids: Sequence[str] | None) -> list[SyntheticClip]:
    if clip_ids is None:
        return list(CLIPS.values())
    if isinstance(clip_ids, str):
        raise ValueError(f'clip_ids must be a list of clip ids, got the text "{clip_ids}"; write ["{clip_ids}"]')
    for clip_id in clip_ids:
        if clip_id not in CLIPS:
            raise ValueError(f'unknown clip id "{clip_id}"; the sample has {", ".join(CLIPS)}')
    if not clip_ids:
        raise ValueError(f"clip_ids is empty; name at least one of {', '.join(CLIPS)}")
    return [clip for clip_id, clip in CLIPS.items() if clip_id in set(clip_ids)]


def _check(*, width_px: int, height_px: int, num_frames: int, seed: int, fps: int, workers: int | None) -> None:
    for name, size in (("width_px", width_px), ("height_px", height_px)):
        if size < 64 or size % 2:
            raise ValueError(f"{name} must be even and at least 64, got {size}")
    if num_frames < 2:
        raise ValueError(f"num_frames must be at least 2, got {num_frames}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if fps < 1:
        raise ValueError(f"fps must be at least 1, got {fps}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


def _claim(folder: Path, tasks: list[_Task]) -> None:
    """Mark the folder as a sample, unless it holds other clips."""
    if not (folder / MARKER).exists():
        for task in tasks:
            for path in (folder / f"{task.clip.clip_id}.mp4", task.flow_folder, task.boxes_file, task.raw16_file):
                if path.exists():
                    raise OutputError(
                        f"{path}: exists and is not part of a sample; choose another folder, or move it away"
                    )
    write_atomic(folder / MARKER, b"Written by infraredcity sample; its clips may be overwritten.\n")


def _delete_stale(task: _Task) -> None:
    """Delete a clip's flow, boxes and counts of an earlier sample that this one will not write."""
    num_flows = task.num_frames - 1 if task.flow else 0
    for path in task.flow_folder.glob("[0-9]" * _FLOW_DIGITS + ".png"):
        if int(path.stem) >= num_flows:
            path.unlink()
    if not task.boxes:
        task.boxes_file.unlink(missing_ok=True)
    if not (task.raw16 and task.clip.modality == "infrared"):
        task.raw16_file.unlink(missing_ok=True)


def _run(tasks: list[_Task], workers: int) -> Iterator[tuple[str, list[_Pictures]]]:
    if workers == 1:
        for task in tasks:
            yield task.clip.clip_id, _write_clip(task)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_write_clip, task): task.clip.clip_id for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()


def _write_clip(task: _Task) -> list[_Pictures]:
    """Write one clip, with its truth if it is infrared; return the sheet's pictures, a list for each video."""
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return _render_clip(task)
    finally:
        cv2.setNumThreads(threads_before)


def _render_clip(task: _Task) -> list[_Pictures]:
    clip_id = task.clip.clip_id
    width_px, height_px, fps = task.width_px, task.height_px, task.fps
    world = World(task.clip, seed=task.seed, width_px=width_px, height_px=height_px, fps=fps, polarity=task.polarity)
    infrared = task.clip.modality == "infrared"
    videos: list[tuple[Kind, Path]] = [(_kind_of(task.clip), task.folder / f"{clip_id}.mp4")]
    if infrared:
        videos.append(("day", task.folder / "truth" / f"{clip_id}.mp4"))
    shown = {round(i * (task.num_frames - 1) / (_SHEET_FRAMES - 1)) for i in range(_SHEET_FRAMES)}
    stills: list[_Pictures] = [[] for _ in videos]
    things: list[tuple[SceneObject, ...]] = []
    with ExitStack() as stack:
        writers = [
            stack.enter_context(VideoWriter(path, width_px=width_px, height_px=height_px, fps=fps))
            for _, path in videos
        ]
        counts = None
        if infrared and task.raw16:
            counts = stack.enter_context(CountsWriter(task.raw16_file, width_px=width_px, height_px=height_px, fps=fps))
        for frame_index in range(task.num_frames):
            for (kind, _), writer, pictures in zip(videos, writers, stills, strict=True):
                picture = world.render(frame_index, kind)
                writer.add(picture)
                if frame_index in shown:
                    pictures.append(cv2.resize(picture, _CELL_PX[::-1], interpolation=cv2.INTER_AREA))
            if counts is not None:
                counts.add(world.render16(frame_index))
            if task.boxes:
                things.append(world.objects(frame_index))
            if task.flow and frame_index + 1 < task.num_frames:
                path = task.flow_folder / f"{frame_index:0{_FLOW_DIGITS}d}.png"
                write_atomic(path, encode_flow(world.flow(frame_index)))
    if task.boxes:
        write_atomic(task.boxes_file, encode_boxes(clip_id, things, width_px=width_px, height_px=height_px))
    return stills


def _kind_of(clip: SyntheticClip) -> Kind:
    return "infrared" if clip.modality == "infrared" else clip.time_of_day


def _catalogue(clips: list[SyntheticClip], num_frames: int, polarity: Polarity) -> str:
    lines = ['# The built-in sample, written by "infraredcity sample": rendered streets, no recordings.', ""]
    for clip in clips:
        lines += [
            f"[clips.{clip.clip_id}]",
            f'path = "{clip.clip_id}.mp4"',
            f'scene = "{clip.scene}"',
            f'weather = "{clip.weather}"',
            f'modality = "{clip.modality}"',
            f'time_of_day = "{clip.time_of_day}"',
            f"expected_frames = {num_frames}",
        ]
        if clip.modality == "infrared" and polarity != "white-hot":
            lines.append(f'polarity = "{polarity}"')
        lines.append("")
    return "\n".join(lines)


def _contact_sheet(clips: list[SyntheticClip], stills: dict[str, list[_Pictures]]) -> bytes:
    """Return a PNG of two columns of labelled rows, each row a few frames of one video."""
    blocks = []
    for clip in clips:
        rows = []
        for i, pictures in enumerate(stills[clip.clip_id]):
            label = f"{clip.clip_id}: truth by day" if i else f"{clip.clip_id} ({clip.modality}, {clip.weather})"
            rows.append(_sheet_row(label, pictures))
        blocks.append(np.concatenate(rows))
    columns: list[list[NDArray[np.uint8]]] = [[], []]
    for block in blocks:
        min(columns, key=lambda column: sum(len(above) for above in column)).append(block)
    sides = [np.concatenate(column) for column in columns if column]
    tall = max(len(side) for side in sides)
    padded = [np.pad(side, ((0, tall - len(side)), (0, 6), (0, 0)), constant_values=24) for side in sides]
    done, data = cv2.imencode(".png", np.concatenate(padded, axis=1)[:, :, ::-1])
    assert done
    return bytes(data)


def _sheet_row(label: str, pictures: _Pictures) -> NDArray[np.uint8]:
    cells = [np.repeat(p[:, :, None], 3, axis=2) if p.ndim == 2 else p for p in pictures]
    cells += [np.full((*_CELL_PX, 3), 24, np.uint8)] * (_SHEET_FRAMES - len(cells))
    row = np.concatenate(cells, axis=1)
    title = np.full((_LABEL_PX, row.shape[1], 3), 24, np.uint8)
    cv2.putText(title, label, (5, _LABEL_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([title, row])
