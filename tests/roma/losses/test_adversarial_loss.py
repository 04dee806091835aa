import pytest
import torch

from roma.losses.adversarial import discriminator_loss, generator_loss


def test_generator_loss_is_the_mean_square_distance_from_one() -> None:
    # ((0 - 1)^2 + (3 - 1)^2) / 2
    assert generator_loss(torch.tensor([[0.0, 3.0]])).item() == 2.5


def test_discriminator_loss_halves_the_sum_of_both_sides() -> None:
    fake, real = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0], [1.0]])
    # ((1 + 4) / 2 + (1 + 0) / 2) / 2
    assert discriminator_loss(fake, real).item() == 1.5
    half = torch.full((2, 785, 4), 0.5)
    assert discriminator_loss(half, half).item() == 0.25


def test_losses_equal_slow_loops_over_the_two_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(2, 7, 4, generator=generator), torch.randn(2, 7, 4, generator=generator)
    to_generator, to_discriminator = 0.0, 0.0
    for frame in range(2):
        fakes, reals = fake[frame].flatten().tolist(), real[frame].flatten().tolist()
        to_generator += sum((logit - 1) ** 2 for logit in fakes) / 28 / 2
        to_discriminator += sum(logit**2 for logit in fakes) / 28 / 2 / 2
        to_discriminator += sum((logit - 1) ** 2 for logit in reals) / 28 / 2 / 2
    assert generator_loss(fake).item() == pytest.approx(to_generator, rel=1e-5)
    assert discriminator_loss(fake, real).item() == pytest.approx(to_discriminator, rel=1e-5)


def test_losses_are_float32_under_bfloat16_autocast() -> None:
    logits = torch.randn(1, 785, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [generator_loss(logits), discriminator_loss(logits, logits)]
    assert all(loss.dtype == torch.float32 and loss.shape == () for loss in losses)
    assert losses[0].item() == pytest.approx(generator_loss(logits.float()).item(), rel=1e-6)
