"""Every decoder that is allowed for a file shows what ffmpeg shows: count, order, times and pixels, wherever reading starts."""

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from footage import BY_NAME, FOOTAGE, REAL_DATA, Judged, judged_planes, judged_rgb, real_videos
from synthetic import barcode

from infraredcity import video
from infraredcity.errors import VideoDecodeError
from infraredcity.video import ClipVideo, FrameRange

SHOWN = [footage.name for footage in FOOTAGE if footage.shown]
EMPTY = [footage.name for footage in FOOTAGE if not footage.shown]
RGB_LEVELS = 2  # swscale of PyAV, of decord and of ffmpeg may be of different versions
DEEP_BITS = {"gray10le": 10, "gray16le": 16, "yuv420p10le": 10}
# The scan may doubt these: a frame's time is missing, is there twice or jumps, or two files were written one behind the other.
DOUBTFUL = {
    "equal_times_mkv",
    "h264_bframes_avi",
    "middle_cut_out_mp4",
    "mpeg4_bframes_avi",
    "odd_mpeg4_avi",
    "one_frame_avi",
    "shown_twice_mp4",
    "two_sizes_h264",
    "two_sizes_ts",
}
# decord is here for these at least. It may be refused for others, with a reason, but never show anything else than the judge.
DECORD_READS = {
    "bursty_mp4",
    "full_range_yuvj_mp4",
    "h264_mkv",
    "h264_mp4",
    "h264_open_gop_mp4",
    "hevc_mkv",
    "hevc_open_gop_mp4",
    "late_start_mp4",
    "mjpeg_avi",
    "one_frame_mp4",
    "pyramid_mp4",
    "variable_mkv",
}

