"""Pretrained weights of the frozen ViT: from a local file, or from the Hugging Face hub when the machine is online."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from infraredcity.files.urls import is_url, shown
from infraredcity.installation import install_command
from roma.errors import WeightsError
from roma.models.vit.claims import CONFIG_NAME, check_claims, check_kind, claims_of_config, claims_of_metadata
from roma.models.vit.vit import VisionTransformer
from roma.models.vit.weight_file import first_line, from_augreg, read_tensors, shape_of

logger = logging.getLogger(__name__)

DEFAULT_HUB_NAME = "vit_base_patch16_384.augreg_in21k_ft_in1k"
"""The paper's backbone under its present name; Apache-2.0."""
_HUB_FILE = "model.safetensors"
_HEAD = re.compile(r"(head|head_dist|pre_logits|fc_norm|attn_pool)\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def fill(vit: VisionTransformer, weights: str) -> None:
    """Fill a ViT as the setting `vit.weights` says.

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
    """Refuse a run that needs a ViT without the setting `vit.weights`."""
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
    if is_url(weights):
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
    config = path.parent / CONFIG_NAME
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
        raise WeightsError("vit.weights=hub: names no repository; use hub:OWNER/NAME, hub:TIMM_MODEL, or only hub")
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
            f"{repository}: {_HUB_FILE} could not be fetched from the hub ({first_line(error)}); "
            "connect to the internet, or give a local weight file"
        ) from error
    try:
        config: Path | None = Path(hf_hub_download(repo_id=repository, filename=CONFIG_NAME))
    except Exception as error:  # a repository need not have one, and a cache filled by hand may lack it
        config = None
        logger.warning(
            "%s: has no %s that can be fetched (%s), so nothing says whether vit.normalisation=%s is right",
            repository, CONFIG_NAME, first_line(error), vit.normalisation,
        )  # fmt: skip
    _load(vit, path, config)
    return path


def _load(vit: VisionTransformer, path: Path, config: Path | None) -> None:
    arrays, metadata = read_tensors(path)
    if any(key.startswith("Transformer/encoderblock_") for key in arrays):
        arrays = from_augreg(arrays, vit=vit, path=path)
    check_kind(arrays, path)
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
    for claims in (claims_of_metadata(metadata, path), *([] if config is None else [claims_of_config(config, path)])):
        check_claims(vit, claims, path)
    for key in wanted:
        _check_numbers(key, arrays[key], path)
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(arrays[key])
    logger.info("%s: loaded %d weights, left out %d of the head and later blocks", path, len(wanted), len(extra))


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


def _may_be_left_out(key: str, *, num_blocks: int) -> bool:
    block = _BLOCK.match(key)
    return _HEAD.match(key) is not None or (block is not None and int(block[1]) >= num_blocks)


def _missing(vit: VisionTransformer, key: str, expected: Tensor) -> str:
    text = f"key {key!r} of shape {shape_of(expected)} is missing"
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
    text = f"key {key!r} has shape {shape_of(found)}, expected {shape_of(expected)}"
    if key == "pos_embed" and found.ndim == 3 and found.shape[2] == vit.width:
        if found.shape[1] == expected.shape[1] + 1 and not vit.num_prefix_tokens:
            return f"{text}; a file with a class token (AugReg) needs --set vit.num_prefix_tokens=1"
        return (
            f"{text} for a {vit.grid[0]}x{vit.grid[1]} grid; position embeddings are not interpolated, "
            "so build the ViT with the file's image size or take another file"
        )
    return f"{text}; build the ViT with the file's sizes or take another file"
