import io
import pickle
import random
import re
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from threading import Thread

import fsspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from processes import PATIENCE_S, Start
from web_server import Nginx, serving

from infraredcity.errors import RemoteError, RemoteMissingError
from infraredcity.files import remote, urls
from infraredcity.files.path import AnyPath, RemotePath, RemoteStatus, any_path, is_remote, sizes_in, walk
from infraredcity.files.remote_reader import RemoteReader
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.source import UNKNOWN_BYTES
from infraredcity.files.traffic import Traffic, traffic

DATA = random.Random(0).randbytes(10_000)
QUICK = RemoteOptions(connect_timeout_s=0.5, read_timeout_s=0.5, deadline_s=0.5, backoff_s=0.02, listing_s=0.5)
PATIENT = RemoteOptions(deadline_s=600.0, backoff_s=0.02)
ODD_NAMES = [
    "a b.tar",
    "50%.tar",
    "a%20b.tar",
    "a#b.tar",
    "a+b.tar",
    "a&b=c;d,e@f:g.tar",
    "ä ö.tar",
    "'a\".tar",
    "~a!(1)*[2].tar",
]
TREE = {"x.bin": 1, "sub-a/y.bin": 2, "sub/y.bin": 3, "sub/deep/z.bin": 4, "sub/deep/w.bin": 0, "other/v.bin": 5}


@pytest.fixture(params=["memory", "file", "s3"])
def remote_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemotePath]:
    """An empty folder that can be written to, behind a URL of each kind."""
    if request.param == "s3":
        yield RemotePath(request.getfixturevalue("s3_bucket")) / "folder"
    elif request.param == "file":
        yield RemotePath(f"file://{tmp_path}/folder")
    else:
        filesystem = fsspec.filesystem("memory")
        filesystem.store.clear()
        filesystem.pseudo_dirs[:] = [""]
        yield RemotePath("memory://bucket/folder")
        filesystem.store.clear()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Nginx]:
    """A web server over a folder `www`, which makes pages of links."""
    (tmp_path / "www").mkdir()
    with serving(tmp_path / "www", tmp_path / "nginx") as server:
        yield server


def fill(folder: AnyPath) -> None:
    """Put the files of TREE there, each with as many bytes as it says."""
    for name, size in TREE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_whole(DATA[:size]) if isinstance(path, RemotePath) else path.write_bytes(DATA[:size])


def walked(root: AnyPath, *, skip: str = "") -> list[tuple[str, list[str], list[str]]]:
    found = []
    for folder, folders, files in walk(root):
        folders[:] = sorted(name for name in folders if name != skip)
        way = folder.relative_to(root)  # type: ignore[arg-type]  # both are of one kind
        found.append((way.as_posix(), [*folders], sorted(files)))
    return found


def moved_by(call: Callable[[], object]) -> tuple[int, int, int]:
    """Requests, bytes received and bytes sent."""
    before = traffic()
    call()
    after = traffic()
    return (
        after.num_requests - before.num_requests,
        after.received_bytes - before.received_bytes,
        after.sent_bytes - before.sent_bytes,
    )


# names


def test_a_location_is_local_or_remote_by_its_scheme() -> None:
    assert any_path("data/x") == Path("data/x")
    assert any_path(Path("s3:/x")) == Path("s3:/x")
    assert any_path("s3://bucket/x") == RemotePath("s3://bucket/x") == any_path(RemotePath("s3://bucket/x/"))
    assert [is_remote(any_path(text)) for text in ("x", "/x", "s3://b/x", "https://h/x")] == [False, False, True, True]
    with pytest.raises(ValueError, match="a remote path is a URL with a scheme, got 'data/x'"):
        RemotePath("data/x")


