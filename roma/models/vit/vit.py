"""The frozen ViT: a Vision Transformer whose middle layers describe what is where in a frame.

The architecture and the names in the state dict are those of timm's `vit_base_patch16_384`, so its weights load
unchanged (`roma.models.load_weights`). Source: Dosovitskiy et al. 2021, arXiv 2010.11929; how ROMA reads its tokens:
arXiv 2204.12367.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6  # timm's; torch's default is 1e-5

Normalisation = Literal["half", "imagenet"]
NORMALISATIONS: dict[Normalisation, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Means and standard deviations, of values in [0, 1], with which the weights of a ViT were trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedEmbedding:
    """Embedded tokens and their queries, keys and values in the first block, computed once for whole frames and windows.

    Those depend on a token only, not on the tokens it attends to; so the windows, in which each token occurs about five times, take
    those of the whole frame.
    """

    tokens: Float[Tensor, "B N D"]
    """Prefix tokens, then patch embeddings with their positions."""

    qkv: Float[Tensor, "B N E"]
    """Their queries, keys and values in the first block, E = 3 * D."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTFeatures:
    """Tokens of the chosen layers, in their order; each went through the final LayerNorm and has no class token."""

    global_tokens: tuple[Float[Tensor, "B P D"], ...]
    """Tokens that attended to the whole frame, row by row; one tensor per layer."""

    window_tokens: tuple[Float[Tensor, "KB A D"], ...]
    """Tokens that attended only to their own window; window k of image b is at k * B + b. Empty without windows."""


