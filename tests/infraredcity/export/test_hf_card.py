import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_sets import Footage, make_part

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.errors import ManifestError, OutputError
from infraredcity.export import hf_card
from infraredcity.export.about import About

DAY = {"modality": "visible", "time_of_day": "day"}


def lite(root: Path) -> Path:
    clear, overcast = (
        Footage(clip=f"city_{weather}", weather=weather, frames=range(9)) for weather in ("clear", "overcast")
    )
    make_part(root, "city/infrared-train", "train", clear, overcast)
    make_part(root, "city/infrared-test", "test", Footage(clip="city_clear", weather="clear", frames=range(30, 34)))
    make_part(root, "city/visible-train", "train", Footage(clip="city_day", frames=range(5), image_format="jpg", **DAY))
    manifest.write_blocks(root, [rows_of(open_dataset(root))])
    return root


def front_matter(path: Path) -> Any:
    before, matter, _ = path.read_text().split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter)


def test_the_front_matter_names_the_shards_of_each_scene_modality_and_split(tmp_path: Path) -> None:
    report = hf_card.write(lite(tmp_path), About())
    assert (report.num_samples, report.configs) == (27, ("city-infrared", "city-visible"))
    matter = front_matter(tmp_path / "README.md")
    assert matter["configs"] == [
        {
            "config_name": "city-infrared",
            "data_files": [
                {"split": "train", "path": ["city/infrared-train/*.tar"]},
                {"split": "test", "path": ["city/infrared-test/*.tar"]},
            ],
        },
        {"config_name": "city-visible", "data_files": [{"split": "train", "path": ["city/visible-train/*.tar"]}]},
    ]
    infrared, visible = matter["dataset_info"]
    assert [(split["name"], split["num_examples"]) for split in infrared["splits"]] == [("train", 18), ("test", 4)]
    sizes = {path.parent.name: 0 for path in tmp_path.rglob("*.tar")}
    for path in tmp_path.rglob("*.tar"):
        sizes[path.parent.name] += path.stat().st_size
    assert [split["num_bytes"] for split in infrared["splits"]] == [sizes["infrared-train"], sizes["infrared-test"]]
    assert [each["name"] for each in infrared["features"]] == ["png", "json", "__key__", "__url__"]
    assert visible["features"][0] == {"name": "jpg", "dtype": "image"}
    assert matter["size_categories"] == ["n<1K"]
    assert {"infrared", "visible", "city", "webdataset"} <= {*matter["tags"]}


def test_the_features_are_those_of_the_json_members(tmp_path: Path) -> None:
    hf_card.write(lite(tmp_path), About())
    from infraredcity.shards.reader import iterate

    sample = next(iter(iterate(sorted(tmp_path.rglob("*.tar"))[0])))
    kinds = {str: "string", int: "int64", float: "float64"}
    told = [{"name": name, "dtype": kinds[type(value)]} for name, value in json.loads(sample.members["json"]).items()]
    assert front_matter(tmp_path / "README.md")["dataset_info"][0]["features"][1]["struct"] == told


def test_the_table_counts_what_is_there(tmp_path: Path) -> None:
    hf_card.write(lite(tmp_path), About())
    text = (tmp_path / "README.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| city-infrared | train |"))
    # Two clips of 9 frames, 8 a shard.
    assert row.split(" | ")[2:4] == ["18", "4"]
    assert row.endswith("| 96x64 | city_clear, city_overcast |")
    assert manifest.dataset_hash(manifest.read(tmp_path / "manifest.csv")) in text


def test_no_licence_is_claimed_that_nobody_stated(tmp_path: Path) -> None:
    hf_card.write(lite(tmp_path), About())
    assert front_matter(tmp_path / "README.md")["license"] == "unknown"
    assert "No licence was stated" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("https://example.org/terms", {"license": "other", "license_link": "https://example.org/terms"}),
        ("by application", {"license": "other", "license_name": "by application"}),
    ],
)
def test_a_licence_is_written_as_the_hub_knows_it(tmp_path: Path, stated: str, expected: dict[str, str]) -> None:
    hf_card.write(lite(tmp_path), About(license=stated))
    matter = front_matter(tmp_path / "README.md")
    assert {name: value for name, value in matter.items() if name.startswith("license")} == expected


def test_what_people_state_is_in_the_card(tmp_path: Path) -> None:
    about = About(
        name='Night: "streets" #1', description="Filmed from a roof.", url="https://example.org", creators=("A. Bee", "C"),
        cite_as="@misc{x, title={Y}}",
    )  # fmt: skip
    hf_card.write(lite(tmp_path), about)
    text = (tmp_path / "README.md").read_text()
    assert front_matter(tmp_path / "README.md")["pretty_name"] == 'Night: "streets" #1'
    for said in ("Filmed from a roof.", "Made by A. Bee, C.", "<https://example.org>", "@misc{x, title={Y}}"):
        assert said in text


