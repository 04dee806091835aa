"""Say why packets do not tell the frames of a file, so that it has to be decoded once."""

from infraredcity.video.packets import KNOW_THEIR_REFERENCES, VideoPackets

_ONE_PACKET_A_FRAME = (
    *("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "mjpeg", "png"),
    *("ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "prores", "dnxhd", "dvvideo"),
)
"""Codecs of which a packet is a frame, as far as the first pictures and the checks below find nothing else."""
_HALVES = frozenset(["h264"])
"""Codecs whose two fields may be packets of their own, in containers that FFmpeg does not cut into packets itself."""
_CUT_BY_FFMPEG = frozenset(["mpegts", "mpeg", "h264"])
NOT_CODED_BYTES = 16
"""An MPEG-4 picture that says "as before" has about eight bytes (ISO 14496-2, 6.2.5: vop_coded is 0)."""


def why_decode(video: VideoPackets, container: str) -> str:
    """Say why packets do not tell the frames of a file; "" where they do."""
    shown = [packet for packet in video.packets if not packet.is_discard]
    head = video.streams[0]
    codec = video.codec
    if not shown:
        return ""
    if len(video.streams) > 1:
        return "its video goes on in another stream"
    if codec not in _ONE_PACKET_A_FRAME:
        return f"a packet of {codec} need not be a frame"
    if container == "mpeg" and codec in KNOW_THEIR_REFERENCES:
        return f"MPEG-PS has one time for several frames of {codec}"
    if any(packet.pts is None for packet in shown):
        return "some of its packets have no time"
    if len({packet.pts for packet in shown}) < len(shown):
        return "some of its packets share a time"
    keys = [packet.pts for packet in shown if packet.is_key and packet.pts is not None]
    clock = [packet.dts for packet in video.packets if packet.dts is not None]
    if sorted(keys) != keys or sorted(clock) != clock:
        return "its clock does not run once from start to end"
    if codec == "mpeg4" and any(packet.size <= NOT_CODED_BYTES for packet in shown):
        return "some of its packets are too small to hold a picture"
    expected = [number for number, packet in enumerate(head.packets[: head.num_head]) if not packet.is_discard]
    if sorted(head.shown_by_head) != expected:
        return f"its first {len(expected)} packets show {len(head.shown_by_head)} pictures"
    if head.pictures.num_false_keys:
        return "some of its key frames lean on other frames (periodic intra refresh)"
    if codec in _HALVES and head.pictures.is_interlaced and container not in _CUT_BY_FFMPEG:
        return "its pictures are interlaced, and a packet may hold half of one"
    return ""