def test_a_remote_path_has_the_parts_of_a_local_one() -> None:
    path = RemotePath("s3://bucket/sets/day.v2/train-000001.tar")
    assert (path.name, path.stem, path.suffix, path.scheme) == ("train-000001.tar", "train-000001", ".tar", "s3")
    assert path.parent == RemotePath("s3://bucket/sets/day.v2")
    assert path.parent.parent.parent == path.parent.parent.parent.parent == RemotePath("s3://bucket")
    assert (path.parent.parent.parent.name, RemotePath("memory://x").name) == ("bucket", "x")
    assert path.with_suffix(".idx") == path.with_name("train-000001.idx") == path.parent / "train-000001.idx"
    assert path.relative_to(RemotePath("s3://bucket/sets")) == PurePosixPath("day.v2/train-000001.tar")
    assert RemotePath("s3://bucket") / PurePosixPath("a/./b") / "." / "c/" == RemotePath("s3://bucket/a/b/c")
    assert path.resolve() == path
    assert (str(path), path.as_posix()) == (path.url, path.url)
    assert RemotePath("file:///") / "x" == RemotePath("file:///x")
    assert RemotePath("file:///x").parent.url == "file:///"


@pytest.mark.parametrize("other", ["s3://bucket/else", "s3://other/sets", "https://bucket/sets"])
def test_a_way_between_places_that_do_not_lie_in_each_other_is_an_error(other: str) -> None:
    with pytest.raises(ValueError, match="sets/x"):
        RemotePath("s3://bucket/sets/x").relative_to(RemotePath(other))


def test_a_query_stays_at_the_end_and_out_of_names() -> None:
    folder = RemotePath("https://me:pw@host:81/sets/?token=a/b.c")
    path = folder / "day v2.tar"
    assert path.url == "https://me:pw@host:81/sets/day%20v2.tar?token=a/b.c"
    assert (path.name, path.suffix, path.parent) == ("day v2.tar", ".tar", folder)
    assert (path.relative_to(folder), str(path)) == (PurePosixPath("day v2.tar"), "https://host:81/sets/day%20v2.tar")
    assert (folder.parent.url, folder.parent.name) == ("https://me:pw@host:81?token=a/b.c", "host:81")


