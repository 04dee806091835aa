"""Every class of video file we promise to read exactly, made with ffmpeg in a moment, and the judge that says what is in one.

The pictures are `synthetic.picture`: each carries its frame number as a barcode, so `Footage.shown` can be written down by hand,
and a decoder that the judge agrees with by mistake still fails. The judge is ffmpeg, called so that it neither drops nor retimes.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av  # noqa: TID251  # the test writes packets that no encoder at hand writes
import numpy as np
from synthetic import FPS, GOP, H264, HEIGHT, WIDTH, ffmpeg, write_clip

NUM_FRAMES = 60
REAL_DATA = "INFRAREDCITY_REAL_DATA"

_H264_OPEN = (*H264, "-x264-params", "open-gop=1")
_HEVC = ("-c:v", "libx265", "-preset", "veryfast", "-threads", "1", "-pix_fmt", "yuv420p", "-tag:v", "hvc1")
_X265 = f"pools=1:frame-threads=1:log-level=error:bframes=3:b-adapt=0:scenecut=0:keyint={GOP}:min-keyint={GOP}"
_HEVC_CLOSED = (*_HEVC, "-x265-params", f"{_X265}:open-gop=0")
_HEVC_OPEN = (*_HEVC, "-x265-params", f"{_X265}:open-gop=1")
_MPEG4 = ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-g", str(GOP), "-threads", "1")
_MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-g", str(GOP), "-threads", "1", "-flags", "+ildct+ilme")
_VP8 = ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "400k", "-g", "30", "-threads", "1")
_MJPEG = ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p", "-threads", "1")
_FFV1 = ("-c:v", "ffv1", "-level", "3", "-g", "1", "-threads", "1")
_DEEP = ("-pix_fmt", "yuv420p10le")
_PASS = ("-fps_mode", "passthrough")


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """One class of file.

    Attributes:
        name: Names it in tests, and its file.
        suffix: Of the file's name, which tells ffmpeg the container.
        write: Writes the file at a path.
        shown: The barcodes that a right reader shows, in order; empty for a file without a frame.
        is_deep: Whether it is gray of more than 8 bits, whose pictures are counts and not colours.
    """

    name: str
    suffix: str
    write: Callable[[Path], object]
    shown: tuple[int, ...] = tuple(range(NUM_FRAMES))
    is_deep: bool = False

    def make(self, folder: Path) -> Path:
        """Write the file into a folder; its path. Made once a folder."""
        path = folder / f"{self.name}{self.suffix}"
        if not path.exists():
            self.write(path)
        return path


def _coded(
    *options: str, frames: Iterable[int] = range(NUM_FRAMES), size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Callable[[Path], object]:
    return lambda path: write_clip(path, list(frames), *options, width=size[0], height=size[1])


def _timed(expression: str, *options: str) -> Callable[[Path], object]:
    """Frame N at `expression` seconds, kept to 1/90000 s as far as the container can."""
    timing = ("-vf", f"settb=1/90000,setpts='({expression})/TB'", *_PASS, "-enc_time_base", "1/90000")
    return _coded(*options, *timing)


def _copied(
    options: Sequence[str], source: Callable[[Path], object], *, before: Sequence[str] = ()
) -> Callable[[Path], object]:
    """Another file's packets in a new file, with options behind and before the input."""

    def write(path: Path) -> None:
        whole = path.with_name(f"whole_{path.name}")
        source(whole)
        ffmpeg(*before, "-i", whole, "-c", "copy", *options, path)
        whole.unlink()

    return write


def _two_streams(path: Path) -> None:
    """The second stream shows other pictures of another size."""
    sides = [path.with_name(f"{path.stem}_{side}.mp4") for side in "ab"]
    write_clip(sides[0], range(NUM_FRAMES), *H264)
    write_clip(sides[1], range(1000, 1000 + NUM_FRAMES), *H264, width=144, height=96)
    ffmpeg("-i", sides[0], "-i", sides[1], "-map", "0:v", "-map", "1:v", "-c", "copy", path)
    for side in sides:
        side.unlink()