def test_configurations_are_told_apart_where_scene_and_modality_are_not_enough(tmp_path: Path) -> None:
    make_part(tmp_path, "a", "all", Footage(clip="city_day", frames=range(2), **DAY))
    make_part(tmp_path, "b", "all", Footage(clip="night_visible", frames=range(2), modality="visible"))
    make_part(tmp_path, "c", "all", Footage(clip="one", frames=range(2)))
    make_part(tmp_path, "d", "all", Footage(clip="two", frames=range(2), image_format="jpg"))
    make_part(tmp_path, "e", "all", Footage(clip="x", frames=range(2)), Footage(clip="y", scene="z", frames=range(2)))
    names = [config.name for config in hf_card.configs_of(open_dataset(tmp_path))]
    assert names == [
        "city-infrared-night-jpg",
        "city-infrared-night-png",
        "city-visible-day",
        "city-visible-night",
        "e",
    ]


def test_clips_that_were_not_divided_are_called_train(tmp_path: Path) -> None:
    make_part(tmp_path, "city_clear", "all", Footage(clip="city_clear", weather="clear", frames=range(3)))
    make_part(tmp_path, "city_overcast", "all", Footage(clip="city_overcast", weather="overcast", frames=range(3)))
    hf_card.write(tmp_path, About())
    (config,) = front_matter(tmp_path / "README.md")["configs"]
    assert config["data_files"] == [{"split": "train", "path": ["city_clear/*.tar", "city_overcast/*.tar"]}]
    assert "not divided into train and test" in (tmp_path / "README.md").read_text()


def test_a_tar_that_no_index_knows_is_not_among_the_data_files(tmp_path: Path) -> None:
    part = make_part(tmp_path, ".", "all", Footage(clip="city_clear", frames=range(10)))
    (tmp_path / "stray.tar").write_bytes(b"")
    hf_card.write(tmp_path, About())
    (config,) = front_matter(tmp_path / "README.md")["configs"]
    assert config["data_files"][0]["path"] == [info.name for info in part.index.shards]
    assert len(part.index.shards) == 2


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    first = hf_card.write(lite(tmp_path), About())
    time = (tmp_path / "README.md").stat().st_mtime_ns
    assert (first.is_new, hf_card.write(tmp_path, About()).is_new) == (True, False)
    assert (tmp_path / "README.md").stat().st_mtime_ns == time
    # As it was written, it may be replaced.
    assert hf_card.write(tmp_path, About(name="another")).is_new


def test_a_card_that_somebody_wrote_or_changed_is_not_replaced(tmp_path: Path) -> None:
    path = lite(tmp_path) / "README.md"
    path.write_text("# Mine\n")
    with pytest.raises(OutputError, match=r"README\.md: is there and is not what this command wrote"):
        hf_card.write(tmp_path, About())
    assert path.read_text() == "# Mine\n"
    hf_card.write(tmp_path, About(), overwrite=True)
    changed = path.read_text().replace("## Loading", "## How we load it")
    path.write_text(changed)
    with pytest.raises(OutputError, match="use another -o, or --overwrite to replace it"):
        hf_card.write(tmp_path, About(name="another"))
    assert path.read_text() == changed
    hf_card.write(tmp_path, About(), output=tmp_path / "CARD.md")
    assert front_matter(tmp_path / "CARD.md")["pretty_name"] == tmp_path.name


def test_a_manifest_of_another_build_is_not_described(tmp_path: Path) -> None:
    lite(tmp_path)
    rows = manifest.read(tmp_path / "manifest.csv")
    manifest.write_blocks(tmp_path, [{**rows, "frame_index": [frame + 1 for frame in rows["frame_index"]]}])
    with pytest.raises(ManifestError, match=r"manifest\.csv: is not the manifest of these shards; rebuild it with"):
        hf_card.write(tmp_path, About())
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_missing_or_cut_shard_is_not_described(tmp_path: Path, damage: str) -> None:
    shard = sorted(lite(tmp_path).rglob("*.tar"))[0]
    data = shard.read_bytes()
    shard.unlink()
    if damage == "cut":
        shard.write_bytes(data[:-512])
    with pytest.raises(ManifestError, match=rf"{shard.name}: is missing or of another size than the index says"):
        hf_card.write(tmp_path, About())
