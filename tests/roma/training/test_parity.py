"""A training step against a second one, written here from the formulas of arXiv 2204.12367, frame by frame and window by window.

The second one shares nothing with the package but the initial weights and the drawn centres: it runs in float64, keeps every
gradient, and computes its networks, losses and Adam itself. The losses are computed a third time, number by number.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from roma.config.overlay import resolve
from roma.config.schema import Mode, TrainConfig
from roma.data import batches
from roma.training.networks import Networks, build_networks
from roma.training.step import Trainer
from roma.world.world import World

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))
SIDE, VIT_SIDE, PATCH, GRID, HEADS, WINDOW = 32, 48, 8, 6, 2, 3
LAYERS, REGION_SIZES, NUM_WINDOWS = (0, 2, 3), (2, 3), 10
SMALL = (
    "vit.weights=random", f"vit.image_size={VIT_SIDE}", f"vit.patch_size={PATCH}", "vit.width=16", "vit.depth=5",
    f"vit.num_heads={HEADS}", f"vit.layers={list(LAYERS)}", "generator.width=4", "generator.num_blocks=2",
    "generator.init_gain=1.0", "data.load_size_px=36", f"data.crop_size_px={SIDE}", f"loss.window={WINDOW}",
    f"loss.num_windows={NUM_WINDOWS}", f"loss.region_sizes={list(REGION_SIZES)}", "optim.generator_lr=1e-3",
    "optim.discriminator_lr=2e-3",
)  # fmt: skip
RATES = (1.0, 0.5)
"""What the learning rates are multiplied with at the two steps that are taken."""

Weights = dict[str, Tensor]


def config_of(mode: Mode, batch_size: int, *settings: str) -> TrainConfig:
    return resolve("roma", mode=mode, config_file=None, settings=[*SMALL, f"batch_size={batch_size}", *settings])


def networks_of(config: TrainConfig) -> Networks:
    """Small networks whose weights are large enough for attention and the discriminator to matter."""
    networks = build_networks(config, ALONE.device)
    draw = torch.Generator().manual_seed(3)
    assert networks.vit is not None
    with torch.no_grad():
        for network, scale in ((networks.vit, 0.35), (networks.discriminators["region_discriminator"], 0.2)):
            for _, parameter in sorted(network.named_parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return networks


def batch_of(config: TrainConfig, *, step: int) -> batches.TrainBatch:
    """Soft pictures with some noise; the second frame of a pair is the first one, moved."""
    draw = torch.Generator().manual_seed(100 + step)

    def windows(channels: int) -> Tensor:
        coarse = torch.rand(config.batch_size, channels, 5, 5, generator=draw) * 1.6 - 0.8
        still = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
        moved = torch.stack([still.roll(2 * time, dims=-1) for time in range(config.window_frames)], dim=1)
        return (moved + 0.1 * torch.randn(moved.shape, generator=draw)).clamp(-1, 1)

    return batches.TrainBatch(
        step=step,
        source=windows(1).expand(-1, -1, 3, -1, -1),
        target=windows(3),
        keys=tuple(tuple(f"a_{frame:08d}" for frame in range(config.window_frames)) for _ in range(config.batch_size)),
        source_positions=tuple(range(config.batch_size)),
        target_positions=tuple(range(config.batch_size)),
    )


# The networks, on one frame [3, H, W] and on plain dictionaries of their weights.


def plain_generator(weights: Weights, frame: Tensor) -> Tensor:
    layers = iter([name.removesuffix(".weight") for name in weights if name.endswith(".weight")])
    soft, wide = (torch.tensor(taps, dtype=torch.float64) for taps in ([1, 2, 1], [1, 3, 3, 1]))

    def conv(x: Tensor, *, padding: int = 0) -> Tensor:
        name = next(layers)
        return F.conv2d(x[None], weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)[0]

    def reflected(x: Tensor, by: int) -> Tensor:
        return F.pad(x[None], (by, by, by, by), mode="reflect")[0]

    def norm(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=(1, 2), keepdim=True)
        return centred / (centred.square().mean(dim=(1, 2), keepdim=True) + 1e-5).sqrt()

    def half(x: Tensor) -> Tensor:
        kernel = torch.outer(soft, soft)[None, None] / 16
        return torch.cat([F.conv2d(reflected(channel[None], 1), kernel, stride=2) for channel in x])

    def twice(x: Tensor) -> Tensor:
        kernel = torch.outer(wide, wide)[None, None] / 64 * 4
        bordered = F.pad(x[None], (1, 1, 1, 1), mode="replicate")[0]
        raised = [F.conv_transpose2d(channel[None], kernel, stride=2, padding=2) for channel in bordered]
        return torch.cat(raised)[:, 1:-1, 1:-1]

    x = norm(conv(reflected(frame, 3))).relu()
    for _ in range(2):
        x = half(norm(conv(x, padding=1)).relu())
    for _ in range((len(list(weights)) // 2 - 6) // 2):
        skip = x
        x = norm(conv(reflected(x, 1))).relu()
        x = skip + norm(conv(reflected(x, 1)))
    for _ in range(2):
        x = norm(conv(twice(x), padding=1)).relu()
    translated = conv(reflected(x, 3)).tanh()
    assert next(layers, None) is None
    return translated


def plain_resize(frame: Tensor) -> Tensor:
    """Bilinear, pixel centres on pixel centres, no antialiasing."""
    weights = torch.zeros(VIT_SIDE, SIDE, dtype=torch.float64)
    for row in range(VIT_SIDE):
        place = max(0.0, (row + 0.5) * SIDE / VIT_SIDE - 0.5)
        before = int(place)
        weights[row, before] += 1 - (place - before)
        weights[row, min(before + 1, SIDE - 1)] += place - before
    return weights @ frame @ weights.T


def plain_embedding(vit: Weights, frame: Tensor, *, num_prefix: int, normalisation: str) -> Tensor:
    """Embedded patches with their position, [P, D]."""
    if normalisation == "imagenet":
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()[:, :, None, None]
        frame = ((frame + 1) / 2 - mean) / std
    picture = plain_resize(frame)
    weight = vit["patch_embed.proj.weight"].flatten(1)
    patches = [
        weight @ picture[:, row : row + PATCH, column : column + PATCH].flatten() + vit["patch_embed.proj.bias"]
        for row in range(0, VIT_SIDE, PATCH)
        for column in range(0, VIT_SIDE, PATCH)
    ]
    return torch.stack(patches) + vit["pos_embed"][0, num_prefix:]


def plain_blocks(vit: Weights, tokens: Tensor) -> list[Tensor]:
    """Outputs of the asked layers through the last norm, from embedded tokens [N, D]."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return scaled * vit[f"{name}.weight"] + vit[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ vit[f"{name}.weight"].T + vit[f"{name}.bias"]

    width = tokens.shape[1]
    each = width // HEADS
    outputs = []
    for index in range(max(LAYERS) + 1):
        block = f"blocks.{index}"
        packed = linear(norm(tokens, f"{block}.norm1"), f"{block}.attn.qkv")
        mixed = []
        for head in range(HEADS):
            query, key, value = (packed[:, part * width + head * each :][:, :each] for part in range(3))
            mixed.append(torch.softmax(query @ key.T / math.sqrt(each), dim=1) @ value)
        tokens = tokens + linear(torch.cat(mixed, dim=1), f"{block}.attn.proj")
        hidden = linear(norm(tokens, f"{block}.norm2"), f"{block}.mlp.fc1")
        tokens = tokens + linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, f"{block}.mlp.fc2")
        if index in LAYERS:
            outputs.append(norm(tokens, "norm"))
    return outputs


