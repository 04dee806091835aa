"""The page about a data set: as markup, and in a browser with the network cut, by keyboard, in light and dark, wide and narrow."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infraredcity.datasets import lite
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.folder import open_folder, write_folder
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.similarity import Leakage
from infraredcity.report.charts import bars, histogram, line, ticks
from infraredcity.report.measure import measure_dataset
from infraredcity.report.measure_pixels import MAX_THUMBNAILS, make_sheets
from infraredcity.report.page import leakage_words, page_html
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT
from infraredcity.showing import format_time

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input", "hr", "path"}


class Page(HTMLParser):
    """What stands in a page: its elements in order, each with its attributes, its text, and the elements around it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.around: list[tuple[str, ...]] = []
        self._open: list[tuple[str, int]] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.around.append(tuple(name for name, _ in self._open))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID:
            self._open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.around.append(tuple(name for name, _ in self._open))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        name, _ = self._open.pop()
        assert name == tag

    def handle_data(self, data: str) -> None:
        for _, place in self._open:
            self.texts[place] += data

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attrs, text) for (name, attrs), text in zip(self.elements, self.texts, strict=True) if name == tag]


def page_of(root: Path, num_thumbnails: int = MAX_THUMBNAILS) -> str:
    parts = open_dataset(root)
    report = measure_dataset(root, parts)
    return page_html(report, make_sheets(root, parts, report, num_thumbnails=num_thumbnails))


