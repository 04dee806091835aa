import types

import roma.losses
import roma.models
from roma.losses import OBJECTIVES
from roma.losses.objective import AdversarialObjective
from roma.models.critics.build import DISCRIMINATORS


def test_public_names_are_exactly_those_listed() -> None:
    for package in (roma.models, roma.losses):
        found = {
            name
            for name, value in vars(package).items()
            if not name.startswith("_") and not isinstance(value, types.ModuleType)
        }
        assert found == set(package.__all__)


def test_each_adversarial_objective_has_a_discriminator_of_its_own() -> None:
    named = [objective.discriminator for objective in OBJECTIVES if isinstance(objective, AdversarialObjective)]
    assert sorted(named) == sorted(DISCRIMINATORS)
    names = [objective.loss_name for objective in OBJECTIVES]
    assert len(names) == len(set(names))