def plain_regions(tokens: Tensor, *, reference: bool) -> Tensor:
    grid = tokens.reshape(GRID, GRID, -1)
    regions = list(tokens)
    for size in REGION_SIZES:
        for row in range(0, GRID, size):
            for column in range(0, GRID, size):
                regions.append(grid[row : row + size + reference, column : column + size].mean(dim=(0, 1)))
    return torch.stack(regions)


def plain_discriminator(weights: Weights, regions: Tensor) -> Tensor:
    hidden = regions @ weights["net.0.weight"].T + weights["net.0.bias"]
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return hidden @ weights["net.2.weight"].T + weights["net.2.bias"]


# The step.


@dataclass(frozen=True)
class Seen:
    """Tokens of one frame: one [P, D] per layer of the whole frame, and one list of layers per window."""

    whole: list[Tensor]
    windows: list[list[Tensor]]


def distance(first: Tensor, second: Tensor) -> Tensor:
    """d(P, Q): mean over rows of |1 - cos|."""
    rows = []
    for p, q in zip(first, second, strict=True):
        rows.append((1 - (p * q).sum() / (p.square().sum().sqrt() * q.square().sum().sqrt())).abs())
    return torch.stack(rows).mean()


def across(source: Tensor, fake: Tensor) -> Tensor:
    return distance(source @ fake.T, fake @ source.T)


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


