"""The update of weights: gradient norms, agreement of all ranks, gradient clipping, Adam, averaged weights."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from roma.config.schema import OptimConfig
from roma.data.batches import TrainBatch
from roma.errors import TrainingError
from roma.world.world import World

PartLosses = list[tuple[TrainBatch, dict[str, Tensor]]]
"""Parts of a batch, and the losses by name that were computed on each, detached."""


def adam(networks: Sequence[nn.Module], config: OptimConfig, *, lr: float, device: torch.device) -> torch.optim.Adam:
    """Make an optimiser of all weights of the networks."""
    make = partial(torch.optim.Adam, betas=(config.beta1, config.beta2), fused=True if device.type == "cuda" else None)
    return make([parameter for network in networks for parameter in network.parameters()], lr=lr)


def agreed_norm(
    losses_by_part: PartLosses,
    networks: Sequence[nn.Module],
    world: World,
    *,
    done: str,
    stop_requested: bool = False,
) -> tuple[float, bool]:
    """Find the norm of the networks' gradients, and whether any rank wants to stop; a collective, and a wait for the device.

    Args:
        losses_by_part: What was computed so far.
        networks: Whose weights are to be updated.
        world: This process's place.
        done: What of the step has been done already, for the message.
        stop_requested: Whether this rank wants to stop.

    Raises:
        TrainingError: A loss or the norm is not finite on some rank; the same on all ranks.
    """
    gradients = [p.grad for network in networks for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    values = [value for _, losses in losses_by_part for value in losses.values()]
    *numbers, norm_value = torch.stack([*values, norm]).tolist()
    complaint = ""
    if not math.isfinite(sum(numbers) + norm_value):
        complaint = _complaint(losses_by_part, numbers, networks, world.rank)
    flags = [float(bool(complaint)), float(stop_requested)]
    if world.world_size > 1:
        flags = world.sum(torch.tensor(flags, device=world.device)).tolist()
    if flags[0]:
        # After the average over ranks all see a gradient that is not finite; the rank whose loss it was knows more.
        complaints = sorted(filter(None, world.texts(complaint)), key=lambda text: "gradient of" in text)
        raise TrainingError(
            f"{complaints[0]}; {done}, and no checkpoint holds this step; lower the learning rates, or look at these frames"
        )
    return norm_value, flags[1] > 0


def update(
    optimiser: torch.optim.Optimizer, networks: Sequence[nn.Module], *, lr: float, norm: float, clip_norm: float
) -> None:
    """Take the optimiser's step, gradients of a norm above `clip_norm` scaled down to it; 0 does not clip."""
    if clip_norm and norm > clip_norm:
        parameters = [parameter for network in networks for parameter in network.parameters()]
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, torch.tensor(norm))
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, *, decay: float, step: int) -> None:
    """Move averaged weights towards the current ones; a decay of 0 keeps no average."""
    if not decay:
        return
    # Young averages follow quickly, so that the random initial weights are soon forgotten.
    decay = min(decay, (1 + step) / (10 + step))
    for mean, now in zip(averaged.parameters(), current.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)


def mean_losses(losses_by_part: PartLosses, num_windows: int) -> dict[str, Tensor]:
    """Average each loss over all windows, from its means over parts."""
    sums: dict[str, Tensor] = {}
    for part, losses in losses_by_part:
        for name, value in losses.items():
            weighted = value * (len(part.source) / num_windows)
            sums[name] = sums[name] + weighted if name in sums else weighted
    return sums


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


def _complaint(losses_by_part: PartLosses, numbers: list[float], networks: Sequence[nn.Module], rank: int) -> str:
    """Say which of the numbers is not finite, where, and on what."""
    named = [(part, name) for part, losses in losses_by_part for name in losses]
    where = f"rank {rank}, step {losses_by_part[0][0].step}: "
    for (part, name), number in zip(named, numbers, strict=True):
        if not math.isfinite(number):
            return f"{where}{name} is {number} on {_keys([part])}"
    parts = [part for part, _ in losses_by_part]
    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                return f"{where}the gradient of {type(network).__name__}.{name} is not finite on {_keys(parts)}"
    return f"{where}the norm of the gradient of {type(networks[0]).__name__} overflows on {_keys(parts[:1])}"


def _keys(parts: Sequence[TrainBatch]) -> str:
    return ", ".join(key for part in parts for window in part.keys for key in window)