@pytest.fixture(scope="module")
def lite_set(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lite set of 44 samples, of which some are marked: in city_day suspect, repeat, frozen, duplicate."""
    out = tmp_path_factory.mktemp("report") / "lite"
    cells = (
        Cell(scene="city", clip="city_clear", train=16, test=8),
        Cell(scene="city", clip="city_day", train=20),
    )
    lite.build(extracted, out, Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells))
    part = open_folder(out, "city/visible-train")
    marks = np.zeros(20, np.uint8)
    marks[3], marks[4], marks[5] = SUSPECT, REPEAT, FROZEN
    dup_of = part.index.dup_of.astype("S32")
    dup_of[:] = b""
    dup_of[4], dup_of[6] = part.index.key(3).encode(), part.index.key(0).encode()
    write_folder(out, part.name, replace(part.index, mark=marks, dup_of=dup_of), part.clips, split=part.split)
    return out


@pytest.fixture(scope="module")
def page(lite_set: Path) -> Page:
    return Page(page_of(lite_set))


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "srcset", "action", "poster", "style"):
            if name in attrs:
                assert attrs[name].startswith(("data:image/jpeg;base64,", "#")), (tag, name, attrs[name])
        assert not any(name.startswith("on") for name in attrs)
    for (style, _), text in zip(page.all("style"), [text for _, text in page.all("style")], strict=True):
        assert style == {}
        assert "url(" not in text
        assert "@import" not in text


def test_the_policy_allows_just_this_style_and_this_script(page: Page) -> None:
    (policy,) = [
        attrs["content"] for attrs, _ in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    for tag in ("style", "script"):
        ((_, text),) = page.all(tag)
        told = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{told}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_every_picture_has_an_alt_text_and_every_id_is_one_element(page: Page) -> None:
    pictures = [attrs for attrs, _ in page.all("img")]
    assert all("alt" in attrs for attrs in pictures)
    assert all(attrs["alt"] for attrs in pictures if "mini" not in attrs.get("class", ""))
    charts = [attrs for attrs, _ in page.all("svg")]
    assert len(charts) == 2 * 3 + 1
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for attrs, _ in page.all("a")]
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    for name in ("aria-labelledby", "for"):
        assert {attrs[name] for _, attrs in page.elements if name in attrs} <= set(ids)


def test_headings_are_in_order_and_landmarks_are_there(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert all(len(page.all(tag)) == 1 for tag in ("header", "nav", "main", "footer", "h1", "title"))
    first_link = page.all("a")[0]
    assert first_link == ({"class": "skip", "href": "#main"}, "Skip to the content")


def test_tables_have_captions_and_cells_have_heads(page: Page) -> None:
    tables = page.all("table")
    assert len(page.all("caption")) == len(tables) > 10
    assert all(text for _, text in page.all("caption"))
    assert {attrs["scope"] for attrs, _ in page.all("th")} == {"col", "row"}


def test_thumbnails_are_all_there_with_key_time_and_marks(page: Page) -> None:
    thumbs = [(attrs, text) for attrs, text in page.all("a") if "thumb" in attrs.get("class", "").split()]
    assert len(thumbs) == 44
    keys = [attrs["data-key"] for attrs, _ in thumbs]
    assert keys == sorted(keys)
    marked = {text for attrs, text in thumbs if "data-marks" in attrs}
    assert [attrs["data-marks"] for attrs, _ in thumbs if "data-marks" in attrs] == [
        "suspect", "repeat", "frozen", "duplicate",
    ]  # fmt: skip
    assert all(any(word in text for word in ("! suspect", "= repeat", "‖ frozen", "≈ duplicate")) for text in marked)
    attrs, text = thumbs[0]
    assert attrs["data-key"] in text
    assert format_time(float(attrs["data-frame"]) / 25) in text


def test_thumbnails_are_at_most_as_many_as_asked_for(lite_set: Path) -> None:
    few = Page(page_of(lite_set, 5))
    keys = [attrs["data-clip"] for attrs, _ in few.all("a") if "data-key" in attrs]
    assert (keys.count("city_clear"), keys.count("city_day")) == (3, 2)
    none = Page(page_of(lite_set, 0))
    assert "Left out: no thumbnail was asked for" in none.text
    assert not [attrs for attrs, _ in none.all("a") if "data-key" in attrs]
    assert 'id="filter"' not in none.text


def test_numbers_of_the_set_stand_on_the_page(page: Page) -> None:
    text = " ".join(page.all("main")[0][1].split())
    for told in (
        "city: infrared, train, clear5,53816-5,5225,522 fewer",
        "0 of 17 counts are as published",
        "2 samples of 44 name another one in the column dup_of: 1 repeat of the sample before, and 1 that is nearly the same",
        "Each of the 8 infrared test samples was compared with every infrared train sample.",
        "44 thumbnails of 44 samples",
    ):
        assert told in text, told
    header = page.all("header")[0][1]
    assert "Lite set: city" in header
    assert "recipe tiny, scale 1, guard of 5 frames" in header
    assert "No problem was found in what was looked at." in header


def test_the_same_data_gives_the_same_bytes_wherever_it_lies(lite_set: Path, tmp_path: Path) -> None:
    shutil.copytree(lite_set, tmp_path / "moved")
    assert page_of(lite_set) == page_of(tmp_path / "moved")


def test_hostile_facts_stay_text(extracted: Path, tmp_path: Path) -> None:
    # A folder's name may hold all but a slash, a clip's facts anything.
    place = tmp_path / "set" / HOSTILE.replace("/", ":")
    shutil.copytree(extracted / "city_day", place)
    payload = json.loads((place / "clips.json").read_text())
    facts = payload["clips"]["city_day"]
    facts.update(scene=HOSTILE, weather=HOSTILE, modality=HOSTILE, time_of_day=HOSTILE, suspect=[HOSTILE])
    payload["split"] = HOSTILE
    (place / "clips.json").write_text(json.dumps(payload))
    gap = {"clip": HOSTILE, "first_frame": 1, "last_frame": 1, "num_frames": 1, "reason": HOSTILE}
    (place / "gaps.json").write_text(json.dumps([gap]))
    found = Page(page_of(tmp_path / "set"))
    assert len(found.all("script")) == 1
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs, _ in found.all("img"))
    assert not any(name.startswith("on") for _, attrs in found.elements for name in attrs)
    assert HOSTILE in found.all("title")[0][1]
    assert HOSTILE in found.all("main")[0][1]
    thumb = next(attrs for attrs, _ in found.all("a") if "data-key" in attrs)
    assert thumb["data-split"] == HOSTILE


def test_marks_of_direction_are_shown_as_escapes(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted / "city_day", tmp_path / "set" / "day\u202e")
    payload = json.loads((tmp_path / "set" / "day\u202e" / "clips.json").read_text())
    payload["clips"]["city_day"].update(scene="city\u2067", weather="\u200fclear", suspect=["a\u061cb"])
    (tmp_path / "set" / "day\u202e" / "clips.json").write_text(json.dumps(payload))
    text = page_of(tmp_path / "set")
    assert not {"\u202e", "\u2067", "\u200f", "\u061c"} & set(text)
    for shown_as in (r"day\u202e", r"city\u2067", r"\u200fclear", r"a\u061cb"):
        assert shown_as in text


def test_problems_come_first_and_are_named(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted, tmp_path / "set")
    (tmp_path / "set/city_day/infraredcity-city_day-000001.tar").unlink()
    found = Page(page_of(tmp_path / "set"))
    assert "1 problem found" in found.all("header")[0][1]
    first = next(attrs for attrs, _ in found.all("section"))
    assert first["id"] == "problems"
    # Shard 1 holds frames 16 to 31: 16 frames of levels, 17 pairs, 16 thumbnails.
    assert "city_day/infraredcity-city_day-000001.tar: the index names it, but it cannot be opened" in found.text
    assert "<td>33</td><td>16</td>" in found.text
    assert "34 frames (16 more could not be read)" in found.text


def test_a_set_of_one_frame_makes_a_page(lite_set: Path, tmp_path: Path) -> None:
    part = open_folder(lite_set, "city/infrared-test")
    shutil.copytree(part.path, tmp_path / "one")
    write_folder(tmp_path, "one", part.index.take(np.array([2])), part.clips, split="all")
    found = Page(page_of(tmp_path / "one"))
    assert "Nothing to show." in found.text  # no pair, so no motion
    assert len([attrs for attrs, _ in found.all("a") if "data-key" in attrs]) == 1


def test_times_are_told_to_hundredths() -> None:
    assert [format_time(each) for each in (0.0, 8.04, 59.996, 750.0, 3723.5, -0.04)] == [
        "0:00.00", "0:08.04", "1:00.00", "12:30.00", "1:02:03.50", "-0:00.04",
    ]  # fmt: skip


def test_ticks_are_round() -> None:
    assert ticks(0.0, 10.0) == [0, 5, 10]
    assert ticks(112.1, 118.7) == [114, 116, 118]
    assert ticks(0.0, 0.07, at_most=3) == [0, 0.05]
    assert ticks(3.0, 3.0) == [3]


def test_charts_draw_what_they_are_given() -> None:
    # The plot is 306 wide from 44 on and 132 high from 12 on.
    drawn = histogram([0, 3, 1, 0], marks=[("median", 2.0)], stop=4, says="a < b")
    assert 'd="M120.5 144v-132.0h76.5V144zM197.0 144v-44.0h76.5V144z"' in drawn
    assert '<path class="mark-line" d="M197.0 12V144"/>' in drawn
    assert 'aria-label="a &lt; b"' in drawn
    # One step of four seconds among steps of one: the line is broken there.
    drawn = line([0.0, 1.0, 2.0, 6.0], [0.0, 10.0, 20.0, 20.0], from_zero=True, says="")
    assert 'd="M44.0 144.0h0L95.0 84.0L146.0 24.0M350.0 24.0h0"' in drawn
    drawn = bars(("1 kB", "2 kB"), [2, 0, 1], says="")
    assert drawn.count("V144z") == 2


def test_leakage_is_told_in_words() -> None:
    leak = Leakage(
        modality="infrared", distance_bits=1, train_key="a", test_key="b", near_bits=4, num_test=8, num_near=1
    )
    compared, near, closest = leakage_words(leak)
    assert compared == "Each of the 8 infrared test samples was compared with every infrared train sample."
    assert near.startswith("1 of them (12.5 %) looks nearly the same as some train sample: at most 4 of 64 bits")
    assert closest == "The closest pair differs in 1 bit."
    far = leakage_words(replace(leak, distance_bits=12, num_near=0))
    assert far[1].startswith("None of them looks nearly the same as a train sample")
    assert far[2] == "The closest pair differs in 12 bits."


# In a browser.

OpenPage = Callable[..., Any]


@pytest.fixture(scope="module")
def page_file(lite_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(lite_set))
    return path


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[OpenPage]:
    """Opens the page with the network cut; at the end of a test, nothing was asked for and nothing was complained about."""
    contexts, complaints, asked = [], [], []

    def open_it(*, width: int = 1280, scheme: str = "light", java_script: bool = True) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=java_script,
            offline=True,
            reduced_motion="reduce",
        )
        contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page_file.as_uri())
        return opened

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:image/jpeg")] == [page_file.as_uri()] * len(contexts)


def violations(opened: Any) -> list[str]:
    """What axe finds wrong, one line each."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed; pip install axe-playwright-python"
    )
    found = axe.Axe().run(opened).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found]