class Plain:
    """Generator and discriminator in float64, with Adam's moments, and the step of the method."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        assert networks.vit is not None
        self.config = config
        self.vit = {name: value.detach().double() for name, value in networks.vit.state_dict().items()}
        self.generator = leaves(networks.generator)
        self.discriminator = leaves(networks.discriminators["region_discriminator"])
        self.moments: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"generator": {}, "discriminator": {}}
        self.num_updates = 0

    def see(self, frame: Tensor, centres: list[int]) -> Seen:
        num_prefix = self.config.vit.num_prefix_tokens
        embedded = plain_embedding(self.vit, frame, num_prefix=num_prefix, normalisation=self.config.vit.normalisation)
        prefix = [self.vit["cls_token"][0] + self.vit["pos_embed"][0, :1]] if num_prefix else []
        whole = [tokens[num_prefix:] for tokens in plain_blocks(self.vit, torch.cat([*prefix, embedded]))]
        windows = [
            plain_blocks(self.vit, torch.stack([embedded[patch] for patch in patches_around(c)])) for c in centres
        ]
        return Seen(whole, windows)

    def step(self, batch: batches.TrainBatch, *, lr_factor: float) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses and gradient norms by the names of `StepResult`."""
        loss, video = self.config.loss, self.config.mode == "video"
        centres = batches.window_centres(
            batch.step, seed=self.config.seed, num_windows=loss.num_windows, num_patches=GRID * GRID
        ).tolist()
        places = [(sample, time) for sample in range(len(batch.source)) for time in range(self.config.window_frames)]
        x = {place: self.see(batch.source[place].double(), centres) for place in places}
        y_hat = {
            place: self.see(plain_generator(self.generator, batch.source[place].double()), centres) for place in places
        }
        y = {place: self.see(batch.target[place].double(), []) for place in places}
        layers = range(len(LAYERS))

        def judged(seen: Seen, weights: Weights, *, detached: bool = False) -> Tensor:
            tokens = seen.whole[-1].detach() if detached else seen.whole[-1]
            return plain_discriminator(weights, plain_regions(tokens, reference=loss.reference_pooling))

        losses: dict[str, Tensor] = {}
        losses["gan_discriminator"] = (
            mean([judged(y_hat[place], self.discriminator, detached=True).square().mean() for place in places])
            + mean([(judged(y[place], self.discriminator) - 1).square().mean() for place in places])
        ) / 2
        norms = {"discriminator": self.update("discriminator", losses["gan_discriminator"], lr_factor)}

        losses["structure_global"] = mean(
            [across(x[place].whole[layer], y_hat[place].whole[layer]) for place in places for layer in layers]
        )
        losses["structure_local"] = mean(
            [
                across(x[place].windows[window][layer], y_hat[place].windows[window][layer])
                for place in places
                for window in range(len(centres))
                for layer in layers
            ]
        )
        losses["gan_generator"] = mean(
            [(judged(y_hat[place], self.discriminator) - 1).square().mean() for place in places]
        )
        total = (
            loss.global_structure * losses["structure_global"]
            + loss.local_structure * losses["structure_local"]
            + loss.gan * losses["gan_generator"]
        )
        if video:
            by_layer = [
                mean(
                    [
                        distance(
                            x[sample, 0].whole[layer] @ y_hat[sample, 1].whole[layer].T,
                            y_hat[sample, 0].whole[layer] @ x[sample, 1].whole[layer].T,
                        )
                        for sample in range(len(batch.source))
                    ]
                )
                for layer in layers
            ]
            if loss.reference_temporal:
                losses["motion"] = torch.stack(by_layer).sum()
                total = total + losses["motion"]
            else:
                losses["motion"] = mean(by_layer)
                total = total + loss.motion * losses["motion"]
        losses["generator_total"] = total
        self.seen = (x, y_hat, y)
        norms["generator"] = self.update("generator", total, lr_factor)
        self.num_updates += 1
        return {name: value.detach() for name, value in losses.items()}, norms

    def update(self, which: str, loss: Tensor, lr_factor: float) -> float:
        """Adam by its formulas (Kingma and Ba 2015, algorithm 1); the norm of all gradients."""
        optim = self.config.optim
        weights: Weights = getattr(self, which)
        rate = optim.generator_lr if which == "generator" else optim.discriminator_lr
        rate *= lr_factor * optim.lr_scale(self.config.batch_size)
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=which == "discriminator")
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        if optim.clip_norm:
            gradients = tuple(gradient * min(1.0, optim.clip_norm / norm) for gradient in gradients)
        count = self.num_updates + 1
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            m, v = self.moments[which].get(name, (torch.zeros_like(value), torch.zeros_like(value)))
            m = optim.beta1 * m + (1 - optim.beta1) * gradient
            v = optim.beta2 * v + (1 - optim.beta2) * gradient**2
            self.moments[which][name] = (m, v)
            unbiased_m, unbiased_v = m / (1 - optim.beta1**count), v / (1 - optim.beta2**count)
            with torch.no_grad():
                moved = value - rate * unbiased_m / (unbiased_v.sqrt() + 1e-8)
            weights[name] = moved.requires_grad_()
        return norm


