import os
import socket
from pathlib import Path

import pytest

from infraredcity.files.records import MAX_RECORD_BYTES, parse_json, plain_descriptor, read_json, read_toml, read_whole

DEEP = "[" * 200_000


def test_a_file_is_read_whole(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"123456")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "empty").write_bytes(b"")
    assert read_whole(tmp_path / "a", 6) == b"123456"
    assert read_whole(tmp_path / "link", 6) == b"123456"
    assert read_whole(tmp_path / "empty", 0) == b""


def test_a_larger_file_is_not_read(tmp_path: Path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="holds 1099511627776 bytes, expected at most 6"):
        read_whole(tmp_path / "large", 6)
    with pytest.raises(OSError, match=f"expected at most {MAX_RECORD_BYTES}"):
        read_json(tmp_path / "large")


def test_a_link_is_not_followed_where_it_is_asked(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic link"):
        plain_descriptor(tmp_path / "link", follow_links=False)


@pytest.mark.timeout(20)
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(OSError, match="a pipe, a socket or a device, no plain file"):
            read_whole(tmp_path / name, 100)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="socket"):
            read_whole(tmp_path / "socket", 100)
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path, 100)


def test_depth_is_an_error_of_the_text(tmp_path: Path):
    (tmp_path / "a.json").write_text(DEEP)
    (tmp_path / "a.toml").write_text(f"a = {DEEP}")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_toml(tmp_path / "a.toml")


def test_json_and_toml_are_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    (tmp_path / "a.toml").write_bytes("# é\r\na = [1, 2]\r\n".encode())
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"]}
    assert read_toml(tmp_path / "a.toml") == {"a": [1, 2]}
