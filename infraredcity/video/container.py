"""Open video files with FFmpeg: one named file, of a format that holds its pictures itself, and nothing else.

Playlists (HLS, DASH), session descriptions (SDP) and lists of files (ffconcat) make FFmpeg open other files and other machines,
also under a name such as x.mp4. They are not on the list of formats. A local file may open only itself, a remote one nothing.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infraredcity.errors import MissingExtraError, RemoteError, VideoDecodeError
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.video.remote_source import RemoteVideo

try:
    import av
    import av.logging
    from av.codec.hwaccel import HWAccel
    from av.container import Flags
    from av.stream import Disposition
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FFmpegError = av.FFmpegError
LOG_ERROR, LOG_WARNING, LOG_DEBUG = av.logging.ERROR, av.logging.WARNING, av.logging.DEBUG
"""Levels of FFmpeg's log, see `ffmpeg_log`."""
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,vc1,vc1test,obu,av1,ivf,"
    "flv,live_flv,asf,asf_o,dhav,mxf,gxf,nut,ogg,rm,dv,mjpeg,mpjpeg,mjpeg_2000,yuv4mpegpipe,gif,apng,ingenient,wtv,pva,nuv,"
    "smjpeg,swf,cine,r3d,lxf,mtv,roq,bink,smk,flic,ivr,nsv,nsp,mlv,avs,avs2,avs3,cavsvideo,dirac,dnxhd,ipu,filmstrip,film_cpk,"
    "ser,sdr2,sga,simbiosis_imx,siff,ty,v210,vividas,vivo,xmv,yop,evc,lvf,luodat,kux,ifv,hnm,"
    "bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gem_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,jpegxs_pipe,"
    "pam_pipe,pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,pgmyuv_pipe,pgx_pipe,phm_pipe,photocd_pipe,pictor_pipe,png_pipe,ppm_pipe,"
    "psd_pipe,qdraw_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,svg_pipe,tiff_pipe,vbn_pipe,webp_pipe,xbm_pipe,xpm_pipe,xwd_pipe"
)
"""FFmpeg's names of containers of moving pictures, and of single ones that are not searched for by a pattern of names."""
# The level is that of the whole process: what other threads say meanwhile goes to Python's logging, which would print it.
logging.getLogger("libav").setLevel(logging.CRITICAL)
_NOT_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_HEAD_BYTES = 16
_MOV_BOXES = (b"ftyp", b"mdat", b"free", b"wide", b"skip")
_FLIR = "a FLIR radiometric sequence (.seq), which FFmpeg does not read; export it as 16-bit video or TIFF (FLIR's tools, flirpy)"
_FOREIGN = (
    (b"#EXTM3U", "a playlist (HLS), which names other files; name the video files themselves"),
    (b"ffconcat", "a list of files (ffconcat), not a video; name the video files themselves"),
    (b"v=0", "a session description (SDP), not a video; record the stream to a file first"),
    (b"<?xml", "an XML text such as a DASH playlist, not a video; name the video files themselves"),
    (b"FFF\0", _FLIR),
    (b"AFF\0", _FLIR),
    (b"\x1f\x8b", "gzip-compressed; unpack it first (gunzip)"),
    (b"PK\3\4", "a zip archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
)


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """An open file and its video streams that can be decoded; reading it raises the errors of the network."""

    path: AnyPath
    container: "InputContainer"
    streams: tuple["VideoStream", ...]
    size_bytes: int
    remote: RemoteVideo | None

    def chosen(self, indices: Sequence[int]) -> "OpenVideo":
        """Take some streams of the file, in the given order."""
        by_index = {stream.index: stream for stream in self.container.streams.video}
        return replace(self, streams=tuple(by_index[index] for index in indices))

    def packets(self) -> Iterator[Any]:
        """Yield the packets of all streams from here on, in the order of the file."""
        packets = self.container.demux(*self.streams)
        while True:
            with network(self.remote):
                packet = next(packets, None)
            if packet is None:
                return
            if packet.size:  # an empty one stands for the end of a stream
                yield packet

    def packets_in_turn(self) -> Iterator[Any]:
        """Yield the packets of one stream after the other: the first from here on, the others each from the start of the file."""
        yield from self.chosen([self.streams[0].index]).packets()
        for stream in self.streams[1:]:
            with opened(self.path) as again:
                yield from again.chosen([stream.index]).packets()

    def seek(self, offset: int) -> None:
        """Go to the key frame at or before a time, in units of the first stream."""
        with network(self.remote):
            self.container.seek(offset, stream=self.streams[0], backward=True)


@contextmanager
def opened(path: AnyPath, hwaccel: HWAccel | None = None) -> Iterator[OpenVideo]:
    """Open a video file with all of its streams that hold moving pictures.

    Args:
        path: The file, local or remote.
        hwaccel: Decode on a GPU.

    Raises:
        VideoDecodeError: The file is missing, is no video, or holds none that can be decoded.
        RemoteError: It is remote, and its bytes do not come.
    """
    remote = RemoteVideo(path) if isinstance(path, RemotePath) else None
    if remote is None and not path.is_file():
        raise VideoDecodeError(f"{path}: no such video file")
    size_bytes = path.stat().st_size if remote is None else remote.size_bytes
    if size_bytes == 0:
        raise VideoDecodeError(f"{path}: the file is empty; copy the clip again")
    try:
        with network(remote):
            container = _open(path, remote, hwaccel)
    except RemoteError:
        raise
    except (FFmpegError, OSError) as error:
        raise VideoDecodeError(f"{path}: {_why_not_opened(path, error)}") from error
    with container:
        made_up_times: Any = Flags.gen_pts.value
        container.flags &= ~made_up_times  # what FFmpeg fills in is wrong for AVI with B-frames
        yield OpenVideo(path, container, _pictures_of(path, container), size_bytes, remote)


def decoder_of(stream: "VideoStream", *, is_logged: bool = False) -> Any:
    """Ready a stream's decoder to carry packets' numbers to their frames; call it before the first packet.

    FFmpeg's frame threads lose good frames around damage. The threads of a library such as dav1d would let go of the numbers, for
    which they need the interpreter, while it waits for them; and what threads complain of does not come into the log of this one.

    Args:
        stream: The stream.
        is_logged: Whether `ffmpeg_log` must hold all messages of the decoder, so it gets no threads of its own.
    """
    stream.thread_type = "SLICE"
    codec = stream.codec_context
    codec.copy_opaque = True
    if is_logged or codec.name.startswith("lib"):
        codec.thread_count = 1
    return codec


def key_frame_sizes(path: AnyPath, streams: Sequence[int]) -> list[tuple[int, int]]:
    """Decode the key frames and list their sizes, each once, in the order they come: packets do not tell when the size changes."""
    sizes: dict[tuple[int, int], None] = {}
    with opened(path) as file, suppress(FFmpegError):
        for packet in file.chosen(streams).packets():
            packet.stream.codec_context.skip_frame = "NONKEY"
            for frame in packet.decode():
                sizes[frame.width, frame.height] = None
    return list(sizes)


def other_streams(container: "InputContainer", taken: Sequence[int]) -> tuple[str, ...]:
    """Describe each video stream that is not taken, such as "stream 1: h264 640x512; --stream 1 takes it"."""
    return tuple(
        f"stream {each.index}: {_described(each)}" for each in container.streams.video if each.index not in taken
    )


@contextmanager
def ffmpeg_log(level: int = LOG_ERROR) -> Iterator[list[tuple[int, str, str]]]:
    """Collect FFmpeg's messages (level, who, text) of this thread while the block runs, of errors or down to another level."""
    before, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(level)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as log:
            yield log
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(before)


@contextmanager
def network(remote: RemoteVideo | None) -> Iterator[None]:
    """Raise the error that kept the bytes of a remote file from coming, in place of what FFmpeg made of it."""
    try:
        yield
    finally:
        if remote is not None and remote.failure is not None:
            raise remote.failure


def reason_of(error: BaseException) -> str:
    """Return FFmpeg's words for an error."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _open(path: AnyPath, remote: RemoteVideo | None, hwaccel: HWAccel | None) -> "InputContainer":
    protocols = "file" if remote is None else "none"
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": protocols}
    # With the protocol in front of it, a name such as 12:30.mp4 is a name and not a protocol of its own.
    return av.open(remote or f"file:{path}", mode="r", options=options, hwaccel=hwaccel)


def _pictures_of(path: AnyPath, container: "InputContainer") -> tuple["VideoStream", ...]:
    """Find the video streams that FFmpeg can decode and that are no cover picture."""
    streams = container.streams.video
    if not streams:
        raise VideoDecodeError(f"{path}: holds no video stream")
    moving = tuple(each for each in streams if not each.disposition & _NOT_PICTURES)
    if not moving:
        raise VideoDecodeError(f"{path}: holds no video stream but a cover picture")
    known = tuple(each for each in moving if _codec_of(each) is not None)
    if not known:
        raise VideoDecodeError(
            f"{path}: FFmpeg has no decoder for its codec {_unknown_codec(path)}; convert it with the camera's own software, "
            "or if its pictures are raw, name their size and format to ffmpeg (-f rawvideo -video_size WxH -pixel_format gray16le)"
        )
    return known


def _codec_of(stream: Any) -> Any:
    """Return the codec context of a stream; None if FFmpeg knows no decoder for it."""
    return getattr(stream, "codec_context", None)


def _described(stream: Any) -> str:
    codec = _codec_of(stream)
    if codec is None:
        return "a codec that FFmpeg does not know"
    is_still = bool(stream.disposition & _NOT_PICTURES)
    return f"{codec.name} {codec.width}x{codec.height}" + (
        ", a cover picture or thumbnail" if is_still else f"; --stream {stream.index} takes it"
    )


def _unknown_codec(path: AnyPath) -> str:
    """Find the four letters by which a container names a codec that FFmpeg does not know; they are only in its log."""
    found = [match[1] for text in _log_of_opening(path) if (match := re.search(r"Video: none \((.{4}) /", text))]
    return f"{found[0].strip()!r}" if found else "of an unknown name"


def _log_of_opening(path: AnyPath) -> list[str]:
    """Open a file once more and return FFmpeg's messages, warnings too."""
    remote = RemoteVideo(path) if isinstance(path, RemotePath) else None
    with ffmpeg_log(LOG_WARNING) as log:
        with suppress(FFmpegError, OSError), network(remote):
            _open(path, remote, None).close()
        return [text for _, _, text in log]


def _why_not_opened(path: AnyPath, error: BaseException) -> str:
    """Say what a file is that FFmpeg does not open, and what helps."""
    head = _head_of(path)
    for magic, kind in _FOREIGN:
        if head.startswith(magic):
            return f"is {kind}"
    complaints = _log_of_opening(path)
    if head[4:8] in _MOV_BOXES and any("moov atom not found" in text for text in complaints):
        return (
            "its table of contents (moov) is missing, since the recording was not ended or the copy is cut; copy it again, or "
            "rebuild the table from a whole file of the same camera with a tool such as untrunc"
        )
    if any("whitelist" in text for text in complaints):
        return "is of a format that names other files or holds no video; name the video file itself"
    return f"not a video that can be opened ({reason_of(error)}); copy it again or re-mux it"


def _head_of(path: AnyPath) -> bytes:
    if isinstance(path, RemotePath):
        file = path.file()
        return file.read(0, min(_HEAD_BYTES, file.size_bytes))
    with path.open("rb") as here:
        return here.read(_HEAD_BYTES)
