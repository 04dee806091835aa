"""Clips behind a URL: the same facts and frames as from a disk, few bytes moved, and no network error that passes for damage."""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import fsspec
import numpy as np
import pytest
from commands import RunCommand
from processes import PATIENCE_S
from synthetic import Shelf, barcodes, clip_of, ffmpeg, write_clip
from web_server import Cutter, Nginx, serving

from infraredcity import video
from infraredcity.errors import RemoteError, RemoteMissingError, VideoDecodeError
from infraredcity.files.path import RemotePath
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.traffic import traffic
from infraredcity.showing import format_bytes
from infraredcity.video import ClipVideo, FrameRange, open_clip, probe, pyav
from infraredcity.video.remote_source import RemoteVideo, waits_for_network
from infraredcity.video.types import VideoInfo

QUICK = RemoteOptions(connect_timeout_s=0.5, read_timeout_s=0.5, deadline_s=0.5, backoff_s=0.02, backoff_cap_s=0.1)
PATIENT = RemoteOptions(deadline_s=600.0, backoff_s=0.02, backoff_cap_s=0.1)
KINDS = ("h264.mp4", "fast.mp4", "sound.mp4", "open.mkv", "stream.ts", "old.avi", "variable.mp4", "cut.mp4", "deep.mkv")


def noise(index: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def clips(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips of all kinds, and noise.*: 12 MB, a key frame every 12 of 100."""
    folder = tmp_path_factory.mktemp("www")
    for path in (shelf.h264, shelf.open_gop, shelf.transport_stream, shelf.avi, shelf.variable, shelf.cut, shelf.deep):
        shutil.copy(path, folder)
    ffmpeg("-i", shelf.h264, "-c", "copy", "-movflags", "+faststart", folder / "fast.mp4")
    ffmpeg("-i", shelf.h264, "-f", "lavfi", "-i", "sine", "-shortest", "-c:v", "copy", folder / "sound.mp4")
    options = ("-c:v", "mpeg4", "-q:v", "1", "-g", "12", "-threads", "1")
    write_clip(folder / "noise.mp4", range(100), *options, width=320, height=240, make=noise)
    ffmpeg("-i", folder / "noise.mp4", "-c", "copy", "-movflags", "+faststart", folder / "fast_noise.mp4")
    for suffix in ("mkv", "avi", "ts"):
        headers = (
            ("-bsf:v", "dump_extra") if suffix == "ts" else ()
        )  # a transport stream has no place for them but its packets
        ffmpeg("-i", folder / "noise.mp4", "-c", "copy", *headers, folder / f"noise.{suffix}")
    return folder


@pytest.fixture
def nginx(clips: Path, tmp_path: Path) -> Iterator[Nginx]:
    with serving(clips, tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def cutter(nginx: Nginx) -> Iterator[Cutter]:
    proxy = Cutter(upstream=nginx.port)
    yield proxy
    proxy.close()


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A folder in fsspec's memory."""
    yield RemotePath("memory://clips")
    fsspec.filesystem("memory").store.clear()


def frames(
    clip: ClipVideo, start: int = 0, stop: int | None = None, step: int = 1
) -> list[tuple[int, int, bytes, bool]]:
    asked = FrameRange(start_frame=start, stop_frame=clip.num_frames if stop is None else stop, step=step)
    return [(f.frame_index, f.pts, f.picture("gray").tobytes(), f.is_suspect) for f in video.decode(clip, asked)]


def same_facts(remote: VideoInfo, local: VideoInfo) -> bool:
    return all(
        np.array_equal(getattr(remote, name), getattr(local, name)) for name in VideoInfo.__slots__ if name != "path"
    )


def moved(call: Callable[[], object]) -> int:
    """Bytes that came from other machines while `call` ran, those asked for ahead included."""
    before = traffic().received_bytes
    call()
    while any(thread.name == "remote-video" for thread in threading.enumerate()):
        time.sleep(0.01)
    return traffic().received_bytes - before


@pytest.mark.parametrize("name", KINDS)
def test_a_remote_clip_is_the_local_one_frame_for_frame(nginx: Nginx, clips: Path, name: str) -> None:
    local, remote = open_clip([clips / name]), open_clip([RemotePath(f"{nginx.url}/{name}")])
    assert same_facts(remote.files[0], local.files[0])
    assert frames(remote) == frames(local)
    assert frames(remote, local.num_frames // 2, local.num_frames, 2) == frames(
        local, local.num_frames // 2, local.num_frames, 2
    )


@pytest.mark.parametrize("name", ["noise.mp4", "fast_noise.mp4", "noise.mkv", "noise.avi", "noise.ts"])
def test_a_scan_moves_a_clip_once_and_the_middle_of_it_little(nginx: Nginx, clips: Path, name: str) -> None:
    path, size = RemotePath(f"{nginx.url}/{name}"), (clips / name).stat().st_size
    found: list[ClipVideo] = []
    assert size <= moved(lambda: found.append(open_clip([path]))) < 1.1 * size
    local = open_clip([clips / name])
    (remote,) = found
    assert same_facts(remote.files[0], local.files[0])
    got: list[tuple[int, int, bytes, bool]] = []
    # From key frame 36 on. FFmpeg looks at 5 MB of an avi or ts when it opens it; a ts is then read from its start.
    most = 0.35 * size + {"avi": 5_000_000, "ts": size}.get(name.partition(".")[2], 0)
    assert moved(lambda: got.extend(frames(remote, 50, 53))) < most
    assert got == frames(local, 50, 53)


def test_a_clip_in_an_object_store_is_read_through_fsspec(clips: Path, memory: RemotePath) -> None:
    (memory / "night.mp4").write_whole((clips / "h264.mp4").read_bytes())
    clip = open_clip([memory / "night.mp4"])
    assert frames(clip) == frames(open_clip([clips / "h264.mp4"]))


def test_a_clip_in_s3_is_read_and_its_scan_kept_there(clips: Path, s3_bucket: str) -> None:
    (RemotePath(s3_bucket) / "night" / "h264.mp4").write_whole((clips / "h264.mp4").read_bytes())
    clip = open_clip([RemotePath(s3_bucket) / "night" / "h264.mp4"], kept_in=RemotePath(s3_bucket) / "out")
    local = open_clip([clips / "h264.mp4"])
    assert same_facts(clip.files[0], local.files[0])
    assert frames(clip) == frames(local)
    (kept,) = (RemotePath(s3_bucket) / "out").iterdir()
    assert re.fullmatch(r"scan-[0-9a-f]{16}-h264\.mp4\.npz", kept.name)
    assert same_facts(probe(clip.files[0].path, kept_in=RemotePath(s3_bucket) / "out"), local.files[0])


def test_chunks_may_lie_here_and_there(shelf: Shelf, memory: RemotePath) -> None:
    first, second = shelf.chunks
    (memory / "second.mp4").write_whole(second.read_bytes())
    clip = open_clip([first, memory / "second.mp4"])
    assert clip.num_frames == 50
    asked = FrameRange(start_frame=0, stop_frame=50)
    assert barcodes(frame.picture("gray") for frame in video.decode(clip, asked)) == list(range(50))


@pytest.mark.parametrize("name", ["noise.mp4", "fast_noise.mp4", "noise.mkv", "noise.avi", "noise.ts"])
def test_a_server_that_dies_ends_a_scan_with_its_own_line(nginx: Nginx, cutter: Cutter, name: str) -> None:
    """Each connection is cut in the middle of a large answer: FFmpeg would make a shorter clip of it."""
    cutter.cut_after, cutter.cuts_left = 600_000, 1_000_000
    with pytest.raises(RemoteError, match=rf"/{name}: .*; gave up after \d+ attempts in"):
        probe(RemotePath(f"http://127.0.0.1:{cutter.port}/{name}", QUICK))


def test_cuts_that_pass_are_not_seen(nginx: Nginx, cutter: Cutter, clips: Path) -> None:
    cutter.cut_after, cutter.cuts_left = 300_000, 8
    clip = open_clip([RemotePath(f"http://127.0.0.1:{cutter.port}/noise.mkv", PATIENT)])
    assert cutter.cuts_left == 0
    assert same_facts(clip.files[0], probe(clips / "noise.mkv"))
    cutter.cuts_left = 8
    assert frames(clip) == frames(open_clip([clips / "noise.mkv"]))
    assert cutter.cuts_left == 0


@pytest.mark.parametrize("name", ["noise.mp4", "noise.mkv", "noise.avi"])
def test_a_server_that_dies_while_frames_are_read_loses_none_and_spoils_none(
    nginx: Nginx, clips: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    local = open_clip([clips / name])
    info = replace(local.files[0], path=RemotePath(f"{nginx.url}/{name}", replace(QUICK, deadline_s=3.0)))
    remote = replace(local, files=(info,))
    got: list[tuple[int, int, bytes, bool]] = []

    def read() -> None:
        for frame in video.decode(remote, FrameRange(start_frame=0, stop_frame=remote.num_frames)):
            got.append((frame.frame_index, frame.pts, frame.picture("gray").tobytes(), frame.is_suspect))
            if len(got) == 20:
                nginx.kill()

    with pytest.raises(RemoteError, match=rf"/{name}: connection refused; gave up after \d+ attempts in"):
        read()
    assert 20 <= len(got) < 100
    assert got == frames(local)[: len(got)]
    assert capfd.readouterr() == ("", "")


def test_an_extraction_that_loses_its_server_goes_on_and_ends_as_if_it_had_not(
    nginx: Nginx, cutter: Cutter, clips: Path, tmp_path: Path
) -> None:
    from infraredcity.extraction.config import ExtractConfig
    from infraredcity.extraction.extract_clip import extract_clip

    config = ExtractConfig(frames_per_shard=5, every=5, stop_frame=60)
    path = RemotePath(f"http://127.0.0.1:{cutter.port}/noise.mp4", QUICK)
    cutter.cut_after, cutter.cuts_left = 600_000, 1_000_000
    with pytest.raises(RemoteError, match="gave up after"):
        extract_clip(clip_of(path), config, tmp_path / "remote", workers=0)
    assert not (tmp_path / "remote" / "city_clear" / "clips.json").exists()
    cutter.cuts_left = 0
    remote = extract_clip(clip_of(path), config, tmp_path / "remote", workers=0)
    local = extract_clip(clip_of(clips / "noise.mp4"), config, tmp_path / "local", workers=0)
    assert (remote.num_frames, remote.gaps, remote.num_suspect) == (12, (), 0)
    assert replace(remote, folder="", new_frames=0) == replace(local, folder="", new_frames=0)
    for shard in sorted((tmp_path / "local" / "city_clear").glob("*.tar")):
        assert (tmp_path / "remote" / "city_clear" / shard.name).read_bytes() == shard.read_bytes()


def test_a_clip_that_is_replaced_while_it_is_read_is_an_error(memory: RemotePath, clips: Path) -> None:
    data = (clips / "noise.mkv").read_bytes()
    (memory / "noise.mkv").write_whole(data)
    clip = open_clip([memory / "noise.mkv"])
    read = video.decode(clip, FrameRange(start_frame=0, stop_frame=100))
    assert [next(read).frame_index for _ in range(10)] == list(range(10))
    (memory / "noise.mkv").write_whole(data[: len(data) // 2])
    with pytest.raises(RemoteError, match=r"noise\.mkv: changed while it was read"):
        list(read)


def test_a_clip_that_is_taken_away_while_it_is_read_is_an_error(memory: RemotePath, clips: Path) -> None:
    """The error is also one of the system, which elsewhere means a file that FFmpeg cannot open."""
    (memory / "noise.mkv").write_whole((clips / "noise.mkv").read_bytes())
    clip = open_clip([memory / "noise.mkv"])
    read = video.decode(clip, FrameRange(start_frame=0, stop_frame=100))
    next(read)
    (memory / "noise.mkv").unlink()
    with pytest.raises(RemoteMissingError, match=r"noise\.mkv: no such file"):
        list(read)
    with pytest.raises(RemoteMissingError, match=r"noise\.mkv: no such file"):
        probe(memory / "noise.mkv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "empty.mp4: .*(the file is empty|ends before byte 1)"),
        ("text", "letter.mp4: not a video that can be opened"),
        ("headless", r"headless.mp4: its table of contents \(moov\) is missing"),
        ("sound", "sound.mp4: holds no video stream"),
    ],
)
def test_a_remote_file_that_is_no_video_says_so(shelf: Shelf, memory: RemotePath, name: str, message: str) -> None:
    path: Path = getattr(shelf, name)
    (memory / path.name).write_whole(path.read_bytes())
    with pytest.raises((VideoDecodeError, RemoteError), match=message):
        probe(memory / path.name)


@pytest.mark.parametrize("name", ["truncated", "corrupted"])
def test_a_clip_that_is_damaged_there_is_as_damaged_as_here(shelf: Shelf, memory: RemotePath, name: str) -> None:
    path: Path = getattr(shelf, name)
    (memory / path.name).write_whole(path.read_bytes())
    local, remote = open_clip([path]), open_clip([memory / path.name])
    assert same_facts(remote.files[0], local.files[0])
    assert frames(remote) == frames(local)


def test_a_server_without_ranges_is_one_line(nginx: Nginx) -> None:
    with pytest.raises(RemoteError, match="only whole files"):
        probe(RemotePath(f"{nginx.url}/whole/h264.mp4"))


class _Stopped(BaseException):
    pass


def test_an_interrupt_while_a_read_waits_ends_it(nginx: Nginx) -> None:
    """PyAV would print and drop what is raised inside a read, and FFmpeg take it for the end of the file."""

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(_Stopped):
            probe(RemotePath(f"{nginx.url}/slow/noise.mp4", replace(QUICK, deadline_s=5.0)))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_slow_network_is_told_from_a_stuck_decoder(nginx: Nginx) -> None:
    assert not waits_for_network()
    errors: list[BaseException] = []

    def scan() -> None:
        try:
            probe(RemotePath(f"{nginx.url}/slow/noise.mp4", replace(QUICK, deadline_s=3.0)))
        except RemoteError as error:
            errors.append(error)

    thread = threading.Thread(target=scan)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while not waits_for_network() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert waits_for_network()
    thread.join(PATIENCE_S)
    assert [type(error) for error in errors] == [RemoteError]
    assert not waits_for_network()


def test_a_reader_gives_the_bytes_of_the_file_wherever_it_is_asked(memory: RemotePath) -> None:
    data = np.random.default_rng(0).bytes(20_000_000)
    (memory / "noise").write_whole(data)
    reader = RemoteVideo(memory / "noise")
    assert (reader.size_bytes, reader.name, reader.seek(-1, 2) + 1) == (20_000_000, "noise", 20_000_000)
    random = np.random.default_rng(1)
    for start in (*random.integers(0, 20_000_100, 30).tolist(), 0):
        assert reader.seek(start) == reader.tell() == start
        got = b""
        while len(got) < 3_000_000 and (piece := reader.read(32_768)):
            assert len(piece) <= 32_768
            got += piece
        assert got == data[start : start + len(got)]
        assert len(got) == min(max(0, 20_000_000 - start), len(got))
        assert len(got) >= min(3_000_000, max(0, 20_000_000 - start))
    assert reader.seek(-5, 1) == reader.tell()
    assert reader.failure is None


def test_a_reader_asks_for_more_at_once_the_longer_it_reads_in_a_row(memory: RemotePath) -> None:
    size = 60_000_000
    (memory / "noise").write_whole(bytes(size))
    reader = RemoteVideo(memory / "noise")

    def read(count: int) -> None:
        while count > 0 and (piece := reader.read(min(count, 32_768))):
            count -= len(piece)

    before = traffic()
    assert moved(lambda: read(1)) == 256 * 1024
    assert moved(lambda: read(size)) == size - 256 * 1024
    assert traffic().num_requests - before.num_requests < 60
    reader.seek(5_000_000)
    assert moved(lambda: read(100_000)) <= 2 * 256 * 1024
    reader.seek(15_000_000)
    assert 4_000_000 <= moved(lambda: read(4_000_000)) < 5_500_000


def test_decord_refuses_a_remote_clip_and_auto_takes_pyav(clips: Path, memory: RemotePath) -> None:
    (memory / "night.mp4").write_whole((clips / "h264.mp4").read_bytes())
    clip = open_clip([memory / "night.mp4"])
    assert video.choose_decoder(clip, "auto", "cpu") == ("pyav", "cpu")
    with pytest.raises(
        VideoDecodeError,
        match=r"memory://clips/night\.mp4: decord cannot be trusted with it: decord reads only local files; "
        "use --decoder pyav",
    ):
        video.choose_decoder(clip, "decord", "cpu")
    if pyav.cuda_error() is not None:
        assert video.choose_decoder(clip, "auto", "auto") == ("pyav", "cpu")


SECRETS = ("alice", "geheim", "SECRET")


def secret(nginx: Nginx, name: str, options: RemoteOptions = PATIENT) -> RemotePath:
    return RemotePath(f"http://alice:geheim@127.0.0.1:{nginx.port}/{name}?token=SECRET", options)


def holds_no_secret(*texts: object) -> bool:
    return not any(word in text for text in map(str, texts) for word in SECRETS)


def test_credentials_of_a_clip_stand_in_no_file_of_its_extraction(nginx: Nginx, tmp_path: Path) -> None:
    from infraredcity.extraction.config import ExtractConfig
    from infraredcity.extraction.extract_clip import extract_clip

    clip = clip_of(secret(nginx, "h264.mp4"))
    report = extract_clip(clip, ExtractConfig(frames_per_shard=16), tmp_path, workers=1)
    assert report.num_frames == 50
    assert holds_no_secret(repr(clip), repr(report), repr(open_clip(clip.paths)))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"clips.json", "index.npz"} <= {path.name for path in written}
    assert any(path.name.startswith("scan-") for path in written)
    for path in written:
        assert holds_no_secret(path), path
        data = path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                data += b"".join(arrays[name].tobytes() for name in arrays)
        assert not any(word.encode() in data for word in SECRETS), path


@pytest.mark.parametrize("name", ["gone.mp4", "whole/h264.mp4", "busy/h264.mp4"])
def test_credentials_of_a_clip_stand_in_no_error(nginx: Nginx, name: str) -> None:
    with pytest.raises(RemoteError) as error:
        open_clip([secret(nginx, name, QUICK if name.startswith("busy/") else PATIENT)])
    assert name in str(error.value)
    assert holds_no_secret(error.value, repr(error.value))


def test_credentials_of_a_clip_stand_in_no_refusal_and_no_doubt(nginx: Nginx, clips: Path, shelf: Shelf) -> None:
    shutil.copy(shelf.truncated, clips / "truncated.mp4")
    shutil.copy(shelf.text, clips / "letter.mp4")
    with pytest.raises(VideoDecodeError, match=r"letter\.mp4: not a video") as error:
        probe(secret(nginx, "letter.mp4"))
    clip = open_clip([secret(nginx, "truncated.mp4")])
    assert clip.suspect[0].startswith("truncated.mp4: ")
    with pytest.raises(VideoDecodeError, match="decord") as refused:
        video.choose_decoder(clip, "decord", "cpu")
    assert holds_no_secret(error.value, refused.value, clip.suspect)


def test_probe_of_a_url_says_what_it_says_of_the_file_and_what_it_moved(
    nginx: Nginx, clips: Path, infraredcity: RunCommand
) -> None:
    url = f"http://alice:geheim@127.0.0.1:{nginx.port}/noise.mp4?token=SECRET"
    remote, local = infraredcity("probe", url), infraredcity("probe", clips / "noise.mp4")
    assert (remote.code, local.code, local.stderr) == (0, 0, "")
    shown = f"{nginx.url}/noise.mp4"
    assert remote.stdout.splitlines()[0] == local.stdout.splitlines()[0].replace(str(clips / "noise.mp4"), shown)
    assert remote.stdout.splitlines()[1:-1] == local.stdout.splitlines()[1:-1]
    assert remote.stdout.splitlines()[-1] == "decord: decord reads only local files"
    assert re.fullmatch(r"moved \d+\.\d MB from other machines in \d+ requests\n", remote.stderr)
    assert infraredcity("probe", url, "--json").json["file"] == shown
    assert holds_no_secret(remote)


def test_probe_of_a_url_that_leads_nowhere_is_one_line(nginx: Nginx, infraredcity: RunCommand) -> None:
    ran = infraredcity("probe", f"http://alice:geheim@127.0.0.1:{nginx.port}/gone.mp4?token=SECRET")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr == f"Error: {nginx.url}/gone.mp4: the server answered 404 Not Found; check the URL\n"


def test_a_command_counts_what_it_moved_itself(nginx: Nginx, infraredcity: RunCommand) -> None:
    size = (nginx.root / "h264.mp4").stat().st_size
    for _ in range(2):
        message = infraredcity("probe", f"{nginx.url}/h264.mp4").stderr
        assert (
            message == f"moved {format_bytes(size + 1)} from other machines in 2 requests\n"
        )  # a byte tells how long it is
