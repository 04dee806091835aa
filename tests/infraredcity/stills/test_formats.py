"""The table of still formats is the only place that lists them."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from infraredcity.stills.formats import FORMATS, IMAGE_FORMATS, MIMES, READ_SUFFIXES, SUFFIXES, encode

PACKAGE = Path(__file__).resolve().parents[3] / "infraredcity"
LISTS_OF_ITS_OWN = {
    "stills/formats.py",
    "export/release_export.py",  # the release's folders hold jpg or png, whatever else we learn to write
    "export/release_import.py",
}


def test_no_other_file_lists_formats_or_media_types() -> None:
    word = r"[\"']\.?(jpg|jpeg|png|png16|webp)[\"']"
    lists = re.compile(rf"{word}\s*[,:][^\n]*{word}|image/(jpeg|webp)")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if lists.search(re.sub(r'"""(?:.|\n)*?"""', "", path.read_text("utf-8")))
    }
    assert found <= LISTS_OF_ITS_OWN


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_every_line_of_the_table_holds_what_it_says(name: str) -> None:
    form = FORMATS[name]  # type: ignore[index]
    ramp = np.arange(64, dtype=np.uint16)[None, :, None].repeat(48, 0) * (1000 if form.is_deep else 4)
    picture = ramp if form.is_deep else ramp.astype(np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode(picture, name), np.uint8), cv2.IMREAD_UNCHANGED)  # type: ignore[arg-type]
    assert decoded.dtype == (np.uint16 if form.is_deep else np.uint8)
    assert decoded.shape[:2] == (48, 64)
    assert np.abs((decoded if decoded.ndim == 2 else decoded[:, :, 0]).astype(int) - picture[:, :, 0]).max() <= 8
    assert (form.suffix in SUFFIXES, form.suffix in READ_SUFFIXES, MIMES[form.suffix]) == (True, True, form.mime)


def test_the_suffixes_are_in_the_order_in_which_a_picture_is_chosen_among_members() -> None:
    assert (SUFFIXES, READ_SUFFIXES) == (("jpg", "png", "webp"), ("jpg", "jpeg", "png", "webp"))
