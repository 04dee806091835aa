import dataclasses
import io
import math

import pytest
import torch

from roma.config.overlay import resolve
from roma.config.presets import preset
from roma.config.schema import TrainConfig
from roma.data import batches
from roma.data.thermal import degrade
from roma.errors import ConfigError, TrainingError, WeightsError
from roma.losses.similarity import structure_loss
from roma.losses.temporal import temporal_loss
from roma.models.critics.region import pool_regions
from roma.models.vit.vit import window_indices
from roma.training.networks import build_networks
from roma.training.step import Trainer
from roma.training.update import load_optimiser
from roma.world.world import World

CPU = torch.device("cpu")
ALONE = World(rank=0, world_size=1, device=CPU)


def batch_of(config: TrainConfig, *, step: int, seed: int = 0) -> batches.TrainBatch:
    draw = torch.Generator().manual_seed(seed)
    side, frames = config.data.crop_size_px, config.window_frames
    shape = (config.batch_size, frames, 3, side, side)
    source = torch.rand(shape, generator=draw)[:, :, :1].expand(-1, -1, 3, -1, -1) * 2 - 1
    return batches.TrainBatch(
        step=step,
        source=source,
        target=torch.rand(shape, generator=draw) * 2 - 1,
        keys=tuple(("a_00000000", "a_00000001")[:frames] for _ in range(config.batch_size)),
        source_positions=tuple(range(config.batch_size)),
        target_positions=tuple(range(config.batch_size)),
    )


def published(config: TrainConfig, *, mode: str = "video", **loss: object) -> TrainConfig:
    """The paper's losses on the small networks."""
    small = dataclasses.replace(
        preset("roma").loss,
        window=3,
        num_windows=4,
        region_sizes=(2,),
        **loss,  # type: ignore[arg-type]
    )
    return dataclasses.replace(config, loss=small, mode=mode, optim=dataclasses.replace(config.optim, ema_decay=0.0))


def test_published_step_takes_the_four_losses_of_the_paper(config: TrainConfig):
    result = Trainer(published(config), build_networks(published(config), CPU), ALONE).step(
        batch_of(config, step=0), lr_factor=1.0
    )
    assert set(result.losses) == {
        "structure_global", "structure_local", "motion", "gan_generator", "gan_discriminator", "generator_total",
    }  # fmt: skip


def test_published_total_is_the_weighted_sum_computed_by_hand(config: TrainConfig):
    config = published(config)
    networks = build_networks(config, CPU)
    batch = batch_of(config, step=5)
    assert networks.vit is not None
    with torch.no_grad():
        x0, x1 = batch.source[:, 0], batch.source[:, 1]
        y0, y1 = networks.generator(x0), networks.generator(x1)
        centres = batches.window_centres(5, seed=config.seed, num_windows=4, num_patches=16)
        windows = window_indices(centres, grid=(4, 4), window=3)
        of = {name: networks.vit.encode(image, windows) for name, image in zip("abcd", (x0, x1, y0, y1), strict=True)}
        global_ = sum(structure_loss(of[s].global_tokens, of[f].global_tokens) for s, f in ("ac", "bd")) / 2
        local = sum(structure_loss(of[s].window_tokens, of[f].window_tokens) for s, f in ("ac", "bd")) / 2
        motion = temporal_loss(*(of[name].global_tokens for name in "abcd"))
    result = Trainer(config, networks, ALONE).step(batch, lr_factor=1.0)
    assert float(result.losses["structure_global"]) == pytest.approx(float(global_), rel=1e-5)
    assert float(result.losses["structure_local"]) == pytest.approx(float(local), rel=1e-5)
    assert float(result.losses["motion"]) == pytest.approx(float(motion), rel=1e-5)
    # The generator is judged by the discriminator after that one's step.
    with torch.no_grad():
        regions = [pool_regions(of[name].global_tokens[-1], grid=(4, 4), sizes=(2,)) for name in "cd"]
        judged = [(networks.discriminators["region_discriminator"](region) - 1).square().mean() for region in regions]
    gan = (judged[0] + judged[1]) / 2
    assert float(result.losses["gan_generator"]) == pytest.approx(float(gan), rel=1e-5)
    total = 5 * global_ + 5 * local + motion + gan
    assert float(result.losses["generator_total"]) == pytest.approx(float(total), rel=1e-5)


