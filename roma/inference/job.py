"""Translate one source into one sink: prepare frames as in the training, run the network, give pictures on, three at a time.

A thread reads and prepares the next frames and another writes the last ones, while this one runs the network.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from infraredcity.errors import InfraredCityError
from infraredcity.progress import OnProgress, Ticker
from infraredcity.stills.framing import Box, PolarityChoice, resize
from infraredcity.stills.tone import ToneMap
from roma.data.batches import ahead
from roma.data.preprocessing import Preparation, RunningTone, fitted
from roma.errors import EvaluationError, RomaError
from roma.inference.choices import ToneChoice
from roma.inference.sinks import Sink
from roma.inference.sources import Frame, Source
from roma.inference.translator import Translator

_WAITING_BATCHES = 2
_BATCH_PIXELS = 4 * 256 * 256
"""Pixels that go through the network at once on a CPU: more take memory and no less time."""
_BATCH_PIXELS_GPU = 16 * 256 * 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateOptions:
    """How frames are translated."""

    native: bool = False
    """Whether the network works at the input's own size, not at that of the training."""
    side_by_side: bool = False
    """Whether the input is put to the left of each translation."""
    polarity: PolarityChoice | None = None
    """How the input shows heat; "invert" turns it around in any case; None takes it as it is."""
    tone: ToneChoice | None = None
    """How counts become levels; None takes the training's way."""
    tone_range: tuple[int, int] | None = None
    """For "fixed"."""
    masks: tuple[Box, ...] | None = None
    """Boxes to fill, in pixels of the input; None takes the training's where the input has the size of its clips."""
    crop: Box | None = None
    """What to cut out; None as for `masks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateReport:
    """What was translated."""

    source: str
    out: str
    num_frames: int
    num_missing: int
    """Frames that could not be read, or came too fast from a live source."""
    width_px: int
    """Of the last picture, the input beside it included."""
    height_px: int
    notes: tuple[str, ...]
    """What else is good to know."""


def translate(
    translator: Translator,
    source: Source,
    sink: AbstractContextManager[Sink],
    options: TranslateOptions,
    *,
    out: str,
    on_progress: OnProgress | None = None,
    is_done: Callable[[Frame], bool] = lambda _frame: False,
) -> TranslateReport:
    """Translate all frames of a source.

    Args:
        translator: From `roma.inference.translator.open_translator`.
        source: The frames.
        sink: Takes the pictures, in the frames' order; it is entered when the first frame is read and prepared.
        options: See there.
        out: What the output is called, for the report.
        on_progress: Gets reports on frames.
        is_done: Whether a frame's picture is there already; it is then passed over.

    Raises:
        InfraredCityError: The source cannot be read.
        EvaluationError: The source holds counts and nothing says how they become levels, or the sink fails.
    """
    preparer = Preparer(translator, source, options)
    ticker = Ticker(f"{source.facts.stem}: frames", source.facts.num_frames, on_progress)
    count = 0
    size = (0, 0)
    passed = 0

    def wanted() -> Iterator[Frame]:
        nonlocal passed
        for frame in source.frames():
            if is_done(frame):
                passed += 1
                ticker.add()
            else:
                yield frame

    def write(opened: Sink, batch: _Prepared, translated: np.ndarray) -> tuple[int, int]:
        shown_size = (0, 0)
        for frame, region, picture in zip(batch.frames, batch.regions, translated, strict=True):
            shown = resize(picture, region.shape[1], region.shape[0])
            if options.side_by_side:
                gray = np.repeat(region, 3, axis=2)
                shown = _beside(gray, shown, rotation_deg=source.facts.rotation_deg)
            opened.add(shown, frame)
            shown_size = (shown.shape[1], shown.shape[0])
        return shown_size

    # A frame of a live source does not wait for the next one.
    def most(size: tuple[int, int]) -> int:
        return 1 if source.facts.is_endless else batch_frames(size, translator.device)

    prepared = _batched(preparer.prepared(wanted()), most)
    # A stream has a thread of its own that reads; who ends it by a signal shall not wait for a frame.
    batches = prepared if source.facts.is_endless else ahead(prepared)
    writing: deque[Future[tuple[int, int]]] = deque()
    broken: BaseException | None = None
    with closing(batches), ExitStack() as stack:
        first = next(batches, None)
        if first is not None:
            opened = stack.enter_context(sink)
            writer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write"))
            try:
                for batch in chain([first], batches):
                    translated = translator.translate(np.stack(batch.inputs), size=batch.size)
                    while len(writing) >= _WAITING_BATCHES:
                        size = writing.popleft().result()
                    writing.append(writer.submit(write, opened, batch, translated))
                    count += len(batch.frames)
                    ticker.add(len(batch.frames))
            except BaseException as error:
                source.close()
                if not source.facts.is_endless or isinstance(error, RomaError):
                    raise
                broken = error  # what came until then is kept, also where the user ends it
            while writing:
                size = writing.popleft().result()
    if broken is not None and not isinstance(broken, InfraredCityError):
        raise broken
    if broken is not None:
        raise EvaluationError(f"{broken}; the {count} frames before it are in {out}") from broken
    if count + passed == 0:
        raise EvaluationError(f"{source.facts.name}: no frame of it could be read")
    return TranslateReport(
        source=source.facts.name,
        out=out,
        num_frames=count,
        num_missing=source.num_missing,
        width_px=size[0],
        height_px=size[1],
        notes=tuple(preparer.notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """Frames that go through the network together."""

    frames: list[Frame]
    regions: list[np.ndarray]
    """u8 [H, W, 1]: what is shown as the input."""
    inputs: list[np.ndarray]
    """u8 [h, w, 1], of `size`."""
    size: tuple[int, int]


class Preparer:
    """Brings frames to levels as in the training, and to the size at which the network works."""

    def __init__(self, translator: Translator, source: Source, options: TranslateOptions) -> None:
        self._translator, self._source, self._options = translator, source, options
        self._tone: ToneMap | RunningTone | None = None
        self._plans: dict[tuple[int, int], Preparation] = {}
        self.notes: list[str] = []
        self._is_inverted = self._turns()

    def levels(self, picture: np.ndarray) -> np.ndarray:
        """Bring one picture to levels as in the training: u8 or u16 [H, W, 1] -> u8 [H', W', 1]."""
        plan = self.plan(picture.shape[1], picture.shape[0])
        region = plan.region(picture)
        return plan.levels(region, self._tone_of(region) if region.dtype == np.uint16 else None)

    def prepared(self, frames: Iterator[Frame]) -> Iterator[_Prepared]:
        """Prepare frames one by one."""
        for frame in frames:
            levels = self.levels(frame.picture)
            height, width = levels.shape[:2]
            translator = self._translator
            size = (
                translator.working_size(width, height)
                if self._options.native
                else translator.trained_size(width, height)
            )
            yield _Prepared(frames=[frame], regions=[levels], inputs=[resize(levels, *size)], size=size)

    def _turns(self) -> bool:
        wanted, trained = self._options.polarity, self._translator.preprocessing.polarity
        if wanted is None or wanted == "invert":
            return wanted == "invert"
        if trained is None:
            raise EvaluationError(
                f"{self._source.facts.name}: is {wanted}, and the snapshot does not say how its training showed heat; give "
                "--polarity invert to turn the input around, or leave the option out"
            )
        return wanted != trained

    def plan(self, width_px: int, height_px: int) -> Preparation:
        """Choose what is filled, cut out and turned around in pictures of a size."""
        size = (width_px, height_px)
        if size not in self._plans:
            options, trained = self._options, self._translator.preprocessing
            masks, crop = options.masks, options.crop
            is_raw = self._source.facts.kind != "shards"  # those are filled and cut already
            fits = trained.clip_size in (None, size) and is_raw
            if masks is None and crop is None and is_raw and not fits and (trained.masks or trained.crop):
                assert trained.clip_size is not None
                self.notes.append(
                    f"masks and crop of the training are for {trained.clip_size[0]}x{trained.clip_size[1]}, and not used for "
                    f"{width_px}x{height_px}; give --mask or --crop where the input needs them"
                )
            self._plans[size] = Preparation(
                masks=(trained.masks if fits else ()) if masks is None else masks,
                crop=(trained.crop if fits else None) if crop is None else crop,
                is_inverted=self._is_inverted,
            )
        return self._plans[size]

    def _tone_of(self, region: np.ndarray) -> ToneMap:
        if self._tone is None:
            self._tone = self._new_tone()
        return self._tone if isinstance(self._tone, ToneMap) else self._tone.of(region)

    def _new_tone(self) -> ToneMap | RunningTone:
        """Choose how the input's counts become levels: as asked, else as in the training."""
        options, trained = self._options, self._translator.preprocessing
        name = options.tone or trained.tone
        facts = self._source.facts
        if name is None:
            why = (
                "its clips had several tones"
                if "tone" in trained.differs
                else "its clips held levels of 8 bits"
                if trained.is_known
                else "its training does not say how counts became levels"
            )
            raise EvaluationError(
                f"{facts.name}: holds counts of more than 8 bits, and the snapshot has no tone for them ({why}); name one with "
                "--tone percentile, or --tone fixed --tone-range LOW,HIGH"
            )
        if name == "fixed":
            limits = options.tone_range if options.tone == "fixed" else trained.tone_range
            assert limits is not None  # `TranslateOptions` and `Preprocessing` have one beside "fixed"
            return ToneMap(low=limits[0], high=limits[1])
        if name == "running" or facts.is_endless:
            return RunningTone()
        return fitted(
            (
                self.plan(each.picture.shape[1], each.picture.shape[0]).region(each.picture)
                for each in self._source.frames()
            ),
            name,
        )


