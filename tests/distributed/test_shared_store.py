"""Extraction in parts on machines that share an S3-compatible store and nothing else, and that lose power in the middle."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, Node, skip_reason, wait_until
from commands import RunCommand
from planned import changed, expanded, tree
from processes import PATIENCE_S
from s3_server import S3Server
from synthetic import Shelf, clip_of

from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.files.path import RemotePath

pytestmark = pytest.mark.distributed
CLIP = "city_clear"
OUT = "s3://out/set"
VIDEO = "s3://clips/long.mp4"
needs_store = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("flask", "moto", "s3fs")),
    reason="moto or s3fs is not installed; they come with the extra `dev`",
)
needs_namespaces = pytest.mark.skipif(skip_reason() != "", reason=skip_reason())
IN_STORE = """
import sys
from pathlib import Path
import boto3
store = boto3.client("s3")
what, place = sys.argv[1], Path(sys.argv[2])
if what == "put":
    for bucket in ("clips", "out"):
        store.create_bucket(Bucket=bucket)
    store.upload_file(str(place), "clips", place.name)
else:
    for page in store.get_paginator("list_objects_v2").paginate(Bucket="out"):
        for found in page["Contents"]:
            path = place / found["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            store.download_file("out", found["Key"], str(path))
"""
"""What only the store's own machine can do for the test, which stands outside of its network."""


@dataclass
class Site:
    """Two machines and a store."""

    cluster: Cluster
    store: S3Server
    folder: Path

    def start(self, node: Node, *words: object) -> None:
        """Start a command on a machine."""
        node.start([sys.executable, "-m", "infraredcity", *map(str, words)], self.store.environment)

    def run(self, node: Node, *words: object, code: int = 0) -> str:
        """Run a command there to its end; what it said."""
        before = len(node.said())
        self.start(node, *words)
        assert node.wait() == code, node.said()
        return node.said()[before:]

    def part(self, node: Node, part: int, *words: object) -> None:
        self.start(node, "extract", "--plan", f"{OUT}/plan.jsonl", "--part", part, *words)

    def in_store(self, what: str, path: Path) -> None:
        """Put the clip into the store, or get all of the output out of it."""
        command = ["ip", "netns", "exec", self.cluster.hub, sys.executable, "-c", IN_STORE, what, str(path)]
        environment = self.store.environment | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr

    def sent_records(self) -> set[int]:
        """The segments that were said to be done so far."""
        found = [re.fullmatch(rf"PUT /out/set/{CLIP}/segments/(\d+)\.jsonl.*", line) for line in self.store.requests()]
        return {int(each[1]) for each in found if each}

    def wait_for(self, segments: set[int], *, at_least: int) -> None:
        """Wait until so many of these segments were said to be done."""
        wait_until(lambda: len(self.sent_records() & segments) >= at_least, what=self.cluster.said)

    def outstanding(self, node: Node) -> list[int]:
        """What `status` prints there."""
        lines = self.run(node, "status", OUT, code=3).splitlines()
        return expanded(next(line for line in lines if re.fullmatch(r"[\d,-]+", line)))

    def union(self) -> dict[str, bytes]:
        """Everything that finalize left, but for the scans, whose names tell where the clip lies."""
        self.in_store("get", self.folder / "got")
        return without_scans(tree(self.folder / "got/set"))


def without_scans(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "/scan-" not in name}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Cluster(tmp_path, has_rendezvous=False) as cluster:
        store = S3Server(tmp_path, "10.87.0.1", ("ip", "netns", "exec", cluster.hub))
        store.start()
        try:
            yield Site(cluster, store, tmp_path)
        finally:
            store.stop()


@needs_store
@needs_namespaces
def test_the_other_machine_does_what_one_that_lost_power_left(site: Site, shelf: Shelf, tmp_path: Path) -> None:
    config = ExtractConfig(frames_per_shard=2, stop_frame=60, image_format="webp", size=(640, 480))
    settings = ("--frames-per-shard", 2, "--stop", 60, "--format", "webp", "--size", "640x480")
    first, second = site.cluster.nodes
    site.in_store("put", shelf.long)
    said = site.run(first, "plan", "--clip", CLIP, "--video", VIDEO, "--out", OUT, "--parts", 3, *settings)
    assert "3 parts of 10 to 10 segments" in said
    site.part(first, 0, "--workers", 0)
    site.part(second, 1, "--workers", 0)
    site.wait_for({*range(10)}, at_least=2)
    first.lose_power()
    assert second.wait() == 0, second.said()
    assert site.outstanding(second) == [0, 2]
    for part in (0, 2):
        site.part(second, part, "--workers", 0)
        assert second.wait() == 0, second.said()
    assert "(nothing left to do)" in site.run(second, "finalize", OUT)
    assert "(20 new)" not in re.findall(r"part 0 of 3: .*", second.said())[-1]  # it went on where the other stood
    extract_clip(clip_of(shelf.long), config, tmp_path / "one", workers=0)
    assert changed(without_scans(tree(tmp_path / "one")), site.union()) == []
    assert "secret" not in site.cluster.said()


@needs_store
@needs_namespaces
@pytest.mark.slow
def test_machines_that_lose_power_again_and_again_end_with_the_bytes_of_one_process(
    site: Site, shelf: Shelf, tmp_path: Path
) -> None:
    config = ExtractConfig(frames_per_shard=8, stop_frame=960, image_format="png", size=(640, 480))
    settings = ("--frames-per-shard", 8, "--stop", 960, "--format", "png", "--size", "640x480")
    site.in_store("put", shelf.long)
    site.run(site.cluster.nodes[0], "plan", "--clip", CLIP, "--video", VIDEO, "--out", OUT, "--parts", 6, *settings)
    left = [*range(6)]
    for power_cut in range(4):
        gone, stays = site.cluster.nodes[power_cut % 2], site.cluster.nodes[1 - power_cut % 2]
        done = site.sent_records()
        site.part(gone, left[0], "--workers", 2)
        site.part(stays, left[-1], "--workers", 1)
        mine = {*range(20 * left[0], 20 * left[0] + 20)} - done
        site.wait_for(mine, at_least=3)
        gone.lose_power()
        assert stays.wait() == 0, site.cluster.said()
        left = site.outstanding(stays)
        gone.connect()
    for number, part in enumerate(left):
        node = site.cluster.nodes[number % 2]
        site.part(node, part, "--workers", 1)
        assert node.wait() == 0, site.cluster.said()
    site.run(site.cluster.nodes[0], "finalize", OUT)
    extract_clip(clip_of(shelf.long), config, tmp_path / "one", workers=2)
    assert changed(without_scans(tree(tmp_path / "one")), site.union()) == []


def test_clip_and_output_of_one_process_and_of_parts_may_both_lie_in_a_bucket(
    s3_bucket: str, shelf: Shelf, infraredcity: RunCommand, tmp_path: Path
) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=10), tmp_path, workers=0)
    whole = without_scans(tree(tmp_path))
    (RemotePath(s3_bucket) / "clips/gray.mp4").write_whole(shelf.gray.read_bytes())
    words = ("--clip", CLIP, "--video", f"{s3_bucket}/clips/gray.mp4", "--frames-per-shard", 10)
    ran = infraredcity("extract", *words, "--out", f"{s3_bucket}/one", "--workers", 0)
    assert ran.code == 0, ran.stderr
    assert changed(whole, without_scans(tree(RemotePath(s3_bucket) / "one"))) == []
    assert infraredcity("plan", *words, "--out", f"{s3_bucket}/set", "--parts", 3).code == 0
    for part in (2, 0, 1):
        ran = infraredcity("extract", "--plan", f"{s3_bucket}/set/plan.jsonl", "--part", part, "--workers", 0)
        assert ran.code == 0, ran.stderr
    assert infraredcity("status", f"{s3_bucket}/set").code == 0
    ran = infraredcity("finalize", f"{s3_bucket}/set")
    assert ran.code == 0
    assert re.search(r"moved \S+ .* other machines in \d+ requests", ran.stderr)
    assert changed(whole, without_scans(tree(RemotePath(s3_bucket) / "set"))) == []
