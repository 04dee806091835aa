import json
import logging
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from roma.errors import WeightsError
from roma.models.vit.vit import VisionTransformer
from roma.models.vit.weights import fill, load_from_hub, load_weights

WIDTH, HEADS, HIDDEN, PATCH, NUM_TOKENS = 8, 2, 32, 4, 17  # 4x4 patches and a class token


HALF, IMAGENET_MEAN, IMAGENET_STD = [0.5, 0.5, 0.5], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def small(*, layers: tuple[int, ...] = (0, 1), **changes: object) -> VisionTransformer:
    sizes: dict[str, object] = {"image_size": 16, "patch_size": PATCH, "width": WIDTH, "depth": 3, "num_heads": HEADS}
    return VisionTransformer(**(sizes | changes), layers=layers)  # type: ignore[arg-type]


def whole_file(**changes: object) -> dict[str, torch.Tensor]:
    """A full network of three blocks with a head, as timm would save it."""
    torch.manual_seed(1)
    tensors = small(layers=(2,), **changes).state_dict()
    tensors |= {"head.weight": torch.zeros(5, WIDTH), "head.bias": torch.zeros(5)}
    return {key: torch.randn_like(value) for key, value in tensors.items()}


def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_each_format_fills_the_network_and_leaves_out_head_and_later_blocks(tmp_path: Path, suffix: str) -> None:
    tensors = whole_file()
    vit = small()
    load_weights(vit, save(tensors, tmp_path / f"vit{suffix}"))
    loaded = vit.state_dict()
    assert "blocks.2.norm1.weight" not in loaded
    assert all(torch.equal(value, tensors[key]) for key, value in loaded.items())
    assert not any(p.requires_grad for p in vit.parameters())


def test_a_state_dict_may_lie_under_a_name(tmp_path: Path) -> None:
    tensors = whole_file()
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "vit.pt")
    vit = small()
    load_weights(vit, tmp_path / "vit.pt")
    assert torch.equal(vit.pos_embed, tensors["pos_embed"])