def test_image_mode_has_no_temporal_term(config: TrainConfig):
    config = published(config, mode="image")
    result = Trainer(config, build_networks(config, CPU), ALONE).step(batch_of(config, step=0), lr_factor=1.0)
    assert "motion" not in result.losses
    assert all(math.isfinite(float(value)) for value in result.losses.values())


def test_reference_temporal_ignores_its_weight_and_sums_over_layers(config: TrainConfig):
    totals = {}
    for reference in (False, True):
        chosen = published(
            config, reference_temporal=reference, motion=0.5, global_structure=0.0, local_structure=0.0, gan=0.0
        )
        result = Trainer(chosen, build_networks(chosen, CPU), ALONE).step(batch_of(config, step=0), lr_factor=1.0)
        totals[reference] = float(result.losses["generator_total"])
    assert totals[True] == pytest.approx(totals[False] * 2 * len(config.vit.layers), rel=1e-5)


def test_warm_up_trains_the_generator_only_on_the_visible_domain(config: TrainConfig):
    networks = build_networks(config, CPU)
    before = {
        name: value.clone() for name, value in networks.discriminators["patch_discriminator"].state_dict().items()
    }
    trainer = Trainer(config, networks, ALONE)
    one = batch_of(config, step=0, seed=1)
    other_source = dataclasses.replace(one, source=-one.source)
    weights = [value.clone() for value in networks.generator.parameters()]
    result = trainer.step(one, lr_factor=1.0)
    assert set(result.losses) == {"colourise", "generator_total"}
    assert all(
        torch.equal(value, before[name])
        for name, value in networks.discriminators["patch_discriminator"].state_dict().items()
    )
    assert any(not torch.equal(a, b) for a, b in zip(weights, networks.generator.parameters(), strict=True))
    fresh = Trainer(config, build_networks(config, CPU), ALONE)
    assert float(fresh.step(other_source, lr_factor=1.0).losses["colourise"]) == float(result.losses["colourise"])


def test_in_bfloat16_the_frames_to_colour_are_those_of_float32(config: TrainConfig):
    config = dataclasses.replace(config, precision="bf16", data=dataclasses.replace(config.data, crop_size_px=32))
    networks = build_networks(config, CPU)
    inputs: list[torch.Tensor] = []
    networks.generator.register_forward_pre_hook(lambda _module, given: inputs.append(given[0].clone()))
    batch = batch_of(config, step=0)
    Trainer(config, networks, ALONE).step(batch, lr_factor=1.0)
    expected = degrade(batch.target[:, 0], batch.target_positions, seed=config.seed, matched_share=1.0)
    assert inputs[0].dtype == torch.float32
    torch.testing.assert_close(inputs[0], expected)
    assert len(inputs[0][0, 0].unique()) > 900  # of 1,024 pixels; bfloat16 has some hundred levels


def test_image_mode_without_losses_on_tokens_needs_no_vit(domains: tuple[str, str]):
    off = ["loss.global_structure=0", "loss.local_structure=0", "loss.gan=0", "loss.patch_gan=1", "generator.width=4"]
    config = resolve("roma", mode="image", config_file=None, settings=[*off, "data.crop_size_px=32"])
    assert config.loss.motion == 1
    networks = build_networks(config, CPU)
    assert networks.vit is None
    result = Trainer(config, networks, ALONE).step(batch_of(config, step=0), lr_factor=1.0)
    assert set(result.losses) == {"patch_generator", "patch_discriminator", "generator_total"}
    with pytest.raises(
        WeightsError, match=r"vit\.weights is not set"
    ):  # the temporal term of video mode looks at tokens
        build_networks(dataclasses.replace(config, mode="video"), CPU)


