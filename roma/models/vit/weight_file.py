"""Files of ViT weights: their tensors by timm's names, from .safetensors, .npz, .pt and .pth, also under the names of AugReg."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from infraredcity.files.records import opened, read_npz
from roma.errors import WeightsError
from roma.models.vit.vit import VisionTransformer

_MOST_PACKED = 8
"""Numbers that were trained hardly pack; what unpacks to more than this many times its file is made to fill the memory."""


def read_tensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Read the tensors of a file by name, and the metadata of a .safetensors.

    Raises:
        WeightsError: The file is missing, of another kind, damaged, or holds no tensors.
    """
    readers: dict[str, Callable[[Path], tuple[object, Mapping[str, str]]]] = {
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
        content, metadata = readers[path.suffix](path)
    except WeightsError:
        raise
    except Exception as error:  # each format has its own tree of errors for a damaged file
        raise WeightsError(
            f"{path}: cannot be read as {path.suffix} ({first_line(error)}); copy or download it again"
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
    return tensors, metadata


def from_augreg(arrays: Mapping[str, Tensor], *, vit: VisionTransformer, path: Path) -> dict[str, Tensor]:
    """Rename and reshape Google's JAX weights to timm's, for the blocks that are built.

    JAX keeps a linear kernel as [in, out], a convolution as [rows, columns, in, out] and the heads of attention as an
    axis of their own. Source: github.com/google-research/vision_transformer.
    """

    def take(key: str, *, num_axes: int) -> Tensor:
        if key not in arrays:
            raise WeightsError(f"{path}: key {key!r} is missing; expected a ViT as Google's AugReg release names it")
        if arrays[key].ndim != num_axes:
            raise WeightsError(f"{path}: key {key!r} has shape {shape_of(arrays[key])}, expected {num_axes} axes")
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
        heads = arrays[f"{attention}/query/kernel"].shape[1]
        if heads != vit.num_heads:
            raise WeightsError(
                f"{path}: its blocks have {heads} attention heads; vit.num_heads is {vit.num_heads}; use --set "
                f"vit.num_heads={heads}"
            )
        renamed[f"{new}.attn.qkv.weight"] = torch.cat(kernels)
        renamed[f"{new}.attn.qkv.bias"] = torch.cat(biases)
        renamed[f"{new}.attn.proj.weight"] = take(f"{attention}/out/kernel", num_axes=3).flatten(0, 1).mT
        renamed[f"{new}.attn.proj.bias"] = take(f"{attention}/out/bias", num_axes=1)
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            renamed[f"{new}.mlp.{ours}.weight"] = take(f"{old}/MlpBlock_3/{theirs}/kernel", num_axes=2).mT
            renamed[f"{new}.mlp.{ours}.bias"] = take(f"{old}/MlpBlock_3/{theirs}/bias", num_axes=1)
    return renamed


def shape_of(tensor: Tensor) -> list[int]:
    """Give a shape as messages show it."""
    return list(tensor.shape)


def first_line(error: Exception) -> str:
    """Give the first line of another library's error, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read_safetensors(path: Path) -> tuple[object, Mapping[str, str]]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading it needs the package safetensors; pip install safetensors, or give an .npz or .pt file"
        ) from error
    with safe_open(path, framework="pt") as file:
        # Not file.keys() as a view: an open safetensors file is no mapping.
        return {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata() or {}


def _read_npz(path: Path) -> tuple[object, Mapping[str, str]]:
    with opened(path) as file:
        arrays = read_npz(file, _MOST_PACKED * path.stat().st_size)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, {}


def _read_torch(path: Path) -> tuple[object, Mapping[str, str]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            claimed = sum(member.file_size for member in packed.infolist())
        if claimed > _MOST_PACKED * path.stat().st_size:
            raise ValueError(f"unpacks to {claimed} bytes, more than {_MOST_PACKED} times the file")
    return torch.load(path, map_location="cpu", weights_only=True), {}
