"""What the objectives of a step look at, and the way of their gradient back to the generator.

The gradient is taken in three stretches, with a detached copy (a leaf) at each cut that gathers it: from the losses on windows,
a chunk after the other, to the embedding of the ViT; from all other losses to that embedding and to the translations; and from
there through the generator. So the activations of one chunk are held at a time, and those of the ViT are gone before the
generator's are used. Only this file knows of the leaves.
"""

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch
from roma.data.thermal import ThermalTones, degrade
from roma.losses.objective import Frames, Views, WindowChunk
from roma.models.critics.region import pool_regions
from roma.models.vit.vit import SharedEmbedding
from roma.training.frozen_vit import FrozenViT
from roma.training.networks import Networks
from roma.training.running import autocast, memory_format


class ViewBuilder:
    """Translates parts of a batch and shows the frozen ViT what objectives ask for.

    Args:
        config: The whole run.
        networks: Of the run.
        generator: The generator as steps call it, over all ranks.
        device: Where they are.
        tones: For `loss.matched_tones`.
    """

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        generator: nn.Module,
        device: torch.device,
        tones: ThermalTones | None,
    ) -> None:
        self.config = config
        self.networks = networks
        self.device = device
        self.vit = FrozenViT(networks.vit, config, device) if networks.vit is not None else None
        self._generator = generator
        self._tones = tones

    def translate(self, part: TrainBatch, *, is_warmup: bool) -> "PartViews":
        """Run the generator on infrared frames, but in the warm-up, and on day frames to colour where the run has that loss."""
        loss = self.config.loss
        source = part.source.flatten(0, 1)
        inputs = [] if is_warmup else [source]
        # Neighbours show nearly the same, so one frame of each window teaches as much as all.
        true_colours = part.target[:, 0]
        if loss.colourise:
            # Not under autocast: the blur in bfloat16 would leave some hundred gray levels, and the ranks of equal tones would
            # fall into bands.
            inputs.append(
                degrade(
                    true_colours,
                    part.target_positions,
                    seed=self.config.seed,
                    tones=self._tones,
                    matched_share=loss.matched_tones,
                )
            )
        outputs = self._run(self._generator, torch.cat(inputs))
        return PartViews(
            self, part.step, outputs, source=source[:0] if is_warmup else source, true_colours=true_colours
        )

    @torch.no_grad()
    def translations_only(self, part: TrainBatch) -> Frames:
        """Translate a part, without any gradient."""
        # The generator itself, not its wrapper over all ranks, since no backward pass follows.
        fake = self._run(self.networks.generator, part.source.flatten(0, 1))
        return PartFrames(self, fake.float())

    def real(self, part: TrainBatch) -> Frames:
        """Show the day frames of a part."""
        return PartFrames(self, part.target.flatten(0, 1))

    @torch.no_grad()
    def anchored(self, source: Float[Tensor, "M 3 H W"]) -> Tensor:
        """Translate by the anchor."""
        assert self.networks.anchor is not None
        with autocast(self.config, self.device):
            translated: Tensor = self.networks.anchor(source)
        return translated

    def pool(self, tokens: Float[Tensor, "M P D"]) -> Float[Tensor, "M R D"]:
        """Pool one layer's tokens to regions, as the run has them."""
        assert self.vit is not None
        loss = self.config.loss
        return pool_regions(
            tokens, grid=self.vit.grid, sizes=loss.region_sizes, reference_pooling=loss.reference_pooling
        )

    def _run(self, generator: nn.Module, frames: Tensor) -> Tensor:
        with autocast(self.config, self.device):
            outputs: Tensor = generator(frames.contiguous(memory_format=memory_format(self.device)))
        return outputs


