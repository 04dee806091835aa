"""What tests of several commands share."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    place = shutil.which("chromium")
    if place is None:
        pytest.skip("chromium is not installed; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=place, args=list(CHROMIUM_OPTIONS))
        yield started
        started.close()
