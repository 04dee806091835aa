"""What bench_train.py holds our training step against: the same step twice more, in plain torch.

`ReferenceStep` computes it the authors' way, with the waste that their code has: frames one by one, windows cut out in a loop, the
patches of a frame embedded once for the global and once for the window tokens, attention written out, gradients kept in the ViT's
weights, and the graphs of infrared and day frames held and walked back too as far as a loss reaches them. `PlainStep` is the clean
version: a frozen ViT, gradients for the translations alone, frames stacked on the batch axis, one gather for all windows, torch's
own attention; the whole graph lives until one backward.

Both read the weights of our modules, by their names, and nothing else of ours but the window centres: what they compute is written
here anew. Source: arXiv 2204.12367. In two things the reference is cheaper than the authors' code: it holds no ViT blocks behind
the deepest layer that is looked at, and it pools regions with torch's pooling.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch, window_centres
from roma.models.critics.region import RegionDiscriminator
from roma.models.vit.vit import VisionTransformer
from roma.training.networks import Networks

LAYER_NORM_EPS = 1e-6
Layers = list[Tensor]
"""Tokens [B, P, D], one tensor for each layer that is looked at."""


class _Step:
    """What the two steps share: their networks, and how the generator's step ends.

    Args:
        config: A run of preset `roma` in video mode.
        networks: Their weights are trained.
        fused_attention: Of the ViT.
        trains_vit: Whether gradients of the ViT's weights are kept, though no optimiser has them.
    """

    def __init__(self, config: TrainConfig, networks: Networks, *, fused_attention: bool, trains_vit: bool) -> None:
        self.config = config
        self._discriminator, vit = judges_of(networks)
        self.translator = Translator(networks.generator)
        self.critic = Critic(self._discriminator)
        self.eye = Eye(config, vit, fused_attention=fused_attention)
        vit.requires_grad_(trains_vit)
        self.optimisers = optimisers_of(config, networks)

    def _finish(
        self, structure_global: Tensor, structure_local: Tensor, motion: Tensor, gan_generator: Tensor
    ) -> dict[str, Tensor]:
        """The generator's update, down the weighted sum of its terms; the terms and the sum by name."""
        loss = self.config.loss
        total = (
            loss.global_structure * structure_global
            + loss.local_structure * structure_local
            + loss.motion * motion
            + loss.gan * gan_generator
        )
        take(self.optimisers["generator"], total)
        self._discriminator.requires_grad_(True)
        return {
            "structure_global": structure_global.detach(),
            "structure_local": structure_local.detach(),
            "motion": motion.detach(),
            "gan_generator": gan_generator.detach(),
            "generator_total": total.detach(),
        }


class ReferenceStep(_Step):
    """The step as the authors compute it; arguments as for `_Step`."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__(config, networks, fused_attention=False, trains_vit=True)

    def step(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Take one step; the losses by the names that our own step gives them."""
        eye, loss = self.eye, self.config.loss
        source, target = ([frames[:, time] for time in (0, 1)] for frames in (batch.source, batch.target))
        fake = [self.translator(frame) for frame in source]
        corners = window_corners(batch.step, self.config)
        of_source, of_fake = ([eye.tokens(eye.embed(frame)) for frame in frames] for frames in (source, fake))
        of_target = [eye.tokens(eye.embed(frame)) for frame in target]
        in_source, in_fake = (
            [eye.blocks(self._windows(eye.embed(frame), corners)) for frame in frames] for frames in (source, fake)
        )
        fake_regions, real_regions = (
            [regions_by_pooling(layers[-1], loss.region_sizes) for layers in each] for each in (of_fake, of_target)
        )

        judged_fake = mean([self.critic(regions.detach()).square().mean() for regions in fake_regions])
        judged_real = mean([(self.critic(regions) - 1).square().mean() for regions in real_regions])
        gan_discriminator = (judged_fake + judged_real) / 2
        take(self.optimisers["discriminator"], gan_discriminator)

        self._discriminator.requires_grad_(False)
        structure_global = mean([mean(map(distance, *pair)) for pair in zip(of_source, of_fake, strict=True)])
        structure_local = mean([mean(map(distance, *pair)) for pair in zip(in_source, in_fake, strict=True)])
        motion = mean(map(motion_distance, *of_source, *of_fake))
        gan_generator = mean([(self.critic(regions) - 1).square().mean() for regions in fake_regions])
        return self._finish(structure_global, structure_local, motion, gan_generator) | {
            "gan_discriminator": gan_discriminator.detach()
        }

    def _windows(self, embedded_bpd: Tensor, corners: list[tuple[int, int]]) -> Tensor:
        """Window by window, stacked on the batch axis."""
        side, grid = self.config.loss.window, self.eye.grid
        plane = embedded_bpd.unflatten(1, (grid, grid))
        cut = [
            plane[:, row : row + side, column : column + side].reshape(len(plane), side * side, -1)
            for row, column in corners
        ]
        return torch.cat(cut)


