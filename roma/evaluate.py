"""How good translations are where the truth is known: PSNR, SSIM and MAE against the day frames of the same moments."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from infraredcity import video
from infraredcity.images import resize
from infraredcity.loader import WindowReader
from infraredcity.storage import write_atomic
from roma.errors import EvaluationError
from roma.infer import BATCH_FRAMES, Translator, frames_of
from roma.metrics import mae, psnr, save_picture, ssim

REPORT_NAME = "evaluation.json"
NUM_PICTURES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Means over all frames. PSNR in dB, SSIM in [-1, 1], MAE in levels of 255."""

    psnr_db: float
    ssim: float
    mae: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalReport:
    """An evaluation against truth.

    Attributes:
        source: What was translated.
        truth: What it was compared with.
        snapshot_step: Training steps of the translator.
        size_px: Side of the square pictures that were compared.
        num_frames: Frames compared.
        num_without_truth: Frames that had no truth and were left out.
        translated: Scores of the translations.
        infrared: Scores of the infrared itself, the score of doing nothing.
        weights: Pretrained weights that the measures used.
        pictures: For each frame kept to look at: names of its infrared, translated and true picture.
    """

    source: str
    truth: str
    snapshot_step: int
    size_px: int
    num_frames: int
    num_without_truth: int
    translated: Scores
    infrared: Scores
    weights: str
    pictures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    name: str
    infrared: UInt8[np.ndarray, "H W C"]
    truth: UInt8[np.ndarray, "H2 W2 3"]


def evaluate_shards(
    translator: Translator,
    patterns: tuple[str, ...],
    truth: Path,
    out: Path,
    *,
    on_frames: Callable[[int, int], None] | None = None,
) -> EvalReport:
    """Evaluate on every sample of some infrared shards; the truth of clip c, frame i is frame i of `truth`/c.<ext>.

    Args:
        translator: From `roma.infer.open_translator`.
        patterns: Tar files or patterns.
        truth: Folder of day videos named by clip id, frame for frame the same moments as the infrared clips.
        out: Folder for evaluation.json and pictures.
        on_frames: Called with frames done and frames in all.

    Raises:
        EvaluationError: A clip has no truth, or none of the frames has.
        InfraredCityError: Shards or videos are not what they should be.
    """
    reader = WindowReader(patterns, window_frames=1, color="gray")
    try:
        index = reader.index
        rows_of: dict[str, list[int]] = {}
        for row, clip in enumerate(index.clip.tolist()):
            rows_of.setdefault(index.clips[clip], []).append(row)

        def pairs() -> Iterator[_Pair]:
            for clip_id, rows in rows_of.items():
                by_frame = {int(index.frame_index[row]): row for row in rows}
                true_clip = video.open_clip([_truth_of(truth, clip_id)])
                indices = [frame for frame in sorted(by_frame) if frame < true_clip.num_frames]
                for frame_index, picture in frames_of(true_clip, indices, color="rgb"):
                    row = by_frame[frame_index]
                    infrared = reader.read_rows([row])[0].permute(1, 2, 0).numpy()
                    yield _Pair(name=index.key(row), infrared=infrared, truth=picture)

        return _evaluate(
            translator, pairs(), out, len(index), source=", ".join(patterns), truth=truth, on_frames=on_frames
        )
    finally:
        reader.close()


