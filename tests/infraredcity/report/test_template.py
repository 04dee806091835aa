"""Templates of pages: what comes from data is text, and a missing jinja2 is one line."""

import html
import sys
from pathlib import Path

import pytest

from infraredcity.errors import MissingExtraError
from infraredcity.report.template import fill, fill_page, in_page, own_markup


def test_text_of_data_is_escaped_and_own_markup_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("{{ data }}|{{ own }}|{{ number | n }}")
    filled = fill(tmp_path, "a.j2", data="<b>\u202e", own=own_markup("<i>"), number=1234)
    assert filled == r"&lt;b&gt;\u202e|<i>|1,234"


def test_a_page_without_script_allows_none(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text("{{ policy }}{{ script }}")
    (tmp_path / "page.css").write_text("a { color: red; }")
    filled = fill_page(tmp_path, sources="img-src data:", has_script=False)
    assert "style-src &#x27;sha256-" in filled
    assert "script" not in filled


def test_a_missing_jinja2_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="jinja2") as caught:
        fill(tmp_path, "a.j2")
    assert caught.value.extra == "extract"


def test_text_in_a_page_is_no_markup() -> None:
    assert html.unescape(in_page("<b a='\"'>&")) == "<b a='\"'>&"
    assert not {"<", ">", '"', "'"} & set(in_page("<b a='\"'>&"))
