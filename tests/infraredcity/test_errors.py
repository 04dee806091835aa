"""Errors travel between processes as they are: workers and Ray's nodes send theirs to whoever waits for them."""

import errno
import inspect
import pickle

import pytest

from infraredcity import errors
from infraredcity.errors import (
    InfraredCityError,
    MissingExtraError,
    OutputError,
    RecipeError,
    RemoteError,
    RemoteMissingError,
)
from infraredcity.extraction.executors.worker import Failed

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, InfraredCityError)]
WITH_FACTS: list[InfraredCityError] = [
    RemoteError("s3://b/x: gone", is_missing=True),
    RemoteMissingError("s3://b/x: no such file"),
    OutputError("out: full", errno=errno.ENOSPC),
    RecipeError("it does not fit", ("city: 3 frames short", "monitor: 1 frame short")),
    MissingExtraError("ray", extra="ray", needed_for="--executor ray"),
]


@pytest.mark.parametrize("error", WITH_FACTS, ids=lambda error: type(error).__name__)
def test_an_error_of_a_worker_is_raised_with_all_that_it_knows(error: InfraredCityError) -> None:
    error.is_resumable = True
    failed = pickle.loads(pickle.dumps(Failed(error=error)))
    with pytest.raises(type(error)) as raised:
        failed.raise_again()
    assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))
    assert len(vars(error)) > 1 or type(error) is InfraredCityError


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_can_be_sent(kind: type[InfraredCityError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "one line")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, "one line")


def test_a_traceback_of_a_worker_is_told() -> None:
    with pytest.raises(RuntimeError, match="a worker process failed:\nTraceback of something"):
        pickle.loads(pickle.dumps(Failed(error="Traceback of something"))).raise_again()
