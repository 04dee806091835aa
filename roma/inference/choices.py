"""The choices of `roma translate`: a new one is a line here; no library is loaded for them."""

from typing import Literal, get_args

ToneChoice = Literal["minmax", "percentile", "fixed", "running"]
"""How counts become levels: as in extraction, or "running", which follows the last seconds."""
TONE_CHOICES: tuple[ToneChoice, ...] = get_args(ToneChoice)
LatePolicy = Literal["drop", "wait"]
"""What happens to frames of a stream that come faster than they are translated: only the newest is kept, or none is lost."""
LATE_POLICIES: tuple[LatePolicy, ...] = get_args(LatePolicy)
OutputKind = Literal["video", "pictures", "shards"]
"""What goes into a folder of outputs."""
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
PictureFormat = Literal["png", "jpg", "webp"]
"""How translated pictures are written."""
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
VideoCodec = Literal["h264", "hevc", "av1", "ffv1", "h264_nvenc", "hevc_nvenc"]
"""Codecs of translated videos; those of "nvenc" need an NVIDIA GPU."""
ENCODERS: dict[VideoCodec, str] = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "ffv1": "ffv1",
    "h264_nvenc": "h264_nvenc",
    "hevc_nvenc": "hevc_nvenc",
}
"""FFmpeg's encoder of each."""
