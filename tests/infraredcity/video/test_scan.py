"""Files whose packets do not tell their frames: joined recordings, missing times, several streams, counts in a colour format."""

import shutil
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from commands import RunCommand
from footage import judged_planes
from synthetic import FPS, H264, HEIGHT, WIDTH, barcodes, ffmpeg, picture, write_clip

from infraredcity import video
from infraredcity.errors import VideoDecodeError
from infraredcity.files.path import RemotePath
from infraredcity.video import ClipVideo, FrameRange

HEVC = ("-c:v", "libx265", "-preset", "veryfast", "-x265-params", "log-level=error:keyint=12:pools=1:frame-threads=1")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-g", "12", "-threads", "1")
VP8 = ("-c:v", "libvpx", "-b:v", "600k", "-g", "12", "-threads", "1")
JOINED: dict[str, tuple[str, tuple[str, ...]]] = {
    "h264 ts": ("ts", H264),
    "h264 mkv": ("mkv", H264),
    "vp8 webm": ("webm", VP8),
    "h264 mpg": ("mpg", (*H264, "-f", "vob")),
    "mpeg2 mpg": ("mpg", MPEG2),
    "hevc ts": ("ts", HEVC),
}


def shown(clip: ClipVideo, start: int = 0) -> tuple[list[int], list[int], list[bool]]:
    """Barcodes, indices and marks of the frames from `start` on."""
    frames = list(video.decode(clip, FrameRange(start_frame=start, stop_frame=clip.num_frames)))
    pictures = [frame.picture("gray") for frame in frames]
    return barcodes(pictures), [frame.frame_index for frame in frames], [frame.is_suspect for frame in frames]


def noisy(index: int, width: int, height: int) -> np.ndarray:
    """A picture that needs some kilobytes, so that every second or third packet of a program stream has a time of its own."""
    drawn = picture(index, width, height)
    drawn[-8:, :48] = np.random.default_rng(index).integers(0, 256, (8, 48, 3))
    return drawn


def seconds(clip: ClipVideo) -> list[float]:
    return [float(int(pts) * clip.time_base) for pts in clip.pts]


def joined(folder: Path, suffix: str, options: tuple[str, ...], *later: str) -> Path:
    """30 frames, then 30 others of a recording whose clock begins anew."""
    first = write_clip(folder / f"first.{suffix}", range(30), *options)
    second = write_clip(folder / f"second.{suffix}", range(1000, 1030), *options, *later)
    path = folder / f"joined.{suffix}"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


@pytest.mark.parametrize("later", [(), ("-output_ts_offset", "0.013")], ids=["same", "apart"])
@pytest.mark.parametrize("kind", JOINED)
def test_joined_recordings_are_shown_in_the_order_of_the_file_and_time_goes_on(
    tmp_path: Path, kind: str, later: tuple[str, ...]
) -> None:
    path = joined(tmp_path, *JOINED[kind], *later)
    clip = video.open_clip([path])
    codes, indices, marks = shown(clip)
    assert len(judged_planes(path)) == clip.num_frames == 60
    assert codes == [*range(30), *range(1000, 1030)]
    assert indices == list(range(60))
    assert not any(marks)
    assert clip.suspect == ()
    assert np.diff(seconds(clip)) == pytest.approx([1 / FPS] * 59, abs=0.002)
    assert clip.files[0].recordings == (30,)
    assert 30 in clip.break_frames
    assert any("another recording begins at frame 30" in note for note in clip.notes)
    assert shown(clip, 40)[0] == list(range(1010, 1030))


def test_a_recording_of_one_frame_may_stand_at_the_end(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.ts", range(30), *H264)
    last = write_clip(tmp_path / "last.ts", [1000], *H264)
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + last.read_bytes())
    clip = video.open_clip([path])
    assert shown(clip) == ([*range(30), 1000], list(range(31)), [False] * 31)
    assert clip.files[0].recordings == (30,)


