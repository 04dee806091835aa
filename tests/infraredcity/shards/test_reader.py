import contextlib
import io
import re
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from infraredcity.errors import ShardError
from infraredcity.shards import index as sample_index
from infraredcity.shards import reader
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.names import MAX_MEMBER_BYTES
from infraredcity.shards.reader import (
    MAX_MEMBERS,
    MAX_NAME_BYTES,
    MAX_SAMPLE_MEMBERS,
    READ_AHEAD_BYTES,
    Refused,
    iterate,
    members,
    read_members,
)
from infraredcity.shards.writer import open_shard

IMAGES = [f"picture {number} ".encode() * 60 * (number + 1) for number in range(4)]


def write(folder: Path, *, clip_id: str = "city_clear") -> SampleIndex:
    """Two shards of two samples."""
    shards = []
    for number in range(2):
        with open_shard(folder, f"s-{number}.tar", image_format="jpg") as handle:
            for frame in (2 * number, 2 * number + 1):
                facts = b'{"frame_index":%d}' % frame
                handle.writer.add(clip_id, frame, frame, IMAGES[frame], facts, size_px=(96, 64))
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


def test_endless_zeros_behind_the_end_are_an_error_and_soon(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "s-1.tar").open("r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk
    with pytest.raises(ShardError, match=r"s-1\.tar: more than 16777216 zeros behind its end"):
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
    monkeypatch.setattr(reader, "MAX_MEMBERS", 20_000)
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


@settings(max_examples=300)
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


@settings(max_examples=300)
@given(data=st.binary(max_size=3000))
def test_bytes_that_are_no_tar_are_an_error_of_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.tar"
    path.write_bytes(data)
    with contextlib.suppress(ShardError):
        assert list(iterate(path)) == []


NAMES = {
    "capitals": ("City/Clear_01.JPG", "City/Clear_01", "jpg"),
    "folders": ("./day/2/a_1.jpg", "./day/2/a_1", "jpg"),
    "a dot in a folder": ("v1.0/a.jpg", "v1.0/a", "jpg"),
    "a second dot": ("a.Seg.PNG", "a", "seg.png"),
    "another script": ("камера_1.jpg", "камера_1", "jpg"),
    "a blank": ("frame 1.jpg", "frame 1", "jpg"),
    "a long name": ("a" * 200 + ".jpg", "a" * 200, "jpg"),
    "a long path": ("b" * 60 + "/" + "a" * 60 + ".jpg", "b" * 60 + "/" + "a" * 60, "jpg"),
}


def strange(path: Path, *named: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in named:
            tar.addfile(*readable(member(name, data)))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("what", NAMES)
def test_names_of_webdatasets_are_read_only_in_that_naming(tmp_path: Path, what: str, form: int) -> None:
    name, key, suffix = NAMES[what]
    if form == tarfile.USTAR_FORMAT and what == "a long name":
        return  # it has no place in this format
    path = strange(tmp_path / "x.tar", (name, b"data"), ("b_1.jpg", b"more"), form=form)
    first, second = iterate(path, naming="webdataset")
    assert (first.key, first.members) == (key, {suffix: b"data"})
    assert (second.key, second.members) == ("b_1", {"jpg": b"more"})
    with pytest.raises(ShardError, match="rebuild the shard"):
        list(iterate(path))


@settings(max_examples=150)
@given(
    names=st.lists(st.text("aB0._-/é ", min_size=1, max_size=12), min_size=1, max_size=8, unique_by=str.lower),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_samples_are_those_that_webdataset_finds(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: int
) -> None:
    named = [
        (name, f"{number}".encode())
        for number, name in enumerate(names)
        if not name.startswith("/") and not name.endswith("/") and ".." not in name.split("/")
    ]
    path = strange(tmp_path_factory.mktemp("names") / "x.tar", *named, form=form)
    with path.open("rb") as file:
        files = tar_file_expander([{"url": "x", "stream": file}])
        theirs = [
            (sample.pop("__key__"), {suffix: data for suffix, data in sample.items() if suffix != "__url__"})
            for sample in group_by_keys(files)
        ]
    ours = iterate(path, naming="webdataset", on_refused=lambda _: None)
    assert [(sample.key, sample.members) for sample in ours] == theirs


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_plain_file_of_a_sample_stays_refused_in_any_naming(tmp_path: Path, what: str) -> None:
    bad, _ = HOSTILE[what]
    path = archive(tmp_path / "x.tar", member("a_0.jpg"), bad, member("b_1.jpg", b"more"))
    refused: list[Refused] = []
    keys = [sample.key for sample in iterate(path, naming="webdataset", on_refused=refused.append)]
    if what in ("a folder", "two dots", "another script", "capitals"):
        assert (len(keys), refused) == (3, [])
    else:
        assert (keys, len(refused)) == (["a_0", "b_1"], 1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * MAX_NAME_BYTES + ".jpg", "named by more than 512 bytes"),
        ("../a.jpg", "leads out of its folder"),
        ("x/../../a.jpg", "leads out of its folder"),
        ("a\x1b[2J.jpg", "cannot be shown"),
        ("a\n" * 60 + ".jpg", "cannot be shown"),
        ("__notes__/a.jpg", "a note for webdataset"),
    ],
)
def test_names_in_extended_headers_are_looked_at_like_others(tmp_path: Path, name: str, reason: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info, data = member("a.jpg")
        info.pax_headers = {"path": name}
        tar.addfile(info, io.BytesIO(data))
    refused: list[Refused] = []
    assert list(iterate(tmp_path / "x.tar", naming="webdataset", on_refused=refused.append)) == []
    assert reason in refused[0].reason


def test_an_extended_header_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.tar", odd("a", b"x", size=600), member("a.jpg"))
    for naming in ("ours", "webdataset"):
        with pytest.raises(ShardError, match="damaged at byte 512: no extended header; copy the shard again"):
            list(iterate(path, naming=naming))  # type: ignore[arg-type]


class Elsewhere:
    """A tar in memory that notes how it is read."""

    name = "elsewhere.tar"
    version = "1"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return self.data[offset : offset + size]


def test_a_tar_elsewhere_is_read_forward_in_few_large_pieces(tmp_path: Path) -> None:
    big = READ_AHEAD_BYTES + 1000
    many = [member(f"a_{number:08d}.jpg", bytes([number % 251]) * 2000) for number in range(1500)]
    path = archive(tmp_path / "x.tar", *many, member("b_00000000.jpg", b"b" * big), member("c_00000000.jpg"))
    source = Elsewhere(path.read_bytes())
    assert list(members(source)) == list(members(path))
    assert len(source.reads) <= source.size_bytes // READ_AHEAD_BYTES + 2
    source.reads.clear()
    samples = list(iterate(source))
    assert samples == list(iterate(path))
    assert len(source.reads) <= source.size_bytes // READ_AHEAD_BYTES + 2
    assert all(
        offset + size <= after for (offset, size), (after, _) in zip(source.reads, source.reads[1:], strict=False)
    )


def test_a_tar_elsewhere_that_is_cut_is_an_error_that_names_it() -> None:
    data = archive_bytes(member("a_00000000.jpg", b"x" * 2000), member("a_00000001.jpg"))
    for size in range(0, len(data) - 10240 + 4096, 512):
        if not data[size:].strip(b"\0"):
            break
        with pytest.raises(ShardError, match=r"^elsewhere\.tar: .*copy the shard again"):
            list(iterate(Elsewhere(data[:size])))


def archive_bytes(*named: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for one in named:
            tar.addfile(*readable(one))
    return buffer.getvalue()


def test_the_members_of_one_sample_are_read_from_its_bytes(tmp_path: Path) -> None:
    index, data = write(tmp_path), (tmp_path / "s-1.tar").read_bytes()
    start, span = int(index.offset[2]) - 512, int(index.span[2])
    assert read_members(data[start : start + span]) == {"jpg": IMAGES[2], "json": b'{"frame_index":2}'}
    two = data[start : start + span + int(index.span[3])]
    with pytest.raises(ShardError, match="day: expected the bytes of one sample, found 2"):
        read_members(two, name="day")
    with pytest.raises(ShardError, match="sample: expected the bytes of one sample, found 0"):
        read_members(b"")
    with pytest.raises(ShardError, match=r"member 'City\.jpg' is not <key>"):
        read_members(archive_bytes(member("City.jpg"))[:1024])
    assert read_members(archive_bytes(member("City.jpg"))[:1024], naming="webdataset") == {"jpg": b"data"}


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, 2048),
)
def test_whatever_is_done_to_a_samples_bytes_its_members_or_one_line_come(
    changes: list[tuple[int, int]], keep: int
) -> None:
    data = bytearray(archive_bytes(member("a_1.jpg", b"x" * 600), member("a_1.json", b"{}"))[:2560])
    for place, value in changes:
        data[place] = value
    said, found = "", {}
    try:
        found = read_members(bytes(data[: len(data) - keep]), naming="webdataset")
    except ShardError as error:
        said = str(error)
    assert said == "" or said.startswith("sample: ")
    assert "\n" not in said
    assert sum(map(len, found.values())) < len(data)