class PlainStep(_Step):
    """The clean step; arguments as for `_Step`."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__(config, networks, fused_attention=True, trains_vit=False)

    def step(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Take one step; the losses by the names that our own step gives them."""
        eye, loss = self.eye, self.config.loss
        source, target = batch.source.flatten(0, 1), batch.target.flatten(0, 1)
        window_index = self._window_index(batch.step).to(source.device)
        fake = self.translator(source)
        of_fake, in_fake = self._look(fake, window_index)
        with torch.no_grad():
            of_source, in_source = self._look(source, window_index)
            real_regions = regions_by_means(eye.tokens(eye.embed(target))[-1], loss.region_sizes)
        fake_regions = regions_by_means(of_fake[-1], loss.region_sizes)

        judged_fake, judged_real = self.critic(torch.cat([fake_regions.detach(), real_regions])).chunk(2)
        gan_discriminator = (judged_fake.square().mean() + (judged_real - 1).square().mean()) / 2
        take(self.optimisers["discriminator"], gan_discriminator)

        self._discriminator.requires_grad_(False)
        structure_global = mean(map(distance_by_one_product, of_source, of_fake))
        structure_local = mean(map(distance_by_one_product, in_source, in_fake))
        # Frames lie as window 0 at times 0 and 1, window 1 at times 0 and 1, and so on.
        by_time = [[tokens[time::2] for tokens in layers] for layers in (of_source, of_fake) for time in (0, 1)]
        motion = mean(map(motion_distance, *by_time))
        gan_generator = (self.critic(fake_regions) - 1).square().mean()
        return self._finish(structure_global, structure_local, motion, gan_generator) | {
            "gan_discriminator": gan_discriminator.detach()
        }

    def _look(self, frames: Tensor, window_index: Tensor) -> tuple[Layers, Layers]:
        """Global and window tokens from one embedding."""
        embedded = self.eye.embed(frames)
        num_windows, area = window_index.shape
        gathered = embedded.index_select(1, window_index.flatten()).unflatten(1, (num_windows, area))
        return self.eye.tokens(embedded), self.eye.blocks(gathered.flatten(0, 1))

    def _window_index(self, step: int) -> Tensor:
        """Indices [K, A] of the patches of each window, row by row."""
        within = torch.arange(self.config.loss.window)
        corners = torch.tensor(window_corners(step, self.config))
        rows, columns = (corners[:, axis, None] + within for axis in (0, 1))
        return (rows[:, :, None] * self.eye.grid + columns[:, None, :]).flatten(1)


