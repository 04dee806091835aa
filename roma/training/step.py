"""One training step: G on all frames, their tokens, the discriminators' step on detached fakes, the generator's step.

Source: arXiv 2204.12367, with the further terms of `config.LossConfig` where their weight is above 0. Only this file owns
`backward` and `optimizer.step`; the losses are pure functions.

What is computed is the paper's; how, is not, and differs from it in rounding alone. The gradient is taken in three stretches, with
a leaf at each border: the window losses, a chunk of windows after the other, down to what all paths of the ViT begin with; the
other losses down to there and to the translations; then one pass through the generator. So the activations of one chunk are held
at a time, and the ViT's are gone before the generator's are used. Windows that came out equal, since one that would reach over the
border is shifted inside, are computed once and counted as often as they were drawn (56 of 64 on a 24x24 grid). Queries, keys and
values of the first block are computed once per token, not once per window. Where a rank's share is computed in several parts, the
discriminators see all of them, without gradients of the generator, before the generator's step begins: the same step as at once.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from roma.config.schema import TrainConfig
from roma.data.batches import TrainBatch, window_centres
from roma.data.thermal import ThermalTones, degrade
from roma.errors import TrainingError
from roma.losses import (
    anchor_loss,
    colourise_loss,
    discriminator_loss,
    edge_loss,
    generator_loss,
    luma_details,
    structure_distances,
    structure_loss,
    temporal_loss,
)
from roma.models import VisionTransformer, pool_regions, window_indices
from roma.models.vit.vit import ViTStart
from roma.training.networks import Networks, build_networks
from roma.world.world import World

__all__ = ["Networks", "StepResult", "Trainer", "build_networks", "load_optimiser"]

_CHUNK_WINDOWS = 32
"""Windows of single images whose activations are held at once on a CPU, some 300 MB of them; larger chunks are slower there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step did.

    Attributes:
        losses: Each term by name, the mean over this rank's windows, not yet multiplied by its weight; 0-dimensional float32 on the
            device, detached.
        grad_norms: Euclidean norm of all gradients of "generator" and, where it took a step, "discriminator", before clipping.
        stop: Whether any rank asked to stop; the same on all ranks.
    """

    losses: dict[str, Tensor]
    grad_norms: dict[str, float]
    stop: bool = False


class _Term(NamedTuple):
    name: str
    weight: float
    value: Tensor


class _Critic(NamedTuple):
    """A discriminator and what its judgement weighs."""

    name: str
    weight: float
    network: nn.Module
    wrapped: nn.Module
    """The same as its own step calls it, over all ranks."""


@dataclass(kw_only=True, slots=True)
class _Translated:
    """A part of the batch on its way through the step."""

    part: TrainBatch
    outputs: Tensor
    """Of the generator, with its graph."""
    leaf: Float[Tensor, "N 3 H W"]
    """The same in float32 without it; gathers the gradient of all that looks at them."""
    fake: Float[Tensor, "M 3 H W"]
    """Translations: the leaf without recoloured frames."""
    start: ViTStart | None = None
    """Of the translations, with the graph down to the leaf."""
    start_leaf: ViTStart | None = None
    """The same without it; gathers the gradient of all that looks at tokens."""
    terms: list[_Term] = field(default_factory=list)
    """Whose gradient is still to be taken."""
    taken: list[_Term] = field(default_factory=list)
    """Whose gradient is in the leaves already."""
    seen: dict[str, Tensor] = field(default_factory=dict)
    """What the discriminators look at, with gradients to the leaves."""

    @property
    def values(self) -> dict[str, Tensor]:
        """Each term so far, detached."""
        return {term.name: term.value.detach() for term in (*self.terms, *self.taken)}


_Told = list[tuple[TrainBatch, dict[str, Tensor]]]
"""Parts of the batch, and the losses that were computed on each."""


class Trainer:
    """The state that steps change: networks, their wrappers for several ranks, and optimisers.

    Args:
        config: The whole run.
        networks: From `build_networks`.
        world: This process's place.
        tones: What `roma.data.batches.learn_tones` learned, for `loss.matched_tones`.
    """

    def __init__(
        self, config: TrainConfig, networks: Networks, world: World, *, tones: ThermalTones | None = None
    ) -> None:
        self.config = config
        self.tones = tones
        self.networks = networks
        self.world = world
        on_gpu = world.device.type == "cuda"
        adam = partial(torch.optim.Adam, betas=(config.optim.beta1, config.optim.beta2), fused=True if on_gpu else None)
        self.generator_optimiser = adam(networks.generator.parameters(), lr=config.optim.generator_lr)
        judging = [parameter for network in networks.discriminators() for parameter in network.parameters()]
        self.discriminator_optimiser = adam(judging, lr=config.optim.discriminator_lr) if judging else None
        self._layout = torch.channels_last if on_gpu else torch.contiguous_format
        networks.generator.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stub lacks the option
        if config.compute.compile:
            networks.generator.compile(**_compile_options(world.device))
        self._generator = world.wrap(networks.generator)
        self._critics = [
            _Critic(name, weight, network, world.wrap(network))
            for name, weight, network in (
                ("gan", config.loss.gan, networks.region_discriminator),
                ("patch", config.loss.patch_gan, networks.patch_discriminator),
                ("detail", config.loss.detail_gan, networks.detail_discriminator),
            )
            if network is not None
        ]
        self._eye = _Eye(networks.vit, config, world.device) if networks.vit is not None else None

    def learning_rates(self, lr_factor: float) -> tuple[float, float]:
        """Step sizes of the generator's and of the discriminators' Adam at a factor of the schedule."""
        optim = self.config.optim
        factor = optim.lr_scale(self.config.batch_size) * lr_factor
        return optim.generator_lr * factor, optim.discriminator_lr * factor

    def step(self, batch: TrainBatch, *, lr_factor: float, stop_requested: bool = False) -> StepResult:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Args:
            batch: At least one window.
            lr_factor: What both learning rates are multiplied with.
            stop_requested: Whether this rank wants to end after this step.

        Raises:
            TrainingError: A loss or a gradient is not finite, on any rank. The generator was not updated, and the message says
                whether the discriminators were.
        """
        if self.config.compute.compile:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        step = batch.step
        is_warmup = step < self.config.loss.warmup_steps
        if step == self.config.loss.warmup_steps and self.networks.anchor is not None:
            self.networks.anchor.load_state_dict(self.networks.averaged.state_dict())
        generator_lr, discriminator_lr = self.learning_rates(lr_factor)
        self.generator_optimiser.zero_grad(set_to_none=True)
        parts = self._parts(batch)
        critics = [] if is_warmup else self._critics
        judged: _Told = []
        told: _Told = []
        norms: dict[str, float] = {}
        # Parts of a batch are translated twice, since the generator's terms need the discriminators as all parts have left them.
        if critics and len(parts) > 1:
            self._zero_discriminators()
            for part in parts:
                with self._unsynced(part is not parts[-1]):
                    judged.append((part, self._judge(part, self._seen_alone(part))))
            norms["discriminator"] = self._update_discriminators(judged, discriminator_lr)
        for part in parts:
            with self._unsynced(part is not parts[-1]):
                translated = self._translate(part, is_warmup=is_warmup)
                if critics and len(parts) == 1:
                    self._zero_discriminators()
                    judged.append((part, self._judge(part, translated.seen)))
                    known: _Told = [(part, translated.values), *judged]
                    norms["discriminator"] = self._update_discriminators(known, discriminator_lr)
                self._backward(translated, critics)
                told.append((part, translated.values))
        done = "the discriminators were updated, the generator was not" if critics else "nothing was updated"
        generator = self.networks.generator
        norms["generator"], stop = self._agree(told, [generator], done=done, stop_requested=stop_requested)
        self._update(self.generator_optimiser, [generator], lr=generator_lr, norm=norms["generator"])
        self._average(step)
        losses = _means([*told, *judged], len(batch.source))
        weighted = [term.weight * losses[term.name] for term in (*translated.terms, *translated.taken)]
        losses["generator_total"] = torch.stack(weighted).sum()
        return StepResult(losses=losses, grad_norms=norms, stop=stop)

    def _parts(self, batch: TrainBatch) -> list[TrainBatch]:
        """The batch in parts of `compute.micro_batch` windows."""
        size = self.config.compute.micro_batch or len(batch.source)
        ranges = [slice(start, start + size) for start in range(0, len(batch.source), size)]
        return [
            replace(
                batch,
                source=batch.source[cut],
                target=batch.target[cut],
                keys=batch.keys[cut],
                source_positions=batch.source_positions[cut],
                target_positions=batch.target_positions[cut],
            )
            for cut in ranges
        ]

    def _share(self, part: TrainBatch) -> float:
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        return len(part.source) * self.world.world_size / self.config.batch_size

    def _translate(self, part: TrainBatch, *, is_warmup: bool) -> _Translated:
        """The generator's frames and all of its terms but the adversarial ones."""
        loss = self.config.loss
        source = part.source.flatten(0, 1)
        inputs = [] if is_warmup else [source]
        if loss.colourise:
            # Neighbours show nearly the same, so one frame of each window teaches as much as all. Not under autocast: the blur in
            # bfloat16 would leave some hundred gray levels, and the ranks of equal tones would fall into bands.
            true_colours = part.target[:, 0]
            inputs.append(
                degrade(
                    true_colours,
                    part.target_positions,
                    seed=self.config.seed,
                    tones=self.tones,
                    matched_share=loss.matched_tones,
                )
            )
        with self._autocast():
            outputs: Tensor = self._generator(torch.cat(inputs).contiguous(memory_format=self._layout))
        leaf = outputs.detach().float().requires_grad_()
        fake = leaf[: 0 if is_warmup else len(source)]
        translated = _Translated(part=part, outputs=outputs, leaf=leaf, fake=fake)
        if loss.colourise:
            value = colourise_loss(leaf[len(fake) :], true_colours, edges=loss.colourise_edges)
            translated.terms.append(_Term("colourise", loss.colourise, value))
        if is_warmup:
            return translated
        top_tokens = self._compare_tokens(translated, source) if self._eye is not None else None
        if self.networks.anchor is not None:
            with torch.no_grad(), self._autocast():
                before_critics = self.networks.anchor(source)
            translated.terms.append(_Term("anchor", loss.anchor, anchor_loss(fake, before_critics)))
        if loss.edges:
            translated.terms.append(_Term("edges", loss.edges, edge_loss(fake, source)))
        translated.seen = self._seen(fake, top_tokens)
        return translated

    def _compare_tokens(self, translated: _Translated, source: Float[Tensor, "M 3 H W"]) -> Tensor | None:
        """Add the terms on tokens; returns the translations' tokens of the last layer, where a discriminator looks at them."""
        assert self._eye is not None
        loss, eye = self.config.loss, self._eye
        with torch.no_grad():
            source_start = eye.start(source)
        start = eye.start(translated.fake)
        leaf = ViTStart(hidden=start.hidden.detach().requires_grad_(), packed=start.packed.detach().requires_grad_())
        translated.start, translated.start_leaf = start, leaf
        if loss.local_structure:
            value = self._compare_windows(translated.part, source_start, leaf)
            translated.taken.append(_Term("structure_local", loss.local_structure, value))
        has_motion = self.config.has_motion
        if not (loss.global_structure or has_motion or loss.gan):
            return None
        of_fake = eye.tokens(leaf)
        with torch.no_grad():
            of_source = eye.tokens(source_start) if loss.global_structure or has_motion else ()
        if loss.global_structure:
            value = structure_loss(of_source, of_fake, kind=loss.similarity, centre=loss.centre_tokens)
            translated.terms.append(_Term("structure_global", loss.global_structure, value))
        if has_motion:
            value = temporal_loss(
                *_by_time(of_source),
                *_by_time(of_fake),
                centre=loss.centre_tokens,
                reference_temporal=loss.reference_temporal,
            )
            # The authors' code never applies lambda_motion.
            translated.terms.append(_Term("motion", 1.0 if loss.reference_temporal else loss.motion, value))
        return of_fake[-1]

    def _compare_windows(self, part: TrainBatch, source: ViTStart, fake: ViTStart) -> Tensor:
        """The structure loss on windows, its gradient already taken down to `fake`, chunk by chunk."""
        assert self._eye is not None
        loss, eye = self.config.loss, self._eye
        index, counts = eye.windows(part.step)
        num_images, num_drawn = len(fake.hidden), counts.sum()
        chunk = eye.chunk_windows(num_images)
        total = torch.zeros((), device=index.device)
        for rows, count in zip(torch.split(index, chunk), torch.split(counts, chunk), strict=True):
            with torch.no_grad():
                of_source = eye.window_tokens(source, rows)
            of_fake = eye.window_tokens(fake, rows)
            distances = structure_distances(of_source, of_fake, kind=loss.similarity, centre=loss.centre_tokens)
            means = distances.reshape(len(rows), num_images).mean(dim=1)
            value = (means * count).sum() / num_drawn
            torch.autograd.backward(value * (loss.local_structure * self._share(part)))
            total += value.detach()
        return total

    def _seen(self, frames: Float[Tensor, "M 3 H W"], top_tokens: Tensor | None) -> dict[str, Tensor]:
        """What each discriminator looks at in frames, by its name."""
        loss = self.config.loss
        seen: dict[str, Tensor] = {}
        if loss.gan:
            assert self._eye is not None
            assert top_tokens is not None
            seen["gan"] = pool_regions(
                top_tokens, grid=self._eye.grid, sizes=loss.region_sizes, reference_pooling=loss.reference_pooling
            )
        if loss.patch_gan:
            seen["patch"] = frames
        if loss.detail_gan:
            seen["detail"] = luma_details(frames)
        return seen

    def _seen_without_gradient(self, frames: Float[Tensor, "M 3 H W"]) -> dict[str, Tensor]:
        with torch.no_grad():
            top = (
                self._eye.tokens(self._eye.start(frames))[-1]
                if self._eye is not None and self.config.loss.gan
                else None
            )
            return self._seen(frames, top)

    def _seen_alone(self, part: TrainBatch) -> dict[str, Tensor]:
        """What the discriminators look at in a part's translations, without any graph."""
        with torch.no_grad(), self._autocast():
            source = part.source.flatten(0, 1).contiguous(memory_format=self._layout)
            fake: Tensor = self.networks.generator(source)
        return self._seen_without_gradient(fake.float())

    def _zero_discriminators(self) -> None:
        if self.discriminator_optimiser is not None:
            self.discriminator_optimiser.zero_grad(set_to_none=True)

    def _judge(self, part: TrainBatch, fake: dict[str, Tensor]) -> dict[str, Tensor]:
        """Let the discriminators tell detached fakes from real frames, each in one pass over both, and take the gradient."""
        real = self._seen_without_gradient(part.target.flatten(0, 1))
        values: dict[str, Tensor] = {}
        for critic in self._critics:
            with self._autocast():
                logits = critic.wrapped(torch.cat([fake[critic.name].detach(), real[critic.name]]))
            count = len(fake[critic.name])
            values[f"{critic.name}_discriminator"] = discriminator_loss(logits[:count], logits[count:])
        torch.autograd.backward(torch.stack(list(values.values())).sum() * self._share(part))
        return {name: value.detach() for name, value in values.items()}

    def _update_discriminators(self, told: _Told, lr: float) -> float:
        """Take their step, if all is finite on all ranks; returns the gradients' norm."""
        assert self.discriminator_optimiser is not None
        networks = [critic.network for critic in self._critics]
        norm, _ = self._agree(told, networks, done="nothing was updated")
        self._update(self.discriminator_optimiser, networks, lr=lr, norm=norm)
        return norm

    def _backward(self, translated: _Translated, critics: Sequence[_Critic]) -> None:
        """Add the adversarial terms, and take the gradient down to the generator's weights."""
        with _frozen([critic.network for critic in critics]):
            for critic in critics:
                with self._autocast():
                    logits = critic.network(translated.seen[critic.name])
                translated.terms.append(_Term(f"{critic.name}_generator", critic.weight, generator_loss(logits)))
            if translated.terms:
                total = torch.stack([weight * value for _, weight, value in translated.terms]).sum()
                torch.autograd.backward(total * self._share(translated.part))
        translated.seen.clear()
        if translated.start is not None and translated.start_leaf is not None:
            ends = (translated.start.hidden, translated.start.packed)
            gradients = (translated.start_leaf.hidden.grad, translated.start_leaf.packed.grad)
            reached = [(end, gradient) for end, gradient in zip(ends, gradients, strict=True) if gradient is not None]
            torch.autograd.backward([end for end, _ in reached], [gradient for _, gradient in reached])
            translated.start = translated.start_leaf = None
        gradient = translated.leaf.grad
        assert gradient is not None
        torch.autograd.backward(translated.outputs, gradient.to(translated.outputs.dtype))

    def _agree(
        self, told: _Told, networks: Sequence[nn.Module], *, done: str, stop_requested: bool = False
    ) -> tuple[float, bool]:
        """The norm of the networks' gradients, and whether any rank wants to stop; a collective, and a wait for the device.

        Raises:
            TrainingError: A loss or the norm is not finite on some rank; the same on all ranks.
        """
        gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = [value for _, losses in told for value in losses.values()]
        *numbers, norm_value = torch.stack([*values, norm]).tolist()
        complaint = ""
        if not math.isfinite(sum(numbers) + norm_value):
            complaint = self._complaint(told, numbers, networks)
        verdict = [float(bool(complaint)), float(stop_requested)]
        if self.world.world_size > 1:
            verdict = self.world.sum(torch.tensor(verdict, device=self.world.device)).tolist()
        if verdict[0]:
            # After the average over ranks all see a gradient that is not finite; the rank whose loss it was knows more.
            complaints = sorted(filter(None, self.world.texts(complaint)), key=lambda text: "gradient of" in text)
            raise TrainingError(
                f"{complaints[0]}; {done}, and no checkpoint holds this step; lower the learning rates, or look at these frames"
            )
        return norm_value, verdict[1] > 0

    def _complaint(self, told: _Told, numbers: list[float], networks: Sequence[nn.Module]) -> str:
        """Which of the numbers is not finite, where, and on what."""
        named = [(part, name) for part, losses in told for name in losses]
        where = f"rank {self.world.rank}, step {told[0][0].step}: "
        for (part, name), number in zip(named, numbers, strict=True):
            if not math.isfinite(number):
                return f"{where}{name} is {number} on {_keys([part])}"
        for network in networks:
            for name, parameter in network.named_parameters():
                if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                    of = f"{type(network).__name__}.{name}"
                    return f"{where}the gradient of {of} is not finite on {_keys([part for part, _ in told])}"
        return f"{where}the norm of the gradient of {type(networks[0]).__name__} overflows on {_keys([told[0][0]])}"

    def _update(
        self, optimiser: torch.optim.Optimizer, networks: Sequence[nn.Module], *, lr: float, norm: float
    ) -> None:
        clip_norm = self.config.optim.clip_norm
        if clip_norm and norm > clip_norm:
            parameters = [parameter for network in networks for parameter in network.parameters()]
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, torch.tensor(norm))
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()

    def _average(self, step: int) -> None:
        decay = self.config.optim.ema_decay
        if not decay:
            return
        # Young averages follow quickly, so that the random initial weights are soon forgotten.
        decay = min(decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(
                self.networks.averaged.parameters(), self.networks.generator.parameters(), strict=True
            ):
                averaged.lerp_(current, 1 - decay)

    def _autocast(self) -> torch.autocast:
        return _autocast(self.config, self.world.device)

    @contextmanager
    def _unsynced(self, wanted: bool) -> Iterator[None]:
        """Let gradients gather on each rank alone: all but the last part of a batch need no exchange."""
        with ExitStack() as stack:
            for module in (self._generator, *(critic.wrapped for critic in self._critics)):
                if wanted and isinstance(module, nn.parallel.DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's optimiser as this device computes: its kernel, and moments that lie in memory as the weights do.

    torch takes both from the checkpoint instead, and a fused kernel goes through weights and moments in the order of their memory:
    of a run on a GPU, whose weights are channels-last, each weight on a CPU would get another one's moments.

    Raises:
        ValueError: The state is of other parameters.
    """
    here = optimiser.param_groups
    how = ("fused", "foreach", "capturable", "differentiable")
    groups = [
        saved | {name: group[name] for name in how if name in group}
        for saved, group in zip(state["param_groups"], here, strict=True)
    ]
    optimiser.load_state_dict(state | {"param_groups": groups})
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)


class _Eye:
    """The frozen ViT as steps use it: its matrices in the precision of the run, compiled if that is asked for."""

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
        compiled = partial(torch.compile, **_compile_options(device)) if config.compute.compile else None
        self._start = compiled(vit.start) if compiled else vit.start
        self._tokens = compiled(vit.global_tokens) if compiled else vit.global_tokens
        self._window_tokens = compiled(vit.window_tokens) if compiled else vit.window_tokens

    def start(self, frames: Float[Tensor, "M 3 H W"]) -> ViTStart:
        with _autocast(self._config, self._device):
            return self._start(frames)

    def tokens(self, start: ViTStart) -> tuple[Tensor, ...]:
        with _autocast(self._config, self._device):
            return self._tokens(start)

    def window_tokens(self, start: ViTStart, index: Int64[Tensor, "K A"]) -> tuple[Tensor, ...]:
        with _autocast(self._config, self._device):
            return self._window_tokens(start, index)

    def windows(self, step: int) -> tuple[Int64[Tensor, "K A"], Float[Tensor, " K"]]:
        """The step's windows, and how often each was drawn."""
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

    def chunk_windows(self, num_images: int) -> int:
        """Windows whose activations are held at once, for so many images."""
        chosen = self._config.compute.window_chunk
        if chosen is None:
            chosen = max(1, _CHUNK_WINDOWS // num_images) if self._device.type == "cpu" else 0
        return chosen or self._config.loss.num_windows


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def _compile_options(device: torch.device) -> dict[str, Any]:
    """Static shapes; on CUDA the compiler records graphs, so that a step is launched in a few calls."""
    return {"dynamic": False} | ({"mode": "reduce-overhead"} if device.type == "cuda" else {})


def _by_time(layers: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens [B*2, P, D] of pairs -> those of the earlier and of the later frames, [B, P, D] each."""
    return [tokens[0::2] for tokens in layers], [tokens[1::2] for tokens in layers]


def _keys(parts: Sequence[TrainBatch]) -> str:
    return ", ".join(key for part in parts for window in part.keys for key in window)


def _means(told: _Told, num_windows: int) -> dict[str, Tensor]:
    """Each loss as the mean over all windows, from its means over parts."""
    sums: dict[str, Tensor] = {}
    for part, losses in told:
        for name, value in losses.items():
            weighted = value * (len(part.source) / num_windows)
            sums[name] = sums[name] + weighted if name in sums else weighted
    return sums


@contextmanager
def _frozen(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let gradients pass through the networks without stopping in their weights."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)
