import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from roma.config.schema import TrainConfig
from roma.data import batches
from roma.data.batches import Domains
from roma.errors import ConfigError
from roma.losses.edges import edge_loss
from roma.losses.similarity import structure_loss
from roma.models.vit.vit import VisionTransformer
from roma.training.networks import build_networks
from roma.training.validate import HeldOut, check_best_by, polynomial_mmd
from tests.roma.conftest import write_shards

CPU = torch.device("cpu")


@pytest.fixture
def opened(config: TrainConfig) -> Iterator[Domains]:
    domains = batches.open_domains(config)
    yield domains
    domains.close()


def vit_of(config: TrainConfig) -> VisionTransformer:
    vit = build_networks(config, CPU).vit
    assert vit is not None
    return vit


def as_it_is(frames: Tensor) -> Tensor:
    return frames


def test_the_distance_equals_sums_over_pairs_written_out():
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(5, 4)), draw.normal(size=(7, 4)) + 0.5

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return (sum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / 4 + 1) ** 3

    within_x = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    within_y = sum(kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    across = sum(kernel(a, b) for a in x for b in y) / (5 * 7)
    found = polynomial_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(within_x + within_y - 2 * across, rel=1e-12)


def test_the_distance_of_two_points_is_what_a_hand_makes_of_it():
    # Features of one number: k(1, 1) = 8, k(0, .) = 1. Within (1, 1): 8; within (0, 0): 1; across: 1. 8 + 1 - 2 * 1 = 7.
    ones, zeros = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    assert polynomial_mmd(ones, zeros) == pytest.approx(7)


def test_the_distance_is_0_on_average_between_halves_of_one_cloud_and_not_between_two():
    draw = torch.Generator().manual_seed(1)
    clouds = torch.randn(400, 2, 50, 8, generator=draw, dtype=torch.float64)
    alike = [polynomial_mmd(first, second) for first, second in clouds]
    assert min(alike) < 0 < max(alike)  # unbiased, so it falls on both sides
    assert abs(np.mean(alike)) < 0.02
    assert polynomial_mmd(clouds[0, 0], clouds[0, 1] + 1) > 0.5


def test_numbers_are_those_of_the_losses_on_the_fixed_frames(config: TrainConfig, opened: Domains):
    vit = vit_of(config)
    held_out = HeldOut(config, opened, vit, CPU)

    def darker(frames: Tensor) -> Tensor:
        return frames.flip(-1) * 0.5

    numbers = held_out.measure(darker)
    rows = [int(row) for row in np.linspace(0, 19, 16)]
    frames = batches.to_unit_range(opened.at_side(32).infrared.read_rows(rows)).expand(-1, 3, -1, -1)
    assert list(numbers) == ["held_out_edges", "held_out_structure", "held_out_distance"]
    assert numbers["held_out_edges"] == pytest.approx(float(edge_loss(darker(frames), frames)), rel=1e-5)
    expected = structure_loss(vit.tokens(frames), vit.tokens(darker(frames)), kind="self", centre=True)
    assert numbers["held_out_structure"] == pytest.approx(float(expected), rel=1e-4)


def test_a_translator_that_gives_day_frames_is_nearer_than_one_that_gives_night(config: TrainConfig, opened: Domains):
    for vit in (None, vit_of(config)):
        held_out = HeldOut(config, opened, vit, CPU)
        day = batches.to_unit_range(opened.at_side(32).visible.read_rows(list(range(13))))
        given: list[Tensor] = []

        def perfect(frames: Tensor, given: list[Tensor] = given, day: Tensor = day) -> Tensor:
            given.append(frames)
            first = 4 * (len(given) - 1)
            return day[[(first + number) % 13 for number in range(len(frames))]]

        good = held_out.measure(perfect)["held_out_distance"]
        assert good < 0.2 * held_out.measure(as_it_is)["held_out_distance"]


def test_a_run_without_a_vit_has_no_structure_and_refuses_to_choose_by_it(config: TrainConfig, opened: Domains):
    numbers = HeldOut(config, opened, None, CPU).measure(as_it_is)
    assert list(numbers) == ["held_out_edges", "held_out_distance"]
    assert numbers["held_out_edges"] == pytest.approx(0, abs=1e-5)
    loss = dataclasses.replace(config.loss, global_structure=0.0, local_structure=0.0, motion=0.0)
    output = dataclasses.replace(config.output, best_by="held_out_structure")
    check_best_by(dataclasses.replace(config, output=output))  # this one has a ViT
    with pytest.raises(ConfigError, match="'held_out_structure'; this run has held_out_edges, held_out_distance"):
        check_best_by(dataclasses.replace(config, loss=loss, output=output))


def test_held_out_frames_are_those_that_were_named(config: TrainConfig, opened: Domains, tmp_path: Path):
    write_shards(tmp_path / "held", "dusk", num_frames=40, channels=1, seed=9)
    named = dataclasses.replace(config.data, held_out=(f"{tmp_path}/held/*.tar",))
    held_out = HeldOut(dataclasses.replace(config, data=named), opened, None, CPU)
    assert held_out.is_held_out
    shown = held_out.show(as_it_is)
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, infrared=named.held_out))
    reader = batches.open_domains(alone)
    # 16 of 40 frames, then 4 of these: numbers 0, 5, 10, 15 of 0, 2, 5, 7, 10, 13, ...
    frames = reader.at_side(32).infrared.read_rows([0, 13, 26, 39]).expand(-1, 3, -1, -1)
    reader.close()
    assert torch.equal(shown.infrared, frames)
    assert torch.equal(shown.translated, frames)
    assert torch.equal(shown.day, opened.at_side(32).visible.read_rows([0, 4, 8, 12]))
    assert not HeldOut(config, opened, None, CPU).is_held_out


def test_looking_draws_nothing_from_the_shared_generators_and_keeps_no_graph(config: TrainConfig, opened: Domains):
    networks = build_networks(config, CPU)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    held_out = HeldOut(config, opened, networks.vit, CPU)
    first = held_out.measure(networks.generator)
    assert held_out.measure(networks.generator) == first
    held_out.show(networks.generator)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # type: ignore[index,union-attr]
    assert all(parameter.grad is None for parameter in networks.generator.parameters())
