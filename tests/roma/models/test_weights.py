import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from roma.errors import WeightsError
from roma.models import VisionTransformer, load_from_hub, load_weights

WIDTH, HEADS, HIDDEN, PATCH, NUM_TOKENS = 8, 2, 32, 4, 17  # 4x4 patches and a class token


def small(*, layers: tuple[int, ...] = (0, 1), **changes: int) -> VisionTransformer:
    sizes = {"image_size": 16, "patch_size": PATCH, "width": WIDTH, "depth": 3, "num_heads": HEADS}
    return VisionTransformer(**(sizes | changes), layers=layers)


def whole_file() -> dict[str, torch.Tensor]:
    """A full network of three blocks with a head, as timm would save it."""
    torch.manual_seed(1)
    tensors = small(layers=(2,)).state_dict()
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


@pytest.mark.parametrize("key", ["blocks.0.ls1.gamma", "reg_token"])
def test_weights_of_another_kind_of_vit_are_refused(tmp_path: Path, key: str) -> None:
    tensors = whole_file() | {key: torch.ones(WIDTH)}
    with pytest.raises(WeightsError, match=f"key '{key}' belongs to another kind of ViT"):
        load_weights(small(), save(tensors, tmp_path / "vit.npz"))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_weights(small(), tmp_path / "list.pt")


def test_without_safetensors_the_user_learns_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(whole_file(), tmp_path / "vit.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(WeightsError, match="needs the package safetensors; pip install safetensors"):
        load_weights(small(), path)


def test_without_the_hub_package_the_user_learns_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r'huggingface-hub is not installed; pip install "infraredcity\[hub\]"'):
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
        return str(path)

    hub(monkeypatch, download)
    vit = small()
    assert load_from_hub(vit, "me/my-vit") == path
    assert asked == [("me/my-vit", "model.safetensors")]
    assert torch.equal(vit.pos_embed, tensors["pos_embed"])
