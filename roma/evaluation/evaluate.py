"""Compare translations with the truth, beside three baselines: the infrared itself, colour statistics, the mean day picture."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import converted, read_json
from infraredcity.progress import OnProgress, Ticker
from infraredcity.stills.framing import resize
from roma.config.overlay import without_secrets
from roma.errors import EvaluationError
from roma.evaluation.baselines import DayDomain, day_domain, reinhard
from roma.evaluation.flow import path_of, read_flow, resized
from roma.evaluation.measures import MEASURES
from roma.evaluation.truth import open_truth, true_frames
from roma.inference.job import Preparer, TranslateOptions
from roma.inference.sources import ShardSource, VideoSource
from roma.inference.translator import BATCH_FRAMES, Translator
from roma.training.metrics import save_picture

REPORT_NAME = "evaluation.json"
REPORT_FORMAT = "roma-evaluation-2"
METHODS = ("translated", "infrared", "reinhard", "mean_day", "truth")
NUM_PICTURES = 6

Scores = dict[str, float | None]
"""Means over all frames, by the names in MEASURES and in their order; None where a measure does not apply or had no flow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalReport:
    """An evaluation against truth.

    Attributes:
        source: What was translated.
        compared_with: The source of the true day frames.
        visible: Shards of the day domain for the last two baselines, or "" without them.
        flow: Folder of the flows, or "" without them.
        snapshot_step: Training steps of the translator.
        size_px: Side of the square pictures that were compared.
        num_frames: Frames compared.
        num_without_truth: Frames that had no truth and were left out.
        num_day_frames: Frames of the day domain that were read.
        num_flow_pairs: Pairs of frames that a flow joins.
        translated: Scores of the translations.
        infrared: Scores of the infrared itself, without translation.
        reinhard: Scores of the infrared with the colour statistics of the day domain.
        mean_day: Scores of the mean picture of the day domain, the same for every frame.
        truth: Scores of the truth, for measures that do not compare with it.
        weights: Pretrained weights that the measures used.
        pictures: For each example frame: names of its infrared, translated and true picture.
    """

    source: str
    compared_with: str
    visible: str
    flow: str
    snapshot_step: int
    size_px: int
    num_frames: int
    num_without_truth: int
    num_day_frames: int
    num_flow_pairs: int
    translated: Scores
    infrared: Scores
    reinhard: Scores | None
    mean_day: Scores | None
    truth: Scores
    weights: str
    pictures: tuple[tuple[str, str, str], ...]

    @property
    def methods(self) -> tuple[tuple[str, Scores], ...]:
        """Return name and scores of every method that was measured, the translation first and the truth last."""
        named = ((name, getattr(self, name)) for name in METHODS)
        return tuple((name, scores) for name, scores in named if scores is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    """One frame to compare; `flow` is the folder of its clip's flows."""

    clip_id: str
    frame_index: int
    name: str
    infrared: UInt8[np.ndarray, "H W C"]
    truth: UInt8[np.ndarray, "H2 W2 3"]
    flow: Path | None


def evaluate_shards(
    translator: Translator,
    patterns: tuple[str, ...],
    truth: Path,
    out: Path,
    *,
    visible: tuple[str, ...] = (),
    flow: Path | None = None,
    how: TranslateOptions | None = None,
    on_progress: OnProgress | None = None,
) -> EvalReport:
    """Evaluate on every sample of some infrared shards; the truth of clip c, frame i is frame i of `truth`/c.<ext>.

    Args:
        translator: From `roma.inference.translator.open_translator`.
        patterns: Tar files or patterns.
        truth: Folder of day videos named by clip id, frame for frame the same moments as the infrared clips.
        out: Folder for evaluation.json and pictures.
        visible: Tar files or patterns of the training's day frames, for the baselines made from them.
        flow: Folder that holds <clip id>/<frame index, six digits>.png, the flow to the next frame as `roma.evaluation.flow`
            reads it, for the warping error.
        how: How the infrared is prepared; None as in the training.
        on_progress: Gets the number of frames looked at, a few times a second.

    Raises:
        EvaluationError: A clip has no truth or one of counts, none of the frames has a truth, or no flow joins two of them.
        InfraredCityError: Shards or videos are missing or damaged.
    """
    source = ShardSource(patterns)
    preparer = Preparer(translator, source, how or TranslateOptions())
    try:
        index = source.index
        rows_of: dict[str, list[int]] = {}
        for row, clip in enumerate(index.clip.tolist()):
            rows_of.setdefault(index.clips[clip], []).append(row)
        true_clips = {clip_id: open_truth(_truth_of(truth, clip_id)) for clip_id in rows_of}

        def moments() -> Iterator[_Moment]:
            for clip_id, rows in rows_of.items():
                by_frame = {int(index.frame_index[row]): row for row in rows}
                true_clip = true_clips[clip_id]
                indices = [frame for frame in sorted(by_frame) if frame < true_clip.num_frames]
                for frame_index, picture in true_frames(true_clip, indices):
                    row = by_frame[frame_index]
                    yield _Moment(
                        clip_id=clip_id,
                        frame_index=frame_index,
                        name=index.key(row),
                        infrared=preparer.levels(source.picture(row)),
                        truth=picture,
                        flow=None if flow is None else flow / clip_id,
                    )

        return _evaluate(
            translator,
            moments(),
            out,
            len(index),
            source=", ".join(without_secrets(patterns)),
            truth=truth,
            visible=visible,
            flow=flow,
            on_progress=on_progress,
        )
    finally:
        source.close()


def evaluate_video(
    translator: Translator,
    source: Path,
    truth: Path,
    out: Path,
    *,
    visible: tuple[str, ...] = (),
    flow: Path | None = None,
    how: TranslateOptions | None = None,
    on_progress: OnProgress | None = None,
) -> EvalReport:
    """Evaluate on a video whose truth is another video, frame for frame; `flow` holds <frame index, six digits>.png.

    Raises:
        EvaluationError: A video holds counts, the two hold different numbers of frames, or no flow joins two of them.
        InfraredCityError: One of them is not a readable video.
    """
    infrared, true_clip = VideoSource([source]), open_truth(truth)
    if infrared.num_frames != true_clip.num_frames:
        raise EvaluationError(
            f"{truth}: holds {true_clip.num_frames} frames, {source} {infrared.num_frames}; "
            "a truth shows the same moments, frame for frame"
        )
    preparer = Preparer(translator, infrared, how or TranslateOptions())

    def moments() -> Iterator[_Moment]:
        pictures = true_frames(true_clip, list(range(true_clip.num_frames)))
        true_index, true_picture = next(pictures, (-1, None))
        for index, frame in infrared.indexed():
            while true_picture is not None and true_index < index:
                true_index, true_picture = next(pictures, (-1, None))
            if true_picture is not None and true_index == index:
                height, width = frame.picture.shape[:2]
                # What is cut out of the infrared is cut out of a truth that shows the same pixels.
                is_aligned = true_picture.shape[:2] == (height, width)
                yield _Moment(
                    clip_id=source.stem,
                    frame_index=index,
                    name=frame.name,
                    infrared=preparer.levels(frame.picture),
                    truth=preparer.plan(width, height).cut(true_picture) if is_aligned else true_picture,
                    flow=flow,
                )

    return _evaluate(
        translator,
        moments(),
        out,
        infrared.num_frames,
        source=str(source),
        truth=truth,
        visible=visible,
        flow=flow,
        on_progress=on_progress,
    )


def read_report(out: Path) -> EvalReport:
    """Read the report that an evaluation wrote into its folder.

    Raises:
        EvaluationError: There is none, it is damaged, or it has another format.
    """
    path = out / REPORT_NAME
    try:
        values = read_json(path)
        found = values.pop("format", None)
        if found != REPORT_FORMAT:
            raise EvaluationError(f"{path}: format is {found!r}, expected {REPORT_FORMAT!r}; run roma evaluate again")
        for name in METHODS:
            values[name] = None if values[name] is None else _read_scores(values[name])
        report = converted(values, EvalReport)
        for names in report.pictures:
            _check_names(names)
        return report
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise EvaluationError(f"{path}: not a readable evaluation ({error}); run roma evaluate again") from error


def _read_scores(values: Mapping[str, Any]) -> Scores:
    if unknown := values.keys() - {measure.name for measure in MEASURES}:
        raise ValueError(f"{min(unknown)!r:.80} is not a measure")
    found = {measure.name: values.get(measure.name) for measure in MEASURES}
    return {name: None if value is None else float(value) for name, value in found.items()}


def _check_names(names: tuple[str, str, str]) -> None:
    for name in names:
        if PurePath(name).name != name or not name.endswith(".png") or "\0" in name:
            raise ValueError(f"{name!r:.80} is not the plain name of a png")


def _evaluate(
    translator: Translator,
    moments: Iterator[_Moment],
    out: Path,
    total: int,
    *,
    source: str,
    truth: Path,
    visible: tuple[str, ...],
    flow: Path | None,
    on_progress: OnProgress | None,
) -> EvalReport:
    side = translator.side_px
    day = day_domain(visible, size_px=side) if visible else None
    shown_every = max(1, total // NUM_PICTURES)
    tally = _Tally()
    ticker = Ticker("frames looked at", total, on_progress)
    pictures: list[tuple[str, str, str]] = []
    count = num_pairs = 0
    last: list[_Moment] = []
    last_shown: dict[str, Tensor] = {}
    for batch in _batched(moments, BATCH_FRAMES):
        shown = _methods(translator, batch, day)
        tally.add_frames(shown)
        # The first pair begins with the last frame of the previous batch.
        joined = {name: torch.cat([*([last_shown[name]] if last_shown else []), shown[name]]) for name in shown}
        num_pairs += tally.add_pairs([*last, *batch], joined)
        last, last_shown = batch[-1:], {name: images[-1:] for name, images in shown.items()}
        for number, moment in enumerate(batch):
            if (count + number) % shown_every == shown_every // 2 and len(pictures) < NUM_PICTURES:
                names = [f"{moment.name}-{kind}" for kind in ("infrared", "translated", "truth")]
                for name, kind in zip(names, ("infrared", "translated", "truth"), strict=True):
                    save_picture(out / f"{name}.png", shown[kind][number].permute(1, 2, 0).numpy())
                pictures.append((f"{names[0]}.png", f"{names[1]}.png", f"{names[2]}.png"))
        count += len(batch)
        ticker.add(len(batch))
    if count < total:
        ticker.add(total - count)  # those without truth
    if count == 0:
        raise EvaluationError(f"{source}: none of its {total} frames has a truth in {truth}")
    if flow is not None and num_pairs == 0:
        assert last[0].flow is not None
        raise EvaluationError(
            f"{flow}: no flow joins two compared frames; expected files such as {path_of(last[0].flow, 0)}, and frames that "
            "follow each other"
        )
    report = EvalReport(
        source=source,
        compared_with=str(truth),
        visible=", ".join(without_secrets(visible)),
        flow="" if flow is None else str(flow),
        snapshot_step=translator.snapshot.step,
        size_px=side,
        num_frames=count,
        num_without_truth=total - count,
        num_day_frames=0 if day is None else day.num_frames,
        num_flow_pairs=num_pairs,
        translated=tally.scores("translated"),
        infrared=tally.scores("infrared"),
        reinhard=None if day is None else tally.scores("reinhard"),
        mean_day=None if day is None else tally.scores("mean_day"),
        truth=tally.scores("truth"),
        weights="none",
        pictures=tuple(pictures),
    )
    text = json.dumps({"format": REPORT_FORMAT, **asdict(report)}, indent=1)
    write_atomic(out / REPORT_NAME, (text + "\n").encode())
    return report


def _methods(translator: Translator, batch: list[_Moment], day: DayDomain | None) -> dict[str, Tensor]:
    """Return what each method shows for some moments, u8 [N, 3, H, W] by its name."""
    side = translator.side_px
    gray = np.stack([resize(moment.infrared, side, side) for moment in batch])
    infrared = torch.from_numpy(np.repeat(gray, 3, axis=3)).permute(0, 3, 1, 2)
    shown = {
        "translated": torch.from_numpy(_translated(translator, batch, gray)).permute(0, 3, 1, 2),
        "infrared": infrared,
    }
    if day is not None:
        shown["reinhard"] = reinhard(infrared, day)
        shown["mean_day"] = day.mean_picture.expand_as(infrared)
    truth = np.stack([resize(moment.truth, side, side) for moment in batch])
    shown["truth"] = torch.from_numpy(truth).permute(0, 3, 1, 2)
    return shown


def _translated(
    translator: Translator, batch: list[_Moment], squares: UInt8[np.ndarray, "N S S C"]
) -> UInt8[np.ndarray, "N S S 3"]:
    """Translate at the size of the training, and bring the results to the squares that are compared."""
    side = squares.shape[1]
    sizes = [translator.trained_size(moment.infrared.shape[1], moment.infrared.shape[0]) for moment in batch]
    if set(sizes) == {(side, side)}:
        return translator.translate(squares, size=(side, side))
    pictures = [
        translator.translate(moment.infrared[None], size=size)[0] for moment, size in zip(batch, sizes, strict=True)
    ]
    return np.stack([resize(picture, side, side) for picture in pictures])


class _Tally:
    """Collect the measures of every method, frame by frame."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add_frames(self, shown: Mapping[str, Tensor]) -> None:
        """Measure each method's frames, alone and beside the truth."""
        for method, images in shown.items():
            values = self._values[method]
            for measure in MEASURES:
                if measure.of_pictures is not None:
                    values[measure.name] += measure.of_pictures(images).tolist()
                elif measure.beside_truth is not None and method != "truth":
                    values[measure.name] += measure.beside_truth(images, shown["truth"]).tolist()

    def add_pairs(self, moments: list[_Moment], shown: Mapping[str, Tensor]) -> int:
        """Measure pairs of consecutive frames that a flow joins, for each method; return the number of pairs."""
        height, width = shown["truth"].shape[-2:]
        firsts, flows = [], []
        for number, (moment, following) in enumerate(pairwise(moments)):
            follows = (following.clip_id, following.frame_index) == (moment.clip_id, moment.frame_index + 1)
            if moment.flow is not None and follows and (path := path_of(moment.flow, moment.frame_index)).exists():
                firsts.append(number)
                flows.append(resized(read_flow(path), width, height))
        if not flows:
            return 0
        places = torch.tensor(firsts)
        field = torch.from_numpy(np.stack([flow.field for flow in flows]))
        visible = torch.from_numpy(np.stack([flow.visible for flow in flows]))
        num_known = 0
        for method, images in shown.items():
            for measure in MEASURES:
                if measure.of_pairs is not None:
                    found = measure.of_pairs(images[places], images[places + 1], field, visible).tolist()
                    known = [value for value in found if not math.isnan(value)]
                    self._values[method][measure.name] += known
                    num_known = len(known)
        return num_known

    def scores(self, method: str) -> Scores:
        """Return the means of one method."""
        gathered = {measure.name: self._values[method][measure.name] for measure in MEASURES}
        return {name: math.fsum(values) / len(values) if values else None for name, values in gathered.items()}


def _batched(moments: Iterator[_Moment], size: int) -> Iterator[list[_Moment]]:
    batch: list[_Moment] = []
    for moment in moments:
        batch.append(moment)
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
