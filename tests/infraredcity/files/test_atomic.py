import os
from pathlib import Path

import pytest

from infraredcity.errors import OutputError, RemoteError, RemoteMissingError
from infraredcity.files.atomic import open_atomic, publish, write_atomic
from infraredcity.files.path import RemotePath
from infraredcity.files.temporary import is_temporary, remove_temporaries, temporary_beside


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "x.bin"
    with open_atomic(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [item.name for item in path.parent.iterdir()] == ["x.bin"]


def test_a_published_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    temporary = temporary_beside(path)
    temporary.write_bytes(b"frames")
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def spy(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    publish(temporary, path)
    assert synced[0] == (len(b"frames"), False)
    assert [item.name for item in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"frames"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomic(path, b"old")

    def fail() -> None:
        with open_atomic(path) as file:
            file.write(b"new")
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_bytes_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomic(path, b"abc")
    os.utime(path, ns=(1_000, 1_000))
    write_atomic(path, b"abc")
    assert path.stat().st_mtime_ns == 1_000
    write_atomic(path, b"abd")
    assert path.read_bytes() == b"abd"
    assert path.stat().st_mtime_ns != 1_000


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/x\.bin: cannot be written: (file exists|not a directory)"):
        write_atomic(tmp_path / "file" / "x.bin", b"abc")
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(OutputError, match=r"x\.bin: cannot be written: is a directory"):
        write_atomic(tmp_path / "x.bin", b"abc")
    assert not list(tmp_path.glob(".tmp-*"))


def test_leftovers_are_known_and_removed(tmp_path: Path) -> None:
    keep = tmp_path / "x.tar"
    keep.touch()
    names = {temporary_beside(keep) for _ in range(5)}
    assert len(names) == 5
    for path in names:
        assert is_temporary(path)
        path.touch()
    assert remove_temporaries(tmp_path) == 5
    assert list(tmp_path.iterdir()) == [keep]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """A file behind a URL that is not there yet; what is written to it waits in `waiting`."""
    (tmp_path / "waiting").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "waiting"))
    return RemotePath(f"file://{tmp_path}/there/deep/x.bin")


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_remote_file_appears_whole(remote: RemotePath, tmp_path: Path) -> None:
    with open_atomic(remote) as file:
        file.write(b"half")
        file.flush()
        assert list(files_below(tmp_path).values()) == [b"half"]
        assert not remote.exists()
        file.write(b" and half")
    assert files_below(tmp_path) == {"there/deep/x.bin": b"half and half"}
    write_atomic(remote, b"new")
    assert files_below(tmp_path) == {"there/deep/x.bin": b"new"}


def test_a_failed_write_to_a_remote_file_leaves_the_old_one_and_nothing_else(
    remote: RemotePath, tmp_path: Path
) -> None:
    write_atomic(remote, b"old")

    def fail() -> None:
        with open_atomic(remote) as file:
            file.write(b"new")
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        fail()
    assert files_below(tmp_path) == {"there/deep/x.bin": b"old"}


def test_a_read_only_url_is_refused_before_anything_is_written() -> None:
    with (
        pytest.raises(RemoteError, match=r"^https://host/x\.bin: https is for reading; write to s3://, gs://"),
        open_atomic(RemotePath("https://me:secret@host/x.bin")),
    ):
        pytest.fail("the block ran")
    with pytest.raises(RemoteError, match=r"https is for reading"):
        write_atomic(RemotePath("https://me:secret@host/x.bin"), b"")


def test_a_remote_file_needs_room_to_wait_for_its_end(remote: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with (
        pytest.raises(OutputError, match=r"^/nowhere: cannot be written: no such file or directory; set TMPDIR$"),
        open_atomic(remote),
    ):
        pytest.fail("the block ran")
    monkeypatch.undo()
    with (
        pytest.raises(OutputError, match=r"infraredcity-\w+: cannot be written: no space left on device; set TMPDIR"),
        open_atomic(remote),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert not remote.exists()


def test_what_is_missing_elsewhere_while_a_file_is_written_is_told_as_that(tmp_path: Path) -> None:
    """RemoteMissingError is an OSError, and no fault of the disk that is written to."""

    def write_what_is_missing() -> None:
        with open_atomic(tmp_path / "file") as file:
            file.write(b"half")
            raise RemoteMissingError("s3://b/x: no such file")

    with pytest.raises(RemoteMissingError, match=r"^s3://b/x: no such file$"):
        write_what_is_missing()
    assert list(tmp_path.iterdir()) == []
