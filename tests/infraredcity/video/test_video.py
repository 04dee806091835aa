import os
from pathlib import Path

import numpy as np
import pytest
from synthetic import GOP, Shelf, barcode, barcodes, judged, picture, write_clip

from infraredcity import video
from infraredcity.errors import VideoDecodeError
from infraredcity.shards.index import run_ids
from infraredcity.video import ClipVideo, DecoderName, FrameRange, decord, open_clip, pyav, read_frames
from infraredcity.video.batches import BATCH_FRAMES, FrameBatch

CLASSES = ("h264", "open_gop", "transport_stream", "avi", "variable", "cut", "gray", "one_frame", "rotated")
DECORD_READS = ("h264", "open_gop", "variable", "gray", "one_frame")


def read(
    clip: ClipVideo,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
    *,
    color: str = "gray",
    decoder: str = "pyav",
) -> tuple[np.ndarray, list[int], list[int]]:
    """Pictures, indices and times of a range."""
    frames = FrameRange(start_frame=start, stop_frame=clip.num_frames if stop is None else stop, step=step)
    batches = list(read_frames(clip, frames, color=color, decoder=decoder))  # type: ignore[arg-type]
    assert all(len(batch.data) <= BATCH_FRAMES for batch in batches)
    if not batches:
        return np.zeros((0, 1, 1, 1), np.uint8), [], []
    return (
        np.concatenate([batch.data for batch in batches]),
        [int(index) for batch in batches for index in batch.frame_indices],
        [int(pts) for batch in batches for pts in batch.pts],
    )


@pytest.mark.parametrize("name", CLASSES)
def test_pyav_shows_what_ffmpeg_shows_frame_by_frame(shelf: Shelf, name: str) -> None:
    path = getattr(shelf, name)
    truth = judged(path)
    clip = open_clip([path])
    pictures, indices, _ = read(clip)
    assert clip.num_frames == len(truth)
    assert indices == list(range(len(truth)))
    assert barcodes(pictures) == barcodes(truth)
    assert np.abs(pictures.astype(int) - truth).max() <= 2


@pytest.mark.parametrize("name", ["h264", "open_gop", "transport_stream", "avi", "variable", "cut"])
def test_pyav_shows_the_same_pictures_from_any_start_frame(shelf: Shelf, name: str) -> None:
    clip = open_clip([getattr(shelf, name)])
    whole, _, times = read(clip)
    for start in range(clip.num_frames):
        pictures, indices, pts = read(clip, start, min(start + 4, clip.num_frames))
        assert indices == list(range(start, min(start + 4, clip.num_frames)))
        assert pts == times[start : start + 4]
        assert np.array_equal(pictures, whole[start : start + 4]), f"started at {start}"


def test_colours_come_as_red_green_blue(shelf: Shelf) -> None:
    pictures, _, _ = read(open_clip([shelf.h264]), 0, 3, color="rgb")
    assert pictures.shape == (3, 64, 96, 3)
    # Coding softens colour edges; remote from them the drawn colours come back.
    assert np.abs(pictures[2, 40:60, 10:40].astype(int) - picture(2)[40:60, 10:40]).mean() < 8
    assert np.abs(pictures.astype(int) - judged(shelf.h264, "rgb24")[:3]).max() <= 2


def test_a_step_takes_each_nth_frame(shelf: Shelf) -> None:
    pictures, indices, _ = read(open_clip([shelf.h264]), 5, 40, 7)
    assert indices == barcodes(pictures) == [5, 12, 19, 26, 33]


def test_a_probe_knows_the_file_before_anything_is_decoded(shelf: Shelf) -> None:
    info = video.probe(shelf.h264)
    assert (info.num_frames, info.width_px, info.height_px, info.codec) == (50, 96, 64, "h264")
    assert info.keyframes.tolist() == [0, GOP, 2 * GOP, 3 * GOP, 4 * GOP]
    assert (info.nominal_fps, info.duration_s, info.is_timed, info.has_reordering) == (25.0, 2.0, True, True)
    assert (info.num_hidden, info.rotation_deg, info.suspect) == (0, 0, ())
    assert info.size_bytes == shelf.h264.stat().st_size


def test_a_variable_rate_keeps_its_times(shelf: Shelf) -> None:
    clip = open_clip([shelf.variable])
    seconds = [float(pts * clip.time_base) for pts in clip.pts.tolist()]
    assert seconds == pytest.approx([(2 * n + n % 2) / 25 for n in range(50)])


def test_frames_that_an_edit_list_hides_are_not_shown(shelf: Shelf) -> None:
    clip = open_clip([shelf.cut])
    pictures, _, _ = read(clip)
    assert barcodes(pictures) == list(range(17, 50))
    assert clip.files[0].num_hidden == 5  # frames 12 to 16, from the key frame to the cut


