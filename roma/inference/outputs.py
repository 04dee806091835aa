"""Which output each input gets, and the record by which a folder of outputs goes on when the command is given again."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from infraredcity.errors import InfraredCityError
from infraredcity.files.atomic import write_atomic
from infraredcity.files.lock import LOCK_NAME, lock_folder
from infraredcity.files.records import converted, read_json
from infraredcity.files.temporary import remove_temporaries
from infraredcity.files.urls import is_url, shown
from infraredcity.progress import OnProgress
from infraredcity.stills.formats import READ_SUFFIXES, ImageFormat, our_suffix
from roma.errors import EvaluationError, RomaError
from roma.inference.choices import PICTURE_FORMATS, OutputKind, PictureFormat
from roma.inference.job import TranslateOptions, TranslateReport, translate
from roma.inference.sinks import (
    VIDEO_KINDS,
    PictureSink,
    PicturesSink,
    Preview,
    Sink,
    VideoOptions,
    open_pipe_sink,
    open_shards,
    open_video,
)
from roma.inference.sources import Frame, Source, SourceOptions, VideoSource, are_stills, is_live, open_source
from roma.inference.translator import Translator

RECORD_NAME = "translated.json"
RECORD_FORMAT = "roma-translated-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """How outputs are written."""

    kind: OutputKind | None = None
    """None makes videos of videos and streams, and pictures of pictures and shards."""
    image_format: PictureFormat = "png"
    """Of pictures."""
    video: VideoOptions = field(default_factory=VideoOptions)
    """Of videos; what a source says of rotation, aspect and rate takes its place there."""
    with_sound: bool = True
    """Whether the sound of a video is copied."""
    preview: Path | None = None
    """A jpg that shows the newest picture while it is translated."""
    overwrite: bool = False
    """Whether what lies in a folder of outputs already is made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where one input goes."""

    inputs: tuple[str, ...]
    path: Path | None
    """A video, a picture, or a folder of pictures or shards; None is stdout."""
    kind: Literal["video", "picture", "pictures", "shards", "pipe"]
    name: str
    """What it is called below the folder of all outputs; "" without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one input."""

    output: Output
    report: TranslateReport | None = None
    """None where it failed."""
    error: str = ""
    is_new: bool = True
    """False where it was there already."""


def plan_outputs(groups: Sequence[tuple[str, ...]], out: str, options: OutputOptions) -> list[Output]:
    """Choose where each input goes.

    A name that ends like a video or a picture is that file, "-" is stdout, anything else a folder for all outputs.

    Args:
        groups: From `sources.find_inputs`.
        out: As the user names it.
        options: See there.

    Raises:
        EvaluationError: Several inputs cannot share the output, or it is the input itself.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if out == "-" or suffix in VIDEO_KINDS or suffix[1:] in READ_SUFFIXES:
        if len(groups) > 1:
            raise EvaluationError(f"{out}: is one output for {len(groups)} inputs; give -o a folder")
        if out == "-":
            return [Output(inputs=groups[0], path=None, kind="pipe", name="")]
        single = Output(inputs=groups[0], path=path, kind="video" if suffix in VIDEO_KINDS else "picture", name="")
        _check_apart(groups, [single])
        return [single]
    if suffix and not path.is_dir() and not out.endswith("/"):
        kinds = ", ".join((*VIDEO_KINDS, *(f".{each}" for each in READ_SUFFIXES)))
        raise EvaluationError(f"{out}: ends in {suffix}, expected {kinds}, or the name of a folder with a / behind it")
    outputs = []
    for group, stem in zip(groups, _stems(groups), strict=True):
        kind = options.kind or ("pictures" if are_stills(group[0]) else "video")
        name = f"{stem}.mp4" if kind == "video" else stem if len(groups) > 1 else "."
        outputs.append(Output(inputs=group, path=path / name, kind=kind, name=name))
    _check_apart(groups, outputs)
    return outputs


def _check_apart(groups: Sequence[tuple[str, ...]], outputs: Sequence[Output]) -> None:
    """Raise EvaluationError where an output would be written over an input, or into the folder that holds it."""
    inputs = {Path(each).resolve() for group in groups for each in group if not (each == "-" or is_url(each))}
    folders = {each.parent for each in inputs if not each.is_dir()}
    for output in outputs:
        if output.path is None:
            continue
        path = output.path.resolve()
        if path in inputs or (output.kind in ("pictures", "shards") and path in folders):
            raise EvaluationError(
                f"{output.path}: is the input itself, or the folder that holds it; give -o another name"
            )


