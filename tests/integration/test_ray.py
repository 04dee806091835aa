"""`--executor ray` on a cluster of two nodes on this machine: the bytes of one process, whatever dies."""

import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from commands import Ran, RunCommand
from processes import PATIENCE_S, Start
from ray_cluster import RayCluster
from synthetic import GOP, Shelf, clip_of

from infraredcity.errors import CatalogError, MissingExtraError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.executors.ray import RayExecutor, write_share
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.extraction.job import ExtractJob, bind_folder, open_job, versions_here
from infraredcity.showing import format_bytes

CLIP = "city_clear"
WORKER, TASK = b"executors.worker", b"ray::write_share"  # in the command lines of what decodes and of who watches it


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    work = Path(tempfile.mkdtemp(prefix="ray-"))
    running = RayCluster(work)
    try:
        running.add_node()
        running.add_node()
        yield running
    finally:
        running.stop()
        shutil.rmtree(work)


@pytest.fixture
def on_cluster(cluster: RayCluster, infraredcity_process: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`infraredcity ...` as a process that finds the cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return infraredcity_process


@pytest.fixture
def job(shelf: Shelf, tmp_path: Path) -> ExtractJob:
    """A bound job of 50 frames in 7 segments."""
    return bind_folder(open_job(clip_of(shelf.gray), ExtractConfig(frames_per_shard=8), tmp_path / "out"))


def end_of(process: "subprocess.Popen[str]") -> Ran:
    """How a command ended; it does within minutes."""
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return Ran(process.returncode, stdout, stderr)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "plan.jsonl")
    }