def evaluate_video(
    translator: Translator,
    source: Path,
    truth: Path,
    out: Path,
    *,
    on_frames: Callable[[int, int], None] | None = None,
) -> EvalReport:
    """Evaluate on a video whose truth is another video, frame for frame.

    Raises:
        EvaluationError: The videos hold different numbers of frames.
        InfraredCityError: One of them is no video that can be read.
    """
    infrared_clip, true_clip = video.open_clip([source]), video.open_clip([truth])
    if infrared_clip.num_frames != true_clip.num_frames:
        raise EvaluationError(
            f"{truth}: holds {true_clip.num_frames} frames, {source} {infrared_clip.num_frames}; "
            "a truth shows the same moments, frame for frame"
        )

    def pairs() -> Iterator[_Pair]:
        everything = list(range(infrared_clip.num_frames))
        true_frames = frames_of(true_clip, everything, color="rgb")
        true_index, true_picture = next(true_frames, (-1, None))
        for index, infrared in frames_of(infrared_clip, everything, color="gray"):
            while true_picture is not None and true_index < index:
                true_index, true_picture = next(true_frames, (-1, None))
            if true_picture is not None and true_index == index:
                yield _Pair(name=f"{source.stem}_{index:08d}", infrared=infrared, truth=true_picture)

    return _evaluate(
        translator, pairs(), out, infrared_clip.num_frames, source=str(source), truth=truth, on_frames=on_frames
    )


def read_report(out: Path) -> EvalReport:
    """The report that an evaluation wrote into its folder; EvaluationError when there is none."""
    path = out / REPORT_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["translated"], values["infrared"] = Scores(**values["translated"]), Scores(**values["infrared"])
        values["pictures"] = tuple(tuple(names) for names in values["pictures"])
        return EvalReport(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path}: no evaluation that can be read ({error}); run roma evaluate again") from error


def _evaluate(
    translator: Translator,
    pairs: Iterator[_Pair],
    out: Path,
    total: int,
    *,
    source: str,
    truth: Path,
    on_frames: Callable[[int, int], None] | None,
) -> EvalReport:
    side = translator.snapshot.size_px
    shown_every = max(1, total // NUM_PICTURES)
    sums = {"translated": np.zeros(3), "infrared": np.zeros(3)}
    pictures: list[tuple[str, str, str]] = []
    count = 0
    for batch in _batched(pairs, BATCH_FRAMES):
        infrared = np.stack([np.repeat(resize(pair.infrared, side, side), 3, axis=2) for pair in batch])
        true = np.stack([resize(pair.truth, side, side) for pair in batch])
        translated = translator.translate(infrared[..., :1], size=(side, side))
        for name, images in (("translated", translated), ("infrared", infrared)):
            a, b = (torch.from_numpy(values).permute(0, 3, 1, 2) for values in (images, true))
            sums[name] += [float(measure(a, b).sum()) for measure in (psnr, ssim, mae)]
        for number, pair in enumerate(batch):
            if (count + number) % shown_every == shown_every // 2 and len(pictures) < NUM_PICTURES:
                names = tuple(f"{pair.name}-{kind}.png" for kind in ("infrared", "translated", "truth"))
                for name, picture in zip(names, (infrared[number], translated[number], true[number]), strict=True):
                    save_picture(out / name, picture)
                pictures.append((names[0], names[1], names[2]))
        count += len(batch)
        if on_frames is not None:
            on_frames(count, total)
    if count == 0:
        raise EvaluationError(f"{source}: none of its {total} frames has a truth in {truth}")
    scores = {
        name: Scores(psnr_db=values[0] / count, ssim=values[1] / count, mae=values[2] / count)
        for name, values in sums.items()
    }
    report = EvalReport(
        source=source,
        truth=str(truth),
        snapshot_step=translator.snapshot.step,
        size_px=side,
        num_frames=count,
        num_without_truth=total - count,
        translated=scores["translated"],
        infrared=scores["infrared"],
        weights="none",
        pictures=tuple(pictures),
    )
    write_atomic(out / REPORT_NAME, (json.dumps(asdict(report), indent=1) + "\n").encode())
    return report


def _batched(pairs: Iterator[_Pair], size: int) -> Iterator[list[_Pair]]:
    batch: list[_Pair] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _truth_of(folder: Path, clip_id: str) -> Path:
    found = sorted(path for path in folder.glob(f"{clip_id}.*") if path.is_file())
    if not found:
        raise EvaluationError(f"{folder}: holds no {clip_id}.<ext>, the true day frames of clip {clip_id}")
    return found[0]
