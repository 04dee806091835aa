"""Data sets behind a URL, in a store in this process: opened, chosen from, copied, checked and reported as those on a disk."""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from remote_sets import contents, moved, sent, shard_bytes

from infraredcity.checks.findings import Finding
from infraredcity.checks.verify import verify
from infraredcity.datasets import folder, lite, select, similarity, walk
from infraredcity.datasets.dataset import open_dataset, rows_of, sets_of
from infraredcity.datasets.folder import open_folder
from infraredcity.datasets.lite import LiteReport
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.walk import part_names
from infraredcity.errors import ManifestError, OutputError, RemoteError, ShardError
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.report import measure, measure_pixels
from infraredcity.report.page import page_html
from infraredcity.shards import sidecars
from infraredcity.shards.by_row import ShardFiles

RECIPE = Recipe(
    name="tiny",
    run_frames=8,
    guard_frames=5,
    window_frames=2,
    cells=(
        Cell(scene="city", clip="city_clear", train=16, test=8),
        Cell(scene="city", clip="city_day", train=20),
    ),
)
FIRST, SECOND = "infraredcity-city_clear-000000.tar", "infraredcity-city_clear-000001.tar"


@pytest.fixture
def store() -> Iterator[RemotePath]:
    """A remote folder that can be listed and written."""
    url = f"memory://store-{secrets.token_hex(4)}"
    yield RemotePath(f"{url}/sets")
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(url):
        filesystem.rm(url, recursive=True)


@pytest.fixture
def remote(extracted: Path, store: RemotePath) -> RemotePath:
    """The fixture `extracted`, remote."""
    return sent(extracted, store / "extracted")


def lite_at(source: AnyPath, out: AnyPath) -> LiteReport:
    return lite.build(source, out, RECIPE)


def test_a_remote_data_set_is_opened_as_a_local_one(extracted: Path, remote: RemotePath) -> None:
    assert part_names(remote) == part_names(extracted) == ["city_clear", "city_day"]
    assert rows_of(open_dataset(remote)) == rows_of(open_dataset(extracted))
    assert (
        open_folder(remote / "city_day").index.samples_hash() == open_folder(extracted, "city_day").index.samples_hash()
    )
    assert sets_of(remote, part_names(remote)) == {None: ["city_clear", "city_day"]}
    assert [*walk.folders_of(remote)] == [*walk.folders_of(extracted)] == [".", "city_clear", "city_day"]


def test_a_remote_folder_without_a_data_set_says_so(store: RemotePath) -> None:
    with pytest.raises(ManifestError, match=r"sets/nothing: no such folder; name a folder that extract"):
        open_dataset(store / "nothing")
    (store / "other" / "notes.txt").write_whole(b"nothing of ours")
    with pytest.raises(ManifestError, match=r"sets/other: holds no shards; name a folder"):
        open_dataset(store / "other")
    (store / "begun" / FIRST).write_whole(b"")
    with pytest.raises(ManifestError, match=r"sets/begun/clips\.json: no such file; finish extraction there first"):
        open_dataset(store / "begun")


def test_a_lite_set_from_a_store_is_that_of_the_disk_byte_for_byte(
    extracted: Path, remote: RemotePath, tmp_path: Path
) -> None:
    local_report = lite_at(extracted, tmp_path / "local")
    remote_report = lite_at(remote, tmp_path / "remote")
    assert replace(remote_report, folder="") == replace(local_report, folder="")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")


def test_a_lite_set_made_a_store_is_that_of_the_disk_and_made_once(
    extracted: Path, remote: RemotePath, store: RemotePath, tmp_path: Path
) -> None:
    lite_at(extracted, tmp_path / "local")
    traffic = moved(lambda: lite_at(remote, store / "lite"))
    assert contents(store / "lite") == contents(tmp_path / "local")
    # What was sent is not asked for again: neither for its pictures' hashes nor for index files of other readers.
    assert traffic.received_bytes < traffic.sent_bytes
    again = moved(lambda: lite_at(remote, store / "lite"))
    assert again.sent_bytes == 0
    assert not lite_at(remote, store / "lite").is_new


def test_a_remote_making_that_was_killed_is_made_again_and_leaves_nothing_behind(
    extracted: Path, store: RemotePath, tmp_path: Path
) -> None:
    lite_at(extracted, tmp_path / "local")
    whole = contents(tmp_path / "local")
    record = json.loads(whole["lite.json"])
    # What a kill leaves: the record without a report, a shard, and one of a run with other settings.
    (store / "lite/lite.json").write_whole(json.dumps({**record, "report": None}).encode())
    name = next(name for name in whole if name.endswith(".tar"))
    for left in (name, "city/infrared-train/tiny-clear-train-city_clear-000009.tar"):
        (store / "lite" / left).write_whole(whole[name][:1024])
    assert lite_at(extracted, store / "lite").is_new
    assert contents(store / "lite") == whole


