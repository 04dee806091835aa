"""Video: the facts of a clip's files, and its frames by their true index, with one file per decoder library."""

from infraredcity.clips import ColorMode
from infraredcity.video.batches import FrameBatch, read_frames
from infraredcity.video.clip import ClipVideo, choose_decoder, decode, open_clip, probe
from infraredcity.video.decoders import DECODERS, Decoder, DecoderName, all_decoders, find_decoder
from infraredcity.video.types import NO_TIME, Decoded, FrameRange, VideoInfo

__all__ = [
    "DECODERS",
    "NO_TIME",
    "ClipVideo",
    "ColorMode",
    "Decoded",
    "Decoder",
    "DecoderName",
    "FrameBatch",
    "FrameRange",
    "VideoInfo",
    "all_decoders",
    "choose_decoder",
    "decode",
    "find_decoder",
    "open_clip",
    "probe",
    "read_frames",
]
