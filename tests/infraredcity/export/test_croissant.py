import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from export_sets import Footage, make_part

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.errors import ManifestError, OutputError
from infraredcity.export import croissant
from infraredcity.export.about import About


def two_clips(root: Path) -> Path:
    make_part(root, "city_clear", "all", Footage(clip="city_clear", weather="clear", frames=range(10)))
    make_part(root, "city_overcast", "all", Footage(clip="city_overcast", weather="overcast", frames=range(3)))
    return root


def joint(root: Path) -> Path:
    manifest.write_blocks(two_clips(root), [rows_of(open_dataset(root))])
    return root


def described(root: Path, **about: Any) -> dict[str, Any]:
    croissant.write(root, About(**about))
    found: dict[str, Any] = json.loads((root / "croissant.json").read_text())
    return found


def by_id(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({item["@id"] for item in items}) == len(items)
    return {item["@id"]: item for item in items}


def test_every_file_is_there_with_its_size_and_hash(tmp_path: Path) -> None:
    files = by_id(described(joint(tmp_path))["distribution"])
    shards = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tar")}
    assert len(shards) == 3
    objects = {name: item for name, item in files.items() if item["@type"] == "cr:FileObject"}
    assert objects.keys() == {"manifest.csv", "manifest.parquet", *shards}
    for name, item in objects.items():
        data = (tmp_path / name).read_bytes()
        assert item["contentUrl"] == name
        assert item["contentSize"] == f"{len(data)} B"
        assert item["sha256"] == hashlib.sha256(data).hexdigest()
    assert {each["@id"] for each in files["picture-files"]["containedIn"]} == shards
    assert files["picture-files"]["includes"] == ["*.png"]


def test_every_column_of_the_manifest_is_a_field_with_its_type(tmp_path: Path) -> None:
    (samples, pictures) = described(joint(tmp_path))["recordSet"]
    types = {field["name"]: field["dataType"] for field in samples["field"]}
    assert tuple(types) == manifest.COLUMNS
    assert (types["key"], types["pts"], types["time_s"], types["suspect"]) == (
        "sc:Text", "sc:Integer", "sc:Float", "sc:Boolean",
    )  # fmt: skip
    assert samples["field"][0]["source"] == {"fileObject": {"@id": "manifest.parquet"}, "extract": {"column": "key"}}
    assert [field["dataType"] for field in pictures["field"]] == ["sc:Text", "sc:ImageObject"]


def test_clips_without_a_joint_manifest_are_described_by_their_own(tmp_path: Path) -> None:
    found = described(two_clips(tmp_path))
    files = by_id(found["distribution"])
    assert files["manifests"]["includes"] == ["city_clear/manifest.parquet", "city_overcast/manifest.parquet"]
    assert {"city_clear/manifest.csv", "city_overcast/manifest.parquet"} <= files.keys()
    assert found["recordSet"][0]["field"][0]["source"]["fileSet"] == {"@id": "manifests"}
    assert not (tmp_path / "manifest.csv").exists()


def test_one_clip_is_described_in_its_own_folder(tmp_path: Path) -> None:
    two_clips(tmp_path)
    files = by_id(described(tmp_path / "city_clear")["distribution"])
    assert "manifest.parquet" in files
    assert files["made-city_clear-000001.tar"]["contentUrl"] == "made-city_clear-000001.tar"


def test_nothing_is_claimed_that_nobody_said(tmp_path: Path) -> None:
    report = croissant.write(joint(tmp_path), About())
    found = json.loads((tmp_path / "croissant.json").read_text())
    assert found.keys().isdisjoint({"license", "creator", "url", "citeAs", "version", "datePublished"})
    assert report.missing == ("--license", "--creator", "--url", "--cite-as", "--data-version", "--date-published")
    assert found["name"] == tmp_path.name
    assert found["description"].startswith("13 frames of 2 clips (city; infrared)")


def test_what_people_state_is_written(tmp_path: Path) -> None:
    about: dict[str, Any] = {
        "name": "Night", "description": "Roofs.", "url": "https://example.org", "license": "CC0-1.0", "cite_as": "@misc{x}",
        "version": "1.2.3", "date_published": "2026-01-31",
    }  # fmt: skip
    found = described(joint(tmp_path), creators=("A", "B"), **about)
    renamed = {"cite_as": "citeAs", "date_published": "datePublished"}
    assert {renamed.get(name, name): value for name, value in about.items()}.items() <= found.items()
    assert [creator["name"] for creator in found["creator"]] == ["A", "B"]


@pytest.mark.parametrize("wrong", [{"version": "1.0"}, {"version": "v1"}, {"date_published": "31.1.2026"}])
def test_a_version_or_day_of_another_form_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be"):
        About(**wrong)  # type: ignore[arg-type]


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    first = croissant.write(joint(tmp_path), About())
    again = croissant.write(tmp_path, About())
    assert (first.is_new, again.is_new, again.num_samples, again.num_shards) == (True, False, 13, 3)


def test_another_file_is_not_overwritten_by_mistake(tmp_path: Path) -> None:
    joint(tmp_path)
    before = (tmp_path / "manifest.csv").read_bytes()
    with pytest.raises(OutputError, match=r"manifest\.csv: is there and is no Croissant description; use another -o"):
        croissant.write(tmp_path, About(), output=tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_bytes() == before
    (tmp_path / "other.json").write_text("[]")
    croissant.write(tmp_path, About(), output=tmp_path / "other.json", overwrite=True)
    croissant.write(tmp_path, About(name="x"), output=tmp_path / "other.json")
    assert json.loads((tmp_path / "other.json").read_text())["name"] == "x"


def test_a_parts_manifest_of_another_build_is_found_where_there_is_no_joint_one(tmp_path: Path) -> None:
    two_clips(tmp_path)
    (tmp_path / "city_clear/manifest.parquet").write_bytes((tmp_path / "city_overcast/manifest.parquet").read_bytes())
    with pytest.raises(ManifestError, match=r"city_clear/manifest\.parquet: is not the manifest of these shards"):
        croissant.write(tmp_path, About())


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no shards; name a folder that extract"):
        croissant.write(tmp_path, About())
