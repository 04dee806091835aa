"""Pretrained weights of the frozen ViT: from a local file, or from the Hugging Face hub when the machine is online."""

import logging
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infraredcity.files.atomic import read_npz
from infraredcity.files.records import opened, parse_json, read_json
from infraredcity.files.remote import is_remote, shown
from infraredcity.installation import install_command
from roma.errors import WeightsError
from roma.models.vit.vit import NORMALISATIONS, Normalisation, VisionTransformer

logger = logging.getLogger(__name__)

DEFAULT_HUB_NAME = "vit_base_patch16_384.augreg_in21k_ft_in1k"
"""The paper's backbone under its present name; Apache-2.0."""

_MOST_PACKED = 8
"""Numbers that were trained hardly pack; what unpacks to more than so many times its file is made to fill the memory."""
_HUB_FILE, _HUB_CONFIG = "model.safetensors", "config.json"
_HEAD = re.compile(r"(head|head_dist|pre_logits|fc_norm|attn_pool)\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_BACKBONE_FORMAT = "roma-backbone-"
"""How `backbone_file` begins the format of its files, whose pictures lie in [-1, 1]."""

_OTHER_KINDS = (
    (re.compile(r"reg_token$"), "register tokens, as DINOv2's reg4"),
    (re.compile(r"blocks\.\d+\.ls[12]\.gamma$"), "layer scale, as DINOv2's and DeiT III's"),
    (re.compile(r"blocks\.\d+\.attn\.[qk]_norm\."), "normalised queries and keys"),
    (re.compile(r"norm_pre\."), "a norm before the blocks, as CLIP's"),
)
"""Keys of networks that compute something else than ours, and what that is."""

_ARCHITECTURE = re.compile(r"(?:vit|deit|deit3|flexivit)_(?P<size>[a-z0-9]+?)_patch(?P<patch>\d+)(?:_|\.|$)")
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
"""Heads by the size in timm's names; no shape in a state dict shows them."""
_TANH_GELU = re.compile(r"so400m|giantopt|patch32_siglip|large_patch16_siglip_512")
"""Parts of timm's names of networks that compute GELU by its tanh formula; ours is exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claims:
    """What weights say of themselves beside their tensors; None where they are silent.

    Attributes:
        where: Who says so, for messages.
        mean: What was subtracted from R, G, B in [0, 1].
        std: What they were divided by then.
        image_size: Side of their pictures in pixels.
        architecture: timm's name.
        num_heads: Attention heads.
    """

    where: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, ...] | None = None
    architecture: str | None = None
    num_heads: int | None = None


def fill(vit: VisionTransformer, weights: str) -> None:
    """Fill a ViT from what the setting `vit.weights` says.

    Args:
        vit: Network to fill in place.
        weights: "random" leaves the weights as they were drawn; "hub" downloads the paper's, "hub:NAME" those of a timm model or
            of an `owner/repository`; anything else is a path, of a file or of a folder with a model.safetensors.

    Raises:
        WeightsError: Nothing is named, or the weights are missing or do not fit.
    """
    source, colon, name = weights.partition(":")
    check_set(weights)
    if weights == "hub":
        load_from_hub(vit)
    elif source == "hub" and colon:
        load_from_hub(vit, name)
    elif weights != "random":
        check_named(weights)
        load_weights(vit, Path(weights))


def check_set(weights: str) -> None:
    """WeightsError where the setting `vit.weights` of a run that needs a ViT is empty."""
    if not weights:
        raise WeightsError(
            "vit.weights is not set; name a weight file with --set vit.weights=PATH, download with vit.weights=hub, or use "
            "--preset tiny, which needs none"
        )


def check_named(weights: str) -> None:
    """Refuse a path in the setting `vit.weights` where nothing lies, whether or not anything will be read from it.

    Raises:
        WeightsError: There is no such file or folder, or it is a URL.
    """
    if weights in ("", "hub", "random") or weights.startswith("hub:"):
        return
    if is_remote(weights):
        raise WeightsError(
            f"vit.weights: {shown(weights)}: is a URL, expected a file here; copy it to this machine first"
        )
    if not Path(weights).exists():
        raise WeightsError(
            f"vit.weights: {shown(weights)}: no such file or folder; expected a path, hub, hub:NAME or random"
        )


def load_weights(vit: VisionTransformer, path: Path) -> None:
    """Fill a ViT from a local weight file; the head and the blocks that were not built are left out.

    What a timm `config.json` beside the file, or the metadata of a `.safetensors`, says of the architecture and of the pictures
    that it was trained with is compared with the network.

    Args:
        vit: Network to fill in place; it is untouched if anything is wrong with the file.
        path: `.safetensors`, `.pt` / `.pth` (a state dict, maybe under `model` or `state_dict`) or `.npz`, with timm's
            names. An `.npz` may also carry the names of Google's AugReg release (`Transformer/encoderblock_0/...`). A folder
            stands for the model.safetensors in it.

    Raises:
        WeightsError: The file is missing or unreadable, a weight is missing, has another shape, is not finite, or belongs to
            another architecture; or the weights were trained with another normalisation than `vit.normalisation`. Position
            embeddings of another grid are refused, not interpolated.
    """
    if path.is_dir():
        path /= _HUB_FILE
    config = path.parent / _HUB_CONFIG
    _load(vit, path, config if config.is_file() else None)


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
    if not name.strip():
        raise WeightsError("vit.weights=hub: names no repository; use hub:OWNER/NAME, hub:TIMM_MODEL, or hub alone")
    repository = name if "/" in name else f"timm/{name}"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsError(
            f"{repository}: the package huggingface-hub is not installed; {install_command('hub')}, "
            "or give a local weight file"
        ) from error
    try:
        path = Path(hf_hub_download(repo_id=repository, filename=_HUB_FILE))
    except Exception as error:  # its errors come from several HTTP libraries, which change between versions
        raise WeightsError(
            f"{repository}: {_HUB_FILE} could not be fetched from the hub ({_first_line(error)}); "
            "connect to the internet, or give a local weight file"
        ) from error
    try:
        config: Path | None = Path(hf_hub_download(repo_id=repository, filename=_HUB_CONFIG))
    except Exception as error:  # a repository need not have one, and a cache filled by hand may lack it
        config = None
        logger.warning(
            "%s: has no %s that can be fetched (%s), so nothing says whether vit.normalisation=%s is right",
            repository, _HUB_CONFIG, _first_line(error), vit.normalisation,
        )  # fmt: skip
    _load(vit, path, config)
    return path


def _load(vit: VisionTransformer, path: Path, config: Path | None) -> None:
    arrays, metadata = _read(path)
    if any(key.startswith("Transformer/encoderblock_") for key in arrays):
        arrays = _from_augreg(arrays, vit=vit, path=path)
    _check_kind(arrays, path)
    wanted = vit.state_dict()
    for key, tensor in wanted.items():
        found = arrays.get(key)
        if found is None:
            raise WeightsError(f"{path}: {_missing(vit, key, tensor)}")
        if found.shape != tensor.shape:
            raise WeightsError(f"{path}: {_mismatch(vit, key, expected=tensor, found=found)}")
    extra = [key for key in arrays if key not in wanted]
    foreign = [key for key in extra if not _may_be_left_out(key, num_blocks=len(vit.blocks))]
    if foreign:
        raise WeightsError(f"{path}: {_foreign(foreign)}")
    for claims in (_claims_of_metadata(metadata, path), *([] if config is None else [_claims_of_config(config, path)])):
        _check_claims(vit, claims, path)
    for key in wanted:
        _check_numbers(key, arrays[key], path)
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(arrays[key])
    logger.info("%s: loaded %d weights, left out %d of the head and later blocks", path, len(wanted), len(extra))


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """The tensors of a file by name, and the metadata of a .safetensors."""
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
    return tensors, metadata


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


def _claims_of_config(config: Path, path: Path) -> _Claims:
    """What a timm config.json says: its facts lie under `pretrained_cfg`, or at the top. Any other config.json says nothing."""
    where = f"{config.name} beside it"
    try:
        content = read_json(config)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: {where} cannot be read as JSON ({_first_line(error)}); download it again, or remove it"
        ) from error
    if not isinstance(content, dict):
        return _Claims(where=where)
    below = content.get("pretrained_cfg")
    facts = content | (below if isinstance(below, dict) else {})
    arguments = content.get("model_args")
    heads = arguments.get("num_heads") if isinstance(arguments, dict) else None
    return _claims_of(facts, num_heads=heads, where=where, path=path)


def _claims_of_metadata(metadata: Mapping[str, str], path: Path) -> _Claims:
    """What a .safetensors says in its header, where every value is text: JSON, or numbers between commas or spaces."""
    where = "its metadata"
    if metadata.get("format", "").startswith(_BACKBONE_FORMAT):
        try:
            sizes = parse_json(metadata["config"])["vit"]
            side, num_heads = int(sizes["image_size"]), int(sizes["num_heads"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WeightsError(
                f"{path}: its metadata is incomplete ({type(error).__name__}: {error}); make it anew with roma pretrain"
            ) from error
        mean, std = NORMALISATIONS["half"]
        return _Claims(
            where="roma pretrain, which made it,",
            mean=mean,
            std=std,
            image_size=(side, side),
            num_heads=num_heads,
        )
    facts: dict[str, object] = {}
    for key in ("pretrained_cfg", "mean", "std", "input_size", "architecture"):
        if key not in metadata:
            continue
        try:
            value: object = parse_json(metadata[key])
        except ValueError:
            value = metadata[key] if key == "architecture" else re.split(r"[\s,]+", metadata[key].strip("()[] "))
        if key != "pretrained_cfg":
            facts[key] = value
        elif isinstance(value, dict):
            facts |= value
    return _claims_of(facts, num_heads=None, where=where, path=path)


def _claims_of(facts: Mapping[str, object], *, num_heads: object, where: str, path: Path) -> _Claims:
    architecture = facts.get("architecture")
    size = _numbers(facts.get("input_size"), "input_size", where=where, path=path)
    return _Claims(
        where=where,
        mean=_numbers(facts.get("mean"), "mean", where=where, path=path),
        std=_numbers(facts.get("std"), "std", where=where, path=path),
        image_size=None if size is None else tuple(int(side) for side in size[1:]),
        architecture=architecture if isinstance(architecture, str) else None,
        num_heads=num_heads if isinstance(num_heads, int) else None,
    )


def _numbers(value: object, name: str, *, where: str, path: Path) -> tuple[float, ...] | None:
    """Three numbers, one standing for all, or None where nothing is said."""
    if value is None:
        return None
    items: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    try:
        numbers = [float(item) for item in items]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) == 1 and name != "input_size":
        numbers *= 3
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise WeightsError(f"{path}: {where} says {name} {value!r:.80}, expected three numbers; correct or remove it")
    return tuple(numbers)


def _check_claims(vit: VisionTransformer, claims: _Claims, path: Path) -> None:
    _check_normalisation(vit, claims, path)
    side, patch = vit.image_size, vit.image_size // vit.grid[0]
    if claims.image_size is not None and set(claims.image_size) != {side}:
        asked = "x".join(map(str, claims.image_size))
        raise WeightsError(
            f"{path}: {claims.where} says pictures of {asked} pixels; vit.image_size is {side}; use the file's size, or its own "
            f"{_HUB_CONFIG}"
        )
    heads, name = claims.num_heads, claims.architecture or ""
    if _TANH_GELU.search(name):
        raise WeightsError(
            f"{path}: {claims.where} says architecture {name}, whose GELU is the tanh formula; ours is exact, so take the weights "
            "of another size"
        )
    known = _ARCHITECTURE.match(name)
    if known is not None:
        if int(known["patch"]) != patch:
            raise WeightsError(
                f"{path}: {claims.where} says architecture {name}, with patches of {known['patch']} pixels; vit.patch_size is "
                f"{patch}; use the file's size, or its own {_HUB_CONFIG}"
            )
        heads = heads or _HEADS.get(known["size"])
    if heads is not None and heads != _num_heads(vit):
        raise WeightsError(
            f"{path}: {claims.where} says {heads} attention heads{f' (architecture {name})' if name else ''}; vit.num_heads is "
            f"{_num_heads(vit)}; use --set vit.num_heads={heads}"
        )


def _check_normalisation(vit: VisionTransformer, claims: _Claims, path: Path) -> None:
    said = {name: value for name, value in (("mean", claims.mean), ("std", claims.std)) if value is not None}

    def agrees(normalisation: Normalisation) -> bool:
        mean, std = NORMALISATIONS[normalisation]
        ours = {"mean": mean, "std": std}
        return all(_near(value, ours[name]) for name, value in said.items())

    if not said or agrees(vit.normalisation):
        return
    other = next((name for name in NORMALISATIONS if agrees(name)), None)
    text = ", ".join(f"{name} {_plain(value)}" for name, value in said.items())
    mean, std = (_plain(value) for value in NORMALISATIONS[vit.normalisation])
    now = f"vit.normalisation is {vit.normalisation} (mean {mean}, std {std})"
    todo = "no other has these, so take weights that were trained with one of half and imagenet"
    if other is not None:
        todo = f"use --set vit.normalisation={other}"
    raise WeightsError(f"{path}: {claims.where} says {text}; {now}; {todo}")


def _check_kind(arrays: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what is known to compute something else, before its shapes are compared, which say less."""
    found = ((kind, next(filter(pattern.match, arrays), None)) for pattern, kind in _OTHER_KINDS)
    named = "; ".join(f"key {key!r} ({kind})" for kind, key in found if key is not None)
    if named:
        raise WeightsError(
            f"{path}: belongs to another kind of ViT: {named}; take the weights of a plain ViT, such as AugReg or SigLIP"
        )


def _check_numbers(key: str, found: Tensor, path: Path) -> None:
    if not found.is_floating_point():
        raise WeightsError(
            f"{path}: key {key!r} holds {found.dtype}, expected floating numbers; take an unquantised file"
        )
    num_bad = int((~torch.isfinite(found)).sum())
    if num_bad:
        raise WeightsError(
            f"{path}: key {key!r} holds {num_bad} of {found.numel()} values that are not finite; copy or download it again"
        )


def _num_heads(vit: VisionTransformer) -> int:
    return int(vit.blocks[0].attn.num_heads)  # type: ignore[union-attr, arg-type]  # a ModuleList forgets what its modules are


def _near(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(one - other) < 1e-3 for one, other in zip(found, expected, strict=True))


def _plain(values: Sequence[float]) -> str:
    """Three numbers as [a, b, c], or one where they are equal."""
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


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
        heads = arrays[f"{attention}/query/kernel"].shape[1]
        if heads != _num_heads(vit):
            raise WeightsError(
                f"{path}: its blocks have {heads} attention heads; vit.num_heads is {_num_heads(vit)}; use --set "
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


def _may_be_left_out(key: str, *, num_blocks: int) -> bool:
    block = _BLOCK.match(key)
    return _HEAD.match(key) is not None or (block is not None and int(block[1]) >= num_blocks)


def _missing(vit: VisionTransformer, key: str, expected: Tensor) -> str:
    text = f"key {key!r} of shape {_shape(expected)} is missing"
    if key == "cls_token":
        return f"{text}; a file without a class token (SigLIP) needs --set vit.num_prefix_tokens=0"
    return f"{text}; expected a ViT in timm's naming, such as vit_base_patch16_384"


def _foreign(keys: Sequence[str]) -> str:
    if "cls_token" in keys:
        return "key 'cls_token' has no place in a ViT without a class token; use --set vit.num_prefix_tokens=1"
    return (
        f"key {keys[0]!r} belongs to another kind of ViT ({len(keys)} such keys); "
        "take the weights of a plain ViT, or build the network they were made for"
    )


def _mismatch(vit: VisionTransformer, key: str, *, expected: Tensor, found: Tensor) -> str:
    text = f"key {key!r} has shape {_shape(found)}, expected {_shape(expected)}"
    if key == "pos_embed" and found.ndim == 3 and found.shape[2] == vit.width:
        if found.shape[1] == expected.shape[1] + 1 and not vit.num_prefix_tokens:
            return f"{text}; a file with a class token (AugReg) needs --set vit.num_prefix_tokens=1"
        return (
            f"{text} for a {vit.grid[0]}x{vit.grid[1]} grid; position embeddings are not interpolated, "
            "so build the ViT with the file's image size or take another file"
        )
    return f"{text}; build the ViT with the file's sizes or take another file"


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
