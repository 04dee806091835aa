"""How the networks of a run compute on its device: precision, order in memory, compiler."""

from typing import Any

import torch

from roma.config.schema import TrainConfig


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Compute in the run's precision inside the block."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def memory_format(device: torch.device) -> torch.memory_format:
    """Choose the order in memory of the generator's weights and frames."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def compile_options(device: torch.device) -> dict[str, Any]:
    """Give torch.compile static shapes; on CUDA it records graphs, so that a step is launched in a few calls."""
    return {"dynamic": False} | ({"mode": "reduce-overhead"} if device.type == "cuda" else {})
