"""A translator as an ONNX file: written from a snapshot, and run by onnxruntime without torch's network."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from infraredcity.errors import OutputError
from infraredcity.files.atomic import publish
from infraredcity.files.temporary import temporary_beside
from infraredcity.installation import install_command
from roma.config.overlay import from_json, to_json
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, ConfigError, EvaluationError
from roma.models.generators.generator import Generator
from roma.training.snapshot import Snapshot

METADATA = "roma"
FORMAT = "roma-onnx-1"
OPSET = 18
_EXAMPLE_FRAMES = 2


class OnnxGenerator:
    """The network of an ONNX file, called like the one of a snapshot: f32 [N, 3, H, W] in [-1, 1] to the same."""

    def __init__(self, session: Any, *, side_multiple: int, min_side_px: int, is_half: bool) -> None:
        self._session = session
        self._is_half = is_half
        self.SIDE_MULTIPLE = side_multiple
        self.MIN_SIDE_PX = min_side_px

    def __call__(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
        """Translate frames on the device of the session."""
        given = frames.contiguous().cpu().numpy().astype(np.float16 if self._is_half else np.float32, copy=False)
        (translated,) = self._session.run(None, {"frames": given})
        return torch.from_numpy(translated).float()


class _WithBytes(nn.Module):
    """A generator between levels: u8 [N, H, W, 1] infrared to u8 [N, H, W, 3] day."""

    def __init__(self, generator: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.generator = generator
        self.dtype = dtype

    def forward(self, levels: UInt8[Tensor, "N H W 1"]) -> UInt8[Tensor, "N H W 3"]:
        frames = levels.permute(0, 3, 1, 2).to(self.dtype) * (2 / 255) - 1
        day: Tensor = self.generator(frames.repeat(1, 3, 1, 1))
        return ((day.float() + 1) * (255 / 2)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class _FullNorm(nn.Module):
    """A norm that computes in float32 between layers of float16, whose sums over a frame overflow."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.norm(features.float())
        return normed.half()


def export_onnx(
    snapshot: Snapshot, generator: Generator, path: Path, *, half: bool = False, levels: bool = False
) -> None:
    """Write a translator as ONNX: any batch, height and width that are multiples of its own, opset 18.

    The metadata property "roma" holds, as JSON, what the snapshot says beside its weights: settings, preprocessing, step.

    Args:
        snapshot: What is exported.
        generator: Its network, on the CPU.
        path: The file.
        half: Weights and features in float16, norms in float32.
        levels: Whether the graph takes levels, u8 [N, H, W, 1], and gives u8 [N, H, W, 3]; otherwise values in [-1, 1] as
            f32 (f16 with `half`) [N, 3, H, W].

    Raises:
        EvaluationError: onnx or onnxscript is not installed.
        OutputError: The file cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"exporting needs {error.name}, which is not installed; run: {install_command('onnx')}"
        ) from error
    network: nn.Module = copy.deepcopy(generator).cpu().eval()
    dtype = torch.float16 if half else torch.float32
    if half:
        network = _half(network)
    side = max(generator.MIN_SIDE_PX, 4 * generator.SIDE_MULTIPLE)
    height, width = side, side + generator.SIDE_MULTIPLE
    free = torch.export.Dim.DYNAMIC
    if levels:
        network = _WithBytes(network, dtype)
        example = torch.zeros(_EXAMPLE_FRAMES, height, width, 1, dtype=torch.uint8)
        shapes: dict[int, Any] = {0: free, 1: free, 2: free}
    else:
        example = torch.zeros(_EXAMPLE_FRAMES, 3, height, width, dtype=dtype)
        shapes = {0: free, 2: free, 3: free}
    with _quiet():
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=["frames"],
            output_names=["day"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    program.model.metadata_props[METADATA] = json.dumps(
        {
            "format": FORMAT,
            "step": snapshot.step,
            "config": to_json(snapshot.config),
            "preprocessing": snapshot.preprocessing.to_json(),
            "side_multiple": generator.SIDE_MULTIPLE,
            "min_side_px": generator.MIN_SIDE_PX,
            "half": half,
            "levels": levels,
        },
        sort_keys=True,
    )
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(str(temporary))
        publish(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def open_onnx(path: Path, device: torch.device) -> tuple[Snapshot, OnnxGenerator]:
    """Open an ONNX file of `export_onnx`: what its metadata says, without weights, and its network.

    Raises:
        CheckpointError: It is missing, no ONNX file, or not one of ours.
        EvaluationError: onnxruntime is not installed, or has no provider for the device.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"{path}: needs onnxruntime, which is not installed; run: {install_command('onnx')}"
        ) from error
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise EvaluationError(
            f"{path}: this onnxruntime has no {wanted}; install onnxruntime-gpu, or take --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:  # onnxruntime has no common error type
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{path}: no ONNX model that can be opened ({reason}); export it again") from error
    try:
        facts = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        if facts["format"] != FORMAT:
            raise CheckpointError(f"{path}: format is {facts['format']!a:.80}, expected {FORMAT!r}; export it again")
        if facts["levels"]:
            raise CheckpointError(
                f"{path}: takes levels, for other programs; export it without --levels for roma translate"
            )
        snapshot = Snapshot(
            weights={},
            step=int(facts["step"]),
            config=from_json(facts["config"], where=str(path)),
            preprocessing=Preprocessing.from_json(facts["preprocessing"]),
        )
        multiple, least = int(facts["side_multiple"]), int(facts["min_side_px"])
        if not (0 < multiple <= 4096 and 0 < least <= 4096):
            raise ValueError(f"side_multiple {multiple} and min_side_px {least} are no sides")
        is_half = bool(facts["half"])
    except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: not an ONNX file of roma export ({error!s:.200}); export a snapshot anew"
        ) from error
    return snapshot, OnnxGenerator(session, side_multiple=multiple, min_side_px=least, is_half=is_half)


def _half(network: nn.Module) -> nn.Module:
    """Turn a network to float16, but for its norms."""
    network = network.half()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d | nn.GroupNorm | nn.LayerNorm):
                setattr(parent, name, _FullNorm(child))
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of its own insides from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
