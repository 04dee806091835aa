"""The table of still formats is the only place that lists them."""

import ast
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from infraredcity.stills.formats import FORMATS, IMAGE_FORMATS, MIMES, READ_SUFFIXES, SUFFIXES, encode

PACKAGE = Path(__file__).resolve().parents[3] / "infraredcity"
OTHERS = "|".join(sorted({*IMAGE_FORMATS, *READ_SUFFIXES}))
NAMES_A_FORMAT = re.compile(rf"[^ ]*\.({OTHERS})|({OTHERS})|{'|'.join(MIMES.values())}|.*\.({OTHERS})\\b.*", re.DOTALL)
EXCEPTIONS = {
    "export/release_export.py": "the formats of the published release, whatever else we learn to write",
    "export/release_import.py": "the same",
    "export/release_read.py": "the same",
    "synthetic/flow.py": "KITTI's encoding of optical flow is a PNG",
    "synthetic/sample.py": "the contact sheet, and the files of optical flow",
    "video/doubt.py": "names of video codecs",
}


def texts_of(file: Path) -> set[str]:
    """Collect the strings of a Python file, docstrings left out."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return {node.value for node in found if isinstance(node.value, str)}


def test_no_other_file_names_a_suffix_or_media_type_of_stills() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): sorted(filter(NAMES_A_FORMAT.fullmatch, texts_of(path)))
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "stills" / "formats.py"
    }
    assert {file: texts for file, texts in found.items() if texts and file not in EXCEPTIONS} == {}
    assert all(found[file] for file in EXCEPTIONS)  # an exception that is no longer needed goes


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