def batch_frames(size: tuple[int, int], device: torch.device) -> int:
    """Return how many frames of a size, (width, height), go through the network at once."""
    return max(1, (_BATCH_PIXELS if device.type == "cpu" else _BATCH_PIXELS_GPU) // (size[0] * size[1]))


def _batched(prepared: Iterator[_Prepared], most: Callable[[tuple[int, int]], int]) -> Generator[_Prepared, None, None]:
    """Join neighbours of one size, as many as `most` says for it."""
    joined: _Prepared | None = None
    for one in prepared:
        if joined is not None and (one.size != joined.size or len(joined.frames) == most(one.size)):
            yield joined
            joined = None
        if joined is None:
            joined = one
        else:
            joined.frames.extend(one.frames)
            joined.regions.extend(one.regions)
            joined.inputs.extend(one.inputs)
    if joined is not None:
        yield joined


def _beside(left: np.ndarray, right: np.ndarray, *, rotation_deg: int) -> np.ndarray:
    """Put two pictures together so that a player that turns the whole shows them beside each other."""
    turns = round(rotation_deg / 90) % 4
    pair = (left, right) if turns in (0, 1) else (right, left)
    joined: np.ndarray = np.concatenate(pair, axis=1 if turns % 2 == 0 else 0)
    return joined