class Translator:
    """The ResNet generator over the weights of a module that has them in this order."""

    def __init__(self, generator: nn.Module) -> None:
        parameters = list(generator.parameters())
        self._convolutions = list(zip(parameters[0::2], parameters[1::2], strict=True))

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames [N, 3, H, W] in [-1, 1] as day frames."""
        convolutions = iter(self._convolutions)
        num_blocks = (len(self._convolutions) - 6) // 2
        hidden = self._norm(self._convolve(convolutions, frames, reflect=3)).relu_()
        for _ in range(2):
            hidden = blur_down(self._norm(self._convolve(convolutions, hidden, zeros=1)).relu_())
        for _ in range(num_blocks):
            inner = self._norm(self._convolve(convolutions, hidden, reflect=1)).relu_()
            hidden = hidden + self._norm(self._convolve(convolutions, inner, reflect=1))
        for _ in range(2):
            hidden = self._norm(self._convolve(convolutions, blur_up(hidden), zeros=1)).relu_()
        return self._convolve(convolutions, hidden, reflect=3).tanh()

    def _convolve(
        self, convolutions: Iterator[tuple[Tensor, Tensor]], hidden: Tensor, *, reflect: int = 0, zeros: int = 0
    ) -> Tensor:
        weight, bias = next(convolutions)
        if reflect:
            hidden = F.pad(hidden, (reflect,) * 4, mode="reflect")
        return F.conv2d(hidden, weight, bias, padding=zeros)

    def _norm(self, hidden: Tensor) -> Tensor:
        return F.instance_norm(hidden)


class Critic:
    """The discriminator of region tokens over the weights of a module."""

    def __init__(self, discriminator: nn.Module) -> None:
        self._weights = list(discriminator.parameters())

    def __call__(self, regions: Tensor) -> Tensor:
        """Logits of regions [B, R, D]."""
        first, first_bias, second, second_bias = self._weights
        return F.linear(F.gelu(F.linear(regions, first, first_bias)), second, second_bias)


class Eye:
    """The ViT over the weights of a module that has timm's names and a class token.

    Args:
        config: Sizes and layers.
        vit: Whose weights.
        fused_attention: torch's own attention instead of softmax(q k^T / sqrt(d)) v.
    """

    def __init__(self, config: TrainConfig, vit: nn.Module, *, fused_attention: bool) -> None:
        self.shape = config.vit
        self.grid = config.vit.image_size // config.vit.patch_size
        """Patches in a row and in a column."""
        self._fused = fused_attention
        self._weights = dict(vit.named_parameters())

    def embed(self, frames: Tensor) -> Tensor:
        """Patches with their positions, [B, P, D]."""
        size = (self.shape.image_size,) * 2
        resized = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
        patches = F.conv2d(
            resized,
            self._weights["patch_embed.proj.weight"],
            self._weights["patch_embed.proj.bias"],
            stride=self.shape.patch_size,
        )
        return patches.flatten(2).transpose(1, 2) + self._weights["pos_embed"][:, 1:]

    def tokens(self, embedded_bpd: Tensor) -> Layers:
        """Tokens of whole frames."""
        first = self._weights["cls_token"] + self._weights["pos_embed"][:, :1]
        return [
            layer[:, 1:] for layer in self.blocks(torch.cat([first.expand(len(embedded_bpd), -1, -1), embedded_bpd], 1))
        ]

    def blocks(self, hidden: Tensor) -> Layers:
        """Outputs of the layers that are looked at, through the last norm."""
        found = []
        for index in range(self.shape.layers[-1] + 1):
            hidden = hidden + self._attend(self._norm(hidden, f"blocks.{index}.norm1"), f"blocks.{index}.attn")
            inner = F.gelu(self._linear(self._norm(hidden, f"blocks.{index}.norm2"), f"blocks.{index}.mlp.fc1"))
            hidden = hidden + self._linear(inner, f"blocks.{index}.mlp.fc2")
            if index in self.shape.layers:
                found.append(self._norm(hidden, "norm"))
        return found

    def _attend(self, hidden: Tensor, name: str) -> Tensor:
        heads = self._linear(hidden, f"{name}.qkv").unflatten(2, (3, self.shape.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if self._fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
            mixed = scores.softmax(dim=-1) @ value
        return self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.proj")

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(hidden, (hidden.shape[-1],), weight, bias, LAYER_NORM_EPS)


def blur_down(hidden: Tensor) -> Tensor:
    """Half the size, after [1, 2, 1] x [1, 2, 1] / 16 on a reflected border."""
    taps = hidden.new_tensor([1.0, 2.0, 1.0])
    kernel = (taps[:, None] * taps / 16).expand(hidden.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(hidden, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=hidden.shape[1])


def blur_up(hidden: Tensor) -> Tensor:
    """Twice the size, by [1, 3, 3, 1] x [1, 3, 3, 1] / 16 on a replicated border, whose rows and columns are dropped again."""
    taps = hidden.new_tensor([1.0, 3.0, 3.0, 1.0])
    kernel = (taps[:, None] * taps / 16).expand(hidden.shape[1], 1, 4, 4)
    padded = F.pad(hidden, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=hidden.shape[1])[:, :, 1:-1, 1:-1]


def regions_by_pooling(tokens_bpd: Tensor, sizes: Sequence[int]) -> Tensor:
    """The tokens, then the means of their blocks of each size, [B, R, D]."""
    plane = tokens_bpd.transpose(1, 2).unflatten(2, (int(tokens_bpd.shape[1] ** 0.5), -1))
    return torch.cat([tokens_bpd, *(F.avg_pool2d(plane, size).flatten(2).transpose(1, 2) for size in sizes)], dim=1)


def regions_by_means(tokens_bpd: Tensor, sizes: Sequence[int]) -> Tensor:
    """The same by means over axes."""
    side = int(tokens_bpd.shape[1] ** 0.5)
    blocks = [tokens_bpd.unflatten(1, (side // size, size, side // size, size)).mean(dim=(2, 4)) for size in sizes]
    return torch.cat([tokens_bpd, *(block.flatten(1, 2) for block in blocks)], dim=1)


def distance(source_bpd: Tensor, fake_bpd: Tensor) -> Tensor:
    """d(S F^T, F S^T) from two products."""
    return row_distance(source_bpd @ fake_bpd.transpose(1, 2), fake_bpd @ source_bpd.transpose(1, 2))


def distance_by_one_product(source_bpd: Tensor, fake_bpd: Tensor) -> Tensor:
    """The same from one, since the second is its transpose."""
    product = source_bpd @ fake_bpd.transpose(1, 2)
    return row_distance(product, product.transpose(1, 2))


def motion_distance(source_0: Tensor, source_1: Tensor, fake_0: Tensor, fake_1: Tensor) -> Tensor:
    """d(S_0 F_1^T, F_0 S_1^T)."""
    return row_distance(source_0 @ fake_1.transpose(1, 2), fake_0 @ source_1.transpose(1, 2))


def row_distance(first_bpq: Tensor, second_bpq: Tensor) -> Tensor:
    """Mean over rows of |1 - cosine|."""
    return (1 - F.cosine_similarity(first_bpq, second_bpq, dim=-1, eps=1e-8)).abs().mean()


def mean(values: Sequence[Tensor] | Iterator[Tensor]) -> Tensor:
    """Of scalars."""
    return torch.stack(list(values)).mean()


def window_corners(step: int, config: TrainConfig) -> list[tuple[int, int]]:
    """First row and column of each local window of a step, shifted inside at the borders."""
    grid, side = config.vit.image_size // config.vit.patch_size, config.loss.window
    centres = window_centres(step, seed=config.seed, num_windows=config.loss.num_windows, num_patches=grid * grid)
    return [
        tuple(min(max(place - side // 2, 0), grid - side) for place in divmod(centre, grid))
        for centre in centres.tolist()
    ]


def judges_of(networks: Networks) -> tuple[RegionDiscriminator, VisionTransformer]:
    """The discriminator and the ViT, which the published method always has."""
    assert networks.vit is not None
    judge = networks.discriminators["region_discriminator"]
    assert isinstance(judge, RegionDiscriminator)
    return judge, networks.vit


def optimisers_of(config: TrainConfig, networks: Networks) -> dict[str, torch.optim.Adam]:
    """Adam for the generator and for the discriminator."""
    scale, betas = config.optim.lr_scale(config.batch_size), (config.optim.beta1, config.optim.beta2)
    rates = {"generator": config.optim.generator_lr, "discriminator": config.optim.discriminator_lr}
    modules: dict[str, nn.Module] = {"generator": networks.generator, "discriminator": judges_of(networks)[0]}
    return {
        name: torch.optim.Adam(module.parameters(), lr=rates[name] * scale, betas=betas)
        for name, module in modules.items()
    }


def take(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down a loss."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def gradients(networks: Networks) -> dict[str, Tensor]:
    """The gradients of "generator" and "discriminator" as one vector each, without those whose truth is zero.

    A bias in front of an instance norm changes nothing, so what a backward leaves in it is rounding noise; all convolutions of the
    generator but the last one stand in front of one.
    """
    generator = list(networks.generator.parameters())
    kept = {
        "generator": [*generator[0::2], generator[-1]],
        "discriminator": list(judges_of(networks)[0].parameters()),
    }
    return {name: torch.cat([gradient_of(parameter) for parameter in parameters]) for name, parameters in kept.items()}


def gradient_of(parameter: Tensor) -> Tensor:
    """Of one parameter, as a vector on the CPU."""
    assert parameter.grad is not None
    return parameter.grad.flatten().float().cpu()
