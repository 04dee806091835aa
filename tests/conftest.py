"""Fixtures for every test: clips with known pixels, the command in this process, and extracted tiny shards."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commands import Ran, RunCommand
from hypothesis import HealthCheck, settings
from processes import started
from s3_server import S3Server, bucket_for, started_server
from synthetic import Shelf, clip_of

from infraredcity.cli import main
from infraredcity.clips import CLIPS_VARIABLE
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _no_clips_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLIPS_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def infraredcity(capsys: pytest.CaptureFixture[str]) -> Iterator[RunCommand]:
    """`infraredcity ...` inside this process."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def start_process() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`subprocess.Popen` in text, whose processes do not outlive the test, nor do their pipes, also where it fails."""
    with ExitStack() as processes:
        yield lambda command, **options: processes.enter_context(started(command, **options))


@pytest.fixture
def infraredcity_process(
    tmp_path: Path, start_process: Callable[..., "subprocess.Popen[str]"]
) -> Callable[..., "subprocess.Popen[str]"]:
    """`python -m infraredcity ...` as a process of its own, started in another folder than the checkout."""
    # Tests that run in the background of a shell inherit that SIGINT is ignored, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "infraredcity", *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if name != CLIPS_VARIABLE}
        return start_process(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )

    return start


@pytest.fixture(scope="session")
def extracted(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips as shards of 16 frames: city_clear (50 frames, infrared) and city_day (50 frames, visible)."""
    out = tmp_path_factory.mktemp("extracted")
    config = ExtractConfig(frames_per_shard=16)
    extract_clip(clip_of(shelf.gray), config, out)
    day = clip_of(shelf.h264, "city_day", weather="any", modality="visible", time_of_day="day")
    extract_clip(day, config, out)
    return out


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3-compatible store for all tests."""
    yield from started_server(tmp_path_factory.mktemp("s3"))


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new bucket on `s3_server`, reached by this process and those that it starts."""
    yield from bucket_for(s3_server, monkeypatch)
