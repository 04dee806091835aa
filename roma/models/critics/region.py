"""The discriminator of the paper: it judges region tokens of a frozen ViT, not pixels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

REGION_SIZES = (2, 4, 6, 8, 12)
"""Side lengths, in tokens, of the pooled regions; each divides the 24x24 grid of a ViT-B/16 at 384 pixels."""


class RegionDiscriminator(nn.Module):
    """A two-layer perceptron on each region token; 1,181,184 parameters by default.

    Its answer is a vector as wide as the token, and the least-squares loss averages over that vector too.
    Source: arXiv 2204.12367. The paper does not name the initial weights; in the authors' code they are those that torch draws for
    a linear layer, weights and biases uniform in +-1/sqrt(D), unlike the generator's.

    Args:
        width: Width D of a token.

    Raises:
        ValueError: The width is not positive.
    """

    def __init__(self, *, width: int = 768) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"the width of a token must be positive, got {width}")
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, regions: Float[Tensor, "B R D"]) -> Float[Tensor, "B R D"]:
        """Compute logits of regions as `pool_regions` makes them: 1 means real, 0 means fake."""
        logits: Tensor = self.net(regions)
        return logits


def pool_regions(
    tokens_bpd: Float[Tensor, "B P D"],
    *,
    grid: tuple[int, int],
    sizes: Sequence[int] = REGION_SIZES,
    reference_pooling: bool = False,
) -> Float[Tensor, "B R D"]:
    """Return the tokens, then the means of their a x a blocks for each a in `sizes`: 785 regions of a 24x24 grid.

    Source: arXiv 2204.12367; 785 = 576 + 144 + 36 + 16 + 9 + 4.

    Args:
        tokens_bpd: Tokens of one ViT layer, row by row.
        grid: Rows and columns of the token grid.
        sizes: Side lengths of the blocks, in tokens; each divides both sides of the grid.
        reference_pooling: Average a + 1 rows (clipped at the last one) and a columns, as the authors' code does.

    Returns:
        Regions in the order of `sizes`, the blocks of one size row by row.

    Raises:
        ValueError: The grid does not hold P tokens, or a size is not positive, exceeds the grid or does not divide it.
    """
    rows, columns = grid
    batch, num_tokens, width = tokens_bpd.shape
    if rows * columns != num_tokens:
        raise ValueError(f"a grid of {rows}x{columns} holds {rows * columns} tokens, got {num_tokens}")
    unfit = [size for size in sizes if size < 1 or size > min(grid) or rows % size or columns % size]
    if unfit:
        raise ValueError(
            f"region sizes {unfit} of {list(sizes)} do not tile the {rows}x{columns} token grid; "
            "take sizes that divide both its sides"
        )
    regions = [tokens_bpd]
    for size in sizes:
        # Columns first: [B, rows, columns / a, D].
        strips = tokens_bpd.reshape(batch, rows, columns // size, size, width).mean(dim=3)
        if reference_pooling:
            starts = range(0, rows, size)
            pooled = torch.stack([strips[:, start : start + size + 1].mean(dim=1) for start in starts], dim=1)
        else:
            pooled = strips.reshape(batch, rows // size, size, columns // size, width).mean(dim=2)
        regions.append(pooled.flatten(1, 2))
    return torch.cat(regions, dim=1)