def translate_file(
    translator: Translator,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    how: TranslateOptions | None = None,
    sources: SourceOptions | None = None,
    options: OutputOptions | None = None,
    on_progress: OnProgress | None = None,
) -> TranslateReport:
    """Translate one input: a video, a picture, the files of one recording, the pictures of one folder, or shards.

    Args:
        translator: From `roma.inference.translator.open_translator`.
        inputs: Its files, or one folder or pattern of shards.
        out: A video, a picture, or a folder of pictures.
        how: How frames are translated.
        sources: How the input is opened.
        options: How the output is written.
        on_progress: Gets reports on frames.

    Raises:
        InfraredCityError: The input cannot be read.
        EvaluationError: It holds nothing to translate, or the output cannot be written.
    """
    chosen = options or OutputOptions()
    group = tuple(map(str, inputs))
    (output,) = plan_outputs([group], str(out), chosen)
    outcome = _translate_one(
        translator, output, None, how or TranslateOptions(), sources or SourceOptions(), chosen, on_progress
    )
    assert outcome.report is not None
    return outcome.report


def translate_all(
    translator: Translator,
    outputs: Sequence[Output],
    folder: Path | None,
    *,
    snapshot_sha256: str,
    how: TranslateOptions,
    sources: SourceOptions,
    options: OutputOptions,
    on_progress: OnProgress | None = None,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
) -> list[Outcome]:
    """Translate inputs one after the other; one that fails is named, and the others are translated all the same.

    In a folder of outputs, what the same command has made already is left as it is.

    Args:
        translator: From `roma.inference.translator.open_translator`.
        outputs: From `plan_outputs`.
        folder: The folder of all outputs; None where the only one is a file or stdout.
        snapshot_sha256: Names the snapshot in the record.
        how: How frames are translated.
        sources: How inputs are opened.
        options: How outputs are written.
        on_progress: Gets reports on frames.
        on_outcome: Called when an input is done or has failed.

    Raises:
        RomaError: The only input failed, or the folder holds outputs of other settings.
        InfraredCityError: The same.
    """
    outcomes = []
    settings = _settings(how, sources, options)
    with nullcontext() if folder is None else _locked(folder):
        record = None if folder is None else _Record(folder, snapshot_sha256, settings, overwrite=options.overwrite)
        for output in outputs:
            try:
                outcome = _translate_one(translator, output, record, how, sources, options, on_progress)
            except (RomaError, InfraredCityError) as error:
                if len(outputs) == 1:
                    raise
                outcome = Outcome(output=output, error=str(error))
            outcomes.append(outcome)
            on_outcome(outcome)
    return outcomes


def sha256_of(path: Path) -> str:
    """Hash a file: hexadecimal SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _translate_one(
    translator: Translator,
    output: Output,
    record: "_Record | None",
    how: TranslateOptions,
    sources: SourceOptions,
    options: OutputOptions,
    on_progress: OnProgress | None,
) -> Outcome:
    if record is not None and (done := record.find(output)) is not None:
        return Outcome(output=output, report=done, is_new=False)
    source = open_source(output.inputs, sources)
    with closing(source):
        if record is not None:
            record.begin(output, source, options.image_format)
        notes: list[str] = []
        report = translate(
            translator,
            source,
            _opened_sink(output, source, options, notes),
            how,
            out=str(output.path or "-"),
            on_progress=on_progress,
            is_done=_is_done(output, source, options),
        )
        report = replace(report, notes=(*report.notes, *notes))
        if record is not None:
            record.end(output, report)
    return Outcome(output=output, report=report)


@contextmanager
def _opened_sink(output: Output, source: Source, options: OutputOptions, notes: list[str]) -> Iterator[Sink]:
    """Open what an output is written with; what is good to know of it is added to the notes."""
    facts = source.facts
    with ExitStack() as stack:
        sink: Sink
        if output.path is None:
            sink = stack.enter_context(open_pipe_sink(fps=facts.fps))
        elif output.kind == "video":
            how = replace(
                options.video, rotation_deg=facts.rotation_deg, pixel_aspect=facts.pixel_aspect, fps=facts.fps
            )
            has_sound = options.with_sound and isinstance(source, VideoSource) and len(source.paths) == 1
            sound_of = source.paths[0] if has_sound and isinstance(source, VideoSource) else None
            sink = video = stack.enter_context(open_video(output.path, how, sound_of=sound_of))
            stack.callback(lambda: notes.extend(video.notes))
        elif output.kind == "picture":
            if facts.num_frames != 1:
                raise EvaluationError(
                    f"{output.path}: is one picture, {facts.name} has {facts.num_frames or 'many'} frames; give -o FOLDER/"
                )
            sink = PictureSink(output.path, _format_of(output.path))
        elif output.kind == "shards":
            sink = stack.enter_context(open_shards(output.path, options.image_format))
        else:
            output.path.mkdir(parents=True, exist_ok=True)
            remove_temporaries(output.path)  # of a run that was killed
            sink = PicturesSink(output.path, options.image_format)
        yield sink if options.preview is None else Preview(sink, options.preview)


def _is_done(output: Output, source: Source, options: OutputOptions) -> Callable[[Frame], bool]:
    """Return what tells whether a frame's picture is there already: those of a folder that a run before began."""
    if output.kind != "pictures" or output.path is None or source.facts.is_endless:
        return lambda _frame: False
    pictures = PicturesSink(output.path, options.image_format)
    return lambda frame: pictures.path_of(frame.name).exists()