def wait_until(what: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Wait for something that comes true before a command ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cluster_gives_the_bytes_of_one_process(shelf: Shelf, on_cluster: Start, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=8), tmp_path / "one", workers=0)
    video = os.path.relpath(shelf.gray, tmp_path)  # tasks run in another folder
    words = ("extract", "--clip", CLIP, "--video", video, "--out", "out", "--frames-per-shard", 8)
    ran = end_of(on_cluster(*words, "--executor", "ray", "--json"))
    assert ran.code == 0, ran.stderr
    (report,) = ran.json["reports"]
    assert (report["num_frames"], report["new_frames"], report["num_shards"]) == (50, 50, 7)
    assert all(line.startswith("city_clear: ") for line in ran.stderr.splitlines()), ran.stderr  # no word of Ray's
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_all_parts_of_a_plan_are_done_at_once_and_what_tasks_moved_is_told(
    shelf: Shelf, on_cluster: Start, infraredcity: RunCommand, tmp_path: Path
) -> None:
    out = f"file://{tmp_path}/out"
    words = ("--clip", CLIP, "--video", shelf.gray, "--frames-per-shard", 8)
    assert infraredcity("plan", *words, "--parts", 3, "--out", out).code == 0
    ran = end_of(on_cluster("extract", "--plan", f"{out}/plan.jsonl", "--executor", "ray", "--ray-in-flight", 2))
    assert ran.code == 0, ran.stderr
    assert "all 3 parts: 50 frames (50 new) in 7 segments" in ran.stderr
    folder = tmp_path / "out" / CLIP
    written = [*folder.glob("infraredcity-*"), *folder.glob("segments/*")]
    assert f"and {format_bytes(sum(path.stat().st_size for path in written))} to other machines" in ran.stderr
    assert infraredcity("finalize", out).code == 0
    assert infraredcity("extract", *words, "--out", f"file://{tmp_path}/one").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_a_node_that_does_not_see_the_output_is_one_line(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster, tmp_path: Path
) -> None:
    ran = end_of(
        on_cluster("extract", "--clip", CLIP, "--video", shelf.gray, "--out", "/proc/self/cwd/out", "--executor", "ray")
    )
    assert ran.code == 1
    (line,) = [line for line in ran.stderr.splitlines() if not line.startswith("city_clear: ")]
    assert line == (
        f"Error: node {socket.gethostname()}: /proc/self/cwd/out/{CLIP}: holds no extract.json on this node, expected "
        "that of this run; put --out on a disk that all nodes share under one name, or behind a URL"
    )
    assert (tmp_path / "out" / CLIP / "extract.json").exists()
    assert not (cluster.work / "out").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("local", '"local" would start a new one on this machine only'),
        ("nobody", "expected HOST:PORT"),
    ],
)
def test_without_a_cluster_it_is_one_line(
    shelf: Shelf, infraredcity_process: Start, tmp_path: Path, address: str, reason: str
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    words = ("extract", "--clip", CLIP, "--video", shelf.gray, "--out", "out")
    ran = end_of(infraredcity_process(*words, "--executor", "ray", "--ray-address", address))
    assert ran.code == 1
    assert ran.stderr == (
        f"Error: Ray cluster {address}: cannot be used: {reason}; name one that runs with --ray-address or RAY_ADDRESS, or start "
        "one with: ray start --head\n"
    )
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--executor ray needs ray, .* pip install -e '/.*\[ray\]'"):
        RayExecutor(address="127.0.0.1:1")


def test_a_task_goes_on_behind_the_last_segment_record_and_tells_of_all_its_segments(job: ExtractJob) -> None:
    first = write_share(job, job.segments[:2], 60.0)
    assert first.failed is None
    shards = [job.folder / segment.shard for segment in job.segments[:2]]
    before = [path.stat().st_mtime_ns for path in shards]
    answer = write_share(job, job.segments[:4], 60.0)
    assert [path.stat().st_mtime_ns for path in shards] == before
    assert answer.heads[:2] == first.heads
    assert [(head.number, head.job_identity) for head in answer.heads] == [
        (number, job.identity) for number in range(4)
    ]
    assert [head.shard.num_samples for head in answer.heads if head.shard is not None] == [8, 8, 8, 8]
    assert len(pickle.dumps(answer)) < 2000  # no pictures, no indexes


def test_a_node_with_another_version_of_a_library_is_one_line(job: ExtractJob) -> None:
    numpy = versions_here("pyav")["numpy"]
    answer = write_share(replace(job, versions=dict(job.versions) | {"numpy": "1.0"}), job.segments[:1], 60.0)
    assert answer.failed is not None
    assert str(answer.failed.error) == (
        f"node {socket.gethostname()}: numpy is {numpy} here, expected 1.0; other versions may give other bytes, so install the "
        "same on all nodes"
    )
    assert answer.heads == ()
    assert list(job.folder.glob("*.tar")) == []


def test_a_node_that_does_not_see_the_clip_is_one_line(job: ExtractJob, tmp_path: Path) -> None:
    gone = replace(job.clip, paths=(tmp_path / "gone.mp4",))
    answer = write_share(replace(job, clip=gone), job.segments[:1], 60.0)
    assert answer.failed is not None
    assert isinstance(answer.failed.error, CatalogError)
    assert f"node {socket.gethostname()}: clip {CLIP}: {tmp_path}/gone.mp4 does not exist;" in str(answer.failed.error)


@pytest.mark.slow
def test_a_node_that_loses_its_power_changes_no_byte(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster, infraredcity: RunCommand, tmp_path: Path
) -> None:
    words = ("--clip", CLIP, "--video", shelf.long, "--frames-per-shard", 10, "--size", "1200x1000")
    assert infraredcity("extract", *words, "--out", tmp_path / "one").code == 0
    assert infraredcity("plan", *words, "--parts", 5, "--out", tmp_path / "out").code == 0
    third = cluster.add_node()
    process = on_cluster("extract", "--plan", tmp_path / "out" / "plan.jsonl", "--executor", "ray")
    folder = tmp_path / "out" / CLIP
    wait_until(lambda: cluster.processes(WORKER, third), process)
    standing = len(list(folder.glob("*.tar")))
    wait_until(lambda: len(list(folder.glob("*.tar"))) >= standing + 4, process)
    assert cluster.processes(WORKER, third)
    cluster.power_off(third)
    assert len(list(folder.glob("*.tar"))) < 100
    ran = end_of(process)
    assert ran.code == 0, ran.stderr
    assert "all 5 parts: 1,200 frames (1,200 new) in 120 segments" in ran.stderr
    assert infraredcity("finalize", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "one")  # nor is anything left over


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_ends_its_tasks_and_goes_on_later(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    config = ExtractConfig(frames_per_shard=10, size=(1200, 1000))
    extract_clip(clip_of(shelf.long), config, tmp_path / "one")
    words = (
        "extract",
        "--clip",
        CLIP,
        "--video",
        shelf.long,
        "--out",
        "out",
        "--frames-per-shard",
        10,
        "--size",
        "1200x1000",
    )
    process = on_cluster(*words, "--executor", "ray")
    folder = tmp_path / "out" / CLIP
    wait_until(lambda: len(list(folder.glob("*.tar"))) >= 4, process)
    process.send_signal(sent)
    ran = end_of(process)
    assert ran.code == code, ran.stderr
    assert ran.stderr.splitlines()[-1] == "Stopped; the same command continues from here."
    assert cluster.processes(WORKER) == []
    assert list(folder.rglob(".tmp-*")) == []
    ran = end_of(on_cluster(*words, "--executor", "ray"))
    assert ran.code == 0, ran.stderr
    assert re.search(r"1,200 frames \([\d,]+ new\)", ran.stderr)
    assert "(1,200 new)" not in ran.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_decoder_that_stands_still_on_a_node_is_a_gap_that_is_named(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster, tmp_path: Path
) -> None:
    words = (
        "extract",
        "--clip",
        CLIP,
        "--video",
        shelf.gray,
        "--out",
        "out",
        "--frames-per-shard",
        8,
        "--deadline",
        10,
    )
    process = on_cluster(*words, "--executor", "ray", "--ray-in-flight", 1)
    seen: list[int] = []

    def is_new_one_stopped() -> bool:
        new = [pid for pid in cluster.processes(WORKER) if pid not in seen]
        for pid in new:
            os.kill(pid, signal.SIGSTOP)
        seen.extend(new)
        return len(seen) == 2

    wait_until(is_new_one_stopped, process)
    ran = end_of(process)
    assert ran.code == 5, ran.stderr
    reason = "the decoder gave no frame for 10 s, twice"
    assert f"city_clear: gap: frames 0 to {GOP - 1} ({GOP}): {reason}" in ran.stderr
    (gap,) = json.loads((tmp_path / "out" / CLIP / "gaps.json").read_text())
    assert (gap["first_frame"], gap["last_frame"], gap["reason"]) == (0, GOP - 1, reason)


@pytest.mark.slow
def test_tasks_that_die_again_and_again_are_one_clear_line(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster
) -> None:
    process = on_cluster("extract", "--clip", CLIP, "--video", shelf.long, "--out", "out", "--executor", "ray")
    num_killed = 0
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        for pid in cluster.processes(TASK):
            os.kill(pid, signal.SIGKILL)
            num_killed += 1
        time.sleep(0.05)
    ran = end_of(process)
    assert ran.code == 1, ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: out/{CLIP}: a task died, and so did all that took its place (5 at most): ")
    assert line.endswith("; run the same command again to go on")
    assert "Traceback" not in ran.stderr
    assert num_killed >= 6


@pytest.mark.slow
def test_a_node_without_this_program_is_one_line(
    shelf: Shelf, on_cluster: Start, cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "old" / "infraredcity").mkdir(parents=True)
    (tmp_path / "old" / "infraredcity" / "__init__.py").touch()
    third = cluster.add_node(PYTHONPATH=str(tmp_path / "old"))
    try:
        words = ("extract", "--clip", CLIP, "--video", shelf.long, "--out", "out", "--frames-per-shard", 100)
        ran = end_of(on_cluster(*words, "--executor", "ray"))
    finally:
        cluster.power_off(third)
    assert ran.code in (1, 3), ran.stderr  # 3 where another node had finished a segment
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("Error: ")]
    assert re.fullmatch(
        r"Error: node [\d.]+: this program cannot be loaded there \(ModuleNotFoundError: No module named 'infraredcity\..*'\); "
        r"install infraredcity\[extract,ray\] with the same versions on all nodes",
        line,
    )
    assert "Traceback" not in ran.stderr


class Refusing(ThreadingHTTPServer):
    """A web server with one file, which says "forbidden" `refusals` times once `when` exists."""

    def __init__(self, file: Path, when: Path, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.data, self.when, self.refusals = file.read_bytes(), when, refusals


class RangeHandler(BaseHTTPRequestHandler):
    server: Refusing

    def do_GET(self) -> None:
        if self.server.refusals and self.server.when.exists():
            self.server.refusals -= 1
            self.send_error(403)
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        body = self.server.data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(self.server.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.parametrize(("refusals", "code"), [(2, 0), (3, 1)])
def test_a_task_that_cannot_read_the_clip_is_run_again_twice(
    shelf: Shelf, on_cluster: Start, tmp_path: Path, refusals: int, code: int
) -> None:
    server = Refusing(shelf.gray, tmp_path / "out" / CLIP / "extract.json", refusals)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://user:secret@127.0.0.1:{server.server_port}/clip.mp4"
        words = ("extract", "--clip", CLIP, "--video", url, "--out", "out")  # one segment, one task
        ran = end_of(on_cluster(*words, "--executor", "ray"))
    finally:
        server.shutdown()
        server.server_close()
    assert ran.code == code, ran.stderr
    assert server.refusals == 0
    if code == 0:
        assert "city_clear: 50 frames (50 new) in 1 shards" in ran.stderr
    else:
        assert f"Error: node {socket.gethostname()}: http://127.0.0.1:{server.server_port}/clip.mp4:" in ran.stderr
    assert "secret" not in ran.stderr


NO_GPU = """
import sys
from pathlib import Path
from infraredcity.clips import Clip
from infraredcity.errors import RemoteError
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.extraction.executors.ray import RayExecutor
from infraredcity.extraction.config import ExtractConfig

clip = Clip(clip_id="city_clear", paths=(Path(sys.argv[1]),), scene="city", modality="infrared", time_of_day="night")
try:
    extract_clip(clip, ExtractConfig(), Path("out"), executor=RayExecutor(num_gpus=0.5, room_s=2.0))
except RemoteError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_cluster_without_the_gpu_that_is_asked_for_is_one_line(
    shelf: Shelf, cluster: RayCluster, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_GPU, shelf.gray], cwd=tmp_path, env=os.environ | {"RAY_ADDRESS": cluster.address},
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.stdout == (
        "Ray cluster: no node has a CPU and 0.5 GPU for a task, for 2 s; add nodes or lower --ray-gpus, then run the same command "
        "again to go on\n"
    )
