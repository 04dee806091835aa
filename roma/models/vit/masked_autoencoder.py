"""A masked autoencoder: it sees a quarter of a picture's patches and predicts the others, by which its encoder learns.

Source: He et al. 2021, arXiv 2111.06377. Where we differ: the encoder's position embeddings are learned from the fixed ones on,
initial weights are those of `VisionTransformer` and of torch's layers, and the decoder predicts only the masked patches.
The encoder is a `VisionTransformer`, so its weights load wherever that one's do.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from roma.models.vit.vit import LAYER_NORM_EPS, VisionTransformer

TEMPERATURE = 10_000
"""Ratio of the longest to the shortest wavelength of the position embeddings, divided by 2 pi."""


class MaskedAutoencoder(nn.Module):
    """An encoder that sees the kept patches of a picture and a smaller decoder that predicts the masked ones' pixels.

    Args:
        encoder: A trainable ViT with all its blocks; its position embeddings are set to the fixed two-dimensional ones.
        decoder_width: Width of a token in the decoder, a multiple of 4.
        decoder_depth: Its blocks.
        decoder_heads: Its attention heads; they divide its width.

    Raises:
        ValueError: The sizes do not fit each other.
    """

    def __init__(
        self, encoder: VisionTransformer, *, decoder_width: int, decoder_depth: int, decoder_heads: int
    ) -> None:
        super().__init__()
        if min(decoder_width, decoder_depth, decoder_heads) < 1 or decoder_width % decoder_heads:
            raise ValueError(f"decoder width {decoder_width} is not a multiple of its {decoder_heads} heads")
        self.encoder = encoder
        self.patch_size = encoder.image_size // encoder.grid[0]
        fixed = position_embeddings(encoder.grid, width=encoder.width)
        with torch.no_grad():
            encoder.pos_embed.zero_()
            encoder.pos_embed[0, encoder.num_prefix_tokens :] = fixed
        self.narrow = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.positions: Tensor
        self.register_buffer("positions", position_embeddings(encoder.grid, width=decoder_width), persistent=False)
        self.decoder = nn.ModuleList(
            nn.TransformerEncoderLayer(
                decoder_width, decoder_heads, 4 * decoder_width, dropout=0.0, activation="gelu",
                layer_norm_eps=LAYER_NORM_EPS, batch_first=True, norm_first=True,
            )
            for _ in range(decoder_depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(decoder_width, eps=LAYER_NORM_EPS)
        self.to_pixels = nn.Linear(decoder_width, self.patch_size**2 * 3)
        self._draw_weights()

    def forward(
        self, images: Float[Tensor, "B 3 H W"], kept_index: Int64[Tensor, "B K"], masked_index: Int64[Tensor, "B M"]
    ) -> Float[Tensor, "B M C"]:
        """Predict the pixels of the masked patches, as `patches_of` orders them.

        Args:
            images: Pictures of the encoder's size, values in [-1, 1].
            kept_index: Patches that the encoder sees.
            masked_index: The others; no patch is in both.
        """
        encoded = self.narrow(self.encode(images, kept_index))
        prefix, kept = encoded[:, : self.encoder.num_prefix_tokens], encoded[:, self.encoder.num_prefix_tokens :]
        masked = self.mask_token.to(kept.dtype).expand(*masked_index.shape, -1)
        # Tokens stay in this order: attention does not care, and the positions say where each one is.
        order = torch.cat([kept_index, masked_index], dim=1)
        hidden = torch.cat([prefix, torch.cat([kept, masked], dim=1) + self.positions[order]], dim=1)
        for block in self.decoder:
            hidden = block(hidden)
        predicted: Tensor = self.to_pixels(self.norm(hidden[:, -masked_index.shape[1] :]))
        return predicted

    def encode(self, images: Float[Tensor, "B 3 H W"], kept_index: Int64[Tensor, "B K"]) -> Float[Tensor, "B N D"]:
        """Encode the kept patches: the last tokens, behind the prefix token. Masked patches cost nothing here."""
        kept = gather_tokens(self.encoder.embed(images), kept_index)
        with_prefix = torch.cat([self.encoder.prefix_tokens(len(images)), kept], dim=1)
        return self.encoder.run_blocks(with_prefix)[-1]

    def _draw_weights(self) -> None:
        """Draw them as MAE's code does: xavier-uniform for every linear map, the patch embedding being one too."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.encoder.patch_embed.proj.weight.flatten(1))
        nn.init.normal_(self.mask_token, std=0.02)
        if self.encoder.cls_token is not None:
            nn.init.normal_(self.encoder.cls_token, std=0.02)