def test_a_weight_file_that_is_not_there_is_an_error_though_no_loss_looks_at_it(config: TrainConfig):
    loss = dataclasses.replace(config.loss, global_structure=0.0, local_structure=0.0, motion=0.0)
    blind = dataclasses.replace(config, loss=loss, vit=dataclasses.replace(config.vit, weights="/no/such/file"))
    assert not blind.needs_vit
    with pytest.raises(WeightsError, match=r"vit\.weights: /no/such/file: no such file or folder; expected a path"):
        build_networks(blind, CPU)


def test_networks_larger_than_memory_are_one_line(config: TrainConfig):
    huge = dataclasses.replace(config, generator=dataclasses.replace(config.generator, width=2**31))
    with pytest.raises(ConfigError, match=r"the networks cannot be built \(.*\); lower generator\.width"):
        build_networks(huge, CPU)


def trainer_as_on_a_gpu(config: TrainConfig) -> Trainer:
    """Channels-last weights and a fused Adam, of which torch has a kernel for the CPU too."""
    trainer = Trainer(config, build_networks(config, CPU), ALONE)
    trainer.networks.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = trainer.networks.generator.parameters()
    trainer.generator_optimiser = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999), fused=True)
    return trainer


@pytest.mark.parametrize("from_gpu", [True, False])
def test_a_checkpoint_goes_on_with_the_right_moments_on_another_kind_of_device(config: TrainConfig, from_gpu: bool):
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema_decay=0.0))

    def plain(config: TrainConfig) -> Trainer:
        return Trainer(config, build_networks(config, CPU), ALONE)

    make_first, make_second = (trainer_as_on_a_gpu, plain) if from_gpu else (plain, trainer_as_on_a_gpu)
    first = make_first(config)
    for step in range(2):
        first.step(batch_of(config, step=step, seed=step), lr_factor=1.0)
    file = io.BytesIO()
    torch.save((first.networks.generator.state_dict(), first.generator_optimiser.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second = make_second(config)
    second.networks.generator.load_state_dict(weights)
    load_optimiser(second.generator_optimiser, state)
    assert second.generator_optimiser.param_groups[0]["fused"] == (None if from_gpu else True)
    for parameter, moments in second.generator_optimiser.state.items():
        assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
    before = [value.detach().clone() for value in first.networks.generator.parameters()]
    draw = torch.Generator().manual_seed(5)
    gradients = [torch.randn(value.shape, generator=draw) * 1e-3 for value in before]
    for trainer in (first, second):
        for parameter, gradient in zip(trainer.networks.generator.parameters(), gradients, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        trainer.generator_optimiser.step()
    pairs = zip(before, first.networks.generator.parameters(), second.networks.generator.parameters(), strict=True)
    for old, one, other in pairs:
        assert (one - other).norm() <= 1e-4 * (one - old).norm()


def test_each_critic_has_its_terms_after_the_warm_up(config: TrainConfig):
    result = Trainer(config, build_networks(config, CPU), ALONE).step(batch_of(config, step=2), lr_factor=1.0)
    critics = {f"{name}_{side}" for name in ("patch", "detail") for side in ("generator", "discriminator")}
    others = {"colourise", "edges", "anchor", "structure_global", "structure_local", "motion", "generator_total"}
    assert set(result.losses) == critics | others


def test_the_anchor_is_the_averaged_generator_at_the_end_of_the_warm_up_and_stays(config: TrainConfig):
    networks = build_networks(config, CPU)
    trainer = Trainer(config, networks, ALONE)
    assert networks.anchor is not None
    for step in range(2):
        trainer.step(batch_of(config, step=step), lr_factor=1.0)
    averaged = [value.clone() for value in networks.averaged.parameters()]
    first = trainer.step(batch_of(config, step=2), lr_factor=1.0)
    assert first.losses["anchor"] > 0  # the generator is not its own average
    trainer.step(batch_of(config, step=3), lr_factor=1.0)
    assert all(torch.equal(a, b) for a, b in zip(averaged, networks.anchor.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(averaged, networks.averaged.parameters(), strict=True))


def test_after_the_warm_up_both_sides_train_and_the_vit_stays_as_it_is(config: TrainConfig):
    networks = build_networks(config, CPU)
    assert networks.vit is not None
    frozen = {name: value.clone() for name, value in networks.vit.state_dict().items()}
    before = {name: [p.clone() for p in network.parameters()] for name, network in networks.trained().items()}
    result = Trainer(config, networks, ALONE).step(batch_of(config, step=2), lr_factor=1.0)
    assert set(result.grad_norms) == {"generator", "discriminator"}
    assert min(result.grad_norms.values()) > 0
    for name, network in networks.trained().items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)]
        assert any(moved) == (name != "anchor"), name
        assert all(parameter.requires_grad for parameter in network.parameters()) == (
            name not in ("averaged", "anchor")
        )
    assert all(torch.equal(value, frozen[name]) for name, value in networks.vit.state_dict().items())


def test_average_follows_the_generator_as_its_decay_says(config: TrainConfig):
    networks = build_networks(config, CPU)
    start = [value.clone() for value in networks.averaged.parameters()]
    Trainer(config, networks, ALONE).step(batch_of(config, step=2), lr_factor=1.0)
    decay = (1 + 2) / (10 + 2)  # young averages follow faster than 0.99
    for averaged, before, now in zip(
        networks.averaged.parameters(), start, networks.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(averaged, decay * before + (1 - decay) * now)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_step_term_and_frames(config: TrainConfig):
    networks = build_networks(config, CPU)
    trainer = Trainer(config, networks, ALONE)
    judged = [value.clone() for network in networks.discriminators.values() for value in network.parameters()]
    batch = batch_of(config, step=2)
    batch = dataclasses.replace(batch, source=torch.full_like(batch.source, math.nan))
    weights = [value.clone() for value in networks.generator.parameters()]
    with pytest.raises(
        TrainingError,
        match=r"rank 0, step 2: structure_global is nan on a_00000000, a_00000001.*nothing was updated",
    ):
        trainer.step(batch, lr_factor=1.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, networks.generator.parameters(), strict=True))
    now = [value for network in networks.discriminators.values() for value in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(judged, now, strict=True))


def test_a_discriminator_that_runs_away_differs_from_a_step_that_changed_nothing(config: TrainConfig):
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, discriminator_lr=1e30))
    networks = build_networks(config, CPU)
    weights = [value.clone() for value in networks.generator.parameters()]
    with pytest.raises(
        TrainingError, match=r"patch_generator is .*; the discriminators were updated, the generator was not"
    ):
        Trainer(config, networks, ALONE).step(batch_of(config, step=2), lr_factor=1.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, networks.generator.parameters(), strict=True))