def test_frames_that_share_whole_seconds_are_all_there(tmp_path: Path) -> None:
    timing = (
        "-vf",
        "settb=1/90000,setpts='floor(N/25)*90000'",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/90000",
    )
    clip = video.open_clip([write_clip(tmp_path / "seconds.mkv", range(60), *H264, "-bf", "0", *timing)])
    assert shown(clip) == (list(range(60)), list(range(60)), [False] * 60)


def test_a_recorder_that_wrote_nothing_but_its_index_leaves_no_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "sparse.avi", range(30), "-c:v", "mpeg4", "-q:v", "2")
    data = bytearray(path.read_bytes())
    start, stop = data.index(b"movi") + 4, data.rindex(b"idx1")
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    with pytest.raises(VideoDecodeError, match=r"sparse\.avi: (holds no frame|.*no video)"):
        video.open_clip([path])


def test_strict_takes_joined_recordings(tmp_path: Path, infraredcity: RunCommand) -> None:
    path = joined(tmp_path, *JOINED["h264 ts"])
    ran = infraredcity(
        "extract", "--clip", "city_clear", "--video", path, "--out", tmp_path / "out", "--strict", "--json"
    )
    assert ran.code == 0, ran.stderr
    assert ran.json["reports"][0]["num_frames"] == 60
    assert any("another recording begins at frame 30" in note for note in ran.json["reports"][0]["notes"])


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_a_packet_without_a_time_throws_no_other_away_and_a_pause_stays(
    tmp_path: Path, b_frames: str, infraredcity: RunCommand
) -> None:
    """As video recorders write MPEG-PS: a time for several pictures together; here with ten seconds of nothing before frame 51."""
    timing = ("-vf", "setpts='(N*0.04+if(gt(N,50),10,0))/TB'".replace(",", "\\,"), "-fps_mode", "passthrough")
    options = (*H264, "-bf", b_frames, *timing, "-enc_time_base", "1/90000", "-f", "vob")
    path = write_clip(tmp_path / "nvr.mpg", range(100), *options, make=noisy)
    clip = video.open_clip([path])
    assert (clip.files[0].packet_pts == video.NO_TIME).any()
    steps = np.diff(seconds(clip))
    (before,) = np.flatnonzero(
        steps > 1
    )  # of the frames behind the pause, the first one that has a time shows where it was
    assert 50 <= before <= 56
    assert steps[before] == pytest.approx(10.04, abs=0.002)
    assert np.delete(steps, before) == pytest.approx([0.04] * 98, abs=0.002)
    assert shown(clip) == (list(range(100)), list(range(100)), [False] * 100)
    assert clip.files[0].pauses == (before + 1,)
    assert before + 1 in clip.break_frames
    ran = infraredcity("extract", "--clip", "city_clear", "--video", path, "--out", tmp_path / "out", "--strict")
    assert ran.code == 0, ran.stderr


def test_pictures_that_were_left_out_before_coding_are_no_damage(tmp_path: Path) -> None:
    timing = (
        "-vf",
        "settb=1/12800,setpts=512*(N+3*gt(N\\,31))",
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "1/12800",
    )
    clip = video.open_clip([write_clip(tmp_path / "skips.mp4", range(60), *H264, *timing)])
    assert clip.suspect == ()
    assert clip.files[0].pauses == (32,)
    assert 32 in clip.break_frames
    assert shown(clip) == (list(range(60)), list(range(60)), [False] * 60)