def _format_of(path: Path) -> ImageFormat:
    suffix = our_suffix(path.suffix[1:].lower())
    return next(each for each in PICTURE_FORMATS if each == suffix)


class _Record:
    """The record of a folder of outputs: what each was made from, and whether it is whole."""

    def __init__(self, folder: Path, snapshot_sha256: str, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        self._path = folder / RECORD_NAME
        self._folder = folder
        self._made_with = {"snapshot_sha256": snapshot_sha256, "settings": dict(settings)}
        self._outputs: dict[str, dict[str, Any]] = {}
        self._overwrite = overwrite
        if self._path.exists() and not overwrite:
            try:
                values = read_json(self._path)
                is_ours = values["format"] == RECORD_FORMAT
                same = is_ours and values["made_with"] == json.loads(json.dumps(self._made_with))
                outputs = {str(name): dict(each) for name, each in values["outputs"].items()} if is_ours else {}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise EvaluationError(
                    f"{self._path}: damaged ({error}); make the outputs anew with --overwrite"
                ) from error
            if not same:
                raise EvaluationError(
                    f"{folder}: holds translations by another snapshot or of other settings; use another -o, or --overwrite"
                )
            self._outputs = outputs

    def find(self, output: Output) -> TranslateReport | None:
        """Return the report of an output that is there whole; otherwise clear its place, or find it taken."""
        assert output.path is not None
        found = self._outputs.get(output.name)
        inputs = _identities(output.inputs)
        if found is not None and found.get("inputs") == inputs and not self._overwrite:
            report = found.get("report")
            if report is None or not output.path.exists():
                return None
            try:
                return converted(report, TranslateReport)
            except ValueError as error:
                raise EvaluationError(
                    f"{self._path}: damaged ({error}); make the outputs anew with --overwrite"
                ) from error
        ours = {RECORD_NAME, LOCK_NAME}
        holds = output.path.is_dir() and any(each.name not in ours for each in output.path.iterdir())
        if (holds or output.path.is_file()) and found is None and not self._overwrite:
            raise EvaluationError(
                f"{output.path}: is there, and no translation of this command; use another -o, or --overwrite"
            )
        return None

    def begin(self, output: Output, source: Source, image_format: ImageFormat) -> None:
        """Write down that an output is being made; unless that goes on, delete the pictures that would pass for new ones.

        No other file is deleted, since a folder may hold something of the user's.
        """
        assert output.path is not None
        inputs = _identities(output.inputs)
        found = self._outputs.get(output.name)
        if output.kind == "pictures" and (self._overwrite or found is None or found.get("inputs") != inputs):
            pictures = PicturesSink(output.path, image_format)
            for name in source.names():
                pictures.path_of(name).unlink(missing_ok=True)
        self._outputs[output.name] = {"inputs": inputs, "report": None}
        self._write()

    def end(self, output: Output, report: TranslateReport) -> None:
        """Write down that it is whole."""
        self._outputs[output.name]["report"] = asdict(report)
        self._write()

    def _write(self) -> None:
        values = {"format": RECORD_FORMAT, "made_with": self._made_with, "outputs": self._outputs}
        write_atomic(self._path, (json.dumps(values, indent=1) + "\n").encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        yield


def _settings(how: TranslateOptions, sources: SourceOptions, options: OutputOptions) -> dict[str, Any]:
    """Everything that changes what the outputs are, as plain values."""
    values = {**asdict(how), **asdict(sources), **asdict(options)}
    for name in ("overwrite", "preview", "stall_s", "late"):
        values.pop(name)
    return {name: str(value) for name, value in sorted(values.items())}


def _identities(inputs: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of change of each file; of what is elsewhere only its name."""
    found: list[list[Any]] = []
    for text in inputs:
        path = Path(text)
        if text == "-" or is_url(text) or is_live(text) or not path.exists():
            found.append([shown(text) if is_url(text) else text, None, None])
        else:
            status = path.stat()
            found.append([text, status.st_size, status.st_mtime_ns])
    return found


def _stems(groups: Sequence[tuple[str, ...]]) -> list[str]:
    """Name each input's output, without an ending; the folder's name before it, or a number behind it, where names meet."""
    stems = [_stem(group) for group in groups]
    counts = Counter(stems)
    stems = [
        f"{Path(group[0]).parent.name}_{stem}" if counts[stem] > 1 and Path(group[0]).parent.name else stem
        for group, stem in zip(groups, stems, strict=True)
    ]
    taken: Counter[str] = Counter()
    names = []
    for stem in stems:
        taken[stem] += 1
        names.append(stem if taken[stem] == 1 else f"{stem}_{taken[stem]}")
    return names


def _stem(group: Sequence[str]) -> str:
    text = shown(group[0]) if is_url(group[0]) else group[0]
    if text == "-":
        return "stdin"
    path = Path(text.rstrip("/"))
    if len(group) > 1 and are_stills(text):
        return path.parent.name or "pictures"
    return path.name if path.is_dir() else path.stem
