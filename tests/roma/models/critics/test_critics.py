import pytest
import torch

from roma.models.critics.patch import PatchDiscriminator
from roma.models.critics.region import REGION_SIZES, RegionDiscriminator, pool_regions


def row_numbers(rows: int, columns: int) -> torch.Tensor:
    """A grid that holds its own row number, as tokens [1, rows * columns, 1]."""
    return torch.arange(rows).float().repeat_interleave(columns).reshape(1, -1, 1)


def test_the_region_discriminator_has_the_parameters_of_the_paper() -> None:
    assert sum(p.numel() for p in RegionDiscriminator().parameters()) == 1_181_184


def test_the_region_discriminator_answers_a_vector_per_region_from_only_that_region() -> None:
    torch.manual_seed(0)
    discriminator = RegionDiscriminator(width=6)
    regions = torch.randn(2, 5, 6)
    logits = discriminator(regions)
    assert logits.shape == (2, 5, 6)
    first, _, second = discriminator.net
    hidden = regions[1, 3] @ first.weight.T + first.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(logits[1, 3], gelu @ second.weight.T + second.bias)


def test_the_region_discriminator_begins_as_the_authors_one_does() -> None:
    # Theirs is never handed to their initialisation: weights and biases uniform in +-1/sqrt(768), standard deviation .0208.
    torch.manual_seed(0)
    values = dict(RegionDiscriminator().named_parameters())
    assert list(values) == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    for name, value in values.items():
        assert 0.9 / 768**0.5 < float(value.detach().abs().max()) <= 1 / 768**0.5, name
        assert float(value.detach().std()) == pytest.approx(0.02083, rel=0.001 if value.ndim == 2 else 0.1), name


def test_a_24x24_grid_has_785_regions() -> None:
    assert pool_regions(torch.randn(2, 576, 3), grid=(24, 24)).shape == (2, 785, 3)
    assert REGION_SIZES == (2, 4, 6, 8, 12)


def test_regions_are_the_tokens_then_block_means_row_by_row() -> None:
    rows, columns = 4, 6
    tokens = torch.randn(2, rows * columns, 3)
    grid = tokens.reshape(2, rows, columns, 3)
    expected = list(tokens.unbind(1))
    for size in (1, 2):
        for row in range(0, rows, size):
            for column in range(0, columns, size):
                expected.append(grid[:, row : row + size, column : column + size].mean(dim=(1, 2)))
    found = pool_regions(tokens, grid=(rows, columns), sizes=(1, 2))
    torch.testing.assert_close(found, torch.stack(expected, dim=1))


def test_reference_pooling_takes_one_row_more_clipped_at_the_last() -> None:
    tokens = row_numbers(24, 24)
    plain = pool_regions(tokens, grid=(24, 24), sizes=(12,))[0, 576:, 0]
    assert plain.tolist() == [5.5, 5.5, 17.5, 17.5]
    # rows 0..12 average to 6; rows 12..24 do not exist beyond 23, so 12..23 average to 17.5
    quirk = pool_regions(tokens, grid=(24, 24), sizes=(12,), reference_pooling=True)[0, 576:, 0]
    assert quirk.tolist() == [6.0, 6.0, 17.5, 17.5]


def test_reference_pooling_leaves_columns_and_counts_alone() -> None:
    tokens = row_numbers(24, 24).reshape(24, 24).T.reshape(1, 576, 1)  # each token holds its column number
    plain = pool_regions(tokens, grid=(24, 24))
    quirk = pool_regions(tokens, grid=(24, 24), reference_pooling=True)
    assert quirk.shape == (1, 785, 1)
    torch.testing.assert_close(quirk, plain)


@pytest.mark.parametrize(
    ("grid", "unfit"), [((16, 16), r"\[6, 12\]"), ((8, 24), r"\[6, 12\]"), ((4, 4), r"\[6, 8, 12\]")]
)
def test_sizes_that_do_not_tile_the_grid_are_named(grid: tuple[int, int], unfit: str) -> None:
    tokens = torch.zeros(1, grid[0] * grid[1], 2)
    with pytest.raises(ValueError, match=rf"region sizes {unfit} of .* do not tile the {grid[0]}x{grid[1]} token grid"):
        pool_regions(tokens, grid=grid)


def test_a_grid_that_does_not_hold_the_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="a grid of 4x4 holds 16 tokens, got 15"):
        pool_regions(torch.zeros(1, 15, 2), grid=(4, 4), sizes=(2,))


def test_gradients_pass_through_pooling() -> None:
    tokens = torch.randn(1, 16, 2, requires_grad=True)
    pool_regions(tokens, grid=(4, 4), sizes=(2, 4)).sum().backward()
    # each token counts for itself, a quarter of its 2x2 block and a sixteenth of its 4x4 block
    torch.testing.assert_close(tokens.grad, torch.full((1, 16, 2), 1 + 1 / 4 + 1 / 16))


def test_the_patch_discriminator_has_a_logit_per_patch() -> None:
    assert PatchDiscriminator()(torch.zeros(2, 3, 64, 96)).shape == (2, 1, 6, 10)
    # 3*16*32+32, 32*16*64+64, 64*16*128+128, 128*16*256+256, 256*16*1+1
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 1568 + 32832 + 131200 + 524544 + 4097


def test_a_logit_of_the_patch_discriminator_sees_70_pixels_a_side() -> None:
    """Counted from the convolutions; instance norm lets every pixel in a little, so gradients would show more."""
    seen = 1
    for layer in reversed([m for m in PatchDiscriminator().modules() if isinstance(m, torch.nn.Conv2d)]):
        seen = (seen - 1) * layer.stride[0] + layer.kernel_size[0]
    assert seen == 70


def test_the_patch_discriminator_names_the_smallest_frame() -> None:
    discriminator = PatchDiscriminator(width=2)
    assert discriminator(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="at least 24 pixels a side, got 24x20"):
        discriminator(torch.zeros(1, 3, 24, 20))


def test_training_mode_changes_nothing() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=4)
    frames = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(discriminator.train()(frames), discriminator.eval()(frames))


@pytest.mark.parametrize("build", [lambda: RegionDiscriminator(width=0), lambda: PatchDiscriminator(num_layers=0)])
def test_sizes_below_one_are_refused(build) -> None:
    with pytest.raises(ValueError, match=r"must be positive|needs width and num_layers"):
        build()
