"""croissant.json in mlcroissant: validation, the manifest's rows, the pictures."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop_sets import expected

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.export import croissant
from infraredcity.export.about import About

Reader = Callable[..., list[Any]]
ISSUES = """
import json, sys, mlcroissant
issues = mlcroissant.Dataset(jsonld=sys.argv[1]).metadata.ctx.issues
print(json.dumps([sorted(issues.errors), sorted(issues.warnings)]))
"""
RECORDS = """
import json, sys, mlcroissant
for record in mlcroissant.Dataset(jsonld=sys.argv[1]).records("samples"):
    plain = {name.partition("/")[2]: value for name, value in record.items()}
    plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in plain.items()}
    print(json.dumps(plain, default=lambda value: value.item()))
"""
PICTURES = """
import hashlib, json, sys, mlcroissant
for record in mlcroissant.Dataset(jsonld=sys.argv[1]).records("pictures"):
    image = record["pictures/image"]
    print(json.dumps([record["pictures/key"].decode(), hashlib.sha256(image.fp.getvalue()).hexdigest(), list(image.size)]))
"""
ALL_SAID = About(
    name="Night", description="Roofs.", url="https://example.org", license="https://spdx.org/licenses/CC0-1.0.html",
    creators=("A",), cite_as="@misc{x}", version="1.0.0", date_published="2026-01-31",
)  # fmt: skip


@pytest.fixture(params=["lite", "clips", "clip"])
def described(request: pytest.FixtureRequest, extracted: Path, lite_set: Path, tmp_path: Path) -> Path:
    """A Lite set with a joint manifest, two clips without one, and one clip."""
    source = {"lite": lite_set, "clips": extracted, "clip": extracted / "city_clear"}[request.param]
    root = tmp_path / "described"
    shutil.copytree(source, root)
    croissant.write(root, ALL_SAID)
    return root


def test_it_validates_without_an_error_or_a_warning(described: Path, read_with: Reader) -> None:
    assert read_with("mlcroissant", ISSUES, described / "croissant.json") == [[[], []]]


def test_what_nobody_said_is_a_warning_and_no_error(lite_set: Path, read_with: Reader, tmp_path: Path) -> None:
    shutil.copytree(lite_set, tmp_path / "lite")
    croissant.write(tmp_path / "lite", About())
    ((errors, warnings),) = read_with("mlcroissant", ISSUES, tmp_path / "lite/croissant.json")
    assert errors == []
    asked = {warning.partition('"')[2].partition('"')[0].rpartition("/")[2] for warning in warnings}
    assert asked == {"citeAs", "datePublished", "license", "version"}


def test_its_records_are_the_manifests_rows(described: Path, read_with: Reader) -> None:
    records = read_with("mlcroissant", RECORDS, described / "croissant.json")
    parts = open_dataset(described)
    joint = described / manifest.PARQUET_NAME
    rows = (
        manifest.read(joint)
        if joint.exists()
        else manifest.concatenate([manifest.read(part.path / manifest.CSV_NAME) for part in parts])
    )
    assert len(records) == len(rows["key"]) == sum(len(part.index) for part in parts)
    assert rows["key"] == rows_of(parts)["key"]
    assert records == [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def test_its_pictures_are_those_of_the_shards(described: Path, read_with: Reader) -> None:
    pictures = read_with("mlcroissant", PICTURES, described / "croissant.json")
    samples = [sample for part in open_dataset(described) for sample in expected(described, part.name)]
    assert len(pictures) == len(samples)
    assert sorted(pictures) == sorted([sample.key, sample.sha256, [96, 64]] for sample in samples)