class VisionTransformer(nn.Module):
    """The patch embedding and the first blocks of a ViT, with the outputs of chosen blocks as features.

    Only the blocks up to the deepest chosen layer are built. By default the parameters are frozen while gradients flow
    through to the images. There is no dropout, so `train()` equals `eval()`.

    Args:
        image_size: Side in pixels to which images are resized; a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        width: Width D of a token.
        depth: Blocks of the full network, as in the weight file; blocks behind the deepest layer are not built.
        num_heads: Attention heads; they divide `width`.
        mlp_ratio: Hidden width of a block's MLP divided by `width`.
        num_prefix_tokens: 1 with a class token (AugReg), 0 without (SigLIP).
        layers: 0-based indices of the blocks whose outputs are the features, rising.
        normalisation: What the weights expect of images: "half" (AugReg, SigLIP) takes [-1, 1] as it is.
        trainable: Keep gradients of the parameters, for pretraining.

    Raises:
        ValueError: The sizes do not fit each other, or a layer is not among the blocks.
    """

    def __init__(
        self,
        *,
        image_size: int = 384,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_prefix_tokens: int = 1,
        layers: Sequence[int] = (1, 3, 5),
        normalisation: Normalisation = "half",
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if min(image_size, patch_size, width, depth, num_heads) < 1 or mlp_ratio <= 0:
            raise ValueError("the sizes of a ViT must be positive")
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        if num_prefix_tokens not in (0, 1):
            raise ValueError(f"num_prefix_tokens is 1 (a class token) or 0, got {num_prefix_tokens}")
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation is one of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= depth:
            raise ValueError(f"layers must be rising block indices from 0 to {depth - 1}, got {list(layers)}")
        self.image_size = image_size
        self.layers = tuple(layers)
        self.width = width
        self.num_heads = num_heads
        self.num_prefix_tokens = num_prefix_tokens
        self.normalisation = normalisation
        self.grid = (image_size // patch_size, image_size // patch_size)
        """Rows and columns of patch tokens."""
        num_patches = self.grid[0] * self.grid[1]

        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if num_prefix_tokens else None
        self.pos_embed = nn.Parameter(torch.zeros(1, num_prefix_tokens + num_patches, width))
        self.patch_embed = _PatchEmbed(patch_size=patch_size, width=width)
        hidden = int(width * mlp_ratio)
        num_built = self.layers[-1] + 1
        self.blocks = nn.ModuleList(_Block(width, num_heads=num_heads, hidden=hidden) for _ in range(num_built))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self._draw_weights()
        if not trainable:
            self.requires_grad_(False)
            self.eval()

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """Embed patches and add their positions; no prefix token.

        Args:
            images: RGB or repeated infrared of any size, values in [-1, 1]. They are resized to `image_size` bilinearly,
                without antialiasing, as the authors do, and brought to the weights' normalisation.
        """
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=False)
        if self.normalisation != "half":
            mean, std = (images.new_tensor(values)[:, None, None] for values in NORMALISATIONS[self.normalisation])
            images = (images * 0.5 + 0.5 - mean) / std
        patches: Tensor = self.patch_embed(images)
        return patches + self.pos_embed[:, self.num_prefix_tokens :]

    def prefix_tokens(self, batch: int) -> Float[Tensor, "B N D"]:
        """Return the class token with its position, once per image; empty (N = 0) for a ViT without one."""
        prefix = self.pos_embed[:, : self.num_prefix_tokens]
        if self.cls_token is not None:
            prefix = prefix + self.cls_token
        return prefix.expand(batch, -1, -1)

    def run_blocks(
        self, embedded_bnd: Float[Tensor, "B N D"], qkv_bne: Float[Tensor, "B N E"] | None = None
    ) -> tuple[Float[Tensor, "B N D"], ...]:
        """Run the blocks on any set of embedded tokens and take the outputs of `layers` through the final LayerNorm.

        Args:
            embedded_bnd: Tokens with their positions.
            qkv_bne: Their queries, keys and values in the first block, E = 3 * D, if they are known already.
        """
        outputs: list[Tensor] = []
        hidden = embedded_bnd
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, qkv_bne if index == 0 else None)
            if index in self.layers:
                outputs.append(self.norm(hidden))
        return tuple(outputs)

    def embed_once(self, images: Float[Tensor, "B 3 H W"]) -> SharedEmbedding:
        """Embed images for both `global_tokens` and `window_tokens`; images as for `embed`."""
        patches = self.embed(images)
        tokens = torch.cat([self.prefix_tokens(patches.shape[0]).to(patches.dtype), patches], dim=1)
        return SharedEmbedding(tokens=tokens, qkv=self.blocks[0].qkv(tokens))  # type: ignore[operator]  # a _Block

    def global_tokens(self, embedding: SharedEmbedding) -> tuple[Float[Tensor, "B P D"], ...]:
        """Compute the tokens of the whole frame, one tensor per layer."""
        return tuple(tokens[:, self.num_prefix_tokens :] for tokens in self.run_blocks(embedding.tokens, embedding.qkv))

    def window_tokens(
        self, embedding: SharedEmbedding, window_index_kw: Int[Tensor, "K A"]
    ) -> tuple[Float[Tensor, "KB A D"], ...]:
        """Compute the tokens of local windows, each run through the blocks by itself, so that attention ends at its border.

        Source: arXiv 2204.12367, local cross-similarity.

        Args:
            embedding: Of B images; it holds the position in the frame.
            window_index_kw: Patch indices of K windows, as `window_indices` makes them; the same for all images.

        Returns:
            One tensor per layer; window k of image b is at k * B + b on the first axis.
        """
        batch, num_tokens, _ = embedding.tokens.shape
        num_windows, window_area = window_index_kw.shape
        first_row = torch.arange(batch, device=window_index_kw.device)[:, None] * num_tokens + self.num_prefix_tokens
        rows = (first_row + window_index_kw[:, None]).flatten()
        # index_select, not hidden[:, index]: the backward of advanced indexing differs between runs on 2 threads.
        tokens, qkv = (
            all_tokens.flatten(0, 1).index_select(0, rows).reshape(num_windows * batch, window_area, -1)
            for all_tokens in (embedding.tokens, embedding.qkv)
        )
        return self.run_blocks(tokens, qkv)

    def tokens(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B P D"], ...]:
        """Compute the tokens of the whole frame, one tensor per layer; images as for `embed`."""
        return self.global_tokens(self.embed_once(images))

    def encode(self, images: Float[Tensor, "B 3 H W"], window_index: Int[Tensor, "K A"] | None = None) -> ViTFeatures:
        """Compute global tokens and, where windows are given, theirs, from one patch embedding.

        Args:
            images: As for `embed`.
            window_index: As for `window_tokens`; None for global tokens only.
        """
        embedding = self.embed_once(images)
        return ViTFeatures(
            global_tokens=self.global_tokens(embedding),
            window_tokens=() if window_index is None else self.window_tokens(embedding, window_index),
        )

    def forward(self, images: Float[Tensor, "B 3 H W"], window_index: Int[Tensor, "K A"] | None = None) -> ViTFeatures:
        """Do the same as `encode`, so that wrappers which intercept a call (DDP, compile) work."""
        return self.encode(images, window_index)

    def _draw_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)