def test_the_same_packets_in_another_container_have_the_same_hash(shelf: Shelf, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(shelf.h264.read_bytes() + b"\0" * 8)
    other = write_clip(tmp_path / "other.mp4", range(1, 51))
    assert video.probe(copy).packets_sha256 == video.probe(shelf.h264).packets_sha256
    assert video.probe(other).packets_sha256 != video.probe(shelf.h264).packets_sha256


def test_a_rotation_is_told_and_not_applied(shelf: Shelf) -> None:
    clip = open_clip([shelf.rotated])
    assert clip.files[0].rotation_deg == 90
    assert read(clip, 0, 1)[0].shape == (1, 64, 96, 1)


@pytest.mark.parametrize("name", DECORD_READS)
def test_decord_equals_pyav_where_it_is_allowed(shelf: Shelf, name: str) -> None:
    clip = open_clip([getattr(shelf, name)])
    assert video.choose_decoder(clip, "decord", "cpu") == ("decord", "cpu")
    for color in ("gray", "rgb"):
        ours, indices, pts = read(clip, color=color)
        theirs, their_indices, their_pts = read(clip, color=color, decoder="decord")
        assert (their_indices, their_pts) == (indices, pts)
        assert barcodes(theirs) == barcodes(ours)
        assert np.abs(theirs.astype(int) - ours).mean() < 3


def test_decord_starts_anywhere_and_takes_each_nth_frame(shelf: Shelf) -> None:
    pictures, indices, _ = read(open_clip([shelf.h264]), 13, 45, 10, decoder="decord")
    assert indices == barcodes(pictures) == [13, 23, 33, 43]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("transport_stream", "decord loses frames of mpegts without saying so"),
        ("avi", "packets lack times, so decord's frames cannot be checked"),
        ("cut", "an edit list hides 5 packets, which decord shows"),
        ("rotated", "decord turns the picture by 90 degrees"),
        ("deep", "decord cuts gray16le to 8 bits"),
    ],
)
def test_decord_is_refused_with_its_reason_where_it_would_lie(shelf: Shelf, name: str, reason: str) -> None:
    clip = open_clip([getattr(shelf, name)])
    with pytest.raises(VideoDecodeError, match=rf"decord cannot be trusted with it: {reason}.*; use --decoder pyav"):
        video.choose_decoder(clip, "decord", "cpu")


def test_each_decoder_is_found_by_its_name_and_the_first_reads_everything_here() -> None:
    decoders = video.all_decoders()
    assert ("auto", *(each.name for each in decoders)) == video.DECODERS
    assert all(video.find_decoder(each.name) is each for each in decoders)
    assert "cpu" in decoders[0].auto_devices


def has_gpu() -> bool:
    return pyav.cuda_error() is None


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_pyav_is_what_the_cpu_gets(shelf: Shelf, decoder: DecoderName) -> None:
    assert video.choose_decoder(open_clip([shelf.h264]), decoder, "cpu") == ("pyav", "cpu")
    if not has_gpu():
        assert video.choose_decoder(open_clip([shelf.h264]), decoder, "auto") == ("pyav", "cpu")


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_gpu_that_is_not_there_is_one_clear_line(shelf: Shelf, decoder: DecoderName) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(VideoDecodeError, match=r"no NVDEC for h264 on GPU 0 \(.*an NVIDIA driver .*; use --device cpu"):
        video.choose_decoder(open_clip([shelf.h264]), decoder, "cuda:0")
    with pytest.raises(VideoDecodeError, match="NVDEC does not decode gray16le; use --device cpu"):
        video.choose_decoder(open_clip([shelf.deep]), decoder, "cuda:0")


def test_decord_without_cuda_says_how_to_get_it(shelf: Shelf) -> None:
    if decord.cuda_error() is None:
        pytest.skip("this decord has CUDA")
    with pytest.raises(
        VideoDecodeError, match=r"this build of decord has no CUDA \(.*-DUSE_CUDA=ON; use --decoder pyav"
    ):
        video.choose_decoder(open_clip([shelf.h264]), "decord", "cuda:0")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["h264", "open_gop", "variable", "cut", "rotated"])