def _two_sizes(*options: str, container: str) -> Callable[[Path], object]:
    """The first half 96x64, the second 144x96: two streams of the same codec, one behind the other byte by byte."""

    def write(path: Path) -> None:
        halves = [path.with_name(f"{path.stem}_{half}.{container}") for half in "ab"]
        middle = NUM_FRAMES // 2
        write_clip(halves[0], range(middle), *options)
        # Two frames more, for the B-frame delay that the first half's clock began with.
        later = ("-output_ts_offset", str((middle + 2) / FPS))
        write_clip(halves[1], range(middle, NUM_FRAMES), *options, *later, width=144, height=96)
        joined = path.with_name(f"{path.stem}_joined.{container}")
        joined.write_bytes(b"".join(half.read_bytes() for half in halves))
        if path.suffix == f".{container}":
            joined.rename(path)
        else:
            rate = ("-r", str(FPS)) if container == "mjpeg" else ()
            ffmpeg(*rate, "-i", joined, "-c", "copy", path)
            joined.unlink()
        for half in halves:
            half.unlink()

    return write


def _edited(*edits: tuple[int, int]) -> Callable[[Path], object]:
    """An mp4 whose edit list shows frames [start, stop) of the media, one edit behind the other; ffmpeg itself writes only one."""

    def write(path: Path) -> None:
        write_clip(path, range(NUM_FRAMES), *H264)
        data = path.read_bytes()
        elst = data.index(b"elst") - 4
        old_size, _, old_count = struct.unpack_from(">I4sxxxxI", data, elst)
        assert old_count == 1, "ffmpeg wrote more than one edit"
        movie_scale, media_scale = (
            struct.unpack_from(">I", data, data.index(tag) + 16)[0] for tag in (b"mvhd", b"mdhd")
        )
        (media_start,) = struct.unpack_from(
            ">i", data, elst + 20
        )  # B-frames delay the first frame's place in the media
        entries = b"".join(
            struct.pack(">IiI", (stop - start) * movie_scale // FPS, media_start + start * media_scale // FPS, 1 << 16)
            for start, stop in edits
        )
        box = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
        grown = bytearray(data[:elst] + box + data[elst + old_size :])
        # The table of contents stands behind the pictures, so growing it moves none of them.
        assert data.index(b"moov") > data.index(b"mdat")
        for parent in (b"moov", b"trak", b"edts"):
            at = grown.index(parent, grown.index(b"moov")) - 4
            struct.pack_into(">I", grown, at, struct.unpack_from(">I", grown, at)[0] + len(box) - old_size)
        path.write_bytes(grown)

    return write


def _without_packets(path: Path) -> None:
    """A video stream in the header, and no packet: a recording that was stopped as soon as it began."""
    whole = write_clip(path.with_name(f"whole_{path.name}"), range(GOP), *H264)
    fragmented = () if path.suffix == ".avi" else ("-movflags", "+frag_keyframe+empty_moov")
    ffmpeg("-i", whole, "-c", "copy", "-bsf:v", "noise=drop=1", *fragmented, path)
    whole.unlink()


def _with_hidden_references(path: Path) -> None:
    """VP8 as libvpx writes it by default in two passes: alternate reference frames, packets that are never shown."""
    log = path.with_name(f"{path.stem}_pass")
    for number in ("1", "2"):
        write_clip(path, range(NUM_FRAMES), *_VP8, "-pass", number, "-passlogfile", str(log))
    log.with_name(f"{log.name}-0.log").unlink()


def _with_not_coded(path: Path) -> None:
    """MPEG-4 in which each tenth packet is followed by one that says "as before", as recorders write while nothing moves."""
    whole = write_clip(path.with_name(f"whole_{path.name}"), range(NUM_FRAMES), *_MPEG4, "-bf", "0")
    # ISO 14496-2, 6.2.5: start code, a predicted picture, no second passed, marker, time in 1/25 s (5 bits), marker, not coded.
    not_coded = bytes.fromhex("000001b6") + int("0101000011001111", 2).to_bytes(2, "big")
    with av.open(str(whole)) as source, av.open(str(path), "w") as copy:
        stream = source.streams.video[0]
        out = copy.add_stream_from_template(stream)
        num_written = 0
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            empty = av.Packet(not_coded)
            empty.time_base = packet.time_base
            empty.pts = empty.dts = packet.pts + 1
            for each in (packet, *([empty] if number % 10 == 5 else [])):
                each.stream = out
                if path.suffix == ".avi":  # which counts packets
                    each.time_base, each.pts, each.dts = Fraction(1, FPS), num_written, num_written
                num_written += 1
                copy.mux(each)
    whole.unlink()


def _begun_in_a_group(path: Path) -> None:
    """A transport stream whose first packets lean on a key frame that was recorded before it."""
    whole = write_clip(path.with_name(f"whole_{path.name}"), range(NUM_FRAMES), *H264)
    data = whole.read_bytes()
    start = len(data) // 188 // 10 * 188
    path.write_bytes(data[start:])
    whole.unlink()


def _families() -> Iterator[Footage]:
    """H.264 and HEVC, closed and open groups of pictures, in the three containers."""
    kinds = {"h264": H264, "h264_open_gop": _H264_OPEN, "hevc": _HEVC_CLOSED, "hevc_open_gop": _HEVC_OPEN}
    for kind, options in kinds.items():
        for suffix in (".mp4", ".mkv", ".ts"):
            yield Footage(name=f"{kind}_{suffix[1:]}", suffix=suffix, write=_coded(*options))


_BURST = "floor(N/5)*0.5+mod(N\\,5)*0.003"
_SKIPPING = ("-vf", f"settb=1/{FPS},setpts='2*N+mod(N\\,2)'", *_PASS, "-enc_time_base", f"1/{FPS}")
_LATER = ("-output_ts_offset", "7.3")
CUT_FROM = 17

# An option that is given twice counts as it is given last.
FOOTAGE: tuple[Footage, ...] = (
    *_families(),
    Footage(name="mpeg4_bframes_avi", suffix=".avi", write=_coded(*_MPEG4)),
    # AVI has no presentation times: here a frame's time can only come from the order in which the decoder releases them.
    Footage(name="h264_bframes_avi", suffix=".avi", write=_coded(*H264)),
    Footage(name="mpeg2_interlaced_ts", suffix=".ts", write=_coded(*_MPEG2)),
    Footage(name="mpeg2_interlaced_mpg", suffix=".mpg", write=_coded(*_MPEG2)),
    Footage(name="h264_interlaced_ts", suffix=".ts", write=_coded(*H264, "-flags", "+ildct+ilme")),
    Footage(name="h264_interlaced_mp4", suffix=".mp4", write=_coded(*H264, "-flags", "+ildct+ilme")),
    Footage(name="mjpeg_avi", suffix=".avi", write=_coded(*_MJPEG)),
    Footage(name="ffv1_gray_mkv", suffix=".mkv", write=_coded(*_FFV1, "-pix_fmt", "gray")),
    Footage(name="ffv1_gray16_mkv", suffix=".mkv", write=_coded(*_FFV1, "-pix_fmt", "gray16le"), is_deep=True),
    Footage(name="ffv1_gray10_mkv", suffix=".mkv", write=_coded(*_FFV1, "-pix_fmt", "gray10le"), is_deep=True),
    Footage(name="variable_mp4", suffix=".mp4", write=_timed("N*0.08+mod(N\\,2)*0.04", *H264)),
    Footage(name="variable_mkv", suffix=".mkv", write=_timed("N*0.08+mod(N\\,2)*0.04", *H264)),
    # AVI has no times at all: a frame that does not come is an empty packet in its place.
    Footage(name="variable_mjpeg_avi", suffix=".avi", write=_coded(*_MJPEG, *_SKIPPING)),
    Footage(name="variable_mpeg4_avi", suffix=".avi", write=_coded(*_MPEG4, "-bf", "0", *_SKIPPING)),
    Footage(name="bursty_mp4", suffix=".mp4", write=_timed(_BURST, *H264)),
    Footage(name="bursty_mkv", suffix=".mkv", write=_timed(_BURST, *H264)),
    Footage(name="bursty_ts", suffix=".ts", write=_timed(_BURST, *H264)),
    # Matroska counts milliseconds, so frames 0.4 ms apart share a time.
    Footage(name="equal_times_mkv", suffix=".mkv", write=_timed("floor(N/5)*0.5+mod(N\\,5)*0.0004", *H264)),
    Footage(name="late_start_mp4", suffix=".mp4", write=_coded(*H264, *_LATER)),
    Footage(name="late_start_mkv", suffix=".mkv", write=_coded(*H264, *_LATER)),
    Footage(name="late_start_ts", suffix=".ts", write=_coded(*H264, *_LATER)),
    # Two frames of B-frame delay that no edit list takes back: the first time is 2/25 s.
    Footage(name="late_start_without_edit_list_mp4", suffix=".mp4", write=_coded(*H264, "-use_editlist", "0")),
    # The clock of MPEG-TS has 33 bits, 26.5 hours; a recorder that runs for days passes its end.
    Footage(name="clock_wraps_ts", suffix=".ts", write=_coded(*H264, "-output_ts_offset", "95441.0")),
    Footage(
        name="cut_mp4",
        suffix=".mp4",
        write=_copied((), _coded(*H264), before=("-ss", str(CUT_FROM / FPS))),
        shown=tuple(range(CUT_FROM, NUM_FRAMES)),
    ),
    Footage(
        name="cut_open_gop_hevc_mp4",
        suffix=".mp4",
        write=_copied(("-tag:v", "hvc1"), _coded(*_HEVC_OPEN), before=("-ss", str(CUT_FROM / FPS))),
        shown=tuple(range(CUT_FROM, NUM_FRAMES)),
    ),
    Footage(
        name="middle_cut_out_mp4", suffix=".mp4", write=_edited((0, 20), (41, 60)), shown=(*range(20), *range(41, 60))
    ),
    Footage(name="shown_twice_mp4", suffix=".mp4", write=_edited((0, 20), (8, 40)), shown=(*range(20), *range(8, 40))),
    Footage(
        name="pyramid_mp4",
        suffix=".mp4",
        write=_coded(*H264, "-bf", "7", "-x264-params", "b-pyramid=normal:ref=4:b-adapt=0"),
    ),
    Footage(
        name="negative_offsets_mp4",
        suffix=".mp4",
        write=_coded(*H264, "-bf", "4", "-movflags", "+negative_cts_offsets"),
    ),
    Footage(
        name="fragmented_mp4",
        suffix=".mp4",
        write=_coded(*H264, "-movflags", "+frag_keyframe+empty_moov+default_base_moof"),
    ),
    Footage(name="one_key_frame_mp4", suffix=".mp4", write=_coded(*H264, "-g", "600")),
    Footage(name="two_streams_mp4", suffix=".mp4", write=_two_streams),
    Footage(name="two_streams_mkv", suffix=".mkv", write=_two_streams),
    Footage(name="two_streams_ts", suffix=".ts", write=_two_streams),
    Footage(name="rotated_90_mp4", suffix=".mp4", write=_copied((), _coded(*H264), before=("-display_rotation", "90"))),
    Footage(
        name="rotated_180_mov", suffix=".mov", write=_copied((), _coded(*H264), before=("-display_rotation", "180"))
    ),
    # x264 and x265 take odd sizes in 4:4:4 alone.
    Footage(name="odd_mpeg4_avi", suffix=".avi", write=_coded(*_MPEG4, size=(97, 65))),
    Footage(name="odd_mjpeg_avi", suffix=".avi", write=_coded(*_MJPEG, size=(95, 63))),
    Footage(name="odd_ffv1_mkv", suffix=".mkv", write=_coded(*_FFV1, "-pix_fmt", "yuv420p", size=(97, 65))),
    Footage(name="odd_h264_444_mp4", suffix=".mp4", write=_coded(*H264, "-pix_fmt", "yuv444p", size=(97, 65))),
    Footage(name="odd_hevc_444_mkv", suffix=".mkv", write=_coded(*_HEVC_CLOSED, "-pix_fmt", "yuv444p", size=(97, 65))),
    Footage(name="odd_mpeg2_ts", suffix=".ts", write=_coded(*_MPEG2, size=(97, 65))),
    Footage(name="odd_h264_422_mkv", suffix=".mkv", write=_coded(*H264, "-pix_fmt", "yuv422p", size=(98, 65))),
    Footage(name="gray_hevc_mp4", suffix=".mp4", write=_coded(*_HEVC_CLOSED, "-pix_fmt", "gray")),
    Footage(name="gray10_hevc_mkv", suffix=".mkv", write=_coded(*_HEVC_CLOSED, "-pix_fmt", "gray10le"), is_deep=True),
    Footage(name="neutral_h264_mp4", suffix=".mp4", write=_coded(*H264, "-vf", "hue=s=0")),
    Footage(name="full_range_yuvj_mp4", suffix=".mp4", write=_coded(*H264, "-pix_fmt", "yuvj420p")),
    Footage(
        name="full_range_gray_mp4",
        suffix=".mp4",
        write=_coded(*H264, "-pix_fmt", "gray", "-vf", "scale=out_range=pc", "-color_range", "pc"),
    ),
    Footage(
        name="bt709_mp4",
        suffix=".mp4",
        write=_coded(*H264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"),
    ),
    Footage(name="h264_10bit_mp4", suffix=".mp4", write=_coded(*H264, *_DEEP)),
    Footage(name="hevc_10bit_mkv", suffix=".mkv", write=_coded(*_HEVC_OPEN, *_DEEP)),
    Footage(name="two_sizes_ts", suffix=".ts", write=_two_sizes(*H264, container="ts")),
    Footage(name="two_sizes_h264", suffix=".h264", write=_two_sizes(*H264, container="h264")),
    Footage(name="two_sizes_h264_mkv", suffix=".mkv", write=_two_sizes(*H264, container="ts")),
    Footage(name="two_sizes_h264_mp4", suffix=".mp4", write=_two_sizes(*H264, container="ts")),
    Footage(name="two_sizes_mjpeg_mkv", suffix=".mkv", write=_two_sizes(*_MJPEG, container="mjpeg")),
    Footage(name="gif", suffix=".gif", write=_coded("-c:v", "gif")),
    Footage(name="vp8_hidden_references_webm", suffix=".webm", write=_with_hidden_references),
    Footage(
        name="vp9_webm", suffix=".webm", write=_coded("-c:v", "libvpx-vp9", "-b:v", "400k", "-g", "30", "-threads", "1")
    ),
    Footage(name="not_coded_mpeg4_mkv", suffix=".mkv", write=_with_not_coded),
    Footage(name="not_coded_mpeg4_avi", suffix=".avi", write=_with_not_coded),
    Footage(name="gray_rgb48_mov", suffix=".mov", write=_coded("-c:v", "png", "-vf", "hue=s=0", "-pix_fmt", "rgb48be")),
    Footage(
        name="gray_alpha16_mov", suffix=".mov", write=_coded("-c:v", "png", "-vf", "hue=s=0", "-pix_fmt", "ya16be")
    ),
    Footage(
        name="intra_refresh_mp4", suffix=".mp4", write=_coded(*H264, "-bf", "0", "-x264-params", "intra-refresh=1")
    ),
    Footage(name="begun_in_a_group_ts", suffix=".ts", write=_begun_in_a_group, shown=tuple(range(GOP, NUM_FRAMES))),
    Footage(name="wmv2_wmv", suffix=".wmv", write=_coded("-c:v", "wmv2", "-q:v", "2", "-g", str(GOP))),
    Footage(name="theora_ogv", suffix=".ogv", write=_coded("-c:v", "libtheora", "-q:v", "9", "-g", str(GOP))),
    Footage(
        name="av1_mkv", suffix=".mkv", write=_coded("-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20", "-g", "30")
    ),
    Footage(
        name="counts_in_colour_format_mp4", suffix=".mp4", write=_coded(*H264, "-vf", "hue=s=0", *_DEEP), is_deep=True
    ),
    Footage(name="one_frame_mp4", suffix=".mp4", write=_coded(*H264, frames=[7]), shown=(7,)),
    Footage(name="one_frame_mkv", suffix=".mkv", write=_coded(*_HEVC_CLOSED, frames=[7]), shown=(7,)),
    Footage(name="one_frame_ts", suffix=".ts", write=_coded(*H264, frames=[7]), shown=(7,)),
    Footage(name="one_frame_avi", suffix=".avi", write=_coded(*_MPEG4, frames=[7]), shown=(7,)),
    Footage(name="no_frame_mp4", suffix=".mp4", write=_without_packets, shown=()),
    Footage(name="no_frame_avi", suffix=".avi", write=_without_packets, shown=()),
    Footage(name="all_hidden_mp4", suffix=".mp4", write=_edited((90, 100)), shown=()),
)
BY_NAME = {footage.name: footage for footage in FOOTAGE}


@dataclass(frozen=True, slots=True)
class Judged:
    """One frame as ffmpeg shows it.

    Attributes:
        time_s: Its presentation time in seconds, exactly.
        md5: Of its planes in the native pixel format, one behind the other, without padding at the ends of lines.
    """

    time_s: Fraction
    md5: str


# passthrough: no frame is dropped or doubled to fit a rate. copyts and the demuxer's own time base: no time is shifted or rounded.
# noautorotate: pictures stay as stored. noautoscale: after a change of size they keep their own, instead of the first one's.
# FINDINGS.md writes the time base as -1; newer ffmpeg wants the word.
_READ = ("-copyts", "-noautorotate")
_SHOW = ("-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "demux", "-noautoscale")


def judged_planes(path: Path) -> list[Judged]:
    """Every frame that ffmpeg shows, in order."""
    lines = ffmpeg(*_READ, "-i", path, *_SHOW, "-f", "framemd5", "-").decode().splitlines()
    time_base = next(Fraction(line.split()[-1]) for line in lines if line.startswith("#tb 0:"))
    rows = [line.replace(" ", "").split(",") for line in lines if not line.startswith("#")]
    return [Judged(int(pts) * time_base, md5) for _stream, _dts, pts, _duration, _size, md5 in rows]


def judged_rgb(path: Path, *, step: int = 1) -> np.ndarray:
    """u8 [bytes], R, G, B of each `step`th frame that ffmpeg shows, one behind the other; flat, for sizes may change.

    Bicubic is what ffmpeg takes when nobody asks; it is said here since it decides how chroma is spread over odd sizes and 10 bit
    (bilinear differs by up to 60 levels there), and so that a later default cannot move the judge.
    """
    some = ("-vf", f"select='not(mod(n,{step}))'") if step > 1 else ()
    shown = ffmpeg(
        *_READ, "-i", path, *_SHOW, *some, "-sws_flags", "bicubic", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"
    )
    return np.frombuffer(shown, np.uint8)


def real_videos(folder: Path) -> list[Path]:
    """Every video file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix in {".avi", ".mkv", ".mov", ".mp4", ".mpg", ".ts"})
