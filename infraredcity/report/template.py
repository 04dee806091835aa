"""Fill a page's template: markup, style and script are separate files; all text from data is escaped.

A page is three files in one folder: `page.html.j2`, `page.css` and, where it has one, `page.js`. It opens offline: everything is
in the page itself, and a strict Content-Security-Policy allows only this style and this script, by their hashes, so text from
a data set or a run can neither load nor run anything. The same values give the same bytes.
"""

import base64
import hashlib
import html
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infraredcity.errors import MissingExtraError
from infraredcity.showing import format_bytes, format_time, visible

if TYPE_CHECKING:
    import jinja2


def fill_page(folder: Path, *, sources: str, has_script: bool = True, **values: Any) -> str:
    """Fill `page.html.j2` of a folder; it finds the style, the script and the policy under these names.

    Args:
        folder: Folder of the page's files.
        sources: Further rules of the policy, such as "img-src data:".
        has_script: Whether the page has a script.
        values: Values for the template.
    """
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8") if has_script else ""
    policy = f"default-src 'none'; {sources}; style-src '{_policy_hash(style)}'; "
    if has_script:
        policy += f"script-src '{_policy_hash(script)}'; "
    policy += "base-uri 'none'; form-action 'none'"
    return _fill(folder, "page.html.j2", style=own_markup(style), script=own_markup(script), policy=policy, **values)


def fill(folder: Path, name: str, **values: Any) -> str:
    """Fill one template of a folder; the result is markup, which other templates do not escape again."""
    return own_markup(_fill(folder, name, **values))


def own_markup(text: str) -> str:
    """Mark our own text as markup; text from data must not come here."""
    from markupsafe import Markup

    return Markup(text)


def in_page(value: object) -> str:
    """Escape a value for markup and attributes; markup stays unchanged."""
    return str(value) if hasattr(value, "__html__") else html.escape(visible(str(value)))


def data_uri(data: bytes, media_type: str) -> str:
    """Encode bytes as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _fill(folder: Path, name: str, **values: Any) -> str:
    return _environment(folder).get_template(name).render(values)


@cache
def _environment(folder: Path) -> "jinja2.Environment":
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", extra="extract", needed_for="writing a page") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: own_markup(in_page(value)),
    )
    environment.filters |= {
        "n": lambda number: f"{number:,}",
        "signed": lambda number: f"{number:+,}" if number else "0",
        "bytes": format_bytes,
        "time": format_time,
        "data_uri": data_uri,
    }
    return environment


def _policy_hash(text: str) -> str:
    """Name a style or a script as a Content-Security-Policy does."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
