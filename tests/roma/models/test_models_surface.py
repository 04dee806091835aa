import types

import roma.losses
import roma.models


def test_public_names_are_exactly_those_listed() -> None:
    for package in (roma.models, roma.losses):
        found = {
            name
            for name, value in vars(package).items()
            if not name.startswith("_") and not isinstance(value, types.ModuleType)
        }
        assert found == set(package.__all__)