def augreg_file(rng: np.random.Generator) -> dict[str, np.ndarray]:
    each = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, WIDTH),
        "embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, NUM_TOKENS, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (WIDTH, 5),
        "head/bias": (5,),
    }
    for index in range(3):
        block = f"Transformer/encoderblock_{index}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (WIDTH,), f"{block}/{norm}/bias": (WIDTH,)}
        for part in ("query", "key", "value"):
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (WIDTH, HEADS, each)
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (HEADS, each)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (HEADS, each, WIDTH)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (WIDTH,)
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (WIDTH, HIDDEN), f"{block}/MlpBlock_3/Dense_0/bias": (HIDDEN,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (HIDDEN, WIDTH), f"{block}/MlpBlock_3/Dense_1/bias": (WIDTH,)}
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def augreg_layer_0(file: dict[str, np.ndarray], image_hwc: np.ndarray) -> np.ndarray:
    """Output of block 0 through the final norm, computed from the arrays as JAX would use them; [1 + P, D]."""
    grid = image_hwc.reshape(4, PATCH, 4, PATCH, 3)
    patches = np.einsum("iajbc,abcd->ijd", grid, file["embedding/kernel"]).reshape(16, WIDTH) + file["embedding/bias"]
    x = np.concatenate([file["cls"][0], patches]) + file["Transformer/posembed_input/pos_embedding"][0]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return scaled * file[f"{name}/scale"] + file[f"{name}/bias"]

    block = "Transformer/encoderblock_0"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    y = norm(x, f"{block}/LayerNorm_0")
    query, key, value = (
        np.einsum("pd,dhe->phe", y, file[f"{attention}/{part}/kernel"]) + file[f"{attention}/{part}/bias"]
        for part in ("query", "key", "value")
    )
    scores = np.einsum("phe,qhe->hpq", query, key) / np.sqrt(WIDTH // HEADS)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hpq,qhe->phe", weights, value)
    x = x + np.einsum("phe,hed->pd", mixed, file[f"{attention}/out/kernel"]) + file[f"{attention}/out/bias"]
    y = norm(x, f"{block}/LayerNorm_2")
    hidden = torch.from_numpy(y @ file[f"{block}/MlpBlock_3/Dense_0/kernel"] + file[f"{block}/MlpBlock_3/Dense_0/bias"])
    hidden = torch.nn.functional.gelu(hidden).numpy()
    x = x + hidden @ file[f"{block}/MlpBlock_3/Dense_1/kernel"] + file[f"{block}/MlpBlock_3/Dense_1/bias"]
    return norm(x, "Transformer/encoder_norm")


def test_googles_augreg_naming_gives_the_same_tokens_as_its_own_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = augreg_file(rng)
    np.savez(tmp_path / "augreg.npz", **file)
    vit = small()
    load_weights(vit, tmp_path / "augreg.npz")
    image = rng.uniform(-1, 1, (16, 16, 3)).astype(np.float32)
    tokens = vit.tokens(torch.from_numpy(image).permute(2, 0, 1)[None])[0][0]
    np.testing.assert_allclose(tokens.numpy(), augreg_layer_0(file, image)[1:], atol=1e-4)


def test_an_augreg_file_without_a_key_names_it(tmp_path: Path) -> None:
    file = augreg_file(np.random.default_rng(0))
    del file["Transformer/encoderblock_1/LayerNorm_2/scale"]
    np.savez(tmp_path / "augreg.npz", **file)
    with pytest.raises(
        WeightsError, match=r"augreg.npz: key 'Transformer/encoderblock_1/LayerNorm_2/scale' is missing"
    ):
        load_weights(small(), tmp_path / "augreg.npz")


def test_arrays_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "packed.npz", **augreg_file(np.random.default_rng(0)), more=np.zeros(1 << 26, np.float32)
    )
    with pytest.raises(
        WeightsError, match=r"packed\.npz: cannot be read as \.npz \(unpacks to 2\d{8} bytes, more than"
    ):
        load_weights(small(), tmp_path / "packed.npz")
    np.savez(tmp_path / "whole.npz", **augreg_file(np.random.default_rng(0)), more=np.zeros(8, np.float32))
    with zipfile.ZipFile(tmp_path / "whole.npz") as old, zipfile.ZipFile(tmp_path / "lying.npz", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "more.npy":
                data = data.replace(b"(8,), }" + b" " * 20, b"(80000000000000,), }" + b" " * 7)
                assert b"80000000000000" in data
            new.writestr(name, data)
    with pytest.raises(WeightsError, match=r"lying\.npz: cannot be read as \.npz \(more claims 80000000000000 values"):
        load_weights(small(), tmp_path / "lying.npz")
    torch.save({"more": torch.zeros(1 << 26)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(
        WeightsError, match=r"packed\.pt: cannot be read as \.pt \(unpacks to 2\d{8} bytes, more than 8 times"
    ):
        load_weights(small(), tmp_path / "packed.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.npz: no such weight file; check the path"):
        load_weights(small(), tmp_path / "nowhere.npz")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"ends in .safetensors, .npz, .pt, .pth, found '.bin'"):
        load_weights(small(), tmp_path / "vit.bin")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_damaged_file_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vit{suffix}"
    path.write_bytes(b"this is no weight file, only a few words")
    with pytest.raises(
        WeightsError, match=rf"vit{suffix}: cannot be read as {suffix} \(.*\); copy or download"
    ) as caught:
        load_weights(small(), path)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named_with_its_shape_and_nothing_is_changed(tmp_path: Path) -> None:
    tensors = whole_file()
    del tensors["norm.bias"]
    vit = small()
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"vit.npz: key 'norm.bias' of shape \[8\] is missing; expected a ViT in timm"
    ):
        load_weights(vit, save(tensors, tmp_path / "vit.npz"))
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = whole_file() | {"blocks.1.mlp.fc1.weight": torch.zeros(16, WIDTH)}
    message = (
        r"key 'blocks.1.mlp.fc1.weight' has shape \[16, 8\], expected \[32, 8\]; build the ViT with the file's sizes"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(small(), save(tensors, tmp_path / "vit.pt"))


def test_position_embeddings_of_another_grid_are_not_interpolated(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.npz")
    message = r"'pos_embed' has shape \[1, 17, 8\], expected \[1, 26, 8\] for a 5x5 grid; .* are not interpolated"
    with pytest.raises(WeightsError, match=message):
        load_weights(small(image_size=20), path)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("blocks.0.ls1.gamma", "layer scale"),
        ("reg_token", "register tokens"),
        ("blocks.1.attn.q_norm.weight", "normalised queries and keys"),
        ("norm_pre.weight", "a norm before the blocks"),
    ],
)
def test_weights_of_another_kind_of_vit_are_refused(tmp_path: Path, key: str, kind: str) -> None:
    tensors = whole_file() | {key: torch.ones(WIDTH)}
    with pytest.raises(WeightsError, match=rf"vit.npz: belongs to another kind of ViT: key '{key}' \({kind}"):
        load_weights(small(), save(tensors, tmp_path / "vit.npz"))


def test_a_key_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    tensors = whole_file() | {"rope.freqs": torch.ones(WIDTH)}
    with pytest.raises(WeightsError, match=r"vit.npz: key 'rope.freqs' belongs to another kind of ViT \(1 such keys\)"):
        load_weights(small(), save(tensors, tmp_path / "vit.npz"))


def test_dinov2_is_refused_for_what_it_is_and_not_for_its_grid(tmp_path: Path) -> None:
    """vit_base_patch14_reg4_dinov2: four registers, layer scale, patches of 14, a grid without prefix of 37x37."""
    tensors = whole_file() | {
        "reg_token": torch.zeros(1, 4, WIDTH),
        "pos_embed": torch.zeros(1, 37 * 37, WIDTH),
        "patch_embed.proj.weight": torch.zeros(WIDTH, 3, 14, 14),
    }
    tensors |= {f"blocks.{block}.ls{half}.gamma": torch.ones(WIDTH) for block in range(3) for half in (1, 2)}
    message = (
        r"another kind of ViT: key 'reg_token' \(register tokens, as DINOv2's reg4\); key 'blocks.0.ls1.gamma' "
        r"\(layer scale, as DINOv2's and DeiT III's\); take the weights of a plain ViT, such as AugReg or SigLIP$"
    )
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(small(), save(tensors, tmp_path / "dinov2.safetensors"))
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_weights(small(), tmp_path / "list.pt")


def test_without_safetensors_the_user_learns_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(WeightsError, match="needs the package safetensors; pip install safetensors"):
        load_weights(small(), path)


def test_without_the_hub_package_the_user_learns_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"huggingface-hub is not installed; pip install -e .*\[hub\]"):
        load_from_hub(small())


