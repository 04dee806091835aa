import os
from pathlib import Path

from infraredcity.files.open_files import OpenFile, OpenFiles


def test_open_files_are_bounded_and_close_with_their_last_reader(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.write_text(path.name)
    files = OpenFiles(2)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    first = OpenFile(os.open(paths[0], os.O_RDONLY))
    files.keep(0, first)
    for number in (1, 2, 3):
        files.keep(number, OpenFile(os.open(paths[number], os.O_RDONLY)))
    assert (len(files), files.get(0), files.get(1)) == (2, None, None)
    assert first.read(0, 9) == b"0"  # dropped, and still open for whoever reads from it
    assert len(os.listdir("/proc/self/fd")) == before + 3  # noqa: PTH208
    del first
    assert len(os.listdir("/proc/self/fd")) == before + 2  # noqa: PTH208
