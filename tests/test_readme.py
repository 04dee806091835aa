"""The README against the programs: what it names exists, and what exists is named."""

import re
from pathlib import Path

import click
import pytest

from infraredcity.cli import cli as infraredcity_cli
from roma.cli import cli as roma_cli

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
GROUPS = {"infraredcity": infraredcity_cli, "roma": roma_cli}
COMMANDS = [(program, name) for program, group in GROUPS.items() for name in group.list_commands(click.Context(group))]


def command_of(program: str, name: str) -> click.Command:
    group = GROUPS[program]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_stands_in_the_readme_and_helps(program: str, name: str):
    assert f"`{program} {name}" in README
    command = command_of(program, name)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            assert parameter.help or isinstance(parameter.type, click.Choice) or parameter.show_default, parameter.name


def test_readme_names_no_command_or_option_that_does_not_exist():
    known = {f"{program} {name}" for program, name in COMMANDS}
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
    used = re.findall(r"^(infraredcity|roma) ([a-z-]+)(.*)$", blocks, flags=re.MULTILINE)
    assert used
    for program, name, rest in used:
        assert f"{program} {name}" in known
        command = command_of(program, name)
        if isinstance(command, click.Group):
            command = command.commands[rest.split()[0]]
        options = {word for parameter in command.params for word in parameter.opts}
        for option in re.findall(r"(?:^| )(--[a-z-]+)", rest.partition("#")[0]):
            assert option in options, (name, option)


def test_the_two_commands_that_set_everything_up_come_first():
    first_block = re.search(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert first_block is not None
    assert re.findall(r"^make \w+", first_block.group(1), flags=re.MULTILINE) == ["make demo", "make test"]


def test_the_map_is_the_tree():
    root = Path(__file__).resolve().parents[1]
    block = README.partition("## Map")[2].partition("## Commands")[0]
    mapped: dict[str, list[str]] = {}
    for package, room in re.findall(r"^(\w+)/.*$|^  (\w+)/  .*$", block, flags=re.MULTILINE):
        if package:
            mapped[package] = []
        else:
            mapped[list(mapped)[-1]].append(room)
    for package in ("infraredcity", "roma"):
        rooms = {path.parent.name for path in (root / package).glob("*/__init__.py")}
        assert sorted(mapped[package]) == sorted(rooms)
    assert set(mapped) == {"infraredcity", "roma", "tools", "manifests", "tests"}
