"""README and docs against the programs and the tree: what they name exists, and what exists is named."""

import re
from pathlib import Path

import click
import pytest
import yaml

from infraredcity.cli import cli as infraredcity_cli
from roma.cli import cli as roma_cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
GROUPS = {"infraredcity": infraredcity_cli, "roma": roma_cli}
COMMANDS = [(program, name) for program, group in GROUPS.items() for name in group.list_commands(click.Context(group))]


def command_of(program: str, name: str) -> click.Command:
    group = GROUPS[program]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_stands_in_the_docs_and_helps(program: str, name: str):
    assert f"`{program} {name}" in PAGES[ROOT / "docs" / "commands.md"]
    command = command_of(program, name)
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            assert parameter.help or isinstance(parameter.type, click.Choice) or parameter.show_default, parameter.name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_name_no_command_or_option_that_does_not_exist(path: Path):
    known = {f"{program} {name}" for program, name in COMMANDS}
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGES[path], flags=re.DOTALL)).replace("\\\n", " ")
    for program, name, rest in re.findall(r"^(infraredcity|roma) ([a-z-]+)(.*)$", blocks, flags=re.MULTILINE):
        assert f"{program} {name}" in known
        command = command_of(program, name)
        words = rest.partition("#")[0].split()
        while isinstance(command, click.Group) and words and (inner := command.commands.get(words[0])) is not None:
            command, words = inner, words[1:]
        options = {word for parameter in command.params for word in parameter.opts + parameter.secondary_opts}
        for option in (word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z0-9-]+(=.*)?", word)):
            assert option in options | {"--help", "--version"}, (name, option)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def anchors_of(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", outside, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_something(path: Path):
    outside = re.sub(r"```.*?```", "", PAGES[path], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", outside):
        if re.match(r"[a-z]+://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file(), target
        if anchor:
            assert anchor in anchors_of(PAGES[file]), target


def test_every_page_stands_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = re.findall(r"[\w-]+\.md", str(navigation))
    assert sorted(listed) == sorted(path.name for path in PAGES if path.parent.name == "docs")


def test_the_two_commands_that_set_everything_up_come_first():
    first_block = re.search(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert first_block is not None
    assert re.findall(r"^make \w+", first_block.group(1), flags=re.MULTILINE) == ["make demo", "make test"]


def test_the_map_is_the_tree():
    block = README.partition("## Map")[2].partition("To add something")[0]
    mapped: dict[str, list[str]] = {}
    for package, room in re.findall(r"^(\w+)/.*$|^  (\w+)/  .*$", block, flags=re.MULTILINE):
        if package:
            mapped[package] = []
        else:
            mapped[list(mapped)[-1]].append(room)
    for package in ("infraredcity", "roma"):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert sorted(mapped[package]) == sorted(rooms)
    assert set(mapped) == {"infraredcity", "roma", "tools", "manifests", "tests"}