DAMAGED = "corrupted.mp4"
HEADLESS = "derived_truncated_desert.mp4"
REAL_FOLDER = os.environ.get(REAL_DATA)
REAL = [path for path in real_videos(Path(REAL_FOLDER)) if path.name not in (DAMAGED, HEADLESS)] if REAL_FOLDER else []
REAL_RGB_STEP = 30
REAL_LENGTH = 4
over_real_videos = pytest.mark.parametrize(
    "path",
    REAL or [pytest.param(Path(), marks=pytest.mark.skip(f"{REAL_DATA} does not name a folder with real clips"))],
    ids=lambda path: path.name or "none",
)
judged = cache(judged_planes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("footage")


def shown_from(clip: ClipVideo, start: int, stop: int) -> list[tuple[int, Judged]]:
    """Index, time and planes of the frames from `start` to before `stop`, read by PyAV from `start` on."""
    frames = FrameRange(start_frame=start, stop_frame=stop)
    return [
        (frame.frame_index, Judged(frame.pts * clip.time_base, hashlib.md5(frame.planes()).hexdigest()))
        for frame in video.decode(clip, frames, decoder="pyav")
    ]


def starts_of(num_frames: int) -> list[int]:
    """A spread of frames and all around the first two key frames, since a seek aims 12 frames before its target."""
    wanted = {1, 2, 3, *range(10, 16), *range(22, 28), *range(7, num_frames, 7), num_frames // 2, num_frames - 1}
    return sorted(start for start in wanted if 0 < start < num_frames)


def whole(clip: ClipVideo) -> FrameRange:
    return FrameRange(start_frame=0, stop_frame=clip.num_frames)


def levels_apart(ours: np.ndarray, truth: np.ndarray) -> int:
    assert ours.shape == truth.shape
    return int(np.abs(ours.astype(np.int16) - truth).max())


def refusal_of_decord(clip: ClipVideo) -> str | None:
    try:
        video.choose_decoder(clip, "decord", "cpu")
    except VideoDecodeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", SHOWN)
def test_from_frame_0_each_frame_its_time_and_its_planes_are_the_judges(folder: Path, name: str) -> None:
    path = BY_NAME[name].make(folder)
    truth = judged(path)
    clip = video.open_clip([path])
    ours = shown_from(clip, 0, clip.num_frames)
    assert clip.num_frames == len(truth) == len(BY_NAME[name].shown)
    assert [index for index, _ in ours] == list(range(len(truth)))
    assert [frame.md5 for _, frame in ours] == [frame.md5 for frame in truth]
    assert [frame.time_s for _, frame in ours] == [frame.time_s for frame in truth]
    assert [int(pts) * clip.time_base for pts in clip.pts] == [frame.time_s for frame in truth]


@pytest.mark.parametrize("name", SHOWN)
def test_from_any_start_frame_times_and_planes_are_the_judges(folder: Path, name: str) -> None:
    path = BY_NAME[name].make(folder)
    truth = list(enumerate(judged(path)))
    clip = video.open_clip([path])
    for start in starts_of(len(truth)):
        # From a few starts to the end, from the others over the next frames.
        stop = len(truth) if start % 12 == 1 else min(start + 3, len(truth))
        assert shown_from(clip, start, stop) == truth[start:stop], f"started at {start}"


@pytest.mark.parametrize("name", SHOWN)
def test_the_pictures_hold_the_barcodes_that_were_drawn(folder: Path, name: str) -> None:
    clip = video.open_clip([BY_NAME[name].make(folder)])
    pictures = [frame.picture("gray") for frame in video.decode(clip, whole(clip), decoder="pyav")]
    if clip.files[0].is_deep:
        spare_bits = DEEP_BITS[clip.files[0].pixel_format] - 8
        pictures = [(picture >> spare_bits).astype(np.uint8) for picture in pictures]
    assert [barcode(picture) for picture in pictures] == list(BY_NAME[name].shown)


@pytest.mark.parametrize("name", SHOWN)
def test_colours_are_within_two_levels_of_the_judges(folder: Path, name: str) -> None:
    path = BY_NAME[name].make(folder)
    clip = video.open_clip([path])
    frames = list(video.decode(clip, whole(clip), decoder="pyav"))
    if clip.files[0].is_deep:  # counts, not colours
        assert all(frame.planes().startswith(frame.picture("rgb").astype("<u2").tobytes()) for frame in frames)
        return
    assert (
        levels_apart(np.concatenate([frame.picture("rgb").ravel() for frame in frames]), judged_rgb(path)) <= RGB_LEVELS
    )


@pytest.mark.parametrize("name", SHOWN)
def test_each_nth_frame_is_the_same_as_among_all(folder: Path, name: str) -> None:
    clip = video.open_clip([BY_NAME[name].make(folder)])
    truth = judged(BY_NAME[name].make(folder))
    for start, step in ((0, 3), (1, 2), (5, 10)):
        if start >= clip.num_frames:
            continue
        frames = FrameRange(start_frame=start, stop_frame=clip.num_frames, step=step)
        found = list(video.decode(clip, frames))
        assert [frame.frame_index for frame in found] == list(range(start, clip.num_frames, step))
        assert [hashlib.md5(frame.planes()).hexdigest() for frame in found] == [each.md5 for each in truth[start::step]]
        assert not any(frame.is_suspect for frame in found) or name in DOUBTFUL


@pytest.mark.parametrize("name", sorted(set(SHOWN) - DOUBTFUL))
def test_a_whole_file_is_not_doubted_wherever_reading_starts(folder: Path, name: str) -> None:
    clip = video.open_clip([BY_NAME[name].make(folder)])
    assert clip.suspect == ()
    for start in {0, clip.num_frames // 2, clip.num_frames - 1}:
        frames = FrameRange(start_frame=start, stop_frame=clip.num_frames)
        assert not [frame.frame_index for frame in video.decode(clip, frames, decoder="pyav") if frame.is_suspect]


@pytest.mark.parametrize("name", SHOWN)
def test_decord_shows_what_the_judge_shows_or_is_refused_with_a_reason(folder: Path, name: str) -> None:
    path = BY_NAME[name].make(folder)
    clip = video.open_clip([path])
    reason = refusal_of_decord(clip)
    if reason is not None:
        assert "decord cannot be trusted with it: " in reason
        assert name not in DECORD_READS, reason
        return
    frames = list(video.decode(clip, whole(clip), decoder="decord"))
    truth = judged(path)
    assert [frame.frame_index for frame in frames] == list(range(len(truth)))
    assert [frame.pts * clip.time_base for frame in frames] == [frame.time_s for frame in truth]
    assert [barcode(frame.picture("gray")) for frame in frames] == list(BY_NAME[name].shown)
    assert (
        levels_apart(np.concatenate([frame.picture("rgb").ravel() for frame in frames]), judged_rgb(path)) <= RGB_LEVELS
    )
    half = clip.num_frames // 2
    late = video.decode(clip, FrameRange(start_frame=half, stop_frame=clip.num_frames), decoder="decord")
    for theirs, ours in zip(late, frames[half:], strict=True):
        assert theirs.frame_index == ours.frame_index
        assert np.array_equal(theirs.picture("rgb"), ours.picture("rgb"))


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_without_a_frame_says_so(folder: Path, name: str) -> None:
    with pytest.raises(VideoDecodeError, match=rf"{name}\.\w+: holds no frame"):
        video.open_clip([BY_NAME[name].make(folder)])


@over_real_videos
def test_real_footage_is_read_as_the_judge_shows_it(path: Path) -> None:
    clip = video.open_clip([path])
    ours, colours = [], []
    for frame in video.decode(clip, whole(clip), decoder="pyav"):
        ours.append((frame.frame_index, Judged(frame.pts * clip.time_base, hashlib.md5(frame.planes()).hexdigest())))
        assert not frame.is_suspect
        if frame.frame_index % REAL_RGB_STEP == 0:
            colours.append(frame.picture("rgb").ravel())
    assert clip.num_frames == len(judged(path))
    assert ours == list(enumerate(judged(path)))
    assert levels_apart(np.concatenate(colours), judged_rgb(path, step=REAL_RGB_STEP)) <= RGB_LEVELS


@over_real_videos
def test_real_footage_is_the_same_from_any_start_frame(path: Path) -> None:
    truth = list(enumerate(judged(path)))
    clip = video.open_clip([path])
    for start in {1, 13, *(len(truth) * part // 5 for part in (1, 2, 4)), len(truth) - 1} & set(range(len(truth))):
        stop = min(start + REAL_LENGTH, len(truth))
        assert shown_from(clip, start, stop) == truth[start:stop], f"started at {start}"


@pytest.fixture
def oddities() -> Path:
    if not REAL_FOLDER:
        pytest.skip(f"{REAL_DATA} is not set; it names the folder of the real clips")
    return Path(REAL_FOLDER) / "oddities"


def test_of_a_real_damaged_file_no_frame_is_lost_and_what_is_not_suspect_is_the_judges(oddities: Path) -> None:
    path = oddities / DAMAGED
    truth = {frame.time_s: frame.md5 for frame in judged(path)}
    clip = video.open_clip([path])
    frames = list(video.decode(clip, whole(clip), decoder="pyav"))
    assert {frame.pts * clip.time_base for frame in frames} >= set(truth)
    good = [frame for frame in frames if not frame.is_suspect]
    # Packet 30 is damaged and no key frame follows: each decoder paints over what leans on it in its own way.
    assert [frame.frame_index for frame in good][:29] == list(range(29))
    assert all(truth[frame.pts * clip.time_base] == hashlib.md5(frame.planes()).hexdigest() for frame in good)
    assert len(good) < len(frames) < clip.num_frames


def test_a_real_file_cut_before_its_table_of_contents_is_refused_by_us_and_by_the_judge(oddities: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"its table of contents \(moov\) is missing"):
        video.open_clip([oddities / HEADLESS])
    with pytest.raises(AssertionError, match="moov atom not found"):
        judged_planes(oddities / HEADLESS)
