"""Damaged files: every frame is itself, or marked, or missing; wherever reading starts."""

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av  # noqa: TID251  # the test drops packets, which no door of ours does
import numpy as np
import pytest
from synthetic import GOP, H264, ffmpeg, write_clip

from infraredcity import video
from infraredcity.errors import VideoDecodeError
from infraredcity.video import Decoded, FrameRange
from infraredcity.video.damage import Damage
from infraredcity.video.types import reorder_of

NUM_FRAMES = 120
OPEN_GOP = (*H264, "-x264-params", "open-gop=1")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-g", str(GOP), "-threads", "1")
KINDS: dict[str, Sequence[str]] = {
    "a.mp4": (*H264, "-movflags", "+faststart"),
    "b.mkv": OPEN_GOP,
    "c.ts": H264,
    "d.avi": MPEG4,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: write_clip(folder / name, range(NUM_FRAMES), *options) for name, options in KINDS.items()}


def decoded(path: Path, start: int = 0, stop: int | None = None) -> tuple[video.ClipVideo, list[Decoded]]:
    clip = video.open_clip([path])
    frames = FrameRange(start_frame=start, stop_frame=clip.num_frames if stop is None else min(stop, clip.num_frames))
    return clip, list(video.decode(clip, frames))


def pictures(path: Path) -> dict[Fraction, bytes]:
    """What each time shows."""
    clip, frames = decoded(path)
    assert len(frames) == NUM_FRAMES
    assert not any(frame.is_suspect for frame in frames)
    return {frame.pts * clip.time_base: frame.picture("rgb").tobytes() for frame in frames}


def liars(clip: video.ClipVideo, frames: Sequence[Decoded], truth: dict[Fraction, bytes]) -> list[int]:
    """Frames that nobody marked and that show something else than the whole file at their time."""
    return [
        frame.frame_index
        for frame in frames
        if not frame.is_suspect and truth.get(frame.pts * clip.time_base) != frame.picture("rgb").tobytes()
    ]


