import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import PATIENCE_S

from infraredcity.errors import OutputError
from infraredcity.files.lock import lock_folder


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    refused = pytest.raises(OutputError, match="new: another run is writing here; wait for it")
    with lock_folder(folder), refused, lock_folder(folder):
        pass
    with lock_folder(folder):
        pass


def test_a_holder_that_ends_is_waited_for(tmp_path: Path):
    may_end = threading.Event()
    is_held = threading.Event()

    def hold() -> None:
        with lock_folder(tmp_path):
            is_held.set()
            may_end.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(PATIENCE_S)
    with pytest.raises(OutputError, match="another run is writing here"), lock_folder(tmp_path, wait_s=0.3):
        raise AssertionError("two held it")
    threading.Timer(0.3, may_end.set).start()
    with lock_folder(tmp_path, wait_s=PATIENCE_S):
        holder.join(PATIENCE_S)
        assert not holder.is_alive()


def test_a_killed_writer_frees_its_folder(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from infraredcity.files.lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=PATIENCE_S)
    assert done.returncode == -9
    with lock_folder(tmp_path):
        pass


def test_a_lock_where_no_folder_can_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot be written: (file exists|not a directory)"),
        lock_folder(tmp_path / "file"),
    ):
        pass
