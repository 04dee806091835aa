"""`roma settings` against the fields that it reads."""

import json

from click.testing import CliRunner

from roma.cli import cli
from roma.config.overlay import resolve


def listed(*words: str) -> list[dict[str, object]]:
    ended = CliRunner().invoke(cli, ["settings", "--json", *words])
    assert ended.exit_code == 0, ended.output
    found: list[dict[str, object]] = json.loads(ended.stdout)
    return found


def test_every_setting_has_a_meaning_and_what_it_may_be() -> None:
    for found in (listed(), listed("--pretrain")):
        names = [str(setting["name"]) for setting in found]
        assert len(names) == len(set(names)) > 20
        for setting in found:
            assert len(str(setting["meaning"])) > 5, setting
            assert setting["expected"], setting


def test_a_default_and_the_values_of_presets_can_be_set_as_they_are_shown() -> None:
    for setting in listed():
        name = str(setting["name"])
        values = [str(setting["default"]), *dict(setting["presets"]).values()]  # type: ignore[call-overload]
        if name not in ("loss.anchor", "data.load_size_px", "data.crop_size_px", "vit.image_size", "vit.patch_size"):
            for value in values[:1]:
                resolve("roma", mode=None, config_file=None, settings=[f"{name}={value}"])


def test_words_are_looked_for_in_names_and_meanings() -> None:
    assert {setting["name"] for setting in listed("gradient", "clipping")} == {"optim.clip_norm"}
    assert {setting["name"] for setting in listed("MICRO_batch")} == {"compute.micro_batch"}
    (found,) = listed("lr_scaling")
    assert (found["default"], found["presets"]) == ("none", {"roma-multi": "sqrt"})
    assert (found["in_paper"], found["expected"]) == (False, "none, sqrt, linear")


def test_it_is_text_for_people_and_a_usage_error_where_nothing_is_found() -> None:
    ended = CliRunner().invoke(cli, ["settings", "ema_decay"])
    assert ended.stdout.startswith("optim.ema_decay * = 0.0; tiny: 0.99   [in [0, 1)]\n")
    ended = CliRunner().invoke(cli, ["settings", "no-such-word"])
    assert ended.exit_code == 2
    assert "no-such-word" in ended.stderr