def test_learning_rate_follows_the_factor(config: TrainConfig):
    trainer = Trainer(config, build_networks(config, CPU), ALONE)
    weights = [value.clone() for value in trainer.networks.generator.parameters()]
    trainer.step(batch_of(config, step=2), lr_factor=0.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.networks.generator.parameters(), strict=True))


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(config: TrainConfig):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = build_networks(config, CPU).generator.state_dict()
    assert torch.equal(torch.rand(3), expected)
    again = build_networks(config, CPU).generator.state_dict()
    other = build_networks(dataclasses.replace(config, seed=1), CPU).generator.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_preset_roma_without_weights_says_what_to_do():
    with pytest.raises(WeightsError, match=r"vit\.weights is not set; name a weight file .* use --preset tiny"):
        build_networks(resolve("roma", mode=None, config_file=None, settings=["generator.width=2"]), CPU)


def test_bf16_keeps_losses_in_float32_and_close(config: TrainConfig):
    values = {}
    for precision in ("fp32", "bf16"):
        chosen = dataclasses.replace(published(config), precision=precision)
        result = Trainer(chosen, build_networks(chosen, CPU), ALONE).step(batch_of(config, step=0), lr_factor=1.0)
        assert all(value.dtype == torch.float32 for value in result.losses.values())
        values[precision] = float(result.losses["generator_total"])
    assert values["bf16"] == pytest.approx(values["fp32"], rel=0.05)