def with_palette(path: Path, num_frames: int) -> list[np.ndarray]:
    """An AVI of 8-bit pictures with a palette, as thermal programs write; its pictures as they are stored, upper line first."""
    width, height = 64, 48
    pictures = [np.full((height, width), 10 + 5 * number, np.uint8) for number in range(num_frames)]
    for number, drawn in enumerate(pictures):
        drawn[: number % height + 1, :8] = 200

    def chunk(tag: bytes, data: bytes) -> bytes:
        return tag + struct.pack("<I", len(data)) + data

    def listed(tag: bytes, data: bytes) -> bytes:
        return b"LIST" + struct.pack("<I", len(data) + 4) + tag + data

    size = width * height
    header = struct.pack(
        "<14I", 1_000_000 // FPS, size * FPS, 0, 0x10, num_frames, 0, 1, size, width, height, 0, 0, 0, 0
    )
    stream = b"vidsDIB " + struct.pack(
        "<IHHIIIIIIII4H", 0, 0, 0, 0, 1, FPS, 0, num_frames, size, 0xFFFFFFFF, 0, 0, 0, width, height
    )
    # Level n of the palette is gray 255 - n, so that indices taken for levels are seen as well.
    palette = b"".join(bytes((255 - level, 255 - level, 255 - level, 0)) for level in range(256))
    format_ = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, size, 0, 0, 256, 0) + palette
    headers = listed(
        b"hdrl", chunk(b"avih", header) + listed(b"strl", chunk(b"strh", stream) + chunk(b"strf", format_))
    )
    movie = b"".join(chunk(b"00db", drawn[::-1].tobytes()) for drawn in pictures)
    index = b"".join(b"00db" + struct.pack("<III", 0x10, 4 + number * (size + 8), size) for number in range(num_frames))
    body = b"AVI " + headers + listed(b"movi", movie) + chunk(b"idx1", index)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return [255 - drawn for drawn in pictures]


def test_a_palette_survives_a_start_in_the_middle(tmp_path: Path) -> None:
    levels = with_palette(tmp_path / "palette.avi", 40)
    clip = video.open_clip([tmp_path / "palette.avi"])
    for start in (0, 1, 20, 39):
        frames = list(video.decode(clip, FrameRange(start_frame=start, stop_frame=40)))
        assert [frame.frame_index for frame in frames] == list(range(start, 40))
        for frame, expected in zip(frames, levels[start:], strict=True):
            assert (
                np.abs(frame.picture("gray").astype(int)[:, :, 0] - expected).max() <= 1
            )  # gray from R, G and B is rounded


