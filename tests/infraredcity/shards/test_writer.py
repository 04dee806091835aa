import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from infraredcity.errors import OutputError
from infraredcity.shards.index import IndexEntry, ShardInfo
from infraredcity.shards.writer import open_shard

IMAGES = [b"\xff\xd8 one", b"\xff\xd8" + b"x" * 1022, b"\xff\xd8" + b"y" * 700]
NAME = "infraredcity-city_clear-000000.tar"


def facts(number: int) -> dict[str, object]:
    return {"clip": "city_clear", "frame_index": number, "time_s": number / 25}


def told(number: int) -> bytes:
    return json.dumps(facts(number)).encode()


def write(folder: Path) -> tuple[ShardInfo, list[IndexEntry]]:
    with open_shard(folder, NAME, image_format="jpg") as handle:
        for number, image in enumerate(IMAGES):
            handle.writer.add("city_clear", number, number * 512, image, told(number), size_px=(96, 64 + number))
    assert handle.info is not None
    return handle.info, handle.writer.entries


def test_a_shard_written_twice_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first == second
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_its_facts_are_those_of_the_file(tmp_path: Path) -> None:
    info, _ = write(tmp_path)
    data = (tmp_path / NAME).read_bytes()
    assert info == ShardInfo(name=NAME, num_samples=3, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_tarfile_reads_plain_ustar_with_nothing_of_this_machine(tmp_path: Path) -> None:
    write(tmp_path)
    data = (tmp_path / NAME).read_bytes()
    assert data[257:265] == b"ustar\x0000"
    with tarfile.open(tmp_path / NAME, "r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [
            f"city_clear_0000000{number}.{suffix}" for number in range(3) for suffix in ("jpg", "json")
        ]
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert (member.mode, member.type, member.pax_headers) == (0o644, tarfile.REGTYPE, {})
        read = [archive.extractfile(member) for member in members]
        assert [file.read() for file in read[::2] if file] == IMAGES
        assert [json.loads(file.read()) for file in read[1::2] if file] == [facts(number) for number in range(3)]


def test_offsets_lead_to_the_images(tmp_path: Path) -> None:
    info, entries = write(tmp_path)
    data = (tmp_path / NAME).read_bytes()
    place = 0
    for entry, image in zip(entries, IMAGES, strict=True):
        assert data[entry.offset : entry.offset + entry.size] == image
        assert entry.sha256 == hashlib.sha256(image).hexdigest()
        assert entry.offset == place + 512
        place += entry.span
    # Two headers of 512 bytes a sample; images of 6, 1024 and 702 bytes fill 1, 2 and 2 blocks, each json fills one.
    assert [entry.span for entry in entries] == [2048, 2560, 2560]
    assert info.size_bytes == place + 1024


def test_a_copied_sample_is_the_same_bytes_at_another_place(tmp_path: Path) -> None:
    _, entries = write(tmp_path)
    data = (tmp_path / NAME).read_bytes()
    entry = entries[2]
    sample = data[entry.offset - 512 : entry.offset - 512 + entry.span]
    with open_shard(tmp_path, "copy.tar", image_format="jpg") as handle:
        copied = handle.writer.add_copy(2, entry.pts, sample, entry.size, entry.sha256, size_px=(96, 66))
    assert (copied.offset, copied.width, copied.height) == (512, entry.width, entry.height)
    with tarfile.open(tmp_path / "copy.tar") as archive:
        assert archive.getnames() == ["city_clear_00000002.jpg", "city_clear_00000002.json"]


def test_an_error_inside_leaves_no_file(tmp_path: Path) -> None:
    def break_off() -> None:
        with open_shard(tmp_path, NAME, image_format="jpg") as handle:
            handle.writer.add("city_clear", 0, 0, IMAGES[0], told(0), size_px=(96, 64))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_keeps_the_shard_that_stood_there(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / NAME).read_bytes()

    def break_off() -> None:
        with open_shard(tmp_path, NAME, image_format="jpg"):
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        break_off()
    assert (tmp_path / NAME).read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written: (not a directory|file exists)"):
        write(tmp_path / "file")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 100_000])
def test_a_members_header_is_that_of_tarfile(tmp_path: Path, size: int) -> None:
    with open_shard(tmp_path, NAME, image_format="jpg") as handle:
        handle.writer.add("monitor_night", 99_999_999, 0, bytes(size), b"{}", size_px=(96, 64))
    info = tarfile.TarInfo("monitor_night_99999999.jpg")
    info.size, info.mode = size, 0o644
    assert (tmp_path / NAME).read_bytes()[:512] == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_name_too_long_for_its_header_is_refused(tmp_path: Path) -> None:
    with (
        open_shard(tmp_path, NAME, image_format="jpg") as handle,
        pytest.raises(ValueError, match="a member's name must be of at most 100 bytes"),
    ):
        handle.writer.add("a" * 100, 0, 0, b"", b"{}", size_px=(96, 64))
