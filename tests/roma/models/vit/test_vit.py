import pytest
import torch
import torch.nn.functional as F

from roma.models.vit.vit import VisionTransformer, window_indices


def small(**changes: object) -> VisionTransformer:
    """4x4 patches of 4 pixels, width 8, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    sizes: dict[str, object] = {"image_size": 16, "patch_size": 4, "width": 8, "depth": 6, "num_heads": 2}
    vit = VisionTransformer(**(sizes | changes))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return vit


TIMM_KEYS_WITH_TWO_BLOCKS = {
    "cls_token": (1, 1, 768),
    "pos_embed": (1, 577, 768),
    "patch_embed.proj.weight": (768, 3, 16, 16),
    "patch_embed.proj.bias": (768,),
    "blocks.0.norm1.weight": (768,),
    "blocks.0.norm1.bias": (768,),
    "blocks.0.attn.qkv.weight": (2304, 768),
    "blocks.0.attn.qkv.bias": (2304,),
    "blocks.0.attn.proj.weight": (768, 768),
    "blocks.0.attn.proj.bias": (768,),
    "blocks.0.norm2.weight": (768,),
    "blocks.0.norm2.bias": (768,),
    "blocks.0.mlp.fc1.weight": (3072, 768),
    "blocks.0.mlp.fc1.bias": (3072,),
    "blocks.0.mlp.fc2.weight": (768, 3072),
    "blocks.0.mlp.fc2.bias": (768,),
    "blocks.1.norm1.weight": (768,),
    "blocks.1.norm1.bias": (768,),
    "blocks.1.attn.qkv.weight": (2304, 768),
    "blocks.1.attn.qkv.bias": (2304,),
    "blocks.1.attn.proj.weight": (768, 768),
    "blocks.1.attn.proj.bias": (768,),
    "blocks.1.norm2.weight": (768,),
    "blocks.1.norm2.bias": (768,),
    "blocks.1.mlp.fc1.weight": (3072, 768),
    "blocks.1.mlp.fc1.bias": (3072,),
    "blocks.1.mlp.fc2.weight": (768, 3072),
    "blocks.1.mlp.fc2.bias": (768,),
    "norm.weight": (768,),
    "norm.bias": (768,),
}


def test_the_state_dict_carries_timms_keys_and_shapes() -> None:
    with torch.device("meta"):
        vit = VisionTransformer(layers=(1,))
    assert {key: tuple(value.shape) for key, value in vit.state_dict().items()} == TIMM_KEYS_WITH_TWO_BLOCKS


def test_blocks_behind_the_deepest_layer_are_not_built() -> None:
    with torch.device("meta"):
        vit = VisionTransformer()
    assert (vit.layers, len(vit.blocks)) == ((1, 3, 5), 6)
    assert vit.grid == (24, 24)
    block = 4 * 768 + 768 * 2304 + 2304 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768
    other = 768 + 577 * 768 + 768 * 3 * 256 + 768 + 2 * 768
    assert sum(p.numel() for p in vit.parameters()) == 6 * block + other


def test_parameters_are_frozen_unless_they_are_to_be_trained() -> None:
    vit = small()
    assert not vit.training
    assert not any(p.requires_grad for p in vit.parameters())
    assert all(p.requires_grad for p in small(trainable=True).parameters())


def naive_block(vit: VisionTransformer, index: int, x: torch.Tensor) -> torch.Tensor:
    """One block of the transformer, head by head, on tokens [P, D]."""
    block = vit.blocks[index]

    def norm(layer: torch.nn.LayerNorm, tokens: torch.Tensor) -> torch.Tensor:
        spread = tokens.var(dim=-1, keepdim=True, unbiased=False)
        return (tokens - tokens.mean(dim=-1, keepdim=True)) / (spread + 1e-6).sqrt() * layer.weight + layer.bias

    width, heads = x.shape[1], block.attn.num_heads
    each = width // heads
    qkv = norm(block.norm1, x) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    mixed = []
    for head in range(heads):
        query, key, value = (qkv[:, part * width + head * each :][:, :each] for part in range(3))
        mixed.append(torch.softmax(query @ key.T / each**0.5, dim=-1) @ value)
    x = x + torch.cat(mixed, dim=1) @ block.attn.proj.weight.T + block.attn.proj.bias
    hidden = norm(block.norm2, x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def naive_layers(vit: VisionTransformer, x: torch.Tensor) -> list[torch.Tensor]:
    outputs = []
    for index in range(len(vit.blocks)):
        x = naive_block(vit, index, x)
        if index in vit.layers:
            outputs.append(F.layer_norm(x, (x.shape[1],), vit.norm.weight, vit.norm.bias, eps=1e-6))
    return outputs


def naive_patches(vit: VisionTransformer, image: torch.Tensor, patch: int = 4) -> torch.Tensor:
    """Patch embeddings with position, [P, D], patch by patch."""
    weight = vit.patch_embed.proj.weight.flatten(1)
    rows = []
    for row in range(0, image.shape[1], patch):
        for column in range(0, image.shape[2], patch):
            pixels = image[:, row : row + patch, column : column + patch].reshape(-1)
            rows.append(weight @ pixels + vit.patch_embed.proj.bias)
    return torch.stack(rows) + vit.pos_embed[0, vit.num_prefix_tokens :]


def test_tokens_equal_a_slow_transformer() -> None:
    vit = small()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    layers = vit.tokens(images)
    assert len(layers) == 3
    for index, image in enumerate(images):
        class_token = vit.cls_token[0] + vit.pos_embed[0, :1]
        expected = naive_layers(vit, torch.cat([class_token, naive_patches(vit, image)]))
        for found, reference in zip(layers, expected, strict=True):
            assert found.shape == (2, 16, 8)
            torch.testing.assert_close(found[index], reference[1:], atol=2e-5, rtol=1e-4)


def test_a_vit_without_a_class_token_runs_on_only_patches() -> None:
    vit = small(num_prefix_tokens=0)
    assert "cls_token" not in vit.state_dict()
    assert vit.pos_embed.shape == (1, 16, 8)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = naive_layers(vit, naive_patches(vit, images[0]))
    for found, reference in zip(vit.tokens(images), expected, strict=True):
        torch.testing.assert_close(found[0], reference, atol=2e-5, rtol=1e-4)


def test_images_of_any_size_are_resized_bilinearly() -> None:
    vit = small()
    images = torch.rand(1, 3, 10, 24) * 2 - 1
    resized = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(vit.embed(images), vit.embed(resized))


def test_pictures_are_brought_to_what_the_weights_were_trained_with() -> None:
    # in [-1, 1] the means .485, .456, .406 of values in [0, 1] are -.03, -.088, -.188, and the deviations count twice
    mean = torch.tensor([-0.03, -0.088, -0.188])[:, None, None].expand(1, 3, 16, 16)
    brighter = mean + torch.tensor([0.458, 0.448, 0.45])[:, None, None]
    vit = small(normalisation="imagenet")
    nothing = vit.patch_embed.proj.bias + vit.pos_embed[0, 1:]
    torch.testing.assert_close(vit.embed(mean)[0], nothing, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        vit.embed(brighter)[0], nothing + vit.patch_embed.proj.weight.sum(dim=(1, 2, 3)), atol=1e-5, rtol=0
    )
    half = small()
    torch.testing.assert_close(
        half.embed(torch.zeros(1, 3, 16, 16))[0], half.patch_embed.proj.bias + half.pos_embed[0, 1:]
    )


def test_windows_are_shifted_inside_at_the_borders() -> None:
    # a 4x5 grid; 0 is a corner, 7 lies inside (row 1, column 2), 19 is the last patch
    found = window_indices(torch.tensor([0, 7, 19]), grid=(4, 5), window=3)
    assert found.tolist() == [
        [0, 1, 2, 5, 6, 7, 10, 11, 12],
        [1, 2, 3, 6, 7, 8, 11, 12, 13],
        [7, 8, 9, 12, 13, 14, 17, 18, 19],
    ]
    assert found.dtype == torch.int64


def test_every_window_of_the_paper_holds_49_patches_around_its_centre() -> None:
    found = window_indices(torch.arange(576), grid=(24, 24), window=7)
    assert found.shape == (576, 49)
    for centre, patches in enumerate(found.tolist()):
        row, column = divmod(centre, 24)
        top, left = min(max(row - 3, 0), 17), min(max(column - 3, 0), 17)
        assert patches == [(top + i) * 24 + left + j for i in range(7) for j in range(7)]


def test_unfit_windows_and_centres_are_named() -> None:
    with pytest.raises(ValueError, match="window 5 does not fit into a grid of 4x5 patches"):
        window_indices(torch.tensor([0]), grid=(4, 5), window=5)
    with pytest.raises(ValueError, match=r"window centres must lie in \[0, 20\), got \[3, 20\]"):
        window_indices(torch.tensor([3, 20]), grid=(4, 5), window=3)


def test_window_tokens_are_the_blocks_run_on_plain_slices_window_after_window() -> None:
    vit = small()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    embedded = vit.embed(images)
    tops_lefts = [(0, 0), (1, 1), (1, 0)]  # of the windows around patches 0, 10 and 12
    found = vit.window_tokens(
        vit.embed_once(images), window_indices(torch.tensor([0, 10, 12]), grid=vit.grid, window=3)
    )
    grid = embedded.reshape(2, 4, 4, 8)
    for window, (top, left) in enumerate(tops_lefts):
        for image in range(2):
            slice_pd = grid[image, top : top + 3, left : left + 3].reshape(9, 8)
            plain = vit.run_blocks(slice_pd[None])
            slow = naive_layers(vit, slice_pd)
            for layer in range(3):
                assert found[layer].shape == (6, 9, 8)
                torch.testing.assert_close(found[layer][window * 2 + image], plain[layer][0], atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(plain[layer][0], slow[layer], atol=2e-5, rtol=1e-4)


def test_encode_shares_one_patch_embedding_between_both_paths() -> None:
    vit = small()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    index = window_indices(torch.tensor([5, 6]), grid=vit.grid, window=2)
    calls: list[int] = []
    vit.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    features = vit.encode(images, index)
    assert len(calls) == 1
    for found, expected in zip(features.global_tokens, vit.tokens(images), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(features.window_tokens, vit.window_tokens(vit.embed_once(images), index), strict=True):
        assert torch.equal(found, expected)
    assert vit.encode(images).window_tokens == ()
    assert torch.equal(vit(images, index).window_tokens[0], features.window_tokens[0])


def test_gradients_reach_the_image_through_both_paths_but_no_frozen_weight() -> None:
    vit = small()
    images = (torch.rand(1, 3, 16, 16) * 2 - 1).requires_grad_()
    corner = window_indices(torch.tensor([0]), grid=vit.grid, window=2)
    features = vit.encode(images, corner)
    weights = torch.randn(8)
    sum((tokens @ weights).square().sum() for tokens in features.global_tokens).backward(retain_graph=True)
    assert images.grad.abs().amin(dim=1).gt(0).all()
    images.grad = None
    sum((tokens @ weights).square().sum() for tokens in features.window_tokens).backward()
    inside = images.grad[..., :8, :8]
    assert inside.abs().sum() > 0
    assert images.grad.abs().sum() == inside.abs().sum()
    assert all(p.grad is None for p in vit.parameters())


def test_the_window_backward_repeats_bit_for_bit() -> None:
    vit = small(image_size=64)
    index = window_indices(torch.arange(0, 256, 4), grid=vit.grid, window=7)

    def gradient() -> torch.Tensor:
        images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).requires_grad_()
        sum(tokens.pow(3).sum() for tokens in vit.encode(images, index).window_tokens).backward()
        return images.grad

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(3))


def test_training_mode_changes_nothing() -> None:
    vit = small()
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(vit.train().tokens(images)[-1], vit.eval().tokens(images)[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (1, 6)}, r"rising block indices from 0 to 5, got \[1, 6\]"),
        ({"layers": (3, 1)}, r"rising block indices from 0 to 5, got \[3, 1\]"),
        ({"layers": ()}, "rising block indices"),
        ({"image_size": 18}, "image_size 18 is not a multiple of patch_size 4"),
        ({"num_heads": 3}, "width 8 is not a multiple of num_heads 3"),
        ({"num_prefix_tokens": 5}, r"1 \(a class token\) or 0, got 5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_autocast_keeps_tokens_near_float32() -> None:
    vit = small()
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    index = window_indices(torch.tensor([5]), grid=vit.grid, window=3)
    exact = vit.encode(images, index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = vit.encode(images, index)
    for found, expected in zip(
        rough.global_tokens + rough.window_tokens, exact.global_tokens + exact.window_tokens, strict=True
    ):
        assert F.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0) > 0.99