def hub(monkeypatch: pytest.MonkeyPatch, download) -> None:
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*, repo_id: str, filename: str) -> str:
        raise OSError("no route to host\nand a long story")

    hub(monkeypatch, download)
    message = r"timm/vit_base_patch16_384.augreg_in21k_ft_in1k: .* fetched from the hub \(no route to host\); connect"
    with pytest.raises(WeightsError, match=message) as caught:
        load_from_hub(small())
    assert "\n" not in str(caught.value)


def test_the_hub_file_is_loaded_and_its_place_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = whole_file()
    path = save(tensors, tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(*, repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(path.with_name(filename))

    hub(monkeypatch, download)
    write_config(tmp_path, mean=HALF, std=HALF)
    vit = small()
    assert load_from_hub(vit, "me/my-vit") == path
    assert asked == [("me/my-vit", "model.safetensors"), ("me/my-vit", "config.json")]
    assert torch.equal(vit.pos_embed, tensors["pos_embed"])


def test_the_hubs_config_is_compared_wherever_the_cache_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(whole_file(), tmp_path / "model.safetensors")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = write_config(elsewhere, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    hub(monkeypatch, lambda *, repo_id, filename: str(config if filename == "config.json" else path))
    with pytest.raises(WeightsError, match=r"use --set vit.normalisation=imagenet"):
        load_from_hub(small())


def test_a_hub_repository_without_a_config_loads_and_says_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = whole_file()
    path = save(tensors, tmp_path / "model.safetensors")

    def download(*, repo_id: str, filename: str) -> str:
        if filename == "config.json":
            raise OSError("404 Client Error")
        return str(path)

    hub(monkeypatch, download)
    vit = small()
    with caplog.at_level(logging.WARNING, logger="roma.models.vit.weights"):
        load_from_hub(vit, "me/my-vit")
    assert torch.equal(vit.pos_embed, tensors["pos_embed"])
    assert "me/my-vit: has no config.json that can be fetched (404 Client Error)" in caplog.text
    assert "vit.normalisation=half" in caplog.text


@pytest.mark.parametrize(
    ("weights", "repository"),
    [
        ("hub", "timm/vit_base_patch16_384.augreg_in21k_ft_in1k"),
        ("hub:vit_base_patch16_siglip_384.v2_webli", "timm/vit_base_patch16_siglip_384.v2_webli"),
        ("hub:me/my-vit", "me/my-vit"),
    ],
)
def test_the_setting_names_the_paper_s_weights_a_timm_model_or_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, repository: str
) -> None:
    tensors = whole_file()
    save(tensors, tmp_path / "model.safetensors")
    write_config(tmp_path, mean=HALF, std=HALF)
    asked: list[str] = []

    def download(*, repo_id: str, filename: str) -> str:
        asked.append(repo_id)
        return str(tmp_path / filename)

    hub(monkeypatch, download)
    vit = small()
    fill(vit, weights)
    assert asked == [repository, repository]
    assert torch.equal(vit.pos_embed, tensors["pos_embed"])


def test_the_setting_may_be_a_file_a_folder_or_nothing_but_chance(tmp_path: Path) -> None:
    tensors = whole_file()
    save(tensors, tmp_path / "model.safetensors")
    for weights in (f"{tmp_path}/model.safetensors", str(tmp_path)):
        vit = small()
        fill(vit, weights)
        assert torch.equal(vit.pos_embed, tensors["pos_embed"])
    vit = small()
    drawn = vit.pos_embed.clone()
    fill(vit, "random")
    assert torch.equal(vit.pos_embed, drawn)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("", r"vit.weights is not set; name a weight file with --set vit.weights=PATH, .* --preset tiny"),
        ("hub:", r"vit.weights=hub: names no repository; use hub:OWNER/NAME"),
        ("rnadom", r"rnadom: no such file or folder; expected a path, hub, hub:NAME or random"),
        ("nowhere/model.safetensors", r"nowhere/model.safetensors: no such file or folder"),
    ],
)
def test_a_setting_that_names_no_weights_is_one_line(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        fill(small(), weights)
    assert "\n" not in str(caught.value)


def write_config(folder: Path, *, top: bool = False, architecture: str | None = None, **facts: object) -> Path:
    """A config.json as timm puts it on the hub, or with its facts at the top."""
    content: dict[str, object] = {} if architecture is None else {"architecture": architecture}
    content |= facts if top else {"num_classes": 1000, "pretrained_cfg": {"tag": "augreg", **facts}}
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


IMAGENET_LINE = (
    r"vit.safetensors: {where} says mean \[0.485, 0.456, 0.406\], std \[0.229, 0.224, 0.225\]; vit.normalisation is half "
    r"\(mean 0.5, std 0.5\); use --set vit.normalisation=imagenet$"
)


@pytest.mark.parametrize("top", [False, True])
def test_a_config_beside_the_file_that_says_another_normalisation_is_one_line(tmp_path: Path, top: bool) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    write_config(tmp_path, top=top, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    vit = small()
    before = vit.pos_embed.clone()
    with pytest.raises(WeightsError, match=IMAGENET_LINE.format(where="config.json beside it")) as caught:
        load_weights(vit, path)
    assert "\n" not in str(caught.value)
    assert torch.equal(vit.pos_embed, before)
    load_weights(small(normalisation="imagenet"), path)


def test_half_is_compared_just_as_well(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.npz")
    write_config(tmp_path, mean=HALF, std=HALF)
    load_weights(small(), path)
    message = (
        r"says mean 0.5, std 0.5; vit.normalisation is imagenet \(mean \[0.485, 0.456, 0.406\], std \[0.229, 0.224, 0.225\]\); "
        r"use --set vit.normalisation=half$"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(small(normalisation="imagenet"), path)


def test_a_normalisation_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.pt")
    write_config(tmp_path, mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
    with pytest.raises(
        WeightsError, match=r"says mean \[0.4815, 0.4578, 0.4082\], .* no other has these, so take weights"
    ):
        load_weights(small(), path)


def test_a_standard_deviation_without_a_mean_is_compared_too(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.pt")
    write_config(tmp_path, std=IMAGENET_STD)
    with pytest.raises(WeightsError, match=r"says std \[0.229, 0.224, 0.225\]; vit.normalisation is half"):
        load_weights(small(), path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"},
        {"mean": "0.485, 0.456, 0.406", "std": "0.229 0.224 0.225"},
        {"mean": "(0.485, 0.456, 0.406)", "std": "(0.229, 0.224, 0.225)"},
        {"pretrained_cfg": json.dumps({"mean": IMAGENET_MEAN, "std": IMAGENET_STD})},
    ],
)
def test_the_metadata_of_a_safetensors_file_is_compared(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(whole_file(), path, metadata={"format": "pt"} | metadata)
    with pytest.raises(WeightsError, match=IMAGENET_LINE.format(where="its metadata")):
        load_weights(small(), path)
    load_weights(small(normalisation="imagenet"), path)


def test_one_number_in_the_metadata_stands_for_three_channels(tmp_path: Path) -> None:
    save_file(whole_file(), tmp_path / "vit.safetensors", metadata={"mean": "0.5", "std": "0.5"})
    load_weights(small(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match=r"its metadata says mean 0.5, std 0.5; vit.normalisation is imagenet"):
        load_weights(small(normalisation="imagenet"), tmp_path / "vit.safetensors")


def backbone(path: Path, **sizes: int) -> Path:
    """A file as roma pretrain writes it, beside the run's own config.json, which is no timm's."""
    config = {"vit": {"image_size": 16, "patch_size": PATCH, "width": WIDTH, "depth": 3, "num_heads": HEADS} | sizes}
    save_file(whole_file(), path, metadata={"format": "roma-backbone-1", "config": json.dumps(config)})
    (path.parent / "config.json").write_text(json.dumps(config))
    return path


def test_a_backbone_of_roma_pretrain_is_half(tmp_path: Path) -> None:
    path = backbone(tmp_path / "backbone.safetensors")
    load_weights(small(), path)
    message = (
        r"backbone.safetensors: roma pretrain, which made it, says mean 0.5, std 0.5; vit.normalisation is imagenet"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(small(normalisation="imagenet"), path)


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1" + 400 * "0"])
def test_numbers_of_no_size_beside_the_weights_are_one_line(tmp_path: Path, number: str) -> None:
    config = f'{{"vit": {{"image_size": {number}, "num_heads": 2}}}}'
    made = tmp_path / "made.safetensors"
    save_file(whole_file(), made, metadata={"format": "roma-backbone-1", "config": config})
    with pytest.raises(
        WeightsError, match=r"its metadata is incomplete \((Overflow|Value)Error: |pictures of 1000"
    ) as caught:
        load_weights(small(), made)
    assert "\n" not in str(caught.value)
    (tmp_path / "other").mkdir()
    save(whole_file(), tmp_path / "other" / "model.safetensors")
    for name in ("mean", "input_size"):
        (tmp_path / "other" / "config.json").write_text(f'{{"{name}": [3, {number}, {number}]}}')
        with pytest.raises(WeightsError, match=rf"config\.json beside it says {name} \[3, .*, expected three numbers"):
            load_weights(small(), tmp_path / "other")


def test_a_backbone_of_roma_pretrain_says_its_heads(tmp_path: Path) -> None:
    path = backbone(tmp_path / "backbone.safetensors", num_heads=4)
    message = r"roma pretrain, which made it, says 4 attention heads; vit.num_heads is 2; use --set vit.num_heads=4"
    with pytest.raises(WeightsError, match=message):
        load_weights(small(), path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"input_size": [3, 32, 32]}, r"config.json beside it says pictures of 32x32 pixels; vit.image_size is 16"),
        ({"input_size": [16, 16]}, r"config.json beside it says input_size \[16, 16\], expected three numbers"),
        ({"mean": "half"}, r"config.json beside it says mean 'half', expected three numbers; correct or remove it"),
        ({"architecture": "vit_base_patch16_384"}, r"vit_base_patch16_384, with patches of 16 pixels; vit.patch_size is 4"),
        ({"architecture": "vit_small_patch4_16"}, r"6 attention heads \(architecture vit_small_patch4_16\); vit.num_heads is 2"),
        ({"architecture": "vit_so400m_patch4_siglip_gap_16"}, r"whose GELU is the tanh formula; ours is exact"),
    ],
)  # fmt: skip
def test_what_the_config_says_of_sizes_is_compared(tmp_path: Path, facts: dict[str, str], message: str) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    write_config(tmp_path, **facts)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=rf"vit.safetensors: .*{message}") as caught:
        load_weights(small(), path)
    assert "\n" not in str(caught.value)


def test_a_config_that_agrees_in_all_or_says_nothing_of_it_is_taken(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    write_config(tmp_path, architecture="flexivit_mini_patch4_16", input_size=[3, 16, 16], mean=HALF, std=HALF)
    load_weights(small(), path)
    for content in ("[1, 2]", '{"model_type": "vit", "generator": {"architecture": "resnet"}}'):
        (tmp_path / "config.json").write_text(content)
        load_weights(small(), path)


def test_a_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json beside it cannot be read as JSON \(.*\); download it again"):
        load_weights(small(), path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_counted_and_named(tmp_path: Path, bad: float) -> None:
    tensors = whole_file()
    tensors["blocks.1.mlp.fc2.weight"][:, :3] = bad
    vit = small()
    before = vit.pos_embed.clone()
    with pytest.raises(
        WeightsError, match=r"vit.pt: key 'blocks.1.mlp.fc2.weight' holds 24 of 256 values that are not finite"
    ):
        load_weights(vit, save(tensors, tmp_path / "vit.pt"))
    assert torch.equal(vit.pos_embed, before)
    # the third block is not built, so what it holds does not matter
    tensors = whole_file()
    tensors["blocks.2.mlp.fc2.weight"][:] = bad
    load_weights(vit, save(tensors, tmp_path / "vit.pt"))


def test_half_precision_is_widened_and_whole_numbers_are_refused(tmp_path: Path) -> None:
    tensors = whole_file()
    vit = small()
    load_weights(vit, save({key: value.half() for key, value in tensors.items()}, tmp_path / "vit.safetensors"))
    assert vit.pos_embed.dtype == torch.float32
    assert torch.equal(vit.pos_embed, tensors["pos_embed"].half().float())
    tensors["norm.weight"] = torch.ones(WIDTH, dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"key 'norm.weight' holds torch.int8, expected floating numbers"):
        load_weights(vit, save(tensors, tmp_path / "vit.pt"))


def test_an_augreg_file_with_other_heads_is_refused(tmp_path: Path) -> None:
    """The product of heads and their width is 8 either way, so no shape would tell."""
    np.savez(tmp_path / "augreg.npz", **augreg_file(np.random.default_rng(0)))
    with pytest.raises(
        WeightsError, match=r"its blocks have 2 attention heads; vit.num_heads is 4; use --set vit.num_heads=2"
    ):
        load_weights(small(num_heads=4), tmp_path / "augreg.npz")


def siglip_file() -> dict[str, torch.Tensor]:
    """In the names of vit_base_patch16_siglip_384.v2_webli: no class token, an attention pool in the place of a head."""
    tensors = whole_file(num_prefix_tokens=0)
    del tensors["head.weight"], tensors["head.bias"]
    pool = {
        "latent": (1, 1, WIDTH), "q.weight": (WIDTH, WIDTH), "q.bias": (WIDTH,), "kv.weight": (2 * WIDTH, WIDTH),
        "kv.bias": (2 * WIDTH,), "proj.weight": (WIDTH, WIDTH), "proj.bias": (WIDTH,), "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,), "mlp.fc1.weight": (HIDDEN, WIDTH), "mlp.fc1.bias": (HIDDEN,), "mlp.fc2.weight": (WIDTH, HIDDEN),
        "mlp.fc2.bias": (WIDTH,),
    }  # fmt: skip
    return tensors | {f"attn_pool.{name}": torch.randn(shape) for name, shape in pool.items()}


def test_siglip_loads_without_a_class_token_and_its_pool_is_left_out(tmp_path: Path) -> None:
    tensors = siglip_file()
    assert tensors["pos_embed"].shape == (1, 16, WIDTH)
    path = save(tensors, tmp_path / "model.safetensors")
    write_config(tmp_path, architecture="vit_tiny_patch4_siglip_16", mean=HALF, std=HALF, input_size=[3, 16, 16])
    with pytest.raises(WeightsError, match=r"says 3 attention heads"):
        load_weights(small(num_prefix_tokens=0), path)
    write_config(tmp_path, mean=HALF, std=HALF, input_size=[3, 16, 16])
    vit = small(num_prefix_tokens=0)
    load_weights(vit, path)
    assert all(torch.equal(value, tensors[key]) for key, value in vit.state_dict().items())
    assert vit.tokens(torch.zeros(1, 3, 16, 16))[0].shape == (1, 16, WIDTH)


def test_a_class_token_too_many_or_too_few_names_the_setting(tmp_path: Path) -> None:
    siglip, augreg = save(siglip_file(), tmp_path / "siglip.pt"), save(whole_file(), tmp_path / "augreg.pt")
    with pytest.raises(
        WeightsError, match=r"'cls_token' of shape \[1, 1, 8\] is missing; .* --set vit.num_prefix_tokens=0"
    ):
        load_weights(small(), siglip)
    with pytest.raises(
        WeightsError, match=r"shape \[1, 17, 8\], expected \[1, 16, 8\]; .* --set vit.num_prefix_tokens=1"
    ):
        load_weights(small(num_prefix_tokens=0), augreg)


def test_siglip_at_384_has_576_tokens_of_768_numbers_and_no_prefix() -> None:
    with torch.device("meta"):
        vit = VisionTransformer(num_prefix_tokens=0)
    assert vit.pos_embed.shape == (1, 576, 768)
    assert "cls_token" not in vit.state_dict()
    assert vit.state_dict()["patch_embed.proj.weight"].shape == (768, 3, 16, 16)
