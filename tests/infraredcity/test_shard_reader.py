import contextlib
import io
import re
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infraredcity import index as sample_index
from infraredcity import shard_reader
from infraredcity.errors import ShardError
from infraredcity.index import SampleIndex
from infraredcity.shard_reader import (
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    MAX_SAMPLE_MEMBERS,
    Refused,
    ShardFiles,
    iterate,
)
from infraredcity.shard_writer import open_shard

IMAGES = [f"picture {number} ".encode() * 60 * (number + 1) for number in range(4)]


def write(folder: Path, *, clip_id: str = "city_clear") -> SampleIndex:
    """Two shards of two samples."""
    shards = []
    for number in range(2):
        with open_shard(folder, f"s-{number}.tar", image_format="jpg") as handle:
            for frame in (2 * number, 2 * number + 1):
                handle.writer.add(clip_id, frame, frame, IMAGES[frame], b'{"frame_index":%d}' % frame)
        assert handle.info is not None
        shards.append((handle.info, handle.writer.entries))
    return sample_index.from_entries(
        clip_id=clip_id, frame_step=1, image_format="jpg", shards=shards, run_ids=np.zeros(4, np.int32)
    )


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, data: bytes = b"data") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def test_samples_come_in_order_with_both_members(tmp_path: Path) -> None:
    write(tmp_path)
    samples = list(iterate(tmp_path / "s-1.tar"))
    assert [sample.key for sample in samples] == ["city_clear_00000002", "city_clear_00000003"]
    assert [sample.members["jpg"] for sample in samples] == IMAGES[2:]
    assert samples[0].members["json"] == b'{"frame_index":2}'


def test_a_tar_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    data = (tmp_path / "s-1.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    # At each block's border, where a cut tar reads as a good, shorter one elsewhere, and inside blocks.
    for size in [*range(0, len(data) - 1024, 512), *range(100, len(data) - 1024, 700)]:
        cut.write_bytes(data[:size])
        with pytest.raises(ShardError, match=r"cut\.tar: .*copy the shard again"):
            list(iterate(cut))


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path: Path) -> None:
    index = write(tmp_path)
    data = bytearray((tmp_path / "s-1.tar").read_bytes())
    second = int(index.offset[3]) - 512
    data[second : second + 100] = b"\x07" * 100
    (tmp_path / "s-1.tar").write_bytes(data)
    with pytest.raises(ShardError, match=f"damaged at byte {second}: neither a member nor the end"):
        list(iterate(tmp_path / "s-1.tar"))


@pytest.mark.parametrize("data", [b"", b"no tar at all", bytes(range(256)) * 20])
def test_what_is_no_tar_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"x\.tar: "):
        list(iterate(tmp_path / "x.tar"))


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar: no such shard"):
        list(iterate(tmp_path / "gone.tar"))


def odd(name: str, kind: bytes, *, linkname: str = "", size: int = 0) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, size
    return info, bytes(size)