def test_nvdec_shows_what_the_cpu_shows(shelf: Shelf, name: str) -> None:
    if not has_gpu():
        reason = f"needs NVDEC: {pyav.cuda_error()}"
        pytest.fail(reason) if os.environ.get("REQUIRE_GPU") == "1" else pytest.skip(reason)
    clip = open_clip([getattr(shelf, name)])
    frames = FrameRange(start_frame=0, stop_frame=clip.num_frames)
    ours = list(video.decode(clip, frames))
    theirs = list(video.decode(clip, frames, device="cuda:0"))
    assert [(f.frame_index, f.pts) for f in theirs] == [(f.frame_index, f.pts) for f in ours]
    for cpu, gpu in zip(ours, theirs, strict=True):
        # Decoders of H.264 must agree bit for bit; colour is converted from another layout of chroma.
        assert np.array_equal(cpu.picture("gray"), gpu.picture("gray"))
        assert np.abs(cpu.picture("rgb").astype(int) - gpu.picture("rgb")).max() <= 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "empty.mp4: the file is empty; copy the clip again"),
        ("text", "letter.mp4: not a video that can be opened"),
        ("headless", r"headless.mp4: its table of contents \(moov\) is missing, since the recording was not ended"),
        ("sound", "sound.mp4: holds no video stream"),
    ],
)
def test_a_file_that_is_no_video_says_so(shelf: Shelf, name: str, message: str) -> None:
    with pytest.raises(VideoDecodeError, match=message):
        video.probe(getattr(shelf, name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4: no such video file"):
        video.probe(tmp_path / "gone.mp4")


def test_chunks_are_numbered_through_and_their_times_go_on(shelf: Shelf) -> None:
    clip = open_clip(shelf.chunks)
    pictures, indices, pts = read(clip)
    assert indices == barcodes(pictures) == list(range(50))
    assert clip.file_starts == (0, 30)
    assert np.unique(np.diff(pts)).tolist() == [512]  # one frame of 1/25 s in 1/12800 s, over the border as well
    for start in range(0, 50, 3):
        across, indices, _ = read(clip, start, 50, 3)
        assert barcodes(across) == indices == list(range(start, 50, 3))


def test_a_run_breaks_at_the_border_of_chunks(shelf: Shelf) -> None:
    clip = open_clip(shelf.chunks)
    runs = run_ids(np.arange(50), frame_step=1, break_frames=clip.break_frames)
    assert runs.tolist() == [0] * 30 + [1] * 20


def test_chunks_of_two_sizes_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    small = write_clip(tmp_path / "small.mp4", range(3), width=48, height=32)
    with pytest.raises(
        VideoDecodeError, match=r"small\.mp4: pictures are 48x32, those of .*h264\.mp4 96x64; chunks of one"
    ):
        open_clip([shelf.h264, small])


def test_the_frames_of_damaged_packets_are_missing_and_no_other(shelf: Shelf) -> None:
    clip = open_clip([shelf.corrupted])
    pictures, indices, _ = read(clip)
    assert clip.num_frames == 40
    assert indices == barcodes(pictures) == [*range(20), *range(22, 40)]
    for start in (0, 19, 20, 21, 22, 39):
        assert read(clip, start)[1] == [index for index in indices if index >= start]


def test_a_cut_file_gives_every_frame_that_one_thread_can_decode(shelf: Shelf) -> None:
    clip = open_clip([shelf.truncated])
    pictures, indices, _ = read(clip)
    assert clip.suspect == (
        "truncated.mp4: the demuxer met damaged bytes: Invalid NAL unit size (52 > 26).",
        "truncated.mp4: the file's index lists 50 frames, 21 are there",
        "truncated.mp4: 1 packets are marked corrupt",
        "truncated.mp4: 1 packets cannot be decoded",
        "truncated.mp4: time jumps before frame 20 (1 lost): frames were dropped before the file was written",
    )
    assert barcodes(pictures) == barcodes(judged(shelf.truncated))
    assert len(indices) == clip.num_frames - 1
    assert -1 not in barcodes(pictures)


def test_damage_in_h264_does_not_depend_on_where_reading_starts(shelf: Shelf, tmp_path: Path) -> None:
    data = bytearray(shelf.h264.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 150] = bytes(150)
    path = tmp_path / "bitten.mp4"
    path.write_bytes(data)
    clip = open_clip([path])
    whole, indices, _ = read(clip)
    assert len(indices) >= 45
    undamaged = [frame for frame, shown in zip(indices, whole, strict=True) if barcode(shown) == frame]
    assert {*range(12), *range(36, 50)} <= set(undamaged)  # before the damage, and from the next key frame on
    for start in (36, 40, 49):
        later, later_indices, _ = read(clip, start)
        assert later_indices == list(range(start, 50))
        assert np.array_equal(later, whole[-len(later) :])


def test_a_batch_checks_itself() -> None:
    good = np.zeros((2, 4, 4, 1), np.uint8)
    numbers = np.arange(2)
    with pytest.raises(ValueError, match=r"u8 \[N, H, W, 1 or 3\] or u16 \[N, H, W, 1\], got float32"):
        FrameBatch(data=good.astype(np.float32), frame_indices=numbers, pts=numbers)
    with pytest.raises(ValueError, match="has 2 frames, 3 indices, 2 times"):
        FrameBatch(data=good, frame_indices=np.arange(3), pts=numbers)
    with pytest.raises(ValueError, match="not a range of frames: 5:3:1"):
        FrameRange(start_frame=5, stop_frame=3)
