"""What `infraredcity extract` ends with."""

import errno

import pytest

from infraredcity.cli.extract import _status_of_error, exit_code
from infraredcity.errors import InfraredCityError, OutputError, RemoteError, RemoteMissingError, RemoteRefusedError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RemoteError("gave up after 60 s"), "partial"),
        (RemoteMissingError("no such file"), "error"),
        (RemoteRefusedError("403 Forbidden"), "error"),
        (OutputError("no space left", errno=errno.ENOSPC), "partial"),
        (OutputError("read-only", errno=errno.EROFS), "error"),
    ],
)
def test_only_what_passes_by_itself_asks_for_the_same_command_again(error: InfraredCityError, status: str) -> None:
    assert _status_of_error(error) == status


def test_a_refusal_after_finished_segments_can_be_gone_on_from() -> None:
    error = RemoteRefusedError("403 Forbidden")
    error.is_resumable = True
    assert _status_of_error(error) == "partial"


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(["done"], 0), (["done", "gaps"], 5), (["gaps", "count"], 4), (["error", "done"], 1), (["error", "partial"], 3)],
)
def test_the_exit_code_is_that_of_the_worst_clip(statuses: list[str], code: int) -> None:
    assert exit_code(statuses) == code