def test_another_remote_set_is_not_overwritten_unasked(extracted: Path, store: RemotePath) -> None:
    lite_at(extracted, store / "lite")
    other = replace(RECIPE, guard_frames=6)
    with pytest.raises(OutputError, match=r"sets/lite: holds a Lite set of other settings or another source"):
        lite.build(extracted, store / "lite", other)
    assert lite.build(extracted, store / "lite", other, overwrite=True).is_new
    (store / "taken/city/infrared-test/stranger.tar").write_whole(b"")
    with pytest.raises(OutputError, match=r"taken/city/infrared-test: holds shards that are of no lite\.json"):
        lite_at(extracted, store / "taken")


def test_a_selection_from_and_to_a_store_is_that_of_the_disk(
    extracted: Path, remote: RemotePath, store: RemotePath, tmp_path: Path
) -> None:
    def written(source: AnyPath, out: AnyPath) -> None:
        conditions = [select.Condition.parse("frame_index>=10"), select.Condition.parse("frame_index<30")]
        chosen = select.choose(open_dataset(source), conditions)
        select.write(chosen, out, samples_per_shard=7)

    written(extracted, tmp_path / "local")
    written(remote, tmp_path / "from_a_store")
    written(remote, store / "chosen")
    expected = contents(tmp_path / "local")
    assert contents(tmp_path / "from_a_store") == expected
    assert contents(store / "chosen") == expected
    with pytest.raises(OutputError, match=r"is where the samples come from; use another --out"):
        written(remote, remote)
    with pytest.raises(OutputError, match=r"sub/set: lies in .*, where the samples come from; use another --out"):
        written(remote, remote / "sub" / "set")


def test_neighbours_come_in_one_request_and_all_in_order(extracted: Path, remote: RemotePath) -> None:
    index = open_folder(extracted, "city_clear").index
    rows = np.array([*range(3, 20), 45, 46, 30])  # in the first shard 3 to 15, in the second 16 to 19, 45 and 46, 30
    with ShardFiles(index, extracted / "city_clear") as files:
        expected = [*files.samples(rows)]
    with ShardFiles(index, remote / "city_clear") as files:
        found: list[bytes] = []
        traffic = moved(lambda: found.extend(files.samples(rows)))
        assert (files.facts().reads, files.facts().read_bytes) == (len(rows), sum(map(len, expected)))
    assert found == expected
    assert traffic.received_bytes == sum(map(len, expected))
    asked_for_sizes = 3  # once for each shard
    assert traffic.num_requests <= 4 + asked_for_sizes


def test_a_flipped_byte_is_not_copied_from_a_store(extracted: Path, remote: RemotePath, tmp_path: Path) -> None:
    index = open_folder(extracted, "city_clear").index
    row = lite.select(index, RECIPE.cells[0], RECIPE)["train"][0].start
    flip(remote / "city_clear" / FIRST, int(index.offset[row]) + 30)
    with pytest.raises(ShardError, match=rf"{FIRST}: stale or damaged: the picture at .* copy the shard there again"):
        lite_at(remote, tmp_path / "lite")
    assert json.loads((tmp_path / "lite/lite.json").read_bytes())["report"] is None