def bitten(path: Path, target: Path, seed: int) -> Path:
    """A copy with 300 bytes wiped somewhere, or cut short."""
    moment = random.Random(seed)
    data = bytearray(path.read_bytes())
    place = moment.randrange(len(data) // 10, len(data) * 9 // 10)
    if seed % 3 == 0 and path.suffix != ".avi":  # an AVI without the index at its end is another matter
        data = data[:place]
    else:
        data[place : place + 300] = bytes(300)
    target.write_bytes(data)
    return target


def without_packets(path: Path, target: Path, lost: range) -> Path:
    """A copy that lacks some packets, as a recorder under load writes it."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = source.streams.video[0]
        out = copy.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            if number not in lost:
                packet.stream = out
                copy.mux(packet)
    return target


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", [*range(10), 14, 22, 28, 50, 101])
def test_what_a_bitten_file_shows_without_a_mark_is_true(
    clips: dict[str, Path], tmp_path: Path, name: str, seed: int
) -> None:
    path = bitten(clips[name], tmp_path / name, seed)
    try:
        clip, frames = decoded(path)
    except VideoDecodeError:
        assert seed % 3 == 0  # cut before anything that can be opened
        return
    assert liars(clip, frames, pictures(clips[name])) == []
    assert len({frame.frame_index for frame in frames}) == len(frames) <= clip.num_frames


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.ts"])
@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_a_bitten_file_looks_the_same_wherever_reading_starts(
    clips: dict[str, Path], tmp_path: Path, name: str, seed: int
) -> None:
    path = bitten(clips[name], tmp_path / name, seed)
    clip, whole = decoded(path)
    for start in range(5, clip.num_frames, 17):
        _, part = decoded(path, start, start + 17)
        expected = [frame for frame in whole if start <= frame.frame_index < start + 17]
        assert [(f.frame_index, f.is_suspect) for f in part] == [(f.frame_index, f.is_suspect) for f in expected]
        assert [f.picture("gray").tobytes() for f in part] == [f.picture("gray").tobytes() for f in expected]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 4, 5, 13, 20, 22])
def test_each_nth_frame_of_a_bitten_file_has_the_mark_that_it_has_among_all(
    clips: dict[str, Path], tmp_path: Path, name: str, seed: int
) -> None:
    path = bitten(clips[name], tmp_path / name, seed)
    clip, whole = decoded(path)
    for step in (2, 3, 5):
        frames = FrameRange(start_frame=0, stop_frame=clip.num_frames, step=step)
        expected = [(frame.frame_index, frame.is_suspect) for frame in whole if frame.frame_index % step == 0]
        assert [(frame.frame_index, frame.is_suspect) for frame in video.decode(clip, frames)] == expected


def test_a_picture_that_an_avi_decoder_drops_moves_no_number(clips: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(clips["d.avi"].read_bytes())
    chunks = [place for place in range(data.index(b"movi"), len(data)) if data[place : place + 4] == b"00dc"]
    data[chunks[40] + 8 : chunks[41] - 2] = bytes(
        chunks[41] - chunks[40] - 10
    )  # the chunk stays, what it holds is gone
    path = tmp_path / "dropped.avi"
    path.write_bytes(data)
    clip, frames = decoded(path)
    assert clip.num_frames == NUM_FRAMES
    assert len(frames) < NUM_FRAMES
    assert liars(clip, frames, pictures(clips["d.avi"])) == []
    assert [frame.frame_index for frame in frames][-20:] == list(range(NUM_FRAMES - 20, NUM_FRAMES))
    assert not any(frame.is_suspect for frame in frames if frame.frame_index >= 40 + 2 * GOP + 16)


@pytest.mark.parametrize("first", [30, 37, 41])
@pytest.mark.parametrize("name", ["a.mp4", "b.mkv"])
def test_frames_behind_dropped_packets_are_suspect_to_the_next_key_frame(
    clips: dict[str, Path], tmp_path: Path, name: str, first: int
) -> None:
    path = without_packets(clips[name], tmp_path / name, range(first, first + 3))
    clip, frames = decoded(path)
    assert clip.num_frames == NUM_FRAMES - 3
    assert any("frames were dropped before the file was written" in phrase for phrase in clip.suspect)
    assert liars(clip, frames, pictures(clips[name])) == []
    suspects = [frame.frame_index for frame in frames if frame.is_suspect]
    assert suspects == [] or suspects[-1] - suspects[0] < 2 * GOP
    later = [frame.frame_index for frame in frames if frame.frame_index >= 50]
    assert later == list(range(50, NUM_FRAMES - 3))
    jumps = [frame for frame in clip.break_frames if frame > 0]
    assert jumps
    assert all(first - 4 <= frame <= first + 4 for frame in jumps)


def test_packets_that_an_avi_lost_shift_no_number_unseen(clips: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(clips["d.avi"].read_bytes())
    chunks = [place for place in range(data.index(b"movi"), len(data)) if data[place : place + 4] == b"00dc"]
    data[chunks[40] : chunks[43]] = bytes(chunks[43] - chunks[40])
    path = tmp_path / "shifted.avi"
    path.write_bytes(data)
    clip, frames = decoded(path)
    assert clip.num_frames < NUM_FRAMES
    assert any(
        f"lists {NUM_FRAMES} frames, {clip.num_frames} are there; frames from 40 on may" in s for s in clip.suspect
    )
    assert all(frame.is_suspect for frame in frames if frame.frame_index >= 40)
    assert liars(clip, frames, pictures(clips["d.avi"])) == []


def test_a_file_without_the_table_that_seeking_needs_is_read_all_the_same(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    piped = tmp_path / "piped.mkv"  # written to a pipe, so that no cues and no duration stand in it
    piped.write_bytes(ffmpeg("-i", clips["b.mkv"], "-c", "copy", "-f", "matroska", "-"))
    unlisted = tmp_path / "unlisted.avi"
    data = clips["d.avi"].read_bytes()
    unlisted.write_bytes(data[: data.rindex(b"idx1")])
    for path, whole in ((piped, clips["b.mkv"]), (unlisted, clips["d.avi"])):
        expected = [frame.picture("gray").tobytes() for frame in decoded(whole)[1]]
        for start in (0, 50, 119):
            _, frames = decoded(path, start)
            assert [frame.picture("gray").tobytes() for frame in frames] == expected[start:]


def test_stretches_that_hung_the_decoder_stay_missing_and_nothing_else_does(clips: dict[str, Path]) -> None:
    for name in ("a.mp4", "b.mkv"):
        clip = video.open_clip([clips[name]])
        whole = {frame.frame_index: frame.picture("gray").tobytes() for frame in decoded(clips[name])[1]}
        stop = clip.next_entry(40)
        assert stop in clip.files[0].keyframes
        for start in (0, 35, 42, stop, stop + 3, 90):
            shown = list(video.decode(clip, FrameRange(start_frame=start, stop_frame=NUM_FRAMES), avoid=[(40, stop)]))
            expected = [index for index in range(start, NUM_FRAMES) if not 40 <= index < stop]
            indices = [frame.frame_index for frame in shown]
            assert [index for index in indices if index >= stop] == [index for index in expected if index >= stop]
            # Frames right before the stretch may be stored behind its first packet, and then they are lost with it.
            assert set(expected) - set(indices) <= {38, 39}
            assert set(indices) <= set(expected)
            for frame in shown:
                assert frame.is_suspect or frame.picture("gray").tobytes() == whole[frame.frame_index]


def test_damage_reaches_to_the_next_key_frame_and_back_over_the_reordering() -> None:
    # Packets of I0 P3 B1 B2 P6 B4 B5 I9 B7 B8 P12 B10 B11, by their frames; 7 and 8 are shown before I9 and lean on P6 as well.
    order = np.array([0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 12, 10, 11])
    damage = Damage(order, np.array([0, 9]))
    assert reorder_of(order) == 2
    assert damage.reach(3) == (1, 9)
    assert damage.reach(5) == (5, 9)
    assert damage.reach(7) == (7, 9)  # nothing behind I9 leans on it
    assert damage.reach(8) == (8, 9)
    assert damage.reach(9) == (7, 13)
    assert damage.reach(12) == (10, 13)
    damage.add(5)
    damage.add(12)
    assert damage.ranges().tolist() == [[5, 9], [10, 13]]
    assert [damage.covers(frame) for frame in (4, 5, 8, 9, 10)] == [False, True, True, False, True]
    assert (damage.start_of(7), damage.start_of(9), damage.start_of(12)) == (5, 9, 10)


def test_frames_of_intra_codecs_are_damaged_alone() -> None:
    damage = Damage(np.arange(6), np.arange(6))
    assert [damage.reach(frame) for frame in (0, 3, 5)] == [(0, 1), (3, 4), (5, 6)]
    assert reorder_of(np.arange(6)) == 0


@pytest.mark.parametrize(
    ("pts", "jumps"),
    [
        (np.concatenate([np.arange(25), np.arange(28, 43)]) * 40, [25]),
        (np.round(np.arange(100) * 1000 / 30).astype(np.int64), []),  # 30 frames a second in milliseconds: 33, 34, 33
        (2 * np.arange(50) + np.arange(50) % 2, []),  # a variable rate has no jumps
        (np.arange(1), []),
    ],
)
def test_time_jumps_where_a_constant_rate_skips_frames(pts: np.ndarray, jumps: list[int]) -> None:
    from infraredcity.video.time_jumps import _jumps

    assert list(_jumps(pts)) == jumps