def focused(opened: Any) -> str:
    return str(opened.evaluate("document.activeElement.dataset.key || document.activeElement.id || ''"))


def shown(opened: Any) -> list[str]:
    keys: list[str] = opened.evaluate(
        "[...document.querySelectorAll('a.thumb')].filter((each) => each.getClientRects().length).map((each) => each.dataset.key)"
    )
    return keys


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(open_page: OpenPage, width: int, scheme: str) -> None:
    opened = open_page(width=width, scheme=scheme)
    opened.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert violations(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 64) == (scheme == "dark")
    opened.locator("a.thumb").first.click()
    assert opened.locator("dialog[open]").count() == 1
    assert violations(opened) == []


def test_the_check_of_accessibility_sees_a_missing_name(open_page: OpenPage) -> None:
    opened = open_page()
    opened.evaluate("document.querySelector('a.thumb img').removeAttribute('alt')")
    assert [line.partition(":")[0] for line in violations(opened)] == ["image-alt"]


def test_tab_reaches_the_skip_link_the_filter_and_one_thumbnail_of_each_clip(open_page: OpenPage) -> None:
    opened = open_page()
    keys = shown(opened)
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert opened.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    opened.keyboard.press("Enter")
    assert focused(opened) == "main"
    reached = []
    for _ in range(80):
        opened.keyboard.press("Tab")
        reached.append(focused(opened))
        if reached[-1].startswith("city_day"):
            break
    assert [name for name in reached if name.startswith(("filter", "city"))] == [
        "filter-clip", "filter-mark", "filter-split", keys[0], keys[24],
    ]  # fmt: skip
    outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_arrow_keys_move_between_thumbnails(open_page: OpenPage) -> None:
    opened = open_page()
    keys = shown(opened)
    opened.locator("a.thumb").first.focus()
    opened.keyboard.press("ArrowRight")
    assert focused(opened) == keys[1]
    opened.keyboard.press("ArrowDown")
    columns = opened.evaluate(
        "getComputedStyle(document.querySelector('.thumbs')).gridTemplateColumns.split(' ').length"
    )
    assert 1 < columns < 22
    assert focused(opened) == keys[1 + columns]
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("ArrowLeft")
    assert focused(opened) == keys[0]
    opened.keyboard.press("End")
    assert focused(opened) == keys[23]  # the last of 24 of its clip
    opened.keyboard.press("ArrowRight")
    assert focused(opened) == keys[23]


