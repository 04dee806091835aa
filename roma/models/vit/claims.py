"""What files of ViT weights say of themselves beside their tensors, and whether it fits the network; other kinds are refused."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from infraredcity.files.records import parse_json, read_json
from roma.errors import WeightsError
from roma.models.vit.vit import NORMALISATIONS, Normalisation, VisionTransformer
from roma.models.vit.weight_file import first_line

CONFIG_NAME = "config.json"
"""timm's file beside the weights."""
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
class Claims:
    """What weights say of themselves beside their tensors; None where they do not say."""

    where: str
    """Where they say it, for messages."""
    mean: tuple[float, ...] | None = None
    """What was subtracted from R, G, B in [0, 1]."""
    std: tuple[float, ...] | None = None
    """What they were divided by then."""
    image_size: tuple[int, ...] | None = None
    """Height and width of their pictures in pixels."""
    architecture: str | None = None
    """timm's name."""
    num_heads: int | None = None
    """Attention heads."""


def claims_of_config(config: Path, path: Path) -> Claims:
    """Read a timm config.json: its facts lie under `pretrained_cfg`, or at the top. Any other config.json says nothing."""
    where = f"{config.name} beside it"
    try:
        content = read_json(config)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: {where} cannot be read as JSON ({first_line(error)}); download it again, or remove it"
        ) from error
    if not isinstance(content, dict):
        return Claims(where=where)
    below = content.get("pretrained_cfg")
    facts = content | (below if isinstance(below, dict) else {})
    arguments = content.get("model_args")
    heads = arguments.get("num_heads") if isinstance(arguments, dict) else None
    return _claims_of(facts, num_heads=heads, where=where, path=path)


def claims_of_metadata(metadata: Mapping[str, str], path: Path) -> Claims:
    """Read the header of a .safetensors, where every value is text: JSON, or numbers between commas or spaces."""
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
        return Claims(
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


def check_claims(vit: VisionTransformer, claims: Claims, path: Path) -> None:
    """Refuse weights that were trained for another network or other pictures than this one's.

    Raises:
        WeightsError: Normalisation, size of pictures or patches, GELU or the number of heads differ.
    """
    _check_normalisation(vit, claims, path)
    side, patch = vit.image_size, vit.image_size // vit.grid[0]
    if claims.image_size is not None and set(claims.image_size) != {side}:
        size = "x".join(map(str, claims.image_size))
        raise WeightsError(
            f"{path}: {claims.where} says pictures of {size} pixels; vit.image_size is {side}; use the file's size, or its own "
            f"{CONFIG_NAME}"
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
                f"{patch}; use the file's size, or its own {CONFIG_NAME}"
            )
        heads = heads or _HEADS.get(known["size"])
    if heads is not None and heads != vit.num_heads:
        raise WeightsError(
            f"{path}: {claims.where} says {heads} attention heads{f' (architecture {name})' if name else ''}; vit.num_heads is "
            f"{vit.num_heads}; use --set vit.num_heads={heads}"
        )


def check_kind(arrays: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what is known to compute something else, before its shapes are compared, which say less."""
    found = ((kind, next(filter(pattern.match, arrays), None)) for pattern, kind in _OTHER_KINDS)
    named = "; ".join(f"key {key!r} ({kind})" for kind, key in found if key is not None)
    if named:
        raise WeightsError(
            f"{path}: belongs to another kind of ViT: {named}; take the weights of a plain ViT, such as AugReg or SigLIP"
        )


def _claims_of(facts: Mapping[str, object], *, num_heads: object, where: str, path: Path) -> Claims:
    architecture = facts.get("architecture")
    size = _numbers(facts.get("input_size"), "input_size", where=where, path=path)
    return Claims(
        where=where,
        mean=_numbers(facts.get("mean"), "mean", where=where, path=path),
        std=_numbers(facts.get("std"), "std", where=where, path=path),
        image_size=None if size is None else tuple(int(side) for side in size[1:]),
        architecture=architecture if isinstance(architecture, str) else None,
        num_heads=num_heads if isinstance(num_heads, int) else None,
    )


def _numbers(value: object, name: str, *, where: str, path: Path) -> tuple[float, ...] | None:
    """Read three numbers, or one for all three; None without a value."""
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


def _check_normalisation(vit: VisionTransformer, claims: Claims, path: Path) -> None:
    claimed = {name: value for name, value in (("mean", claims.mean), ("std", claims.std)) if value is not None}

    def agrees(normalisation: Normalisation) -> bool:
        mean, std = NORMALISATIONS[normalisation]
        ours = {"mean": mean, "std": std}
        return all(_near(value, ours[name]) for name, value in claimed.items())

    if not claimed or agrees(vit.normalisation):
        return
    other = next((name for name in NORMALISATIONS if agrees(name)), None)
    text = ", ".join(f"{name} {_plain(value)}" for name, value in claimed.items())
    mean, std = (_plain(value) for value in NORMALISATIONS[vit.normalisation])
    now = f"vit.normalisation is {vit.normalisation} (mean {mean}, std {std})"
    todo = "no other has these, so take weights that were trained with one of half and imagenet"
    if other is not None:
        todo = f"use --set vit.normalisation={other}"
    raise WeightsError(f"{path}: {claims.where} says {text}; {now}; {todo}")


def _near(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(one - other) < 1e-3 for one, other in zip(found, expected, strict=True))


def _plain(values: Sequence[float]) -> str:
    """Write three numbers as [a, b, c], or one where they are equal."""
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
