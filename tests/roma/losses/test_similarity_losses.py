import math

import pytest
import torch

from roma.losses.similarity import cross_similarity, self_similarity, structure_loss
from roma.losses.temporal import temporal_loss


def tokens(seed: int, *, batch: int = 2, num_tokens: int = 5, width: int = 3) -> torch.Tensor:
    return torch.randn(batch, num_tokens, width, generator=torch.Generator().manual_seed(seed))


def slow_products(first: torch.Tensor, second: torch.Tensor) -> list[list[float]]:
    """first @ second.T of two frames [P, D], number by number."""
    return [[math.fsum(a * b for a, b in zip(p, q, strict=True)) for q in second.tolist()] for p in first.tolist()]


def slow_distance(first: list[list[list[float]]], second: list[list[list[float]]]) -> float:
    """d of the paper over a batch of maps: mean over rows and batch of |1 - cos|."""
    terms = []
    for one, other in zip(first, second, strict=True):
        for p, q in zip(one, other, strict=True):
            dot = math.fsum(a * b for a, b in zip(p, q, strict=True))
            lengths = math.hypot(*p) * math.hypot(*q)
            terms.append(abs(1 - dot / lengths))
    return sum(terms) / len(terms)


def slow_cross(source: torch.Tensor, fake: torch.Tensor) -> float:
    return slow_distance(
        [slow_products(s, f) for s, f in zip(source, fake, strict=True)],
        [slow_products(f, s) for s, f in zip(source, fake, strict=True)],
    )


def slow_self(source: torch.Tensor, fake: torch.Tensor) -> float:
    return slow_distance([slow_products(s, s) for s in source], [slow_products(f, f) for f in fake])


def without_mean(frames: torch.Tensor) -> torch.Tensor:
    return torch.stack([frame - sum(frame) / len(frame) for frame in frames])


def test_cross_similarity_worked_by_hand() -> None:
    source = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    fake = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # S F^T = [[1, 1], [0, 0]] and its transpose [[1, 0], [1, 0]]: cosines 1 / sqrt(2) and 0 (a zero row)
    assert cross_similarity(source, fake).mean().item() == pytest.approx((1 - 1 / math.sqrt(2) + 1) / 2)


def test_self_similarity_worked_by_hand() -> None:
    source = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    fake = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # [[1, 0], [0, 1]] against [[1, 1], [1, 1]]
    assert self_similarity(source, fake).mean().item() == pytest.approx(1 - 1 / math.sqrt(2))


def test_similarities_equal_the_slow_loops() -> None:
    source, fake = tokens(0), tokens(1)
    assert cross_similarity(source, fake).mean().item() == pytest.approx(slow_cross(source, fake), abs=1e-6)
    assert self_similarity(source, fake).mean().item() == pytest.approx(slow_self(source, fake), abs=1e-6)


def test_centring_takes_each_frames_mean_token_away() -> None:
    source, fake = tokens(0) + 7, tokens(1) - 3
    expected = slow_cross(without_mean(source), without_mean(fake))
    assert cross_similarity(source, fake, centre=True).mean().item() == pytest.approx(expected, abs=1e-5)
    expected = slow_self(without_mean(source), without_mean(fake))
    assert self_similarity(source, fake, centre=True).mean().item() == pytest.approx(expected, abs=1e-5)


def test_equal_tokens_cost_nothing() -> None:
    source = tokens(0)
    for loss in (cross_similarity(source, source).mean(), self_similarity(source, source).mean()):
        assert loss.item() == pytest.approx(0, abs=1e-6)
    assert temporal_loss([source], [tokens(1)], [source], [tokens(1)]).item() == pytest.approx(0, abs=1e-6)