def flip(path: AnyPath, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    write(path, bytes(data))


def write(path: AnyPath, data: bytes) -> None:
    if isinstance(path, RemotePath):
        path.write_whole(data)
    else:
        path.write_bytes(data)


def offset(folder: AnyPath, row: int) -> int:
    return int(open_folder(folder, "city_clear").index.offset[row])


DAMAGES: dict[str, Callable[[AnyPath], object]] = {
    "nothing": lambda root: None,
    "a byte of a picture": lambda root: flip(root / "city_clear" / FIRST, offset(root, 2) + 30),
    "a byte of a header": lambda root: flip(root / "city_clear" / FIRST, offset(root, 2) - 500),
    "a shard that is gone": lambda root: (root / "city_clear" / SECOND).unlink(),
    "a shard that is cut": lambda root: write(
        root / "city_clear" / SECOND, (root / "city_clear" / SECOND).read_bytes()[:-5000]
    ),
    "a shard under another name": lambda root: (
        write(root / "city_clear/other.tar", (root / "city_clear" / SECOND).read_bytes()),
        (root / "city_clear" / SECOND).unlink(),
    ),
    "a stranger": lambda root: write(root / "city_day/stranger.tar", b"no tar"),
    "an index file of another reader": lambda root: flip(root / "city_clear" / FIRST.replace(".tar", ".idx"), 9),
    "a manifest": lambda root: flip(root / "city_clear/manifest.csv", 400),
    "no index": lambda root: (root / "city_day/index.npz").unlink(),
    "a temporary file": lambda root: write(root / "city_day/.tmp-1-2-x", b""),
}


HARMLESS = {"nothing", "a temporary file"}
SEEN_BY_QUICK = {"a shard that is gone", "a shard that is cut", "a shard under another name", "a stranger", "no index"}


def told(findings: tuple[Finding, ...], root: AnyPath) -> list[tuple[str, str, str, str]]:
    return [(each.part, each.where, each.problem, each.message.replace(str(root), "ROOT")) for each in findings]


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_a_store_what_it_finds_on_the_disk(
    extracted: Path, remote: RemotePath, tmp_path: Path, damage: str
) -> None:
    local = Path(shutil.copytree(extracted, tmp_path / "local"))
    for root in (local, remote):
        DAMAGES[damage](root)
    for quick in (False, True):
        expected, found = verify(local, quick=quick), verify(remote, quick=quick)
        assert told(found.findings, remote) == told(expected.findings, local)
        assert [note.replace(str(remote), str(local)) for note in found.notes] == list(expected.notes)
        assert replace(found, folder="", findings=(), notes=()) == replace(expected, folder="", findings=(), notes=())
        assert (found.findings != ()) == (damage in (SEEN_BY_QUICK if quick else {*DAMAGES} - HARMLESS))
        assert (found.notes != ()) == (damage == "a temporary file")


def test_verify_moves_each_shard_once_and_a_quick_look_none(extracted: Path, remote: RemotePath) -> None:
    whole = moved(lambda: verify(remote))
    all_bytes = sum(len(data) for data in contents(extracted).values())
    assert shard_bytes(extracted) <= whole.received_bytes <= all_bytes
    quick = moved(lambda: verify(remote, quick=True))
    assert quick.received_bytes < 0.1 * shard_bytes(extracted)
    assert verify(remote, quick=True).is_quick


def test_a_store_that_fails_is_no_finding(remote: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told of damage extracts again; what the network does passes."""
    memory = type(fsspec.filesystem("memory"))
    real = memory.cat_file

    def refused(self: object, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        if path.endswith(SECOND):
            raise PermissionError(path)
        return bytes(real(self, path, start=start, end=end, **options))

    monkeypatch.setattr(memory, "cat_file", refused)
    with pytest.raises(RemoteError, match=rf"{SECOND}: access is refused"):
        verify(remote)
    parts = open_dataset(remote)
    with pytest.raises(RemoteError, match=rf"{SECOND}: access is refused"):
        measure.measure_dataset(remote, parts)


@pytest.mark.parametrize("damage", ["nothing", "a shard that is gone", "a shard that is cut"])
def test_the_report_of_a_remote_set_is_that_of_the_disk(
    extracted: Path, remote: RemotePath, tmp_path: Path, damage: str
) -> None:
    local = Path(shutil.copytree(extracted, tmp_path / "local"))
    for root in (local, remote):
        DAMAGES[damage](root)
    assert page(remote) == page(local)
    assert ("cannot be opened" in page(remote)) == (damage == "a shard that is gone")


def test_a_report_moves_what_it_looks_at(extracted: Path, remote: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FRAMES_PER_CLIP", 5)  # as if the clips had thousands of frames
    traffic = moved(lambda: page(remote, num_thumbnails=6))
    assert traffic.received_bytes < 0.5 * shard_bytes(extracted)


def test_leakage_of_a_remote_lite_set_is_what_make_lite_found(
    extracted: Path, store: RemotePath, tmp_path: Path
) -> None:
    lite_at(extracted, tmp_path / "lite")
    remote = sent(tmp_path / "lite", store / "lite")
    assert page(remote, num_thumbnails=0) == page(tmp_path / "lite", num_thumbnails=0)
    (store / "lite/lite.json").unlink()
    alone = measure.measure_dataset(remote, open_dataset(remote)).leakage
    assert not alone.is_measured
    assert "downloaded" in alone.why_not


def page(root: AnyPath, num_thumbnails: int = 12) -> str:
    parts = open_dataset(root)
    numbers = measure.measure_dataset(root, parts)
    return page_html(numbers, measure_pixels.make_sheets(root, parts, numbers, num_thumbnails=num_thumbnails))


def test_hashes_of_remote_pictures_are_those_of_local_ones(extracted: Path, remote: RemotePath) -> None:
    local_hashes = similarity.perceptual_hashes(open_dataset(extracted))
    remote_hashes = similarity.perceptual_hashes(open_dataset(remote))
    assert [hashes.tolist() for hashes in remote_hashes] == [hashes.tolist() for hashes in local_hashes]


def test_what_describes_shards_is_written_without_opening_them(extracted: Path, store: RemotePath) -> None:
    part = open_folder(extracted, "city_clear")
    sizes = np.concatenate(
        [
            sidecars.json_sizes_of(part.path, part.index, number, rows)
            for number, rows in enumerate(part.index.rows_by_shard())
        ]
    )
    written = store / "described"
    traffic = moved(lambda: folder.write_folder(written, ".", part.index, part.clips, json_sizes=sizes))
    assert traffic.received_bytes == 0
    local = contents(part.path)
    names = [name for name in local if name.endswith(".idx")] + [
        "index.npz",
        "manifest.csv",
        "manifest.parquet",
        "clips.json",
    ]
    remote = contents(written)
    assert {name: remote[name] for name in names} == {name: local[name] for name in names}
    folder.write_folder(store / "again", ".", part.index, part.clips, json_sizes=sizes, with_dali=False)
    assert not [name for name in contents(store / "again") if name.endswith(".idx")]
    wrong = sizes.copy()
    wrong[20] += 512
    with pytest.raises(
        ManifestError, match=rf"{SECOND}: sample city_clear_00000020 ends elsewhere than its index says"
    ):
        folder.write_folder(store / "wrong", ".", part.index, part.clips, json_sizes=wrong)