HOSTILE = {
    "a folder above": (member("../../etc/passwd.jpg"), "not <key>.<suffix>"),
    "an absolute path": (member("/etc/passwd.jpg"), "not <key>.<suffix>"),
    "a folder": (member("a/b.jpg"), "not <key>.<suffix>"),
    "a backslash": (member("..\\b.jpg"), "not <key>.<suffix>"),
    "no suffix": (member("noending"), "not <key>.<suffix>"),
    "two dots": (member("clip_t0.033.jpg"), "not <key>.<suffix>"),
    "another script": (member("камера.jpg"), "not <key>.<suffix>"),
    "capitals": (member("City.jpg"), "not <key>.<suffix>"),
    "a line break": (member("a\nb.jpg"), "not <key>.<suffix>"),
    "nothing before the dot": (member(".jpg"), "not <key>.<suffix>"),
    "a symbolic link": (odd("a.jpg", tarfile.SYMTYPE, linkname="/etc/hostname"), "a link"),
    "a hard link": (odd("a.jpg", tarfile.LNKTYPE, linkname="b_00000000.jpg"), "a link"),
    "a character device": (odd("a.jpg", tarfile.CHRTYPE), "a device"),
    "a block device": (odd("a.jpg", tarfile.BLKTYPE), "a device"),
    "a pipe": (odd("a.jpg", tarfile.FIFOTYPE), "a pipe"),
    "a directory": (odd("a.jpg", tarfile.DIRTYPE), "a folder"),
    "a sparse file": (odd("a.jpg", tarfile.GNUTYPE_SPARSE, size=512), "a sparse file"),
    "a contiguous file": (odd("a.jpg", b"7"), "of type b'7'"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_member_is_refused_or_skipped_with_a_count(tmp_path: Path, what: str) -> None:
    bad, reason = HOSTILE[what]
    path = archive(tmp_path / "x.tar", member("a_00000000.jpg"), bad, member("a_00000001.jpg", b"more"))
    with pytest.raises(ShardError, match=rf"x\.tar: member .* is .*{re.escape(reason)}.*; rebuild the shard"):
        list(iterate(path))
    refused: list[Refused] = []
    samples = list(iterate(path, on_refused=refused.append))
    assert [(sample.key, sample.members) for sample in samples] == [
        ("a_00000000", {"jpg": b"data"}),
        ("a_00000001", {"jpg": b"more"}),
    ]
    assert len(refused) == 1
    assert reason in refused[0].reason


@pytest.mark.parametrize(
    ("form", "name", "headers"),
    [
        (tarfile.PAX_FORMAT, "a" * 120 + ".jpg", {}),
        (tarfile.GNU_FORMAT, "a" * 120 + ".jpg", {}),
        (tarfile.USTAR_FORMAT, "b" * 60 + "/" + "a" * 60 + ".jpg", {}),
        (tarfile.PAX_FORMAT, "a.jpg", {"path": "../../escape.jpg"}),
        (tarfile.PAX_FORMAT, "a.jpg", {"GNU.sparse.realsize": "99999999999999"}),
        (tarfile.PAX_FORMAT, "a.jpg", {"size": "4"}),
    ],
)
def test_names_and_sizes_given_in_extended_headers_are_refused(
    tmp_path: Path, form: int, name: str, headers: dict[str, str]
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.pax_headers = 4, headers
        tar.addfile(info, io.BytesIO(b"data"))
        tar.addfile(*readable(member("a_00000001.jpg", b"more")))
    refused: list[Refused] = []
    assert [sample.key for sample in iterate(tmp_path / "x.tar", on_refused=refused.append)] == ["a_00000001"]
    assert len(refused) == 1


def test_times_in_extended_headers_are_read_over(tmp_path: Path) -> None:
    # As webdataset's own writer leaves them: a fraction of a second in a pax header before each member.
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(2):
            info, data = member(f"a_0000000{number}.jpg")
            info.mtime = 1_700_000_000.25
            tar.addfile(info, io.BytesIO(data))
    assert [sample.key for sample in iterate(tmp_path / "x.tar")] == ["a_00000000", "a_00000001"]


def readable(one: tuple[tarfile.TarInfo, bytes]) -> tuple[tarfile.TarInfo, io.BytesIO]:
    return one[0], io.BytesIO(one[1])


@pytest.mark.parametrize("size", [10**4, MAX_MEMBER_BYTES + 1, 8**11 - 1])
def test_a_claimed_size_beyond_the_file_is_an_error_and_takes_no_memory(tmp_path: Path, size: int) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = size
    (tmp_path / "y.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    for on_refused in (None, [].append):
        with pytest.raises(ShardError, match=rf"member 'a\.jpg' claims {size} bytes, the file ends before"):
            list(iterate(tmp_path / "y.tar", on_refused=on_refused))


def test_a_size_that_is_no_plain_number_is_an_error(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = 8**12  # GNU tar writes it in base 256
    (tmp_path / "y.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ShardError, match=r"member 'a\.jpg' claims no plain size; rebuild the shard"):
        list(iterate(tmp_path / "y.tar"))


def test_a_member_that_is_huge_but_there_is_skipped_unread(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = MAX_MEMBER_BYTES + 512
    path = tmp_path / "y.tar"
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.seek(512 + header.size)  # a hole, so that the test writes little
        small, data = member("a_00000001.jpg")
        file.write(small.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0") + bytes(1024))
    refused: list[Refused] = []
    tracemalloc.start()
    assert [sample.key for sample in iterate(path, on_refused=refused.append)] == ["a_00000001"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "more than" in refused[0].reason
    assert peak < 2_000_000


def test_a_sample_has_each_suffix_once_and_not_too_many(tmp_path: Path) -> None:
    twice = archive(tmp_path / "x.tar", member("a_00000000.jpg"), member("a_00000000.jpg", b"other"))
    with pytest.raises(ShardError, match="a second 'jpg' of one sample"):
        list(iterate(twice))
    many = archive(tmp_path / "y.tar", *(member(f"a_00000000.s{number}") for number in range(MAX_SAMPLE_MEMBERS + 3)))
    refused: list[Refused] = []
    (sample,) = iterate(many, on_refused=refused.append)
    assert (len(sample.members), len(refused)) == (MAX_SAMPLE_MEMBERS, 3)


def test_a_million_tiny_members_take_little_memory_and_end_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_MEMBERS == 1_000_000
    monkeypatch.setattr(shard_reader, "MAX_MEMBERS", 20_000)
    info, _ = member("x.y", b"")
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 20_001 + bytes(1024))
    refused = 0

    def count(_: Refused) -> None:
        nonlocal refused
        refused += 1

    tracemalloc.start()
    with pytest.raises(ShardError, match="holds more than 20,000 members"):
        list(iterate(tmp_path / "x.tar", on_refused=count))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused == 19_999  # the first is a sample of its own, the rest are second ones of it
    assert peak < 2_000_000


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
    mends_checksums=st.booleans(),
)
def test_whatever_is_done_to_a_tar_reading_it_ends_with_its_samples_or_with_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]], keep: float, mends_checksums: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    index = write(folder)
    path = folder / "s-1.tar"
    data = bytearray(path.read_bytes())
    whole = len(data)
    for place, value in changes:
        # Half of the changes hit headers, where all that a reader believes is written.
        header = int(index.offset[2 + value % 2]) - 512
        data[header + int(place * 2 * 512) % 512 if place < 0.5 else int(place * whole)] = value
    if mends_checksums:
        for start in range(0, whole, 512):
            block = data[start : start + 512]
            if block[257:262] == b"ustar":
                total = sum(block[:148]) + 8 * 32 + sum(block[156:])
                data[start + 148 : start + 156] = b"%06o\0 " % total
    path.write_bytes(data[: int(keep * whole)] if keep < 0.5 else data)
    refused: list[Refused] = []
    for on_refused in (None, refused.append):
        said = ""
        try:
            for sample in iterate(path, on_refused=on_refused):
                assert re.fullmatch("[a-z0-9_-]+", sample.key)
                assert all(re.fullmatch("[a-z0-9]+", suffix) for suffix in sample.members)
                assert sum(map(len, sample.members.values())) < whole
        except ShardError as error:
            said = str(error)
        assert said == "" or said.startswith(f"{path}: ")
        assert "\n" not in said


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=3000))
def test_bytes_that_are_no_tar_are_an_error_of_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.tar"
    path.write_bytes(data)
    with contextlib.suppress(ShardError):
        assert list(iterate(path)) == []


def test_a_row_is_read_by_its_place(tmp_path: Path) -> None:
    with ShardFiles(write(tmp_path), tmp_path) as files:
        assert [files.image(row) for row in (3, 0, 2, 1)] == [IMAGES[row] for row in (3, 0, 2, 1)]
        whole = files.sample(2)
    assert whole[:23] == b"city_clear_00000002.jpg"
    assert len(whole) % 512 == 0


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    with ShardFiles(write(tmp_path), tmp_path) as files, ThreadPoolExecutor(8) as pool:
        rows = [row % 4 for row in range(400)]
        assert list(pool.map(files.image, rows)) == [IMAGES[row] for row in rows]


def test_a_shard_of_another_size_is_refused(tmp_path: Path) -> None:
    index = write(tmp_path)
    data = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(data[:-512])
    with ShardFiles(index, tmp_path) as files:
        assert files.image(0) == IMAGES[0]
        with pytest.raises(
            ShardError, match=rf"s-1\.tar: is {len(data) - 512} bytes, the index says {len(data)}; copy the shard again"
        ):
            files.image(2)


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / "s-1.tar").unlink()
    with (
        ShardFiles(index, tmp_path) as files,
        pytest.raises(ShardError, match=r"s-1\.tar: the index names it, but it cannot be opened"),
    ):
        files.image(3)


def test_a_place_behind_the_shards_end_is_an_error(tmp_path: Path) -> None:
    index = write(tmp_path)
    index.offset[3] += 100_000
    with ShardFiles(index, tmp_path) as files, pytest.raises(ShardError, match=r"bytes were expected at .*, found 0"):
        files.image(3)