class PartFrames(Frames):
    """Frames and the ViT's tokens of them; where the pixels have a gradient, that of the tokens gathers in leaves.

    Args:
        builder: Of the run.
        pixels: The frames.
    """

    def __init__(self, builder: ViewBuilder, pixels: Tensor) -> None:
        self._builder = builder
        self.pixels = pixels
        self._embedded: SharedEmbedding | None = None

    @cached_property
    def embedding(self) -> SharedEmbedding:
        """Compute what the ViT makes of the frames before its first attention; leaves where there is a gradient."""
        assert self._builder.vit is not None
        has_gradient = self.pixels.requires_grad
        with torch.set_grad_enabled(has_gradient):
            embedded = self._builder.vit.embed(self.pixels)
        if not has_gradient:
            return embedded
        self._embedded = embedded
        leaves = (embedded.tokens.detach().requires_grad_(), embedded.qkv.detach().requires_grad_())
        return SharedEmbedding(tokens=leaves[0], qkv=leaves[1])

    @cached_property
    def tokens(self) -> tuple[Tensor, ...]:
        """Compute the tokens of whole frames."""
        assert self._builder.vit is not None
        with torch.set_grad_enabled(self.pixels.requires_grad):
            return self._builder.vit.tokens(self.embedding)

    @property
    def regions(self) -> Tensor:
        """Regions of the last layer."""
        return self._builder.pool(self.tokens[-1])

    def backward(self) -> None:
        """Take the gradient, if there is any, from the leaves of the embedding to the pixels."""
        embedded = self._embedded
        if embedded is None:
            return
        cuts = ((embedded.tokens, self.embedding.tokens.grad), (embedded.qkv, self.embedding.qkv.grad))
        reached = [(output, gradient) for output, gradient in cuts if gradient is not None]
        torch.autograd.backward([output for output, _ in reached], [gradient for _, gradient in reached])

    def forget(self) -> None:
        """Free the memory of everything but the pixels."""
        self._embedded = None
        for name in ("embedding", "tokens"):
            vars(self).pop(name, None)


class PartViews(Views):
    """The views of a part of the batch.

    Args:
        builder: Of the run.
        step: The step, from which windows are drawn.
        outputs: Of the generator, with their graph: translations of the source, then recoloured frames.
        source: Infrared frames; none in the warm-up.
        true_colours: What recoloured frames were made from.
    """

    source: PartFrames
    fake: PartFrames

    def __init__(
        self, builder: ViewBuilder, step: int, outputs: Tensor, *, source: Tensor, true_colours: Tensor
    ) -> None:
        self._builder = builder
        self._step = step
        self._outputs = outputs
        self._leaf = outputs.detach().float().requires_grad_()
        self.source = PartFrames(builder, source)
        self.fake = PartFrames(builder, self._leaf[: len(source)])
        self.true_colours = true_colours
        self.recoloured = self._leaf[len(source) :]

    @property
    def anchored(self) -> Tensor:
        """Translations by the anchor."""
        return self._builder.anchored(self.source.pixels)

    def window_chunks(self) -> Iterator[WindowChunk]:
        """Yield the step's windows, chunk by chunk; take the gradient of one before the next, so that its activations go."""
        vit = self._builder.vit
        assert vit is not None
        source, fake = self.source.embedding, self.fake.embedding
        index, counts = vit.windows(self._step)
        chunk, num_drawn = vit.windows_per_chunk(len(fake.tokens)), counts.sum()
        for rows, count in zip(torch.split(index, chunk), torch.split(counts, chunk), strict=True):
            with torch.no_grad():
                source_layers = vit.window_tokens(source, rows)
            fake_layers = vit.window_tokens(fake, rows)
            yield WindowChunk(source_layers=source_layers, fake_layers=fake_layers, counts=count, num_drawn=num_drawn)

    def backward(self, total: Float[Tensor, ""] | None) -> None:
        """Take the gradient of a sum of losses, and that of the windows before, to the weights of the generator; the last call."""
        if total is not None:
            torch.autograd.backward(total)
        self.fake.backward()
        self.fake.forget()
        self.source.forget()
        gradient = self._leaf.grad
        assert gradient is not None
        torch.autograd.backward(self._outputs, gradient.to(self._outputs.dtype))
