from roma.config.presets import preset
from roma.config.rules import rules_of
from roma.config.schema import LossConfig, TrainConfig
from roma.losses import OBJECTIVES
from roma.losses.objective import AdversarialObjective
from roma.models.critics.build import DISCRIMINATORS


def test_each_adversarial_objective_has_a_discriminator_of_its_own() -> None:
    named = [objective.discriminator for objective in OBJECTIVES if isinstance(objective, AdversarialObjective)]
    assert sorted(named) == sorted(DISCRIMINATORS)
    names = [objective.loss_name for objective in OBJECTIVES]
    assert len(names) == len(set(names))


def test_the_preset_roma_has_the_objectives_of_the_paper() -> None:
    for mode, others in (("video", ["motion"]), ("image", [])):
        config = preset("roma", mode=mode)
        weighted = {objective.loss_name: objective.weight(config) for objective in OBJECTIVES}
        used = {name: weight for name, weight in weighted.items() if weight}
        paper = {"structure_global": 5.0, "structure_local": 5.0, "gan_generator": 1.0}
        assert used == paper | dict.fromkeys(others, 1.0)


def test_each_setting_that_weighs_a_loss_has_one_objective() -> None:
    found = set()
    for item, _, rule in rules_of(LossConfig()):
        if rule.weighs is not None:
            off = {other.name: 0.0 for other, _, each in rules_of(LossConfig()) if each.weighs is not None}
            loss = LossConfig(**{**off, "colourise": 1.0, "warmup_steps": 1, item.name: 0.5})  # type: ignore[arg-type]
            weights = {objective.name: objective.weight(TrainConfig(loss=loss)) for objective in OBJECTIVES}
            (name,) = (name for name, weight in weights.items() if weight == 0.5)
            found.add(name)
    assert found == {objective.name for objective in OBJECTIVES}