def window_indices(centres_k: Int[Tensor, " K"], *, grid: tuple[int, int], window: int) -> Int[Tensor, "K A"]:
    """List the patch indices of square windows around the given patches, row by row.

    A window that would reach over the border is shifted inside, so each holds window * window different patches.
    Source: arXiv 2204.12367, local cross-similarity (64 centres, windows of 7x7).

    Args:
        centres_k: Indices of the centre patches, 0 <= centre < rows * columns.
        grid: Rows and columns of patches.
        window: Side of a window in patches. With an even side the centre is the first patch of the second half.

    Raises:
        ValueError: The window is not positive or larger than the grid, or a centre lies outside it.
    """
    rows, columns = grid
    if not 1 <= window <= min(grid):
        raise ValueError(f"window {window} does not fit into a grid of {rows}x{columns} patches")
    # Looking at values on an accelerator would wait for it; centres are drawn on the CPU.
    outside = centres_k.device.type == "cpu" and bool(((centres_k < 0) | (centres_k >= rows * columns)).any())
    if outside:
        raise ValueError(f"window centres must lie in [0, {rows * columns}), got {centres_k.tolist()}")
    centres = centres_k.long()
    steps = torch.arange(window, device=centres.device)
    first_row = (centres // columns - window // 2).clamp(0, rows - window)
    first_column = (centres % columns - window // 2).clamp(0, columns - window)
    row = first_row[:, None, None] + steps[:, None]
    column = first_column[:, None, None] + steps
    return (row * columns + column).flatten(1)


class _PatchEmbed(nn.Module):
    def __init__(self, *, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P D"]:
        projected: Tensor = self.proj(images)
        return projected.flatten(2).mT


class _Attention(nn.Module):
    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def attend(self, qkv_bpe: Float[Tensor, "B P E"]) -> Float[Tensor, "B P D"]:
        """Attend over the tokens of each item, from their queries, keys and values."""
        batch, num_tokens, qkv_width = qkv_bpe.shape
        heads = qkv_bpe.reshape(batch, num_tokens, 3, self.num_heads, qkv_width // (3 * self.num_heads))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        projected: Tensor = self.proj(_attend(query, key, value).transpose(1, 2).flatten(2))
        return projected

    def forward(self, tokens_bpd: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        return self.attend(self.qkv(tokens_bpd))


def _attend(
    query: Float[Tensor, "B H P C"], key: Float[Tensor, "B H P C"], value: Float[Tensor, "B H P C"]
) -> Float[Tensor, "B H P C"]:
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # Forward and backward of torch 2.13's fused kernel take 116 ms for 2 x 577 tokens in bfloat16 on one core, these
        # products 56; for 32 windows of 49 tokens 65 against 13.
        with torch.autocast("cpu", enabled=False):
            return (query * (1 / math.sqrt(query.shape[-1])) @ key.mT).softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class _MLP(nn.Module):
    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens_bpd: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        projected: Tensor = self.fc2(F.gelu(self.fc1(tokens_bpd)))
        return projected


class _Block(nn.Module):
    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = _Attention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = _MLP(width, hidden=hidden)

    def qkv(self, tokens_bpd: Float[Tensor, "B P D"]) -> Float[Tensor, "B P E"]:
        """Project tokens to queries, keys and values, E = 3 * D."""
        joined: Tensor = self.attn.qkv(self.norm1(tokens_bpd))
        return joined

    def forward(
        self, tokens_bpd: Float[Tensor, "B P D"], qkv_bpe: Float[Tensor, "B P E"] | None = None
    ) -> Float[Tensor, "B P D"]:
        attended: Tensor = tokens_bpd + self.attn.attend(self.qkv(tokens_bpd) if qkv_bpe is None else qkv_bpe)
        transformed: Tensor = attended + self.mlp(self.norm2(attended))
        return transformed