def leaves(network: torch.nn.Module) -> Weights:
    return {name: value.detach().double().requires_grad_() for name, value in network.named_parameters()}


def patches_around(centre: int) -> list[int]:
    """The 3x3 patches around one of a 6x6 grid, shifted inside at the borders."""
    row, column = divmod(centre, GRID)
    top, left = min(max(row - 1, 0), GRID - WINDOW), min(max(column - 1, 0), GRID - WINDOW)
    return [(top + i) * GRID + left + j for i in range(WINDOW) for j in range(WINDOW)]


@dataclass(frozen=True)
class After:
    """What one step of the second implementation gave, and left behind."""

    losses: dict[str, Tensor]
    norms: dict[str, float]
    weights: dict[str, Weights]
    moments: dict[str, dict[str, tuple[Tensor, Tensor]]]


@functools.cache
def truth(mode: Mode, batch_size: int, *settings: str) -> list[After]:
    config = config_of(mode, batch_size, *settings)
    plain = Plain(config, networks_of(config))
    steps = []
    for step, factor in enumerate(RATES):
        losses, norms = plain.step(batch_of(config, step=step), lr_factor=factor)
        weights = {name: {**getattr(plain, name)} for name in ("generator", "discriminator")}
        steps.append(After(losses, norms, weights, {name: {**moments} for name, moments in plain.moments.items()}))
    return steps


def agree(config: TrainConfig, expected: list[After]) -> None:
    """Take the steps with the trainer; after each compare losses, gradient norms, every gradient, and what Adam made of them."""
    networks = networks_of(config)
    trainer = Trainer(config, networks, ALONE)
    for step, (factor, after) in enumerate(zip(RATES, expected, strict=True)):
        result = trainer.step(batch_of(config, step=step), lr_factor=factor)
        assert {name: float(value) for name, value in result.losses.items()} == pytest.approx(
            {name: float(value) for name, value in after.losses.items()}, rel=1e-5
        ), step
        assert result.grad_norms == pytest.approx(after.norms, rel=1e-5), step
        for which, network, optimiser in (
            ("generator", networks.generator, trainer.generator_optimiser),
            ("discriminator", networks.discriminators["region_discriminator"], trainer.discriminator_optimiser),
        ):
            assert network is not None
            assert optimiser is not None
            rate = config.optim.generator_lr if which == "generator" else config.optim.discriminator_lr
            rate *= factor * config.optim.lr_scale(config.batch_size)
            compare_weights(network, optimiser, after, which=which, rate=rate, step=step)


def compare_weights(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer, after: After, *, which: str, rate: float, step: int
) -> None:
    """Compare Adam's moments and the weights, then set them to the expected ones, so that the next step begins as equals."""
    last = list(dict(network.named_parameters()))[-1]
    for name, value in network.named_parameters():
        where = (step, which, name)
        (m, v), state = after.moments[which][name], optimiser.state[value]
        expected = after.weights[which][name].detach()
        if which == "discriminator" or name.endswith("weight") or name == last:  # other biases: an InstanceNorm follows
            assert float((state["exp_avg"].double() - m).norm()) < 1e-4 * float(m.norm()), where
            assert float((state["exp_avg_sq"].double() - v).norm()) < 1e-4 * float(v.norm()), where
            # Adam divides by the size of each gradient, and thereby multiplies the rounding of small ones.
            size = v.sqrt()
            allowed = rate * (1e-3 + 1e-4 * size.max() / size)
            wrong = (value.detach().double() - expected).abs() / allowed
            assert float(wrong.max()) < 1, (*where, float(wrong.max()))
        with torch.no_grad():
            value.copy_(expected)
            state["exp_avg"].copy_(m)
            state["exp_avg_sq"].copy_(v)


