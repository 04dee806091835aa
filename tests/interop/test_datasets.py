"""The dataset card in Hugging Face datasets, streaming and not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop_sets import expected

from infraredcity.export import hf_card
from infraredcity.export.about import About

Reader = Callable[..., list[Any]]
BY_CARD = """
import hashlib, json, sys, datasets
folder, name, split, streaming = sys.argv[1:]
frames = datasets.load_dataset(folder, name=name, split=split, streaming=streaming == "streaming")
features = frames.features
for frame in frames.cast_column("jpg", datasets.Image(decode=False)):
    print(json.dumps([frame["__key__"], hashlib.sha256(frame["jpg"]["bytes"]).hexdigest(), frame["json"]]))
assert isinstance(features["jpg"], datasets.Image), features
"""
WHOLE = """
import json, sys, datasets
for name in datasets.get_dataset_config_names(sys.argv[1]):
    loaded = datasets.load_dataset(sys.argv[1], name=name)
    print(json.dumps([name, {split: len(frames) for split, frames in loaded.items()}]))
"""
DECODED = """
import json, sys, datasets
frames = datasets.load_dataset(sys.argv[1], name="city-visible", split="train", streaming=True)
for frame in frames:
    print(json.dumps([frame["jpg"].mode, list(frame["jpg"].size)]))
"""
WITHOUT_CARD = """
import hashlib, json, sys, datasets
frames = datasets.load_dataset("webdataset", data_files={"train": sys.argv[1:]}, split="train", streaming=True)
for frame in frames.cast_column("jpg", datasets.Image(decode=False)):
    print(json.dumps([frame["__key__"], hashlib.sha256(frame["jpg"]["bytes"]).hexdigest(), frame["json"]]))
"""


@pytest.fixture
def lite_with_card(lite_set: Path, tmp_path: Path) -> Path:
    root = tmp_path / "lite"
    shutil.copytree(lite_set, root)
    hf_card.write(root, About())
    return root


@pytest.mark.parametrize("how", ["streaming", "whole"])
@pytest.mark.parametrize(
    ("name", "split", "part"),
    [
        ("city-infrared", "train", "city/infrared-train"),
        ("city-infrared", "test", "city/infrared-test"),
        ("city-visible", "train", "city/visible-train"),
    ],
)
def test_every_sample_of_each_configuration_and_split(
    lite_with_card: Path, read_with: Reader, name: str, split: str, part: str, how: str
) -> None:
    rows = read_with("datasets", BY_CARD, lite_with_card, name, split, how)
    assert rows == [sample.row for sample in expected(lite_with_card, part)]


def test_the_counts_of_the_card_are_those_that_datasets_checks(lite_with_card: Path, read_with: Reader) -> None:
    rows = read_with("datasets", WHOLE, lite_with_card)
    assert rows == [["city-infrared", {"train": 16, "test": 8}], ["city-visible", {"train": 20}]]


def test_a_wrong_count_in_the_card_would_be_found(lite_with_card: Path, read_with: Reader) -> None:
    path = lite_with_card / "README.md"
    text = path.read_text()
    assert text.count("num_examples: 16") == 1
    path.write_text(text.replace("num_examples: 16", "num_examples: 17"))
    with pytest.raises(AssertionError, match="NonMatchingSplitsSizesError"):
        read_with("datasets", WHOLE, lite_with_card)


def test_pictures_come_decoded(lite_with_card: Path, read_with: Reader) -> None:
    assert read_with("datasets", DECODED, lite_with_card) == [["RGB", [96, 64]]] * 20


def test_clips_without_a_split_are_one_configuration_over_all_folders(
    extracted: Path, read_with: Reader, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    shutil.copytree(extracted, root)
    hf_card.write(root, About())
    for name, clip in (("city-infrared", "city_clear"), ("city-visible", "city_day")):
        rows = read_with("datasets", BY_CARD, root, name, "train", "streaming")
        assert len(rows) == 50
        assert rows == [sample.row for sample in expected(root, clip)]


def test_the_shards_load_without_a_card_too(extracted: Path, read_with: Reader) -> None:
    rows = read_with("datasets", WITHOUT_CARD, *sorted((extracted / "city_clear").glob("*.tar")))
    assert rows == [sample.row for sample in expected(extracted, "city_clear")]
