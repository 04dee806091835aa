"""An S3-compatible store for tests: a process of its own on a port of its own, which keeps the objects in its memory.

It lists 50 objects a page, so that most listings need more than one. `tests/conftest.py` has the fixtures: `s3_server`, one server
for all tests, and `s3_bucket`, the URL of a new bucket on it that this process and those it starts can reach.
"""

import importlib.util
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

PAGE_OBJECTS = 50
_BUCKET_NUMBERS = itertools.count()


@dataclass
class S3Server:
    """A store with an address, a port and credentials of its own.

    Args:
        work: A folder for what the server prints.
        address: Where it listens.
        launcher: A command that starts another one, such as `ip netns exec NAME`.
    """

    work: Path
    address: str = "127.0.0.1"
    launcher: Sequence[str] = ()
    port: int = field(init=False, default=0)
    process: "subprocess.Popen[bytes] | None" = field(init=False, default=None)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment to use this store and no other."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # or boto asks an address that answers in clouds alone
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": self.address,
        }

    def start(self) -> None:
        with socket.create_server(("", 0)) as free:
            self.port = free.getsockname()[1]
        server = [sys.executable, "-m", "moto.server", "-H", self.address, "-p", str(self.port)]
        environment = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_OBJECTS)}
        with self._log.open("wb") as log:
            command = [*self.launcher, *server]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + PATIENCE_S
        while (
            f"Running on {self.url}" not in self._log.read_text()
        ):  # the port may be out of reach, in another network namespace
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(self._log.read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the server; its objects are lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def requests(self) -> list[str]:
        """The first line of each request so far, which the server notes before it answers."""
        return re.findall(r"((?:GET|HEAD|PUT|POST|DELETE) .*) HTTP/1.1", self._log.read_text())

    def require_credentials(self) -> None:
        """Refuse from now on whoever has none that the server gave out, which it gave to nobody."""
        told = urllib.request.Request(f"{self.url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(told, timeout=PATIENCE_S).close()

    def freeze(self) -> None:
        """Keep the connections and answer nothing, as a machine that hangs does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket; returns its URL."""
        self._client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All objects of a bucket by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {key: self._client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Make an object behind the back of whoever is tested."""
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def num_uploads(self, bucket: str) -> int:
        """How many uploads in parts have begun and neither ended nor been given up."""
        return len(self._client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    @property
    def _log(self) -> Path:
        return self.work / "s3.log"

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing-secret",
            region_name="us-east-1",
        )


def started_server(work: Path) -> Iterator[S3Server]:
    """A server for a fixture; the test is skipped where the packages for it are not installed."""
    for package in ("flask", "moto", "s3fs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it comes with the extra `dev`")
    server = S3Server(work)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def bucket_for(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a new bucket, which this process reaches through its environment."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield server.make_bucket(f"bucket-{next(_BUCKET_NUMBERS)}")
    forget_clients()


def forget_clients() -> None:
    """Make s3fs read the environment again; it keeps a client for as long as the process lives."""
    with suppress(ImportError):
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
