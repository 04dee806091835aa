"""Define `roma settings`: all settings, and their values in each preset."""

import json
import textwrap
from dataclasses import asdict

import click

from infraredcity.showing import visible
from roma.config.describe import Setting, describe, matching


@click.command("settings")
@click.argument("words", nargs=-1)
@click.option("--pretrain", "of_pretraining", is_flag=True, help="Show the settings of roma pretrain.")
@click.option("--mode", type=click.Choice(["video", "image"]), default="video", show_default=True,
              help="Mode for which the presets are shown.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON on stdout.")
def settings_command(words: tuple[str, ...], of_pretraining: bool, mode: str, as_json: bool) -> None:
    """List the settings for --set and --config: name, default, values of the presets, meaning.

    With WORDS, only settings with every word in their name or meaning are listed, such as "roma settings learning rate". A star
    marks settings whose default is the paper's: every other value departs from the paper.
    """
    found = matching(_all_settings(of_pretraining, mode), words)
    if as_json:
        click.echo(json.dumps([asdict(setting) for setting in found], indent=1))
        return
    if not found:
        raise click.UsageError(f"no setting has {' and '.join(visible(word) for word in words)} in its name or meaning")
    for setting in found:
        click.echo(_shown(setting))


def _all_settings(of_pretraining: bool, mode: str) -> list[Setting]:
    if of_pretraining:
        from roma.pretrain.config import PRESETS as PRETRAIN_PRESETS

        default, *others = PRETRAIN_PRESETS.values()
        return describe(default, {config.preset: config for config in others})
    from roma.config.presets import PRESETS, preset

    default, *others = (preset(name, mode=mode) for name in PRESETS)  # type: ignore[arg-type, assignment]
    return describe(default, {config.preset: config for config in others})


def _shown(setting: Setting) -> str:
    values = [setting.default or '""', *(f"{preset}: {value}" for preset, value in setting.presets.items())]
    star = "" if setting.in_paper else " *"
    meaning = textwrap.fill(setting.meaning, 100, initial_indent="    ", subsequent_indent="    ")
    return f"{setting.name}{star} = {'; '.join(values)}   [{setting.expected}]\n{meaning}".rstrip()
