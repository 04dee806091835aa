"""`make-lite`, `select`, `shard`, `verify`, `report` and the loader on data sets behind a web server and in an S3-like store."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import web_server
from commands import Ran, RunCommand
from remote_sets import contents, moved, sent, shard_bytes
from synthetic import LITE_RECIPE
from web_server import CONFIG, Nginx, serving

from infraredcity.datasets import lite
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.recipe import read_recipe
from infraredcity.files.chunk_cache import ChunkCache
from infraredcity.files.path import RemotePath
from infraredcity.loader import FrameWindows, WindowReader, batches
from infraredcity.report import measure

TENTH = """
name = "tenth"
run_frames = 5
guard_frames = 5
window_frames = 2
[[cells]]
scene = "city"
clip = "city_clear"
train = 5
[[cells]]
scene = "city"
clip = "city_day"
train = 5
"""
"""10 of the 100 frames of the fixture `extracted`."""
SHARD = "infraredcity-city_clear-000001.tar"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(LITE_RECIPE)
    return path


@pytest.fixture
def web(extracted: Path, tmp_path: Path) -> Iterator[Nginx]:
    """The fixture `extracted` behind nginx, which lists folders."""
    root = Path(shutil.copytree(extracted, tmp_path / "www"))
    with serving(root, tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def s3(extracted: Path, s3_bucket: str) -> str:
    """The fixture `extracted` in a bucket."""
    return str(sent(extracted, RemotePath(f"{s3_bucket}/sets/extracted")))


@pytest.fixture(params=["http", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """The fixture `extracted`, far."""
    if request.param == "http":
        server: Nginx = request.getfixturevalue("web")
        return server.url
    bucket: str = request.getfixturevalue("s3")
    return bucket


def succeeded(ran: Ran) -> Ran:
    assert ran.code == 0, ran.stderr
    return ran


def test_a_lite_set_from_afar_is_that_of_the_disk(
    infraredcity: RunCommand, extracted: Path, url: str, recipe: Path, tmp_path: Path
) -> None:
    def made(source: object, out: str) -> Ran:
        return succeeded(
            infraredcity("make-lite", "--from", source, "--out", tmp_path / out, "--recipe", recipe, "--json")
        )

    near, far = made(extracted, "near"), made(url, "far")
    assert contents(tmp_path / "far") == contents(tmp_path / "near")
    assert "traffic" not in near.json
    assert far.json["traffic"]["received_bytes"] > 0
    assert far.json["traffic"]["sent_bytes"] == 0
    assert "moved " in far.stderr
    assert " from other machines in " in far.stderr


def test_a_tenth_of_the_frames_moves_about_a_tenth_of_the_bytes(extracted: Path, web: Nginx, tmp_path: Path) -> None:
    (tmp_path / "tenth.toml").write_text(TENTH)
    recipe = read_recipe(tmp_path / "tenth.toml")
    traffic = moved(lambda: lite.build(RemotePath(web.url), tmp_path / "lite", recipe))
    assert [len(part.index) for part in open_dataset(tmp_path / "lite")] == [5, 5]
    assert 0.09 * shard_bytes(extracted) < traffic.received_bytes < 0.2 * shard_bytes(extracted)


def test_a_lite_set_goes_from_a_bucket_to_a_bucket(
    infraredcity: RunCommand, extracted: Path, s3: str, s3_bucket: str, recipe: Path, tmp_path: Path
) -> None:
    succeeded(infraredcity("make-lite", "--from", extracted, "--out", tmp_path / "near", "--recipe", recipe))
    out = f"{s3_bucket}/lite"
    far = succeeded(infraredcity("make-lite", "--from", s3, "--out", out, "--recipe", recipe))
    assert " to other machines in " in far.stderr
    assert contents(RemotePath(out)) == contents(tmp_path / "near")
    assert (
        "nothing to do" in succeeded(infraredcity("make-lite", "--from", s3, "--out", out, "--recipe", recipe)).stderr
    )
    assert ": OK" in succeeded(infraredcity("verify", out, "--decode", "all")).stdout


def test_frames_are_chosen_and_written_from_afar(
    infraredcity: RunCommand, extracted: Path, url: str, tmp_path: Path
) -> None:
    where = ("--where", "clip=city_day", "--where", "frame_index<20")
    near, far = (succeeded(infraredcity("select", source, *where)) for source in (extracted, url))
    assert far.stdout == near.stdout
    for source, out in ((extracted, "near"), (url, "far")):
        succeeded(infraredcity("shard", source, *where, "--out", tmp_path / out, "--samples-per-shard", 7))
    assert contents(tmp_path / "far") == contents(tmp_path / "near")


def test_a_part_on_its_own_is_a_data_set_too(infraredcity: RunCommand, extracted: Path, url: str) -> None:
    near, far = (succeeded(infraredcity("verify", f"{root}/city_day", "--json")).json for root in (extracted, url))
    assert far.pop("traffic")["received_bytes"] > shard_bytes(extracted / "city_day")
    assert far | {"folder": ""} == near | {"folder": ""}


@pytest.mark.parametrize("damage", ["flipped", "gone", "cut"])
def test_verify_finds_the_same_behind_a_web_server_and_on_the_disk(
    infraredcity: RunCommand, web: Nginx, damage: str
) -> None:
    path = web.root / "city_clear" / SHARD
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:5000] + bytes([data[5000] ^ 255]) + data[5001:] if damage == "flipped" else data[:-5000])
    near, far = (infraredcity("verify", root, "--json") for root in (web.root, web.url))
    assert (near.code, far.code) == (4, 4)
    assert far.stdout.count(SHARD) > 0

    def found(ran: Ran, root: object) -> list[dict[str, str]]:
        return [{**each, "message": each["message"].replace(str(root), "")} for each in ran.json["findings"]]

    assert found(far, web.url) == found(near, web.root)
    quick = infraredcity("verify", web.url, "--quick", "--json")
    assert [each["problem"] for each in quick.json["findings"]] == {
        "flipped": [],
        "gone": ["missing-shard"],
        "cut": ["shard-size"],
    }[damage]
    assert quick.code == (0 if damage == "flipped" else 4)


def test_a_part_behind_a_server_that_lists_nothing_is_read_all_the_same(
    infraredcity: RunCommand, web: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.kill()
    monkeypatch.setattr(web_server, "CONFIG", CONFIG.replace("autoindex on;", ""))
    web.start()
    page = tmp_path / "page.html"
    verified = succeeded(infraredcity("verify", f"{web.url}/city_day"))
    assert "Note: http://127.0.0.1" in verified.stderr
    assert "the server lists nothing, so what does not belong there was not looked for" in verified.stderr
    succeeded(infraredcity("verify", f"{web.url}/city_day", "--quick"))
    succeeded(infraredcity("report", f"{web.url}/city_day", "-o", page, "--thumbnails", 4))
    whole = infraredcity("verify", web.url)
    assert whole.code == 1
    assert "Error: http://127.0.0.1" in whole.stderr


def test_the_page_about_a_far_set_is_that_of_the_disk(
    infraredcity: RunCommand, extracted: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FRAMES_PER_CLIP", 6)
    pages = [tmp_path / "near.html", tmp_path / "far.html"]
    for source, output in zip((extracted, url), pages, strict=True):
        succeeded(infraredcity("report", source, "-o", output, "--thumbnails", 8))
    assert pages[1].read_text() == pages[0].read_text()


def test_windows_from_a_bucket_are_those_of_the_disk(extracted: Path, s3: str, tmp_path: Path) -> None:
    def taken(source: str) -> list[FrameWindows]:
        cache = ChunkCache(tmp_path / "cache", 10_000_000, 8192)
        reader = WindowReader([source], window_frames=2, seed=3, cache=cache)
        try:
            stream = batches(reader, batch_size=7)
            windows = list(itertools.islice(stream, 8))
            assert (stream.facts().fetched_bytes > 0) == (source == f"{s3}/city_clear")
            return windows
        finally:
            reader.close()

    for one, other in zip(taken(f"{s3}/city_clear"), taken(str(extracted / "city_clear")), strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.frames, other.frames)


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "{url}/gone"),
        ("verify", "{url}/gone", "--quick"),
        ("report", "{url}/gone"),
        ("select", "{url}/gone"),
        ("make-lite", "--from", "{url}/gone", "--out", "lite"),
    ],
)
def test_no_error_tells_a_password_or_a_token(infraredcity: RunCommand, web: Nginx, command: tuple[str, ...]) -> None:
    login = web.url.replace("http://", "http://me:PASSWORD@")
    ran = infraredcity(*(word.replace("{url}", login) + "?token=TOKEN" * ("{url}" in word) for word in command))
    assert ran.code == 1
    assert "Error: http://127.0.0.1" in ran.stderr
    assert "PASSWORD" not in ran.stdout + ran.stderr
    assert "TOKEN" not in ran.stdout + ran.stderr


def test_credentials_do_not_get_into_what_is_written(
    infraredcity: RunCommand, web: Nginx, recipe: Path, tmp_path: Path
) -> None:
    url = web.url.replace("http://", "http://me:PASSWORD@") + "?token=TOKEN"
    succeeded(infraredcity("make-lite", "--from", url, "--out", tmp_path / "lite", "--recipe", recipe))
    page = tmp_path / "page.html"
    succeeded(infraredcity("report", url, "-o", page, "--thumbnails", 2))
    printed = [infraredcity("verify", url, "--json").stdout, infraredcity("select", url, "--json").stdout]
    written = [*contents(tmp_path / "lite").values(), page.read_bytes(), *(text.encode() for text in printed)]
    assert not [data for data in written if b"PASSWORD" in data or b"TOKEN" in data]


@pytest.mark.parametrize("command", [("repair",), ("export", "croissant")])
def test_commands_for_folders_here_refuse_a_url(infraredcity: RunCommand, command: tuple[str, ...]) -> None:
    ran = infraredcity(*command, "s3://me:PASSWORD@bucket/set")
    assert ran.code == 2
    assert "must be a local directory, got s3://bucket/set; copy it first" in ran.stderr
