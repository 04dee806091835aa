"""Pretrained weights of the frozen ViT: from a local file, or from the Hugging Face hub when the machine is online."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roma.errors import WeightsError
from roma.models.vit import VisionTransformer

logger = logging.getLogger(__name__)

DEFAULT_HUB_NAME = "vit_base_patch16_384.augreg_in21k_ft_in1k"
"""The paper's backbone under its present name; Apache-2.0."""

_HEAD = re.compile(r"(head|head_dist|pre_logits|fc_norm|attn_pool)\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def load_weights(vit: VisionTransformer, path: Path) -> None:
    """Fill a ViT from a local weight file; the head and the blocks that were not built are left out.

    Args:
        vit: Network to fill in place; it is untouched if anything is wrong with the file.
        path: `.safetensors`, `.pt` / `.pth` (a state dict, maybe under `model` or `state_dict`) or `.npz`, with timm's
            names. An `.npz` may also carry the names of Google's AugReg release (`Transformer/encoderblock_0/...`).

    Raises:
        WeightsError: The file is missing or unreadable, a weight is missing, has another shape, or belongs to another
            architecture. Position embeddings of another grid are refused, not interpolated.
    """
    arrays = _read(path)
    if any(key.startswith("Transformer/encoderblock_") for key in arrays):
        arrays = _from_augreg(arrays, vit=vit, path=path)
    wanted = vit.state_dict()
    for key, tensor in wanted.items():
        found = arrays.get(key)
        if found is None:
            raise WeightsError(
                f"{path}: key {key!r} of shape {_shape(tensor)} is missing; "
                "expected a ViT in timm's naming, such as vit_base_patch16_384"
            )
        if found.shape != tensor.shape:
            raise WeightsError(f"{path}: {_mismatch(vit, key, expected=tensor, found=found)}")
    extra = [key for key in arrays if key not in wanted]
    foreign = [key for key in extra if not _may_be_left_out(key, num_blocks=len(vit.blocks))]
    if foreign:
        raise WeightsError(
            f"{path}: key {foreign[0]!r} belongs to another kind of ViT ({len(foreign)} such keys); "
            "take the weights of a plain ViT, or build the network they were made for"
        )
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(arrays[key])
    logger.info("%s: loaded %d weights, left out %d of the head and later blocks", path, len(wanted), len(extra))


def load_from_hub(vit: VisionTransformer, name: str = DEFAULT_HUB_NAME) -> Path:
    """Fill a ViT with `model.safetensors` of a hub repository, downloaded once into the hub's cache.

    Args:
        vit: Network to fill in place.
        name: A timm model name, or `owner/repository`.

    Returns:
        The file in the cache, to be used by `load_weights` from then on.

    Raises:
        WeightsError: huggingface-hub is not installed, the download fails, or the file does not fit.
    """
    repository = name if "/" in name else f"timm/{name}"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsError(
            f'{repository}: the package huggingface-hub is not installed; pip install "infraredcity[hub]", '
            "or give a local weight file"
        ) from error
    try:
        path = Path(hf_hub_download(repo_id=repository, filename="model.safetensors"))
    except Exception as error:  # its errors come from several HTTP libraries, which change between versions
        raise WeightsError(
            f"{repository}: model.safetensors could not be fetched from the hub ({_first_line(error)}); "
            "connect to the internet, or give a local weight file"
        ) from error
    load_weights(vit, path)
    return path


def _read(path: Path) -> Mapping[str, Tensor]:
    readers: dict[str, Callable[[Path], object]] = {
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".pt": _read_torch,
        ".pth": _read_torch,
    }
    if path.suffix not in readers:
        raise WeightsError(f"{path}: a weight file ends in {', '.join(readers)}, found {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file; check the path, or download it where there is internet")
    try:
        content = readers[path.suffix](path)
    except WeightsError:
        raise
    except Exception as error:  # each format has its own tree of errors for a damaged file
        raise WeightsError(
            f"{path}: cannot be read as {path.suffix} ({_first_line(error)}); copy or download it again"
        ) from error
    if isinstance(content, dict):
        for wrapper in ("state_dict", "model"):
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
    tensors: dict[str, Tensor] = {}
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors by name; expected the state dict of a ViT")
    return tensors


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs the package safetensors; pip install safetensors, or give an .npz or .pt file"
        ) from error
    return load_file(path)


