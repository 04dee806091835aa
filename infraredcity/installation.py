"""Find out how this package was installed, and so the command that adds an extra; it need not come from a package index."""

import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "infraredcity"


def install_command(extra: str) -> str:
    """Return the command that installs an extra from where the package came: its checkout, a folder, a repository, a wheel."""
    checkout = Path(__file__).resolve().parent.parent
    if _is_ours(checkout):
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        return f"pip install {shlex.quote(f'{url2pathname(urlsplit(url).path)}[{extra}]')}"
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"pip install {shlex.quote(f'{_NAME}[{extra}] @ {url}' if url else f'{_NAME}[{extra}]')}"


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is a checkout of this project."""
    project = folder / "pyproject.toml"
    return project.is_file() and f'\nname = "{_NAME}"\n' in project.read_text(encoding="utf-8")


def _origin() -> dict[str, Any]:
    """Return where the package came from (direct_url.json, PEP 610); empty where it came from an index."""
    try:
        text = importlib.metadata.distribution(_NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {}
    origin: dict[str, Any] = json.loads(text) if text else {}
    return origin