def test_structure_loss_is_the_mean_over_layers_and_frames() -> None:
    """L_global / lambda = 1/2 sum over t of 1/3 sum over l, with the two frames stacked on the batch axis."""
    source, fake = [tokens(layer) for layer in range(3)], [tokens(10 + layer) for layer in range(3)]
    expected = 0.0
    for frame in range(2):
        for layer in range(3):
            expected += slow_cross(source[layer][frame, None], fake[layer][frame, None]) / 6
    assert structure_loss(source, fake).item() == pytest.approx(expected, abs=1e-6)
    expected = sum(slow_self(without_mean(s), without_mean(f)) for s, f in zip(source, fake, strict=True)) / 3
    assert structure_loss(source, fake, kind="self", centre=True).item() == pytest.approx(expected, abs=1e-5)


def test_temporal_loss_equals_the_slow_loop_and_the_reference_sums_over_layers() -> None:
    source_0, source_1, fake_0, fake_1 = ([tokens(10 * role + layer) for layer in range(3)] for role in range(4))
    terms = [
        slow_distance(
            [slow_products(s, f) for s, f in zip(source_0[layer], fake_1[layer], strict=True)],
            [slow_products(f, s) for f, s in zip(fake_0[layer], source_1[layer], strict=True)],
        )
        for layer in range(3)
    ]
    roles = (source_0, source_1, fake_0, fake_1)
    assert temporal_loss(*roles).item() == pytest.approx(sum(terms) / 3, abs=1e-6)
    assert temporal_loss(*roles, reference_temporal=True).item() == pytest.approx(sum(terms), abs=1e-5)
    shifted = [[layer + 5 for layer in role] for role in roles]
    centred = temporal_loss(*([without_mean(layer) for layer in role] for role in roles))
    assert temporal_loss(*shifted, centre=True).item() == pytest.approx(centred.item(), abs=1e-5)


def test_unequal_numbers_of_layers_are_named() -> None:
    layer = tokens(0)
    with pytest.raises(ValueError, match="equally many layers, at least one, got 2 and 1"):
        structure_loss([layer, layer], [layer])
    with pytest.raises(ValueError, match=r"equally many layers, at least one, got \[1, 1, 1, 2\]"):
        temporal_loss([layer], [layer], [layer], [layer, layer])
    with pytest.raises(ValueError, match="got 0 and 0"):
        structure_loss([], [])


def test_losses_stay_float32_and_exact_under_bfloat16_autocast() -> None:
    source, fake = tokens(0, width=64).bfloat16(), tokens(1, width=64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [
            cross_similarity(source, fake).mean(),
            self_similarity(source, fake, centre=True).mean(),
            structure_loss([source], [fake]),
            temporal_loss([source], [fake], [fake], [source]),
        ]
    exact_source, exact_fake = source.float(), fake.float()
    expected = [
        cross_similarity(exact_source, exact_fake).mean(),
        self_similarity(exact_source, exact_fake, centre=True).mean(),
        structure_loss([exact_source], [exact_fake]),
        temporal_loss([exact_source], [exact_fake], [exact_fake], [exact_source]),
    ]
    for rough, exact in zip(found, expected, strict=True):
        assert rough.dtype == torch.float32
        assert rough.shape == ()
        assert rough.item() == pytest.approx(exact.item(), abs=1e-6)


def test_gradients_reach_the_translation_and_are_finite_on_zero_tokens() -> None:
    fake = torch.zeros(1, 5, 3, requires_grad=True)
    cross_similarity(tokens(0, batch=1), fake).mean().backward()
    assert fake.grad.isfinite().all()
    fake = tokens(1).requires_grad_()
    cross_similarity(tokens(0), fake).mean().backward()
    assert fake.grad.abs().sum() > 0


def test_cross_similarity_has_the_slope_of_its_formula() -> None:
    source, fake = tokens(0), tokens(1).requires_grad_()
    cross_similarity(source, fake).mean().backward()
    step = 1e-3
    with torch.no_grad():
        for place in [(0, 0, 0), (1, 4, 2)]:
            moved = [fake.clone(), fake.clone()]
            moved[0][place] += step
            moved[1][place] -= step
            slope = (slow_cross(source, moved[0]) - slow_cross(source, moved[1])) / (2 * step)
            assert fake.grad[place].item() == pytest.approx(slope, abs=1e-4)
