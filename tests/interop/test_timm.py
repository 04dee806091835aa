"""Our tokens beside timm's, and the folders that timm writes for the hub, wherever timm can be imported.

timm imports torchvision, whose wheel on PyPI is built for the CUDA build of torch and cannot be imported beside a CPU build. So
`make interop` installs neither, and these tests skip where timm is missing.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from roma.errors import WeightsError
from roma.models.vit.vit import VisionTransformer
from roma.models.vit.weights import fill


def import_timm() -> Any:
    """timm, or a skip that says why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch raises a RuntimeError
        pytest.skip(f"timm cannot be imported here ({str(error).splitlines()[0]})")
    return timm


def theirs(**sizes: Any) -> torch.nn.Module:
    """A random ViT of timm with weights large enough for attention to matter."""
    vit: torch.nn.Module = import_timm().models.vision_transformer.VisionTransformer(**sizes)
    return with_random_weights(vit)


def with_random_weights(vit: torch.nn.Module) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vit.parameters():
            scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return vit.eval()


def largest_difference(vit: Any, ours: VisionTransformer, images: torch.Tensor) -> float:
    """Between the tokens of both, over all layers; they have a deviation of .5 to 1."""
    with torch.no_grad():
        expected = vit.forward_intermediates(
            images, indices=list(ours.layers), norm=True, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        found = ours.tokens(images)
    assert [tokens.shape for tokens in found] == [tokens.shape for tokens in expected]
    assert min(float(tokens.std()) for tokens in expected) > 0.3
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


def with_weights_of(vit: torch.nn.Module, **sizes: Any) -> VisionTransformer:
    ours = VisionTransformer(**sizes)
    ours.load_state_dict({key: value for key, value in vit.state_dict().items() if key in ours.state_dict()})
    return ours


@pytest.mark.parametrize("num_prefix", [1, 0], ids=["AugReg", "SigLIP"])
def test_tokens_equal_timm(num_prefix: int) -> None:
    kind = {} if num_prefix else {"class_token": False, "global_pool": "map"}
    vit = theirs(img_size=32, patch_size=8, embed_dim=16, depth=8, num_heads=2, num_classes=3, **kind)
    ours = with_weights_of(
        vit, image_size=32, patch_size=8, width=16, depth=8, num_heads=2, num_prefix_tokens=num_prefix
    )
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert largest_difference(vit, ours, images) < 1e-5


@pytest.mark.parametrize("num_prefix", [1, 0], ids=["AugReg", "SigLIP"])
def test_tokens_equal_timm_at_the_paper_s_size(num_prefix: int) -> None:
    kind = {} if num_prefix else {"class_token": False, "global_pool": "map"}
    vit = theirs(img_size=384, depth=6, num_classes=0, **kind)
    ours = with_weights_of(vit, num_prefix_tokens=num_prefix)
    images = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert ours.tokens(images)[0].shape == (1, 576, 768)
    assert largest_difference(vit, ours, images) < 2e-5


def hub_folder(name: str, folder: Path, **sizes: Any) -> torch.nn.Module:
    """One of timm's own models, narrow, saved as it saves for the hub."""
    timm = import_timm()
    vit = with_random_weights(timm.create_model(name, pretrained=False, embed_dim=48, depth=6, **sizes))
    timm.models.save_for_hf(vit, folder, safe_serialization=True)
    return vit


@pytest.mark.parametrize(
    ("name", "num_prefix"),
    [("vit_base_patch16_384.augreg_in21k_ft_in1k", 1), ("vit_base_patch16_siglip_384.v2_webli", 0)],
)
def test_the_folder_that_timm_writes_loads_with_the_right_settings_and_with_no_others(
    tmp_path: Path, name: str, num_prefix: int
) -> None:
    vit = hub_folder(name, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == name.partition(".")[0]
    sizes: dict[str, Any] = {"width": 48, "num_prefix_tokens": num_prefix}
    ours = VisionTransformer(**sizes)
    fill(ours, str(tmp_path))
    images = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert largest_difference(vit, ours, images) < 1e-5
    for changes, message in (
        (
            {"normalisation": "imagenet"},
            r"says mean 0.5, std 0.5; vit.normalisation is imagenet .*vit.normalisation=half",
        ),
        ({"num_heads": 6}, r"says 12 attention heads .*--set vit.num_heads=12"),
        ({"num_prefix_tokens": 1 - num_prefix}, rf"--set vit.num_prefix_tokens={num_prefix}"),
    ):
        with pytest.raises(WeightsError, match=message):
            fill(VisionTransformer(**(sizes | changes)), str(tmp_path))


def test_deit_asks_for_the_normalisation_of_imagenet(tmp_path: Path) -> None:
    hub_folder("deit_base_patch16_384.fb_in1k", tmp_path)
    with pytest.raises(
        WeightsError, match=r"config.json beside it says mean \[0.485, .*; use --set vit.normalisation=imagenet"
    ):
        fill(VisionTransformer(width=48), str(tmp_path))
    fill(VisionTransformer(width=48, normalisation="imagenet"), str(tmp_path))


def test_dinov2_as_timm_writes_it_is_refused_in_one_line(tmp_path: Path) -> None:
    hub_folder("vit_base_patch14_reg4_dinov2.lvd142m", tmp_path, img_size=336)
    with pytest.raises(WeightsError, match=r"another kind of ViT: key 'reg_token' .*'blocks.0.ls1.gamma'") as caught:
        fill(VisionTransformer(width=48), str(tmp_path))
    assert "\n" not in str(caught.value)