def test_enter_opens_a_larger_view_arrows_move_and_escape_returns_the_focus(open_page: OpenPage) -> None:
    opened = open_page()
    keys = shown(opened)
    opened.locator("a.thumb").nth(1).focus()
    opened.keyboard.press("Enter")
    title = opened.locator("#viewer-title")
    assert title.inner_text() == keys[1]
    assert opened.locator("#viewer-place").inner_text() == "2 of 44"
    for key, place in (("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        opened.keyboard.press(key)
        assert title.inner_text() == keys[place]
    assert opened.locator("[data-do=back]").is_disabled()
    for _ in range(24):
        opened.keyboard.press("ArrowRight")
    assert title.inner_text() == keys[24]
    facts = opened.locator("dialog dl").inner_text()
    assert "city/visible-train" in facts
    assert "tiny-train-city_day-000000.tar" in facts
    box = opened.locator("dialog img").bounding_box()
    assert box["width"] > 200  # the thumbnail has 96 pixels
    assert opened.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    opened.keyboard.press("Escape")
    assert opened.locator("dialog[open]").count() == 0
    assert focused(opened) == keys[24]


def test_buttons_of_the_larger_view_do_what_they_say(open_page: OpenPage) -> None:
    opened = open_page()
    keys = shown(opened)
    opened.locator("a.thumb").first.click()
    opened.locator("[data-do=next]").click()
    assert opened.locator("#viewer-title").inner_text() == keys[1]
    opened.locator("[data-do=back]").click()
    assert opened.locator("#viewer-title").inner_text() == keys[0]
    # Back is disabled now and cannot keep the focus.
    assert opened.evaluate("document.activeElement.dataset.do") == "close"
    opened.locator("[data-do=close]").click()
    assert focused(opened) == keys[0]


def test_the_filter_hides_what_does_not_fit(open_page: OpenPage) -> None:
    opened = open_page()
    opened.locator("#filter-clip").select_option("city_day")
    assert len(shown(opened)) == 20
    assert opened.locator("#sheet-0").is_hidden()
    opened.locator("#filter-mark").select_option("any")
    assert len(shown(opened)) == 4
    assert opened.locator("#filter-count").inner_text() == "4 shown"
    opened.locator("#filter-mark").select_option("frozen")
    (key,) = shown(opened)
    assert opened.locator(f"a[data-key={key}]").get_attribute("data-marks") == "frozen"
    assert opened.locator(f"a[data-key={key}]").get_attribute("tabindex") == "0"
    opened.locator("#filter-split").select_option("test")
    assert shown(opened) == []
    opened.locator("#filter-clip").select_option("")
    opened.locator("#filter-mark").select_option("none")
    assert len(shown(opened)) == 8


def test_without_javascript_everything_is_there_to_read(open_page: OpenPage) -> None:
    opened = open_page(java_script=False)
    assert opened.locator("a.thumb").count() == 44
    assert opened.locator("a.thumb").last.is_visible()
    assert opened.locator("svg").first.is_visible()
    assert opened.locator("#filter").is_hidden()
    opened.locator("summary").first.click()
    assert opened.locator("details[open] table").first.is_visible()
    before = opened.locator("a.thumb img").nth(5).bounding_box()["width"]
    opened.locator("a.thumb").nth(5).click()
    assert opened.url.endswith("#t5")
    assert opened.locator("a.thumb img").nth(5).bounding_box()["width"] > 1.5 * before


def test_print_shows_the_content_alone(open_page: OpenPage) -> None:
    opened = open_page()
    opened.emulate_media(media="print")
    assert opened.locator("nav").is_hidden()
    assert opened.locator("#filter").is_hidden()
    assert opened.locator("a.thumb").first.is_visible()
    assert opened.evaluate("getComputedStyle(document.querySelector('.group')).contentVisibility") == "visible"


def test_a_script_of_a_stranger_is_not_run(open_page: OpenPage, page_file: Path, browser: Any) -> None:
    told = page_file.read_text().replace("<h1>", "<script>document.title = 'taken'</script><h1>", 1)
    page_file.with_name("taken.html").write_text(told)
    context = browser.new_context(offline=True)
    opened = context.new_page()
    opened.goto(page_file.with_name("taken.html").as_uri())
    assert opened.title() == "Lite set: city"
    context.close()