def draw_masks(
    positions: tuple[int, ...], *, draw: list[int], num_patches: int, mask_share: float
) -> tuple[Int64[Tensor, "B K"], Int64[Tensor, "B M"]]:
    """Draw kept and masked patches of each picture, both rising: round(mask_share * num_patches) are masked, at least one is not.

    Args:
        positions: Stream position of each picture; with `draw` all that its mask follows from.
        draw: Numbers that tell this use of randomness from others, the run's seed among them.
        num_patches: Patches of a picture.
        mask_share: Share that is masked, in (0, 1).
    """
    num_masked = min(max(round(mask_share * num_patches), 1), num_patches - 1)
    orders = np.stack(
        [np.random.default_rng([*draw, position]).permutation(num_patches) for position in positions]
    ).astype(np.int64)
    kept, masked = np.sort(orders[:, num_masked:], axis=1), np.sort(orders[:, :num_masked], axis=1)
    return torch.from_numpy(kept), torch.from_numpy(masked)


def masked_loss(
    predicted: Float[Tensor, "B M C"],
    images: Float[Tensor, "B 3 H W"],
    masked_index: Int64[Tensor, "B M"],
    *,
    patch_size: int,
    normalise_pixels: bool,
) -> Float[Tensor, " B"]:
    """Compute the mean squared error of each picture over its masked patches.

    Args:
        predicted: Predictions of the masked patches.
        images: The truth.
        masked_index: Which patches those are.
        patch_size: Side of a patch in pixels.
        normalise_pixels: Compare with patches of mean 0 and variance 1, as the paper's best models do.
    """
    truth = gather_tokens(patches_of(images, patch_size), masked_index)
    if normalise_pixels:
        mean, std = _moments(truth)
        truth = (truth - mean) / std
    return (predicted.float() - truth).square().mean(dim=(1, 2))


def painted(
    predicted: Float[Tensor, "B M C"],
    images: Float[Tensor, "B 3 H W"],
    masked_index: Int64[Tensor, "B M"],
    *,
    patch_size: int,
    normalise_pixels: bool,
) -> Float[Tensor, "B 3 H W"]:
    """Replace the masked patches of pictures by predictions, to look at; arguments as for `masked_loss`.

    Normalised predictions get the true patch's mean and standard deviation back, as in the paper's figures.
    """
    patches = patches_of(images, patch_size)
    if normalise_pixels:
        mean, std = _moments(gather_tokens(patches, masked_index))
        predicted = predicted * std + mean
    where = masked_index[:, :, None].expand(-1, -1, patches.shape[2])
    return images_of(patches.scatter(1, where, predicted.to(patches.dtype)), patch_size)


def patches_of(images: Float[Tensor, "B 3 H W"], patch_size: int) -> Float[Tensor, "B P C"]:
    """Cut square patches, row by row; a patch's values go row by row, R G B of each pixel together."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def images_of(patches_bpc: Float[Tensor, "B P C"], patch_size: int) -> Float[Tensor, "B 3 S S"]:
    """Join the patches of `patches_of` to square pictures."""
    batch, num_patches, _ = patches_bpc.shape
    side = math.isqrt(num_patches)
    cut = patches_bpc.reshape(batch, side, side, patch_size, patch_size, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side * patch_size, side * patch_size)


def gather_tokens(tokens_bpd: Float[Tensor, "B P D"], index: Int64[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """Gather some tokens of each picture, in the index's order."""
    # gather: with distinct indices its backward adds each gradient to a zero, so it is exact on any number of threads.
    return tokens_bpd.gather(1, index[:, :, None].expand(-1, -1, tokens_bpd.shape[2]))


def position_embeddings(grid: tuple[int, int], *, width: int) -> Float[Tensor, "P D"]:
    """Make fixed two-dimensional sine-cosine embeddings: half of the width holds the column, half the row, as in MAE's code.

    Each half holds sin(x f) and then cos(x f) for width / 4 frequencies f from 1 down to almost 1 / 10000.

    Raises:
        ValueError: The width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine position embeddings need a width that is a multiple of 4, got {width}")
    frequencies = TEMPERATURE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    halves = []
    for place in (column, row):
        angle = place.flatten()[:, None] * frequencies
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1).float()


def _moments(patches: Float[Tensor, "B M C"]) -> tuple[Float[Tensor, "B M 1"], Float[Tensor, "B M 1"]]:
    """Compute mean and standard deviation of each patch; the paper's code takes the unbiased variance plus 1e-6."""
    return patches.mean(dim=2, keepdim=True), (patches.var(dim=2, keepdim=True) + 1e-6).sqrt()
