"""The translator at work: a snapshot over frames, over a video, over shards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from infraredcity import video
from infraredcity.images import resize
from roma.checkpoint import Snapshot, load_snapshot
from roma.data import to_bytes, to_unit_range
from roma.errors import CheckpointError, EvaluationError
from roma.models import AnyGenerator, build_generator
from roma.video_out import open_video

BATCH_FRAMES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Translator:
    """A generator with its snapshot's weights, ready to run.

    Attributes:
        snapshot: Where the weights come from.
        generator: The network, in eval mode on `device`.
        device: Where it computes.
    """

    snapshot: Snapshot
    generator: AnyGenerator
    device: torch.device

    def working_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(width, height) nearest below a picture's that the network can work at."""
        multiple, least = self.generator.SIDE_MULTIPLE, self.generator.MIN_SIDE_PX
        width, height = (max(least, side // multiple * multiple) for side in (width_px, height_px))
        return width, height

    def translate(
        self, frames: UInt8[np.ndarray, "N H W C"], *, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "N H2 W2 3"]:
        """Infrared frames as day frames.

        Args:
            frames: C is 1, or 3 equal channels; 0..255.
            size: (width, height) in pixels at which the network works, as `working_size` gives them. The training's square
                (`snapshot.size_px`) is what it knows best; results have this size.
        """
        width, height = size
        scaled = np.stack([resize(frame, width, height) for frame in frames])
        tensor = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        with torch.inference_mode():
            source = to_unit_range(tensor.to(self.device)).expand(-1, 3, -1, -1)
            return to_bytes(self.generator(source)).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateReport:
    """What `translate_video` wrote."""

    video: str
    out: str
    num_frames: int
    width_px: int
    height_px: int
    num_missing: int


def open_translator(path: Path, device: torch.device) -> Translator:
    """The translator of a snapshot file.

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, of another format, or its weights do not fit.
    """
    snapshot = load_snapshot(path)
    generator = build_generator(snapshot.architecture, width=snapshot.width, num_blocks=snapshot.num_blocks)
    try:
        generator.load_state_dict(snapshot.weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit its generator ({str(error).splitlines()[0]})") from error
    return Translator(snapshot=snapshot, generator=generator.to(device).eval().requires_grad_(False), device=device)


def translate_video(
    translator: Translator,
    source: Path,
    out: Path,
    *,
    side_by_side: bool = False,
    native: bool = False,
    on_frames: Callable[[int, int], None] | None = None,
) -> TranslateReport:
    """Translate a video to an mp4 of the same size (rounded to even), frame count and times.

    Args:
        translator: From `open_translator`.
        source: The infrared video.
        out: The mp4 to write.
        side_by_side: Put the input to the left of each translation.
        native: Let the network work at the video's own size instead of the training's square.
        on_frames: Called with frames done and frames in all.

    Raises:
        InfraredCityError: The source is no video that can be read.
        EvaluationError: The output cannot be written or is no .mp4.
    """
    if out.suffix.lower() != ".mp4":
        raise EvaluationError(f"{out}: the translation is an mp4; give -o a name that ends in .mp4")
    if out.resolve() == source.resolve():
        raise EvaluationError(f"{out}: is the input itself; give -o another name")
    clip = video.open_clip([source])
    info = clip.parts[0]
    video.choose_decoder(clip, "pyav", "cpu")
    width, height = max(2, info.width_px // 2 * 2), max(2, info.height_px // 2 * 2)
    side = translator.snapshot.size_px
    working = translator.working_size(info.width_px, info.height_px) if native else (side, side)
    columns = 2 if side_by_side else 1
    written = 0
    with open_video(
        out, width_px=width * columns, height_px=height, time_base=clip.time_base, fps=info.nominal_fps or 25.0
    ) as writer:
        everything = video.FrameRange(start_frame=0, stop_frame=clip.num_frames)
        for batch in video.read_frames(clip, everything, color="gray"):
            for start in range(0, len(batch.data), BATCH_FRAMES):
                frames = batch.data[start : start + BATCH_FRAMES]
                translated = translator.translate(frames, size=working)
                for number, picture in enumerate(translated):
                    shown = resize(picture, width, height)
                    if side_by_side:
                        gray = resize(frames[number], width, height)
                        shown = np.concatenate([np.repeat(gray, 3, axis=2), shown], axis=1)
                    writer.add(shown, int(batch.pts[start + number]))
                    written += 1
                if on_frames is not None:
                    on_frames(written, clip.num_frames)
        if written == 0:
            raise EvaluationError(f"{source}: no frame of it could be decoded")
    return TranslateReport(
        video=str(source),
        out=str(out),
        num_frames=written,
        width_px=width * columns,
        height_px=height,
        num_missing=clip.num_frames - written,
    )


def frames_of(clip: video.ClipVideo, indices: list[int], *, color: video.ColorMode) -> Iterator[tuple[int, np.ndarray]]:
    """Chosen frames of a clip, in one pass: (frame index, u8 [H, W, C]); `indices` ascend. Missing ones are left out."""
    wanted = set(indices)
    if not wanted:
        return
    covering = video.FrameRange(start_frame=min(indices), stop_frame=max(indices) + 1)
    for batch in video.read_frames(clip, covering, color=color):
        for picture, index in zip(batch.data, batch.frame_indices.tolist(), strict=True):
            if index in wanted:
                yield index, picture
