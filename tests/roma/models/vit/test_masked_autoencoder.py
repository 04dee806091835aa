import math

import pytest
import torch
from torch import Tensor

from roma.models.vit.masked_autoencoder import (
    MaskedAutoencoder,
    draw_masks,
    images_of,
    masked_loss,
    painted,
    patches_of,
    position_embeddings,
)
from roma.models.vit.vit import VisionTransformer

SIDE, PATCH, NUM_PATCHES = 32, 8, 16


@pytest.fixture
def network() -> MaskedAutoencoder:
    torch.manual_seed(3)
    encoder = VisionTransformer(
        image_size=SIDE, patch_size=PATCH, width=16, depth=2, num_heads=2, layers=(1,), trainable=True
    )
    return MaskedAutoencoder(encoder, decoder_width=8, decoder_depth=2, decoder_heads=2)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) * 2 - 1


def masks(mask_share: float = 0.75, positions: tuple[int, ...] = (4, 5, 6)) -> tuple[Tensor, Tensor]:
    return draw_masks(positions, draw=[0, 1], num_patches=NUM_PATCHES, mask_share=mask_share)


def slow_loss(predicted: Tensor, images: Tensor, masked_index: Tensor, *, normalise_pixels: bool) -> list[float]:
    """Written from the paper: the mean over masked patches of the mean squared error of their pixels."""
    losses = []
    for picture in range(len(images)):
        squares = []
        for number, patch in enumerate(masked_index[picture].tolist()):
            top, left = divmod(patch, SIDE // PATCH)
            truth = [
                float(images[picture, channel, top * PATCH + y, left * PATCH + x])
                for y in range(PATCH)
                for x in range(PATCH)
                for channel in range(3)
            ]
            if normalise_pixels:
                mean = sum(truth) / len(truth)
                variance = sum((value - mean) ** 2 for value in truth) / (len(truth) - 1)
                truth = [(value - mean) / math.sqrt(variance + 1e-6) for value in truth]
            squares += [(float(p) - t) ** 2 for p, t in zip(predicted[picture, number], truth, strict=True)]
        losses.append(sum(squares) / len(squares))
    return losses


@pytest.mark.parametrize("normalise_pixels", [False, True])
def test_loss_agrees_with_a_slow_loop_over_masked_patches(images: Tensor, normalise_pixels: bool):
    _, masked = masks()
    predicted = torch.randn(3, 12, PATCH * PATCH * 3, generator=torch.Generator().manual_seed(1))
    found = masked_loss(predicted, images, masked, patch_size=PATCH, normalise_pixels=normalise_pixels)
    expected = slow_loss(predicted, images, masked, normalise_pixels=normalise_pixels)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_loss_of_two_masked_pixels_worked_out_by_hand():
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, :, 0, 1] = torch.tensor([0.5, 0.0, -0.5])  # patch 1
    picture[0, :, 1, 1] = 1.0  # patch 3
    predicted = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 1.0, 1.0]]])
    # patch 1: 0 + 0 + 1, patch 3: 1 + 0 + 0, over six values
    loss = masked_loss(predicted, picture, torch.tensor([[1, 3]]), patch_size=1, normalise_pixels=False)
    assert loss.tolist() == pytest.approx([2 / 6])
    picture[0, :, 0, 0] = -1.0  # a kept patch
    assert torch.equal(
        loss, masked_loss(predicted, picture, torch.tensor([[1, 3]]), patch_size=1, normalise_pixels=False)
    )


@pytest.mark.parametrize(("mask_share", "num_masked"), [(0.75, 12), (0.5, 8), (0.7, 11), (0.01, 1), (0.99, 15)])
def test_masks_have_exactly_the_asked_count(mask_share: float, num_masked: int):
    kept, masked = masks(mask_share)
    assert masked.shape == (3, num_masked)
    for a, b in zip(kept.tolist(), masked.tolist(), strict=True):
        assert sorted(a + b) == list(range(NUM_PATCHES))


def test_masks_follow_only_from_seed_and_position():
    kept, _ = masks(positions=(4, 5, 6))
    again, _ = masks(positions=(6, 4))
    assert torch.equal(kept[[2, 0]], again)
    assert not torch.equal(kept[0], kept[1])
    other, _ = draw_masks((4, 5, 6), draw=[1, 1], num_patches=NUM_PATCHES, mask_share=0.75)
    assert not torch.equal(kept, other)


