"""The frozen ViT as steps run it: in the precision of the run, compiled if that is asked for, on the windows of the step."""

import copy
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import window_centres
from roma.models.vit.vit import SharedEmbedding, VisionTransformer, window_indices
from roma.training.running import autocast, compile_options

_CHUNK_WINDOWS = 32
"""Windows of single images whose activations are held at once on a CPU, some 300 MB of them; larger chunks are slower there."""


class FrozenViT:
    """A ViT whose weights do not train, and through which gradients pass to its images."""

    def __init__(self, vit: VisionTransformer, config: TrainConfig, device: torch.device) -> None:
        if config.precision == "bf16":
            # Autocast casts frozen weights again at every call, it keeps only those that train.
            vit = copy.deepcopy(vit)
            for module in vit.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
        self.grid = vit.grid
        self._config = config
        self._device = device
        compiled = partial(torch.compile, **compile_options(device)) if config.compute.compile else None
        self._embed = compiled(vit.embed_once) if compiled else vit.embed_once
        self._tokens = compiled(vit.global_tokens) if compiled else vit.global_tokens
        self._window_tokens = compiled(vit.window_tokens) if compiled else vit.window_tokens

    def embed(self, frames: Float[Tensor, "M 3 H W"]) -> SharedEmbedding:
        """Embed frames for `tokens` and `window_tokens`."""
        with autocast(self._config, self._device):
            return self._embed(frames)

    def tokens(self, embedding: SharedEmbedding) -> tuple[Tensor, ...]:
        """Compute the tokens of whole frames, one tensor per layer."""
        with autocast(self._config, self._device):
            return self._tokens(embedding)

    def window_tokens(self, embedding: SharedEmbedding, index: Int64[Tensor, "K A"]) -> tuple[Tensor, ...]:
        """Compute the tokens of windows, one tensor per layer."""
        with autocast(self._config, self._device):
            return self._window_tokens(embedding, index)

    def windows(self, step: int) -> tuple[Int64[Tensor, "K A"], Float[Tensor, " K"]]:
        """Draw the step's windows: their patch indices, and how often each was drawn."""
        loss, compute = self._config.loss, self._config.compute
        centres = window_centres(
            step, seed=self._config.seed, num_windows=loss.num_windows, num_patches=self.grid[0] * self.grid[1]
        )
        index = window_indices(centres, grid=self.grid, window=loss.window)
        counts = torch.ones(len(index))
        if compute.shared_windows and not compute.compile:
            index, drawn = torch.unique(index, dim=0, return_counts=True)
            counts = drawn.float()
        return index.to(self._device), counts.to(self._device)

    def windows_per_chunk(self, num_images: int) -> int:
        """Say how many windows' activations are held at once, each window being of `num_images` images."""
        chosen = self._config.compute.window_chunk
        if chosen is None:
            chosen = max(1, _CHUNK_WINDOWS // num_images) if self._device.type == "cpu" else 0
        return chosen or self._config.loss.num_windows
