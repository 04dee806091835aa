"""Find the facts about a file by demuxing it, and by decoding it once if its packets do not tell its frames.

A packet is not always a frame: VP8 has packets that show nothing, other codecs send fields or "not coded" pictures as packets of
their own. A file's clock need not run once: recordings are joined with `cat`, and some packets have no time. So the pass looks at
pictures on its way (the first ones in a row, then key frames all over the file), and a file about which anything is in doubt is
decoded from start to end: then frames are what the decoder shows, in its order.

The ideas of which a scan consists have files of their own, in this order: `packets`, `picture_facts`, `doubt`, `decode_once`,
`time_axis`, `frame_table`, `time_jumps`, `faults`.
"""

import logging
from fractions import Fraction

import numpy as np

from infraredcity.files.path import AnyPath
from infraredcity.video.container import OpenVideo, ffmpeg_log, opened, other_streams
from infraredcity.video.decode_once import decode_once
from infraredcity.video.doubt import why_decode
from infraredcity.video.faults import find_faults
from infraredcity.video.frame_table import FrameTable, table_from_decoding, table_from_packets
from infraredcity.video.packets import VideoPackets, choose_streams, read_packets, video_complaints
from infraredcity.video.time_jumps import find_time_jumps
from infraredcity.video.types import MAX_REORDER_FRAMES, NO_TIME, VideoInfo

logger = logging.getLogger(__name__)


def scan(path: AnyPath, *, stream: int | None = None) -> VideoInfo:
    """Demux a file once, look at some of its pictures, and decode it once more where packets do not tell its frames.

    Args:
        path: The file, local or remote.
        stream: Number of the stream to take; None takes the first one that holds moving pictures, of at least half as many packets
            as the fullest, and those in which it goes on.

    Raises:
        VideoDecodeError: The file is missing, is no video, or has no such stream.
        RemoteError: It is remote, and its bytes do not come.
    """
    # Behind bytes that make no sense the demuxer goes on with whatever looks like a packet, and says so only in its log.
    with ffmpeg_log() as log, opened(path) as file:
        complaint_ahead = next((text.strip() for text in video_complaints(file, log)), None)
        by_stream, failure = read_packets(file, log)
        video = choose_streams(file, by_stream, stream)
        doubt = why_decode(video, file.container.format.name)
        table = _frame_table(file, video, doubt)
        return _info(file, video, table, doubt, failure=failure, complaint_ahead=complaint_ahead)


def _frame_table(file: OpenVideo, video: VideoPackets, doubt: str) -> FrameTable:
    if not doubt:
        return table_from_packets(video.packets)
    logger.info("%s: %s, so it is decoded once to count its frames", file.path, doubt)
    container = file.container.format.name
    decoding = decode_once(file.path, video, container)
    return table_from_decoding(decoding, video.packets, video.starts[1:], shares_times=container == "mpeg")


def _info(
    file: OpenVideo,
    video: VideoPackets,
    table: FrameTable,
    doubt: str,
    *,
    failure: str | None,
    complaint_ahead: str | None,
) -> VideoInfo:
    stream = video.stream
    codec = stream.codec_context
    fps = Fraction(stream.average_rate or stream.guessed_rate or 0)
    jumps = find_time_jumps(file.path, video, table)
    faults = find_faults(file, video, table, jumps, failure=failure, complaint_ahead=complaint_ahead)
    delay = video.streams[0].delay
    slack = 0 if table.is_timed or not delay else MAX_REORDER_FRAMES
    return VideoInfo(
        path=file.path,
        num_frames=len(table.times),
        pts=table.times,
        time_base=_time_base(video, fps, are_true=table.are_true),
        keyframes=table.keyframes,
        nominal_fps=float(fps),
        height_px=codec.height,
        width_px=codec.width,
        pixel_format=str(codec.pix_fmt),
        codec=video.codec,
        container=file.container.format.name,
        rotation_deg=video.pictures.rotation_deg,
        pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        hdr=video.pictures.hdr,
        num_hidden=video.num_hidden,
        num_silent=table.num_silent - table.num_headless,
        num_headless=table.num_headless,
        streams=video.indices,
        other_streams=other_streams(file.container, video.indices),
        delay_frames=delay,
        counted_by=doubt,
        is_timed=table.is_timed,
        can_seek=not any(packet.has_palette for packet in video.packets),
        decode_order=table.decode_order,
        frame_packets=table.packet_numbers,
        packet_pts=np.array([NO_TIME if packet.pts is None else packet.pts for packet in video.packets], np.int64),
        suspect_ranges=faults.suspect_ranges(table, slack=slack),
        time_jumps=np.array(sorted({*jumps.losses, *jumps.pauses, *table.joins}), np.int64),
        recordings=table.joins,
        pauses=jumps.pauses,
        has_color=video.pictures.has_color,
        is_deep=video.pictures.is_deep,
        size_bytes=file.size_bytes,
        packets_sha256=video.sha256,
        whole_packets=table.whole_packets,
        suspect=faults.phrases(table),
    )


def _time_base(video: VideoPackets, fps: Fraction, *, are_true: bool) -> Fraction:
    if are_true and video.stream.time_base is not None:
        return video.stream.time_base
    return 1 / fps if fps > 0 else Fraction(1, 25)
