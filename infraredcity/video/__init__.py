"""Video in: facts about a clip's files, and its frames by their true index, behind one door per decoder library."""

from infraredcity.clips import ColorMode
from infraredcity.video.clip import (
    DECODERS,
    ClipVideo,
    DecoderName,
    choose_decoder,
    decode,
    open_clip,
    probe,
    read_frames,
    why_not,
)
from infraredcity.video.types import NO_TIME, Decoded, FrameBatch, FrameRange, VideoInfo

__all__ = [
    "DECODERS",
    "NO_TIME",
    "ClipVideo",
    "ColorMode",
    "Decoded",
    "DecoderName",
    "FrameBatch",
    "FrameRange",
    "VideoInfo",
    "choose_decoder",
    "decode",
    "open_clip",
    "probe",
    "read_frames",
    "why_not",
]