def _read_npz(path: Path) -> object:
    with np.load(path, allow_pickle=False) as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def _read_torch(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _from_augreg(arrays: Mapping[str, Tensor], *, vit: VisionTransformer, path: Path) -> dict[str, Tensor]:
    """Rename and reshape Google's JAX weights to timm's, for the blocks that are built.

    JAX keeps a linear kernel as [in, out], a convolution as [rows, columns, in, out] and the heads of attention as an
    axis of their own. Source: github.com/google-research/vision_transformer.
    """

    def take(key: str, *, num_axes: int) -> Tensor:
        if key not in arrays:
            raise WeightsError(f"{path}: key {key!r} is missing; expected a ViT as Google's AugReg release names it")
        if arrays[key].ndim != num_axes:
            raise WeightsError(f"{path}: key {key!r} has shape {_shape(arrays[key])}, expected {num_axes} axes")
        return arrays[key]

    renamed = {
        "pos_embed": take("Transformer/posembed_input/pos_embedding", num_axes=3),
        "patch_embed.proj.weight": take("embedding/kernel", num_axes=4).permute(3, 2, 0, 1),
        "patch_embed.proj.bias": take("embedding/bias", num_axes=1),
        "norm.weight": take("Transformer/encoder_norm/scale", num_axes=1),
        "norm.bias": take("Transformer/encoder_norm/bias", num_axes=1),
    }
    if "cls" in arrays:
        renamed["cls_token"] = take("cls", num_axes=3)
    for index in range(len(vit.blocks)):
        old, new = f"Transformer/encoderblock_{index}", f"blocks.{index}"
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            renamed[f"{new}.{ours}.weight"] = take(f"{old}/{theirs}/scale", num_axes=1)
            renamed[f"{new}.{ours}.bias"] = take(f"{old}/{theirs}/bias", num_axes=1)
        attention = f"{old}/MultiHeadDotProductAttention_1"
        parts = ("query", "key", "value")
        # query, key and value: [D, heads, D / heads] -> [D, D]; out: [heads, D / heads, D] -> [D, D]
        kernels = [take(f"{attention}/{part}/kernel", num_axes=3).flatten(1).mT for part in parts]
        biases = [take(f"{attention}/{part}/bias", num_axes=2).flatten() for part in parts]
        renamed[f"{new}.attn.qkv.weight"] = torch.cat(kernels)
        renamed[f"{new}.attn.qkv.bias"] = torch.cat(biases)
        renamed[f"{new}.attn.proj.weight"] = take(f"{attention}/out/kernel", num_axes=3).flatten(0, 1).mT
        renamed[f"{new}.attn.proj.bias"] = take(f"{attention}/out/bias", num_axes=1)
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            renamed[f"{new}.mlp.{ours}.weight"] = take(f"{old}/MlpBlock_3/{theirs}/kernel", num_axes=2).mT
            renamed[f"{new}.mlp.{ours}.bias"] = take(f"{old}/MlpBlock_3/{theirs}/bias", num_axes=1)
    return renamed


def _may_be_left_out(key: str, *, num_blocks: int) -> bool:
    block = _BLOCK.match(key)
    return _HEAD.match(key) is not None or (block is not None and int(block[1]) >= num_blocks)


def _mismatch(vit: VisionTransformer, key: str, *, expected: Tensor, found: Tensor) -> str:
    text = f"key {key!r} has shape {_shape(found)}, expected {_shape(expected)}"
    if key == "pos_embed" and found.ndim == 3 and found.shape[2] == vit.width:
        return (
            f"{text} for a {vit.grid[0]}x{vit.grid[1]} grid; position embeddings are not interpolated, "
            "so build the ViT with the file's image size or take another file"
        )
    return f"{text}; build the ViT with the file's sizes or take another file"


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