@given(
    name=st.text(st.characters(exclude_characters="/?", exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name != "."
    ),
    base=st.sampled_from(["https://host/a%20b?x=1/2", "http://host", "s3://bucket/a%20b#c", "memory://", "file:///x"]),
)
@example(name="@", base="memory://")
def test_a_name_survives_in_every_url(name: str, base: str) -> None:
    folder = RemotePath(base)
    assert (folder / name).name == name
    assert (folder / name / "deeper").parent.parent == folder
    assert (folder / name).relative_to(folder) == PurePosixPath(name)


def test_a_name_that_a_url_cannot_hold_is_refused() -> None:
    with pytest.raises(RemoteError, match=r"s3://bucket/x: holds 'a\?b', which a URL cannot name for its `\?`"):
        RemotePath("s3://bucket/x") / "a?b"
    assert (RemotePath("https://host/x") / "a?b").url == "https://host/x/a%3Fb"


def test_remote_paths_are_sorted_as_local_ones() -> None:
    ways = ["a/b", "a-b", "a/c/d", "a", "b", "a/b.x", "Z"]
    local = [path.as_posix() for path in sorted(map(PurePosixPath, ways))]
    remote_path = [
        path.url.removeprefix("s3://bucket/") for path in sorted(RemotePath(f"s3://bucket/{way}") for way in ways)
    ]
    assert remote_path == local


def test_remote_paths_are_equal_by_url_and_travel_between_processes() -> None:
    path = RemotePath("memory://bucket/x?v=1", QUICK)
    again = pickle.loads(pickle.dumps(path))
    assert again == path
    assert hash(again) == hash(path)
    assert again._options == QUICK
    assert path != RemotePath("memory://bucket/x")
    assert path != "memory://bucket/x?v=1"
    assert (path / "y")._options == path.parent._options == QUICK


# reading and writing


@pytest.mark.parametrize("size", [0, 1, len(DATA)])
def test_what_is_sent_is_read_whole_and_by_ranges(remote_path: RemotePath, size: int, tmp_path: Path) -> None:
    data = DATA[:size]
    (tmp_path / "source").write_bytes(data)
    written, uploaded = remote_path / "deep" / "down" / "a.bin", remote_path / "deep" / "b.bin"
    written.write_whole(data)
    uploaded.upload(tmp_path / "source")
    for path in (written, uploaded):
        assert path.read_bytes() == data
        assert path.stat() == RemoteStatus(st_size=size)
        file = path.file(expected_bytes=size)
        for start, stop in ((0, size), (size // 3, size // 2), (size, size), (max(size - 1, 0), size)):
            assert file.read(start, stop - start) == data[start:stop]
        with pytest.raises(RemoteError, match=rf"ends before byte {size + 1}, of which 1 were asked for"):
            file.read(size, 1)


def test_text_is_utf_8(remote_path: RemotePath) -> None:
    (remote_path / "x.json").write_whole('{"a": "ä"}'.encode())
    assert (remote_path / "x.json").read_text() == '{"a": "ä"}'


def test_a_file_that_is_sent_again_takes_the_place_of_the_old_one(remote_path: RemotePath, tmp_path: Path) -> None:
    path = remote_path / "x.bin"
    path.write_whole(DATA)
    path.write_whole(b"short")
    assert path.read_bytes() == b"short"
    (tmp_path / "source").write_bytes(DATA)
    path.upload(tmp_path / "source")
    assert path.read_bytes() == DATA
    assert sizes_in(remote_path) == {"x.bin": len(DATA)}


def test_reading_what_is_not_there_fails_as_on_a_disk(remote_path: RemotePath) -> None:
    (remote_path / "x.bin").write_whole(DATA)
    gone, folder = remote_path / "gone.bin", remote_path / "gone"
    for call in (
        gone.read_bytes,
        gone.stat,
        gone.open,
        partial(gone.file().read, 0, 1),
        folder.iterdir().__next__,
        remote_path.read_bytes,
    ):
        with pytest.raises(FileNotFoundError, match=r"no such f|is a folder, no file") as raised:
            call()
        assert isinstance(raised.value, RemoteMissingError)
        assert raised.value.is_missing
    assert not any((gone.exists(), gone.is_file(), gone.is_dir(), folder.exists()))
    assert (list(folder.glob("*")), sizes_in(folder), list(walk(folder))) == ([], {}, [])
    gone.unlink(missing_ok=True)
    if remote_path.scheme != "s3":
        with pytest.raises(FileNotFoundError, match="no such file"):
            gone.unlink()


def test_a_missing_file_stays_one_between_processes() -> None:
    again = pickle.loads(pickle.dumps(RemoteMissingError("s3://bucket/x: no such file")))
    assert (type(again), str(again), again.is_missing) == (RemoteMissingError, "s3://bucket/x: no such file", True)


def test_folders_and_files_are_told_apart(remote_path: RemotePath) -> None:
    fill(remote_path)
    assert [path.name for path in remote_path.iterdir()] == ["other", "sub", "sub-a", "x.bin"]
    assert list((remote_path / "sub").iterdir()) == [remote_path / "sub" / "deep", remote_path / "sub" / "y.bin"]
    assert [
        (path.is_file(), path.is_dir(), path.exists()) for path in ((remote_path / "sub"), (remote_path / "x.bin"))
    ] == [
        (False, True, True),
        (True, False, True),
    ]
    assert remote_path.parent.is_dir()
    assert sizes_in(remote_path) == {"x.bin": 1}
    assert remote.listing((remote_path / "sub").url) == {"deep": None, "y.bin": 3}
    assert [path.name for path in (remote_path / "sub" / "deep").glob("*.bin")] == ["w.bin", "z.bin"]
    assert list(remote_path.glob("sub*")) == [remote_path / "sub", remote_path / "sub-a"]
    with pytest.raises(RemoteMissingError, match=r"x\.bin: no such folder"):
        remote.listing((remote_path / "x.bin").url)


@pytest.mark.parametrize("pattern", ["*/x.bin", "**"])
def test_a_pattern_through_folders_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="searched only for names"):
        list(RemotePath("memory://bucket").glob(pattern))


def test_odd_names_come_back_as_they_are(remote_path: RemotePath) -> None:
    for number, name in enumerate(ODD_NAMES):
        (remote_path / name).write_whole(bytes([number]))
    assert sizes_in(remote_path) == dict.fromkeys(ODD_NAMES, 1)
    assert [path.name for path in remote_path.iterdir()] == sorted(ODD_NAMES)
    assert [(remote_path / name).read_bytes() for name in ODD_NAMES] == [
        bytes([number]) for number in range(len(ODD_NAMES))
    ]
    assert all((remote_path / name).is_file() for name in ODD_NAMES)
    (remote_path / ODD_NAMES[3]).unlink()
    assert not (remote_path / ODD_NAMES[3]).exists()


@pytest.mark.parametrize("skip", ["", "sub"])
def test_a_walk_goes_where_one_on_a_disk_goes(remote_path: RemotePath, tmp_path: Path, skip: str) -> None:
    fill(remote_path)
    fill(tmp_path / "local")
    assert walked(remote_path, skip=skip) == walked(tmp_path / "local", skip=skip)


RENAMING = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
while True:
    (folder / ".tmp-of-a-writer").write_bytes(b"12")
    (folder / ".tmp-of-a-writer").rename(folder / "last.tar")
"""


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_is_listed_whole_while_somebody_writes_into_it(
    start_process: Start, tmp_path: Path, scheme: str
) -> None:
    names = [f"{number:04d}.tar" for number in range(500)]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    writer = start_process([sys.executable, "-c", RENAMING, tmp_path])
    while not (tmp_path / "last.tar").exists():
        assert writer.poll() is None
    listings = [sizes_in(any_path(f"{scheme}{tmp_path}")) for _ in range(200)]
    assert {tuple(sorted(name for name in listing if name in names)) for listing in listings} == {tuple(names)}


def test_an_open_file_reads_as_one_of_a_disk(remote_path: RemotePath) -> None:
    path = remote_path / "x.bin"
    path.write_whole(DATA)
    random_ = random.Random(1)
    with (
        path.open() as buffered,
        RemoteReader(path.file(), chunk_bytes=999, kept_chunks=2) as raw,
        io.BytesIO(DATA) as expected,
    ):
        for _ in range(100):
            offset, whence = random_.choice(
                [(random_.randrange(11_000), io.SEEK_SET), (0, io.SEEK_CUR), (-random_.randrange(10_000), io.SEEK_END)]
            )
            size = random_.choice([0, 1, 100, 5000])
            assert buffered.seek(offset, whence) == raw.seek(offset, whence) == expected.seek(offset, whence)
            wanted = expected.read(size)
            assert buffered.read(size) == wanted
            assert raw.read(size) == wanted[: len(wanted) and 999 - (expected.tell() - len(wanted)) % 999]
            raw.seek(expected.tell())
            assert buffered.tell() == raw.tell() == expected.tell()
    with pytest.raises(ValueError, match="opened only for reading bytes, got mode 'w'"):
        path.open("w")


def test_a_reader_keeps_few_chunks_and_asks_for_each_once(remote_path: RemotePath) -> None:
    (remote_path / "x.bin").write_whole(DATA)
    reader = RemoteReader((remote_path / "x.bin").file(), chunk_bytes=1000, kept_chunks=2)

    def read_back_and_forth() -> None:
        for offset in (0, 1000, 10, 1010, 20):
            reader.seek(offset)
            reader.read(5)

    assert moved_by(read_back_and_forth) == (2, 2000, 0)


def test_an_object_of_another_machine_is_seen_at_once(s3_bucket: str, s3_server: object) -> None:
    from s3_server import S3Server

    assert isinstance(s3_server, S3Server)
    remote_path, bucket = RemotePath(s3_bucket), RemotePath(s3_bucket).name
    (remote_path / "x" / "a").write_whole(b"1")
    assert sizes_in(remote_path / "x") == {"a": 1}
    assert not (remote_path / "x" / "b").exists()
    assert not (remote_path / "y").is_dir()
    s3_server.put(bucket, "x/b", b"22")
    s3_server.put(bucket, "x/a", b"333")
    s3_server.put(bucket, "y/c", b"4")
    assert (
        (remote_path / "x" / "b").exists(),
        (remote_path / "x" / "a").stat().st_size,
        (remote_path / "y").is_dir(),
    ) == (True, 3, True)
    assert sizes_in(remote_path / "x") == {"a": 3, "b": 2}


def test_a_folder_cannot_be_written_as_a_file(tmp_path: Path) -> None:
    remote_path = RemotePath(f"file://{tmp_path}", PATIENT)
    (tmp_path / "sub").mkdir()
    with pytest.raises(RemoteError, match="sub: fsspec cannot do it \\(is a directory\\)"):
        (remote_path / "sub").write_whole(b"x")
    (remote_path / "x.bin").write_whole(b"x")
    with pytest.raises(RemoteError, match=r"x\.bin/y: (not a directory|file exists)|cannot do it"):
        (remote_path / "x.bin" / "y").write_whole(b"x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["sub", "x.bin"]


def test_a_disk_that_is_full_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "there"
    source.write_bytes(bytes(2_000_000))
    path = RemotePath(f"file://{folder}/x.bin", PATIENT)
    path.write_whole(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(RemoteError, match=r"x\.bin: file too large; check"):
            path.upload(source)
        with pytest.raises(RemoteError, match=r"x\.bin: file too large; check"):
            path.write_whole(bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(found.name, found.read_bytes()) for found in folder.iterdir()] == [("x.bin", b"old")]


# counting


def test_requests_and_bytes_are_counted(remote_path: RemotePath, tmp_path: Path) -> None:
    path = remote_path / "x.bin"
    (tmp_path / "source").write_bytes(DATA)
    assert moved_by(lambda: path.write_whole(DATA)) == (1, 0, 10_000)
    assert moved_by(lambda: path.upload(tmp_path / "source")) == (1, 0, 10_000)
    assert moved_by(path.read_bytes) == (2, 10_000, 0)  # its size, its bytes
    assert moved_by(lambda: path.read_start(100)) == (1, 100, 0)
    assert moved_by(lambda: path.read_start(0)) == (0, 0, 0)
    file = path.file(expected_bytes=10_000)
    assert moved_by(lambda: file.read(5, 100)) == (2, 100, 0)
    assert moved_by(lambda: file.read(200, 100)) == (1, 100, 0)
    assert moved_by(path.exists) == moved_by(path.is_dir) == moved_by(path.stat) == (1, 0, 0)
    assert moved_by(lambda: sizes_in(remote_path)) == (1, 0, 0)
    assert moved_by(path.unlink) == (1, 0, 0)


def test_the_start_of_a_file_is_all_of_it_or_an_error(remote_path: RemotePath) -> None:
    path = remote_path / "x.bin"
    path.write_whole(DATA)
    assert path.read_start(7) == DATA[:7]
    assert path.read_start(10_000) == DATA
    with pytest.raises(RemoteError, match=r"x\.bin: ends before byte 10001, of which 10001 were asked for"):
        path.read_start(10_001)
    path.unlink()
    with pytest.raises(RemoteMissingError, match=r"x\.bin: no such file"):
        path.read_start(7)


def test_threads_count_together(remote_path: RemotePath) -> None:
    (remote_path / "x.bin").write_whole(DATA)
    file = (remote_path / "x.bin").file()
    assert file.size_bytes == 10_000

    def read_all() -> None:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda start: file.read(start, 100), range(0, 10_000, 100)))
        assert b"".join(found) == DATA

    assert moved_by(read_all) == (100, 10_000, 0)


def read_in_child(path: RemotePath) -> tuple[Traffic, bytes, Traffic]:
    return traffic(), path.read_bytes(), traffic()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_on_and_counts_from_zero(remote_path: RemotePath) -> None:
    path = remote_path / "x.bin"
    path.write_whole(DATA)
    assert path.read_bytes() == DATA  # connections and threads of the parent are there before the fork
    before = traffic()
    with get_context("fork").Pool(2) as pool:
        found = pool.map_async(read_in_child, [path] * 2, chunksize=1).get(timeout=PATIENCE_S)
    assert traffic() == before
    assert all(data == DATA for _, data, _ in found)
    fresh = [(first, last) for first, _, last in found if first == Traffic()]
    assert fresh
    assert all(last == Traffic(num_requests=2, received_bytes=10_000) for _, last in fresh)


# http


def test_a_web_servers_folder_is_read_like_one_of_a_disk(web: Nginx) -> None:
    fill(web.root)
    remote_path = RemotePath(web.url)
    assert walked(remote_path) == walked(web.root)
    assert walked(remote_path / "sub") == walked(web.root / "sub")
    assert sizes_in(remote_path / "sub" / "deep") == {"z.bin": 4, "w.bin": 0}
    assert remote.listing((remote_path / "sub").url) == {"deep": None, "y.bin": UNKNOWN_BYTES}
    assert [path.name for path in (remote_path / "sub").glob("y*")] == ["y.bin"]
    kinds = [
        (path.is_file(), path.is_dir(), path.exists())
        for path in (remote_path, remote_path / "sub", remote_path / "x.bin", remote_path / "gone")
    ]
    assert kinds == [(False, True, True), (False, True, True), (True, False, True), (False, False, False)]
    assert (
        sizes_in(remote_path / "gone"),
        list((remote_path / "gone").glob("*")),
        list(walk(remote_path / "gone")),
    ) == ({}, [], [])


def test_a_file_that_a_web_server_lists_and_no_longer_has_is_left_out(web: Nginx) -> None:
    fill(web.root)
    (web.root / "sub" / "deep" / "gone.bin").symlink_to(web.root / "nowhere")
    remote_path = RemotePath(web.url) / "sub" / "deep"
    assert "gone.bin" in remote.listing(remote_path.url)
    assert sizes_in(remote_path) == {"z.bin": 4, "w.bin": 0}


def test_an_empty_file_of_a_web_server_is_one(web: Nginx) -> None:
    (web.root / "empty").touch()
    path = RemotePath(web.url) / "empty"
    assert (path.stat().st_size, path.read_bytes(), path.open().read(), path.is_file()) == (0, b"", b"", True)
    with pytest.raises(RemoteError, match="is 0 bytes, the index says 7"):
        path.file(expected_bytes=7).read(0, 7)


def test_odd_names_of_a_web_server_come_back_as_they_are(web: Nginx) -> None:
    names = [*ODD_NAMES, "a?b.tar"]
    (web.root / "an odd #folder").mkdir()
    for name in names:
        (web.root / "an odd #folder" / name).write_text(name)
    remote_path = RemotePath(web.url) / "an odd #folder"
    assert [path.name for path in remote_path.iterdir()] == sorted(names)
    assert [(remote_path / name).read_text() for name in names] == names
    assert sizes_in(remote_path) == {name: len(name.encode()) for name in names}


def test_what_a_web_server_moves_is_counted(web: Nginx) -> None:
    (web.root / "x.bin").write_bytes(DATA)
    path = RemotePath(web.url) / "x.bin"
    assert moved_by(path.read_bytes) == (1, 10_000, 0)
    assert moved_by(lambda: path.file(expected_bytes=10_000).read(5, 100)) == (1, 100, 0)
    assert moved_by(path.stat) == (1, 1, 0)  # the first byte comes with the size
    assert moved_by((RemotePath(web.url) / "gone").exists) == (1, 0, 0)
    moved = RemotePath(f"{web.url}/moved/x.bin")
    assert moved_by(moved.read_bytes) == (2, 10_000, 0)
    num_requests, received_bytes, _ = moved_by(lambda: list(RemotePath(web.url).iterdir()))
    assert num_requests == 1
    assert 100 < received_bytes < 1000


def test_a_web_server_without_pages_of_links_says_so(web: Nginx) -> None:
    (web.root / "x.bin").write_bytes(DATA)
    (web.root / "sub").mkdir()
    folder = RemotePath(f"{web.url}/whole/sub", PATIENT)
    assert folder.is_dir()
    with pytest.raises(
        RemoteError, match=r"/whole/sub/: .* 403 Forbidden; .*; a web server lists a folder only where it is set to"
    ):
        list(folder.iterdir())


def test_links_that_lead_elsewhere_are_no_files_of_a_folder(web: Nginx) -> None:
    (web.root / "sub").mkdir()
    page = """<a HREF = 'a.tar'>a</a> <A class="x" href="/sub/b%20b.tar">b</A> <a href="{url}/sub/c/">c</a> 
    <a href="./d.tar?x=1#y">d</a>
    <a href="../up.tar">up</a> <a href="?C=N;O=D">sort</a> <a href="#here">here</a>
    <a href="http://example.org/sub/e.tar">e</a> <a href="/sub/">self</a>
    <a href="deep/er.tar">deeper</a> <a name="f.tar">f</a> <a href="">g</a> <link href="h.css">"""
    (web.root / "sub" / "index.html").write_text(page.replace("{url}", web.url))
    found = remote.listing(f"{web.url.replace('//', '//me:pw@')}/sub?token=1")
    assert found == {"a.tar": UNKNOWN_BYTES, "b b.tar": UNKNOWN_BYTES, "c": None, "d.tar": UNKNOWN_BYTES}


@contextmanager
def page_for_everything(links: str) -> Iterator[RemotePath]:
    """A folder of a web server that answers each request with the same links."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(links)))
            self.end_headers()
            self.wfile.write(links.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield RemotePath(f"http://127.0.0.1:{server.server_port}/links", PATIENT)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["%2e%2e", "%2E", "a%00b", "a%0Ab", "a%1b%5b2J", "a%7f"])
def test_a_listing_with_names_that_no_file_can_have_is_an_error(name: str) -> None:
    with page_for_everything(f'<a href="/links/{name}/">x</a>') as folder:
        with pytest.raises(RemoteError, match=r"/links: lists '.*', which is no name of a file") as caught:
            list(folder.iterdir())
        assert str(caught.value).isprintable()
        with pytest.raises(RemoteError):
            list(walk(folder))


@pytest.mark.timeout(100)
def test_folders_without_end_are_an_error() -> None:
    with (
        page_for_everything('<a href="a/">a</a>') as folder,
        pytest.raises(RemoteError, match=r"/links(/a){33}: lies more than 32 folders deep, perhaps without end"),
    ):
        list(walk(folder))


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
def test_http_is_for_reading_alone(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    path = RemotePath(f"{scheme}://me:pw@host/x.bin?token=1")
    line = rf"{scheme}://host/x\.bin: http.? is for reading; write to s3://, gs://, sftp:// or a folder here"
    for call in (lambda: path.write_whole(b""), lambda: path.upload(tmp_path / "x"), path.unlink, path.check_writable):
        with pytest.raises(RemoteError, match=f"^{line}$"):
            call()


# credentials


def every_error(path: RemotePath, source: Path) -> Iterator[BaseException]:
    """What each way of using a place that cannot be used ends with."""
    calls: list[Callable[[], object]] = [
        path.read_bytes,
        path.read_text,
        path.stat,
        path.open,
        path.exists,
        path.is_dir,
        path.is_file,
        lambda: list(path.iterdir()),
        lambda: list(path.glob("*")),
        lambda: list(walk(path)),
        lambda: sizes_in(path),
        lambda: (path / "below").read_bytes(),
        lambda: path.with_name("beside").read_bytes(),
        lambda: path.file(expected_bytes=5).read(0, 5),
        lambda: path.file().version,
        lambda: path.write_whole(b"x"),
        lambda: path.upload(source),
        path.unlink,
        lambda: path.unlink(missing_ok=True),
        path.check_writable,
        lambda: path.relative_to(RemotePath("s3://elsewhere/x")),
    ]
    with ThreadPoolExecutor(8) as pool:
        for failed in pool.map(lambda call: pool_error(call), calls):
            if failed is not None:
                yield failed


def pool_error(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    "url",
    [
        "https://USER:PW-SECRET@127.0.0.1:9/x?token=T-SECRET",
        "http://USER:PW-SECRET@127.0.0.1:9?token=T-SECRET#F-SECRET",
        "s3://USER:PW-SECRET@bucket/x?token=T-SECRET",
        "s3://USER:PW%2FSECRET@bucket/x",
        "nowhere://USER:PW-SECRET@host/x?token=T-SECRET",
        "simplecache::http://USER:PW-SECRET@127.0.0.1:9/x?token=T-SECRET",
    ],
)
def test_nothing_that_is_printed_holds_credentials(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "source").write_bytes(b"x")
    path = RemotePath(url, QUICK)
    errors = list(every_error(path, tmp_path / "source"))
    assert len(errors) > 10
    printed = [
        str(path),
        repr(path),
        f"{path}",
        path.as_posix(),
        path.name,
        path.stem,
        path.parent.name,
        str(path.stem),
    ]
    printed += [str(path / "y"), repr([path.parent]), (path / "y").name]
    for error in errors:
        assert "\n" not in str(error)
        printed += [str(error), repr(error), *map(repr, error.args)]
    assert not [text for text in printed if re.search("SECRET|USER|PW", text)]


@pytest.mark.parametrize(
    "url", ["s3://USER:PW/SECRET@bucket/x", "https://USER:PW?SECRET@host/x?token=SECRET", "http://U:PW#SECRET@host"]
)
def test_a_password_that_is_not_quoted_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(
        RemoteError, match=r"^\w+://(bucket/x|host/x|host): a / \? or # in the password of a URL must be quoted"
    ):
        RemotePath(url)


@given(
    password=st.text("abc/@:#?%=. ", max_size=6).map(lambda text: f"x{text}SECRET"),
    path=st.text("abc/@:%. ", max_size=8),
    scheme=st.sampled_from(["s3", "https", "simplecache::sftp"]),
)
def test_no_password_is_shown(password: str, path: str, scheme: str) -> None:
    shown = urls.shown(f"{scheme}://user:{password}@host/{path}?token=SECRET")
    assert "SECRET" not in shown
    assert "user" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8080/a@b/c.tar",
        "https://[::1]:80/a@b.tar",
        "s3://bucket/a@b:c.tar",
        "s3://bucket/a#b.tar",
        "http://host:8080",
    ],
)
def test_what_is_no_credential_is_shown(url: str) -> None:
    assert urls.shown(url) == url


def test_a_traceback_of_a_web_server_that_is_away_holds_no_credentials() -> None:
    path = RemotePath("http://USER:PW-SECRET@127.0.0.1:9/x?token=T-SECRET", QUICK)
    with pytest.raises(RemoteError) as raised:
        path.read_bytes()
    assert not re.search("SECRET|USER", "".join(traceback.format_exception(raised.value)))