MODES: list[Mode] = ["video", "image"]
WAYS = {
    "all at once": (),
    "sample by sample": ("compute.micro_batch=1",),
    "three windows at a time": ("compute.window_chunk=3",),
    "all windows at once": ("compute.window_chunk=0",),
    "equal windows again": ("compute.shared_windows=false",),
    "equal windows again, in threes": ("compute.shared_windows=false", "compute.window_chunk=3"),
    "two samples, three windows": ("compute.micro_batch=2", "compute.window_chunk=3"),
    "one sample, three windows": ("compute.micro_batch=1", "compute.window_chunk=3", "compute.shared_windows=false"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_step_of_the_paper_equals_the_plain_one_however_it_is_computed(mode: Mode, batch_size: int, way: str) -> None:
    agree(config_of(mode, batch_size, *WAYS[way]), truth(mode, batch_size))


@pytest.mark.parametrize(
    ("batch_size", "settings"),
    [
        (2, ("loss.reference_pooling=true", "loss.reference_temporal=true", "loss.motion=0.25")),
        (1, ("loss.motion=0.25", "loss.global_structure=2", "loss.local_structure=3", "loss.gan=0.5")),
        (1, ("vit.num_prefix_tokens=0",)),
        (1, ("vit.normalisation=imagenet",)),
        (1, ("loss.num_windows=40", "compute.window_chunk=7")),  # of 36 patches
        (2, ("optim.lr_scaling=sqrt",)),
        (2, ("optim.clip_norm=0.1", "compute.micro_batch=1")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_step_with_other_settings_equals_the_plain_one(batch_size: int, settings: tuple[str, ...]) -> None:
    truth_settings = [setting for setting in settings if not setting.startswith("compute.")]
    agree(config_of("video", batch_size, *settings), truth("video", batch_size, *truth_settings))


def test_the_networks_of_the_preset_have_the_published_sizes() -> None:
    networks = build_networks(
        resolve("roma", mode=None, config_file=None, settings=["vit.weights=random"]), ALONE.device
    )
    assert networks.vit is not None
    assert sum(value.numel() for value in networks.generator.parameters()) == 11_378_179
    assert sum(value.numel() for value in networks.discriminators["region_discriminator"].parameters()) == 1_181_184
    assert (networks.vit.image_size, networks.vit.grid, networks.vit.layers) == (384, (24, 24), (1, 3, 5))
    assert (networks.vit.num_prefix_tokens, networks.vit.normalisation) == (1, "half")
    assert networks.averaged is networks.generator  # no average of weights in the paper


def test_the_first_answer_of_the_discriminator_is_as_large_as_that_of_torch_s_own_layers() -> None:
    """The steps above begin from weights of this file's own. Those of a run decide how fast the discriminator learns at first."""
    settings = ["vit.weights=random"]
    ours = build_networks(resolve("roma", mode=None, config_file=None, settings=settings), ALONE.device)
    draw = torch.Generator().manual_seed(1)
    regions = torch.randn(1, 50, 768, generator=draw)
    torch.manual_seed(2)
    plain = [torch.nn.Linear(768, 768) for _ in range(2)]
    with torch.no_grad():
        expected = plain[1](F.gelu(plain[0](regions))).square().mean()
        found = ours.discriminators["region_discriminator"](regions).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=0.2)
    sizes = {
        name: float(value.detach().std())
        for name, value in ours.discriminators["region_discriminator"].named_parameters()
    }
    assert sizes == pytest.approx(dict.fromkeys(sizes, 1 / math.sqrt(3 * 768)), rel=0.1)


def test_some_of_the_windows_are_equal() -> None:
    """What is tested above would say nothing of windows that are computed once, were none of them equal."""
    for step in range(len(RATES)):
        centres = batches.window_centres(step, seed=0, num_windows=NUM_WINDOWS, num_patches=GRID * GRID).tolist()
        windows = [tuple(patches_around(centre)) for centre in centres]
        assert 1 < len(set(windows)) < len(windows) == NUM_WINDOWS


# Number by number.


def numbers_distance(first: list[list[float]], second: list[list[float]]) -> float:
    rows = []
    for p, q in zip(first, second, strict=True):
        dot = math.fsum(a * b for a, b in zip(p, q, strict=True))
        rows.append(abs(1 - dot / (math.sqrt(math.fsum(a * a for a in p)) * math.sqrt(math.fsum(b * b for b in q)))))
    return math.fsum(rows) / len(rows)


def numbers_products(first: Tensor, second: Tensor) -> list[list[float]]:
    rows, columns = first.tolist(), second.tolist()
    return [[math.fsum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]


def numbers_regions(tokens: Tensor) -> list[list[float]]:
    grid = tokens.reshape(GRID, GRID, -1).tolist()
    width = tokens.shape[1]
    regions: list[list[float]] = tokens.tolist()
    for size in REGION_SIZES:
        for top in range(0, GRID, size):
            for left in range(0, GRID, size):
                inside = [grid[top + i][left + j] for i in range(size) for j in range(size)]
                regions.append([math.fsum(token[d] for token in inside) / size**2 for d in range(width)])
    return regions


def numbers_logits(weights: Weights, region: list[float]) -> list[float]:
    first, second = weights["net.0.weight"].tolist(), weights["net.2.weight"].tolist()
    hidden = []
    for row, bias in zip(first, weights["net.0.bias"].tolist(), strict=True):
        value = math.fsum(a * b for a, b in zip(row, region, strict=True)) + bias
        hidden.append(value * (1 + math.erf(value / math.sqrt(2))) / 2)
    rows = zip(second, weights["net.2.bias"].tolist(), strict=True)
    return [math.fsum(a * b for a, b in zip(row, hidden, strict=True)) + bias for row, bias in rows]


def numbers_square(weights: Weights, seen: Seen, *, aim: float) -> float:
    """mean((D(R(T)) - aim)^2) of one frame."""
    logits = [logit for region in numbers_regions(seen.whole[-1]) for logit in numbers_logits(weights, region)]
    return math.fsum((logit - aim) ** 2 for logit in logits) / len(logits)


@pytest.mark.parametrize("mode", MODES)
def test_each_loss_is_its_formula_number_by_number_from_images_to_the_weighted_total(mode: Mode) -> None:
    config = config_of(mode, 1)
    networks = networks_of(config)
    plain = Plain(config, networks)
    at_first = {name: value.clone() for name, value in plain.discriminator.items()}
    batch = batch_of(config, step=0)
    plain.step(batch, lr_factor=1.0)
    x, y_hat, y = plain.seen
    times = [(0, time) for time in range(config.window_frames)]
    num_frames, num_layers = len(times), len(LAYERS)

    global_ = local = discriminator = generator = motion = 0.0
    for t in times:
        for layer in range(num_layers):
            source, fake = x[t].whole[layer], y_hat[t].whole[layer]
            there, back = numbers_products(source, fake), numbers_products(fake, source)
            global_ += numbers_distance(there, back) / num_frames / num_layers
            for window in range(NUM_WINDOWS):
                source, fake = x[t].windows[window][layer], y_hat[t].windows[window][layer]
                there, back = numbers_products(source, fake), numbers_products(fake, source)
                local += numbers_distance(there, back) / num_frames / num_layers / NUM_WINDOWS
        discriminator += numbers_square(at_first, y_hat[t], aim=0.0) / num_frames / 2
        discriminator += numbers_square(at_first, y[t], aim=1.0) / num_frames / 2
        generator += numbers_square(plain.discriminator, y_hat[t], aim=1.0) / num_frames
    total = 5 * global_ + 5 * local + generator
    if mode == "video":
        for layer in range(num_layers):
            there = numbers_products(x[0, 0].whole[layer], y_hat[0, 1].whole[layer])
            back = numbers_products(y_hat[0, 0].whole[layer], x[0, 1].whole[layer])
            motion += numbers_distance(there, back) / num_layers
        total += motion

    found = Trainer(config, networks, ALONE).step(batch, lr_factor=1.0).losses
    expected = {
        "structure_global": global_, "structure_local": local, "gan_discriminator": discriminator, "gan_generator": generator,
        "generator_total": total,
    }  # fmt: skip
    if mode == "video":
        expected["motion"] = motion
    assert min(expected.values()) > 1e-3
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