def test_bf16_gradients_point_where_those_of_float32_do(config: TrainConfig):
    flat = {}
    for precision in ("fp32", "bf16"):
        chosen = dataclasses.replace(published(config), precision=precision)
        networks = build_networks(chosen, CPU)
        Trainer(chosen, networks, ALONE).step(batch_of(config, step=0), lr_factor=1.0)
        flat[precision] = torch.cat([p.grad.flatten() for p in networks.generator.parameters() if p.grad is not None])
    assert torch.nn.functional.cosine_similarity(flat["fp32"], flat["bf16"], dim=0) > 0.98


def test_a_gradient_that_is_not_finite_stops_before_the_update_and_names_the_weight(config: TrainConfig):
    networks = build_networks(config, CPU)
    trainer = Trainer(config, networks, ALONE)
    name, parameter = next(iter(networks.generator.named_parameters()))
    parameter.register_hook(lambda gradient: gradient * math.inf)
    weights = [value.clone() for value in networks.generator.parameters()]
    with pytest.raises(
        TrainingError,
        match=rf"rank 0, step 0: the gradient of UNetGenerator\.{name} is not finite on a_00000000, .*; nothing was updated",
    ):
        trainer.step(batch_of(config, step=0), lr_factor=1.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, networks.generator.parameters(), strict=True))


def test_windows_that_come_out_equal_at_the_border_are_computed_once(config: TrainConfig):
    config = published(config)  # 4 of 16 centres; a window of 3x3 on a 4x4 grid has but 4 places
    networks = build_networks(config, CPU)
    assert networks.vit is not None
    rows: list[int] = []
    networks.vit.blocks[0].register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    trainer = Trainer(config, networks, ALONE)
    numbers = []
    for step in range(6):
        rows.clear()
        trainer.step(batch_of(config, step=step), lr_factor=1.0)
        centres = batches.window_centres(step, seed=config.seed, num_windows=4, num_patches=16)
        distinct = len(set(map(tuple, window_indices(centres, grid=(4, 4), window=3).tolist())))
        numbers.append(distinct)
        # Frames of two windows: translated, infrared and real as a whole, then source and translation of each distinct place.
        assert sum(rows) == 3 * 4 + 2 * 4 * distinct
    assert min(numbers) < 4


def test_the_result_says_that_a_rank_asked_to_stop(config: TrainConfig):
    trainer = Trainer(config, build_networks(config, CPU), ALONE)
    assert not trainer.step(batch_of(config, step=0), lr_factor=1.0).stop
    assert trainer.step(batch_of(config, step=1), lr_factor=1.0, stop_requested=True).stop


def test_learning_rates_grow_with_the_batch_as_asked(config: TrainConfig):
    rates = dataclasses.replace(config.optim, generator_lr=1e-5, discriminator_lr=2e-5, lr_scaling="sqrt")
    chosen = dataclasses.replace(config, optim=rates, batch_size=16)
    trainer = Trainer(chosen, build_networks(chosen, CPU), ALONE)
    assert trainer.learning_rates(0.5) == pytest.approx((2e-5, 4e-5))
    trainer.step(batch_of(chosen, step=0), lr_factor=0.5)
    assert trainer.generator_optimiser.param_groups[0]["lr"] == pytest.approx(2e-5)


def test_clipping_changes_the_update_and_not_the_reported_norm(config: TrainConfig):
    norms, kept = {}, {}
    for clip_norm in (0.0, 1e-3):
        chosen = dataclasses.replace(config, optim=dataclasses.replace(config.optim, clip_norm=clip_norm))
        networks = build_networks(chosen, CPU)
        result = Trainer(chosen, networks, ALONE).step(batch_of(config, step=2), lr_factor=1.0)
        norms[clip_norm] = result.grad_norms
        gradients = [p.grad for p in networks.generator.parameters() if p.grad is not None]
        kept[clip_norm] = float(torch.nn.utils.get_total_norm(gradients))
    assert norms[0.0]["discriminator"] == norms[1e-3]["discriminator"]
    assert norms[0.0]["generator"] == pytest.approx(kept[0.0])
    assert norms[1e-3]["generator"] > 1  # judged by discriminators that took another step, so not quite the same
    assert kept[1e-3] == pytest.approx(1e-3, rel=1e-2)
