"""One step of pretraining: paint the masked patches of pictures of both domains, compare, update; and its learning rate."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from roma.data.batches import TrainBatch
from roma.models.vit.masked_autoencoder import MaskedAutoencoder, masked_loss, painted
from roma.models.vit.vit import VisionTransformer
from roma.pretrain.config import PretrainConfig
from roma.pretrain.masked_pictures import MaskedPictures, masked_pictures
from roma.training.step import StepResult
from roma.training.update import agreed_norm, update
from roma.world.world import World


def lr_factor(step: int, *, total_steps: int, warmup_share: float) -> float:
    """Return the factor of the peak learning rate at a 0-based step: linearly up to 1, then down half a cosine, never 0."""
    num_warmup = round(total_steps * warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, total_steps - num_warmup)))


def build_autoencoder(config: PretrainConfig, device: torch.device) -> MaskedAutoencoder:
    """Build the networks of a run with their initial weights, a function of the config and its seed."""
    shape = config.vit
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = VisionTransformer(
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            width=shape.width,
            depth=shape.depth,
            num_heads=shape.num_heads,
            layers=(shape.depth - 1,),
            trainable=True,
        )
        network = MaskedAutoencoder(
            encoder,
            decoder_width=config.decoder.width,
            decoder_depth=config.decoder.depth,
            decoder_heads=config.decoder.num_heads,
        )
    return network.to(device)


class Pretrainer:
    """The state that steps change: the networks, their wrapper for several ranks, and the optimiser."""

    def __init__(self, config: PretrainConfig, network: MaskedAutoencoder, world: World) -> None:
        self.config = config
        self.network = network
        self.world = world
        decaying: list[nn.Parameter] = []
        steady: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            is_weight = parameter.ndim >= 2 and name.endswith("weight")
            (decaying if is_weight else steady).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decaying}, {"params": steady, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.peak_lr,
            betas=(config.optim.beta1, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
        )
        self._wrapped = world.wrap(network)

    def step(self, batch: TrainBatch, *, lr_factor: float, stop_requested: bool = False) -> StepResult:
        """Take one step on this rank's share of a batch; a collective over all ranks.

        Args:
            batch: At least one picture of each domain.
            lr_factor: What the peak learning rate is multiplied with.
            stop_requested: Whether this rank wants to end after this step.

        Raises:
            TrainingError: The loss or a gradient is not finite, on any rank; nothing was updated.
        """
        config = self.config
        pictures = masked_pictures(batch.source[:, 0], batch.target[:, 0], batch.target_positions, config=config)
        with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = self._wrapped(pictures.images, pictures.kept_index, pictures.masked_index)
        errors = masked_loss(
            predicted,
            pictures.images,
            pictures.masked_index,
            patch_size=config.vit.patch_size,
            normalise_pixels=config.normalise_pixels,
        )
        loss = errors.mean()
        self.optimiser.zero_grad(set_to_none=True)
        # The mean over ranks of weighted means is the mean over the whole batch, also when ranks hold unequal shares.
        torch.autograd.backward(loss * (batch.source.shape[0] * self.world.world_size / config.batch_size))
        losses = {"reconstruction": loss.detach()}
        norm, stop = agreed_norm(
            [(batch, losses)], [self.network], self.world, done="nothing was updated", stop_requested=stop_requested
        )
        update(self.optimiser, [self.network], lr=config.peak_lr * lr_factor, norm=norm, clip_norm=0.0)
        infrared, visible = errors.detach().chunk(2)
        losses |= {"reconstruction_infrared": infrared.mean(), "reconstruction_visible": visible.mean()}
        return StepResult(losses=losses, grad_norms={"autoencoder": norm}, stop=stop)

    def show(self, pictures: MaskedPictures) -> Float[Tensor, "N 3 H W"]:
        """Paint the masked patches of pictures."""
        with torch.no_grad():
            predicted = self.network(pictures.images, pictures.kept_index, pictures.masked_index)
        return painted(
            predicted,
            pictures.images,
            pictures.masked_index,
            patch_size=self.config.vit.patch_size,
            normalise_pixels=self.config.normalise_pixels,
        )