def with_cover_first(folder: Path) -> Path:
    """A video whose cover picture is stream 0, as some drones write it."""
    clip = write_clip(folder / "clip.mp4", range(50), *H264)
    cover = write_clip(folder / "cover.jpg", [7], "-frames:v", "1", width=48, height=32)
    whole = folder / "whole.mp4"
    ffmpeg("-i", clip, "-i", cover, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", whole)
    data = whole.read_bytes()
    start = data.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", data, start)
    boxes, place = [], start + 8
    while place < start + size:
        (length,) = struct.unpack_from(">I", data, place)
        boxes.append((data[place + 4 : place + 8], data[place : place + length]))
        place += length
    order = {b"mvhd": 0, b"udta": 1}  # the cover's own box goes before the tracks
    moved = b"".join(box for _, box in sorted(boxes, key=lambda box: order.get(box[0], 2)))
    path = folder / "drone.mp4"
    path.write_bytes(data[: start + 8] + moved + data[start + size :])
    return path


def test_a_cover_picture_is_not_the_video(tmp_path: Path, infraredcity: RunCommand) -> None:
    path = with_cover_first(tmp_path)
    clip = video.open_clip([path])
    assert (clip.num_frames, clip.files[0].width_px) == (50, WIDTH)
    assert shown(clip)[0] == list(range(50))
    probed = infraredcity("probe", path)
    assert "note: not read: stream 0: mjpeg 48x32, a cover picture or thumbnail\n" in probed.stdout
    with pytest.raises(VideoDecodeError, match="has no video stream 0 that can be decoded; there is 1"):
        video.probe(path, stream=0)
    ran = infraredcity("extract", "--clip", "city_clear", "--video", path, "--out", tmp_path / "out", "--json")
    assert (ran.code, ran.json["reports"][0]["num_frames"]) == (0, 50)
    assert any("stream 0: mjpeg" in note for note in ran.json["reports"][0]["notes"])
    assert "stream 0: mjpeg 48x32" in (tmp_path / "out/city_clear/clips.json").read_text(encoding="utf-8")


def test_a_stream_can_be_chosen_and_the_others_are_named(tmp_path: Path, infraredcity: RunCommand) -> None:
    sides = [write_clip(tmp_path / f"{first}.mp4", range(first, first + 20), *H264) for first in (0, 1000)]
    path = tmp_path / "two.mkv"
    ffmpeg("-i", sides[0], "-i", sides[1], "-map", "0:v", "-map", "1:v", "-c", "copy", path)
    words = ("extract", "--clip", "city_clear", "--video", path, "--to", "frames", "--format", "png", "--json")
    for choice, first in ((), 0), (("--stream", "0"), 0), (("--stream", "1"), 1000):
        clip = video.open_clip([path], stream=int(choice[1]) if choice else None)
        assert shown(clip)[0] == list(range(first, first + 20))
        out = tmp_path / f"out{'-'.join(choice)}"
        ran = infraredcity(*words, *choice, "--out", out)
        assert ran.code == 0, ran.stderr
        other = 0 if first else 1
        assert ran.json["reports"][0]["notes"] == [
            f"two.mkv: not read: stream {other}: h264 96x64; --stream {other} takes it"
        ]
    again = infraredcity(*words, "--stream", "1", "--out", tmp_path / "out")
    assert again.code == 1
    assert "--stream" in again.stderr
    with pytest.raises(
        VideoDecodeError,
        match=r"two\.mkv: has no video stream 2 that can be decoded; there is 0, 1",
    ):
        video.probe(path, stream=2)


def test_a_kept_scan_is_that_of_the_stream_that_was_asked_for(tmp_path: Path) -> None:
    sides = [
        write_clip(tmp_path / f"{first}.mp4", range(first, first + num), *H264) for first, num in ((0, 20), (1000, 18))
    ]
    path = tmp_path / "two.mkv"
    ffmpeg("-i", sides[0], "-i", sides[1], "-map", "0:v", "-map", "1:v", "-c", "copy", path)
    kept = tmp_path / "kept"
    kept.mkdir()
    counts = [video.probe(path, kept_in=kept, stream=stream).num_frames for stream in (None, 1, None, 1, 0)]
    assert counts == [20, 18, 20, 18, 20]


def test_a_video_that_goes_on_under_another_pid_is_read_to_its_end(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.ts", range(30), *H264, "-mpegts_start_pid", "256")
    second = write_clip(
        tmp_path / "b.ts", range(30, 60), *H264, "-mpegts_start_pid", "400", "-output_ts_offset", str(30 / FPS)
    )
    path = tmp_path / "pids.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    clip = video.open_clip([path])
    assert shown(clip) == (list(range(60)), list(range(60)), [False] * 60)
    assert clip.suspect == ()
    assert clip.files[0].recordings == (30,)
    assert shown(clip, 45)[0] == list(range(45, 60))
    assert any("its video goes on in another stream: 0, 1" in note for note in clip.notes)


def test_counts_behind_a_colour_format_are_counts(tmp_path: Path, infraredcity: RunCommand) -> None:
    """Hardware encoders write thermal video of 10 bits as 4:2:0 with neutral chroma."""
    _, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    counts = [(445 + 17 * (1 + np.sin((x + 3 * number) / 17))).astype("<u2") for number in range(20)]
    source = ("-f", "rawvideo", "-pix_fmt", "gray10le", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-")
    path = tmp_path / "thermal.mp4"
    ffmpeg(
        *source,
        "-c:v",
        "libx264",
        "-qp",
        "0",
        "-pix_fmt",
        "yuv420p10le",
        path,
        data=b"".join(each.tobytes() for each in counts),
    )
    info = video.probe(path)
    assert (info.pixel_format, info.is_deep, info.has_color) == ("yuv420p10le", True, False)
    (first, *_) = video.decode(video.open_clip([path]), FrameRange(start_frame=0, stop_frame=20))
    assert first.picture("gray").dtype == np.uint16
    assert len(np.unique(first.picture("gray"))) > 25
    words = ("extract", "--clip", "city_clear", "--video", path)
    ran = infraredcity(*words, "--out", tmp_path / "out")
    assert ran.code == 0, ran.stderr
    assert "tone: counts " in ran.stdout + ran.stderr
    assert infraredcity(*words, "--out", tmp_path / "deep", "--format", "png16").code == 0


def test_ten_bits_of_colour_are_no_counts(tmp_path: Path) -> None:
    info = video.probe(write_clip(tmp_path / "day.mp4", range(20), *H264, "-pix_fmt", "yuv420p10le"))
    assert (info.is_deep, info.has_color) == (False, True)


@pytest.mark.parametrize("gray_frames", [3, 300])
def test_false_colours_behind_gray_pictures_are_seen(tmp_path: Path, gray_frames: int) -> None:
    options = (*H264, "-vf", f"hue=s='if(lt(n,{gray_frames}),0,1)'".replace(",", "\\,"))
    info = video.probe(write_clip(tmp_path / "palette.mp4", range(gray_frames + 150), *options))
    assert info.has_color
    gray = video.probe(write_clip(tmp_path / "gray.mp4", range(60), *H264, "-vf", "hue=s=0"))
    assert not gray.has_color


def test_what_players_do_to_pictures_is_named_and_not_done(tmp_path: Path, infraredcity: RunCommand) -> None:
    plain = write_clip(tmp_path / "plain.mp4", range(10), *H264)
    turned, wide, bright = (tmp_path / f"{name}.mp4" for name in ("turned", "wide", "bright"))
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", turned)
    write_clip(wide, range(10), *H264, "-vf", "setsar=16/11")
    write_clip(bright, range(10), *H264, "-vf", "setparams=color_trc=smpte2084")
    assert video.probe(plain).notes == ()
    assert video.probe(wide).pixel_aspect == Fraction(16, 11)
    assert video.probe(bright).hdr == "PQ"
    for path, word in (
        (turned, "rotation: "),
        (wide, "pixel aspect: players show its pixels 16:11"),
        (bright, "range: its levels follow PQ"),
    ):
        assert word in infraredcity("probe", path).stdout
        out = tmp_path / f"out_{path.stem}"
        ran = infraredcity("extract", "--clip", "city_clear", "--video", path, "--out", out)
        assert ran.code == 0
        assert word in ran.stdout + ran.stderr
        assert word in (out / "city_clear/clips.json").read_text(encoding="utf-8")
        pictures = [
            frame.picture("gray")
            for frame in video.decode(video.open_clip([path]), FrameRange(start_frame=0, stop_frame=1))
        ]
        assert pictures[0].shape == (HEIGHT, WIDTH, 1)


def test_a_recovery_point_is_no_key_frame(tmp_path: Path) -> None:
    """With periodic intra refresh packets are called key frames that lean on others: damage lasts beyond them."""
    path = write_clip(tmp_path / "refresh.mp4", range(96), *H264, "-bf", "0", "-x264-params", "intra-refresh=1")
    clip = video.open_clip([path])
    assert clip.files[0].keyframes.tolist() == [0]
    assert clip.suspect == ()
    truth = [frame.picture("rgb").tobytes() for frame in video.decode(clip, FrameRange(start_frame=0, stop_frame=96))]
    for start in (13, 30, 73):
        found = video.decode(clip, FrameRange(start_frame=start, stop_frame=start + 8))
        assert [frame.picture("rgb").tobytes() for frame in found] == truth[start : start + 8]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    bitten = video.open_clip([path])
    frames = list(video.decode(bitten, FrameRange(start_frame=0, stop_frame=bitten.num_frames)))
    assert any(frame.is_suspect for frame in frames)
    assert all(frame.is_suspect or frame.picture("rgb").tobytes() == truth[frame.frame_index] for frame in frames)


def test_a_hole_in_a_packet_that_decodes_all_the_same_is_seen(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "whole.mp4", range(60), *H264, "-bf", "0", width=320, height=240)
    clip = video.open_clip([path])
    truth = [frame.picture("rgb").tobytes() for frame in video.decode(clip, FrameRange(start_frame=0, stop_frame=60))]
    num_silent = 0
    for place in range(20):
        data = bytearray(path.read_bytes())
        at = len(data) // 10 + place * len(data) // 30
        data[at : at + 24] = bytes(24)
        holed = tmp_path / "holed.mp4"
        holed.write_bytes(data)
        bitten = video.open_clip([holed])
        frames = list(video.decode(bitten, FrameRange(start_frame=0, stop_frame=bitten.num_frames)))
        assert all(frame.is_suspect or frame.picture("rgb").tobytes() == truth[frame.frame_index] for frame in frames)
        num_silent += any("zeros that no encoder writes" in phrase for phrase in bitten.suspect)
    assert num_silent >= 10


def test_long_runs_of_zeros_are_looked_through_once() -> None:
    from infraredcity.video.packets import _HOLE, _HOLE_OR_END

    zeros = bytes(1 << 22)
    for head in (b"\0\0\0\1e", b"\0\0\1e\7"):
        assert _HOLE.search(head + zeros) is None
        assert _HOLE.search(head + zeros + b"\0\0\1e") is None  # filling before a start code
        assert _HOLE.search(head + zeros + b"\7") is not None
        assert _HOLE_OR_END.search(head + zeros) is not None


@pytest.mark.parametrize("name", ["2021-11-03T12:30:00.mp4", "%03d.mp4", "concat:a.mp4", "-v.mp4"])
def test_a_name_is_a_name_and_no_protocol_or_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copy(write_clip(tmp_path / "plain.mp4", range(10), *H264), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert video.probe(Path(name)).num_frames == 10


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = tmp_path / "y16.avi"
    write_clip(path, range(3), "-c:v", "rawvideo", "-pix_fmt", "yuyv422")
    data = bytearray(path.read_bytes())
    for place in (data.index(b"vids") + 4, data.index(b"strf") + 24):
        data[place : place + 4] = b"Y16 "
    path.write_bytes(data)
    with pytest.raises(VideoDecodeError, match=r"y16\.avi: FFmpeg has no decoder for its codec 'Y16'; convert it"):
        video.probe(path)


def test_a_remote_playlist_opens_nothing(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.ts", range(10), *H264)
    folder = RemotePath("memory://lists")
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    for name, data in (("a.m3u8", text), ("b.mp4", f"\n{text}"), ("c.mp4", f"ffconcat version 1.0\nfile {secret}\n")):
        (folder / name).write_whole(data.encode())
        with pytest.raises(VideoDecodeError, match=r"is a playlist|is a list of files|names other files|not a video"):
            video.probe(folder / name)


def test_what_is_no_video_says_what_it_is(tmp_path: Path) -> None:
    secret = write_clip(tmp_path / "secret.ts", range(10), *H264)
    kinds = {
        "camera.seq": (b"FFF\0ATAU\0" * 100, "is a FLIR radiometric sequence"),
        "x.mp4.gz": (b"\x1f\x8b" + bytes(100), "is gzip-compressed"),
        "list.mp4": (f"ffconcat version 1.0\nfile {secret.name}\n".encode(), "is a list of files"),
        "live.m3u8": (f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n".encode(), "is a playlist"),
        "play.mp4": (f"\n#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode(), "names other files|not a video"),
        "call.sdp": (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
            "is a session",
        ),
    }
    for name, (data, message) in kinds.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoDecodeError, match=message):
            video.probe(tmp_path / name)
