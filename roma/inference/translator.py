"""The translator: a snapshot's network, ready for frames of any size."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from infraredcity.stills.framing import resize
from roma.data.batches import to_bytes, to_unit_range
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, ConfigError, EvaluationError
from roma.inference.onnx_model import OnnxGenerator, open_onnx
from roma.models.generators.build import build_generator, check_side
from roma.models.generators.generator import Generator
from roma.training.snapshot import Snapshot, load_snapshot

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
    generator: Generator | OnnxGenerator
    device: torch.device

    @property
    def side_px(self) -> int:
        """Side of the squares that it was trained on."""
        return self.snapshot.config.data.crop_size_px

    def network(self) -> Generator:
        """Return the network of a snapshot.

        Raises:
            EvaluationError: This translator runs an exported file, which has none.
        """
        if isinstance(self.generator, OnnxGenerator):
            raise EvaluationError("an exported file cannot be exported again; name the snapshot it was made from")
        return self.generator

    @property
    def preprocessing(self) -> Preprocessing:
        """What the infrared of its training went through."""
        return self.snapshot.preprocessing

    def trained_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return (width, height) at which a picture's things are as large as in the training.

        A training on squares (`data.fit`) stretched pictures: they become squares. Pictures that extraction cut or padded to shape
        keep all that is in them. A training on crops saw the pictures at their own scale.
        """
        facts = self.preprocessing
        is_square = self.snapshot.config.data.fit == "square"
        if facts.picture_size is None:
            return self.working_size(*((self.side_px, self.side_px) if is_square else (width_px, height_px)))
        still = facts.picture_size
        scales = [Fraction(still[0], width_px), Fraction(still[1], height_px)]
        if facts.fit != "squash":
            scales = [max(scales) if facts.fit == "crop" else min(scales)] * 2
        if is_square:
            scales = [scale * Fraction(self.side_px, side) for scale, side in zip(scales, still, strict=True)]
        return self.working_size(round(width_px * scales[0]), round(height_px * scales[1]))

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
                (`side_px`) is what it knows best; results have this size.
        """
        width, height = size
        scaled = np.stack([resize(frame, width, height) for frame in frames])
        tensor = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        with torch.inference_mode():
            source = to_unit_range(tensor.to(self.device)).expand(-1, 3, -1, -1)
            return to_bytes(self.generator(source)).permute(0, 2, 3, 1).cpu().numpy()


def open_translator(path: Path, device: torch.device) -> Translator:
    """Open the translator of a snapshot, or of a file that `roma export` made of one (.onnx).

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, of another format, or its weights do not fit.
    """
    if path.suffix == ".onnx":
        exported, network = open_onnx(path, device)
        return Translator(snapshot=exported, generator=network, device=device)
    snapshot = load_snapshot(path)
    _check_fit(path, snapshot)
    generator = build_generator(snapshot.config.generator)
    generator.load_state_dict(snapshot.weights)
    return Translator(snapshot=snapshot, generator=generator.to(device).eval().requires_grad_(False), device=device)


def _check_fit(path: Path, snapshot: Snapshot) -> None:
    """CheckpointError where weights are not those of the generator that the snapshot names; nothing of its size is made for it."""
    try:
        check_side(snapshot.config.generator, snapshot.config.data.crop_size_px)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; copy the snapshot again") from error
    try:
        with torch.device("meta"):
            empty = build_generator(snapshot.config.generator)
    except (RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: no generator has its sizes ({reason}); copy the snapshot again") from error
    expected = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in snapshot.weights.items()}
    wrong = next((name for name in (*expected, *found) if expected.get(name) != found.get(name)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{path}: its weights do not fit its generator ({wrong[:80]!a} is {found.get(wrong)}, expected {expected.get(wrong)}); "
            "copy the snapshot again"
        )
    odd = next(
        (name for name, value in snapshot.weights.items() if not value.is_floating_point() or value.is_meta), None
    )
    if odd is not None:
        raise CheckpointError(
            f"{path}: its weights are of type {snapshot.weights[odd].dtype}, expected floats; copy the snapshot again"
        )
