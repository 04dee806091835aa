"""Estimate what a frame of a clip costs to extract: bytes on disk and seconds of one core."""

from infraredcity.extraction.job import ExtractJob
from infraredcity.extraction.plan import Estimate
from infraredcity.extraction.run import sample_stills
from infraredcity.stills.formats import FORMATS, ImageFormat

_SAMPLE_PLACES = 3
_SAMPLE_FRAMES = 4
_SAMPLE_OVERHEAD_BYTES = 1792
"""What a sample takes in a tar beside its image: two headers, the json member, half a block of padding."""
_DECODE_S_PER_PX = 1e-9
_DECODE_S_PER_BYTE = 75e-9
"""Seconds of one core of a server of 2023 for a pixel and a coded byte of H.264. Fitted to 18 clips; at 25 Mbit/s and 640x512 the
coded bytes take most of it. What encoding takes is in `stills.formats`."""


def estimate(job: ExtractJob) -> Estimate:
    """Estimate bytes from a few frames of the clip, and seconds from what is decoded and encoded."""
    sizes, pixels = sample_stills(job, num_places=_SAMPLE_PLACES, num_frames=_SAMPLE_FRAMES)
    video = job.video.files[0]
    still_bytes = sum(sizes) / len(sizes) if sizes else 0.0
    overhead = _SAMPLE_OVERHEAD_BYTES if job.config.to == "shards" else 0
    core_s = frame_core_s(
        job.config.image_format,
        video_px=video.width_px * video.height_px,
        coded_bytes=sum(file.size_bytes for file in job.video.files) / job.video.num_frames,
        every=job.config.every,
        still_px=pixels,
        channels=1 if job.make_spec().color == "gray" else 3,
        still_bytes=still_bytes,
    )
    return Estimate(frame_bytes=round(still_bytes + overhead, 1), frame_core_s=round(core_s, 7))


def frame_core_s(
    image_format: ImageFormat,
    *,
    video_px: int,
    coded_bytes: float,
    every: int,
    still_px: int,
    channels: int,
    still_bytes: float,
) -> float:
    """Return the seconds of one core for a frame that is written: a first guess, from sizes only.

    Args:
        image_format: Of the still.
        video_px: Pixels of a frame of the video.
        coded_bytes: Bytes of a frame in the video.
        every: Frames that are decoded for one that is written.
        still_px: Pixels of the still.
        channels: 1 for gray, 3 for colour.
        still_bytes: Bytes of the still.
    """
    per_px, per_value, per_byte = FORMATS[image_format].cost_s
    decoding = every * (video_px * _DECODE_S_PER_PX + coded_bytes * _DECODE_S_PER_BYTE)
    return decoding + still_px * (per_px + channels * per_value) + still_bytes * per_byte