def test_patches_go_row_by_row_and_back(images: Tensor):
    patches = patches_of(images, PATCH)
    assert patches.shape == (3, NUM_PATCHES, PATCH * PATCH * 3)
    assert torch.equal(patches[0, 6, 5 * 3 + 1], images[0, 1, 8, 16 + 5])  # patch 6 is in row 1, column 2
    assert torch.equal(images_of(patches, PATCH), images)


def test_masked_pixels_do_not_reach_the_prediction_and_kept_ones_do(network: MaskedAutoencoder, images: Tensor):
    kept, masked = masks()
    predicted = network(images, kept, masked)
    assert predicted.shape == (3, 12, PATCH * PATCH * 3)
    noise = torch.zeros(3, 12, PATCH * PATCH * 3)
    others = painted(noise, images, masked, patch_size=PATCH, normalise_pixels=False)
    assert not torch.equal(others, images)
    assert torch.equal(network(others, kept, masked), predicted)
    emptied = painted(noise[:, :4], images, kept, patch_size=PATCH, normalise_pixels=False)
    assert not torch.allclose(network(emptied, kept, masked), predicted)


def test_only_kept_patches_go_through_the_encoder(network: MaskedAutoencoder, images: Tensor):
    seen: list[int] = []
    network.encoder.blocks[0].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0].shape[1]))
    network(images, *masks())
    assert seen == [1 + 4]  # the class token and a quarter of 16


def test_encoding_all_patches_is_what_the_vit_says(network: MaskedAutoencoder, images: Tensor):
    everything = torch.arange(NUM_PATCHES).expand(3, -1)
    torch.testing.assert_close(network.encode(images, everything)[:, 1:], network.encoder.tokens(images)[-1])


def test_a_patch_is_painted_for_its_place_whatever_the_order_of_the_masked_ones(
    network: MaskedAutoencoder, images: Tensor
):
    kept, masked = masks()
    predicted = network(images, kept, masked)
    torch.testing.assert_close(network(images, kept, masked.flip(1)), predicted.flip(1))
    assert not torch.allclose(predicted[:, 0], predicted[:, 1])


def test_every_weight_gets_a_gradient(network: MaskedAutoencoder, images: Tensor):
    kept, masked = masks()
    loss = masked_loss(network(images, kept, masked), images, masked, patch_size=PATCH, normalise_pixels=False)
    torch.autograd.backward(loss.mean())
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("normalise_pixels", [False, True])
def test_a_perfect_prediction_paints_the_picture_itself(images: Tensor, normalise_pixels: bool):
    _, masked = masks()
    truth = patches_of(images, PATCH).gather(1, masked[:, :, None].expand(-1, -1, PATCH * PATCH * 3))
    if normalise_pixels:
        truth = (truth - truth.mean(dim=2, keepdim=True)) / (truth.var(dim=2, keepdim=True) + 1e-6).sqrt()
    found = painted(truth, images, masked, patch_size=PATCH, normalise_pixels=normalise_pixels)
    torch.testing.assert_close(found, images)
    assert masked_loss(
        truth, images, masked, patch_size=PATCH, normalise_pixels=normalise_pixels
    ).max() == pytest.approx(0, abs=1e-10)


def test_positions_are_sines_and_cosines_of_column_and_row(network: MaskedAutoencoder):
    fixed = position_embeddings((2, 3), width=8)
    assert fixed.shape == (6, 8)
    column, row = 2, 1  # patch 5; frequencies 1 and 1 / 100
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02),
                math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]  # fmt: skip
    assert fixed[row * 3 + column].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(network.encoder.pos_embed[0, 1:], position_embeddings((4, 4), width=16))
    assert network.encoder.pos_embed.requires_grad
    assert not network.encoder.pos_embed[0, 0].any()


def test_sizes_that_do_not_fit_are_refused(network: MaskedAutoencoder):
    with pytest.raises(ValueError, match="need a width that is a multiple of 4, got 6"):
        position_embeddings((2, 2), width=6)
    with pytest.raises(ValueError, match="decoder width 8 is not a multiple of its 3 heads"):
        MaskedAutoencoder(network.encoder, decoder_width=8, decoder_depth=1, decoder_heads=3)
