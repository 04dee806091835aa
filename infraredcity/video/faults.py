"""Say what is wrong with a file, for people and as the frames that are suspect before anything is decoded."""

from dataclasses import dataclass

import numpy as np

from infraredcity.video.container import OpenVideo
from infraredcity.video.damage import Damage
from infraredcity.video.frame_table import FrameTable
from infraredcity.video.packets import VideoPackets
from infraredcity.video.time_jumps import TimeJumps
from infraredcity.video.types import reorder_of

_READ_AHEAD_S = 5.0
"""How far FFmpeg reads ahead at most when it opens a file; what it complains of then stands anywhere in there."""
_AVI_HEADER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with a file. A row is a place in `FrameTable.decode_order`."""

    num_found: int
    """Packets that the demuxer found."""
    num_shown: int
    """Those of them that no edit list hides."""
    failure: str | None
    """Why demuxing stopped before the end of the file."""
    complaint: str | None
    """The first complaint of the demuxer."""
    complaint_rows: list[int]
    """Rows of the packets behind the bytes that the demuxer complained of."""
    num_ahead: int
    """How many first frames may be damaged, since FFmpeg complained when it opened the file."""
    corrupt: list[int]
    """Frames whose packets the demuxer calls corrupt."""
    wiped: list[int]
    """Frames whose packets hold zeros that no encoder writes."""
    num_listed: int
    """Frames that the file's own index lists; 0 where it has none."""
    lost_row: int | None
    """The row from which on packets that were not found made frame indices too small."""
    jumps: TimeJumps
    """Where time jumps."""

    def phrases(self, table: FrameTable) -> tuple[str, ...]:
        """Say what is wrong, a phrase each."""
        found = []
        if self.failure:
            found.append(f"demuxing stopped after {self.num_shown} packets: {self.failure}")
        if self.complaint is not None:
            found.append(f"the demuxer met damaged bytes: {self.complaint}")
        if self.num_listed > self.num_found:
            rest = (
                "" if self.lost_row is None else f"; frames from {self.lost_row} on may stand under too small a number"
            )
            found.append(f"the file's index lists {self.num_listed} frames, {self.num_found} are there{rest}")
        if self.wiped:
            found.append(f"{len(self.wiped)} packets hold zeros that no encoder writes")
        if self.corrupt:
            found.append(f"{len(self.corrupt)} packets are marked corrupt")
        if table.lost:
            found.append(f"{len(table.lost)} packets cannot be decoded")
        if table.contradicted is not None:
            first, stop = table.contradicted
            found.append(
                f"the times of frames {first} to {stop - 1} contradict the order in which the decoder shows them"
            )
        if self.jumps.losses:
            losses = [f"{frame} ({num_lost} lost)" for frame, num_lost in self.jumps.losses.items()]
            where = ", ".join(losses[:5]) + (", ..." if len(losses) > 5 else "")
            found.append(f"time jumps before frame {where}: frames were dropped before the file was written")
        return tuple(found)

    def suspect_ranges(self, table: FrameTable, *, slack: int) -> np.ndarray:
        """Collect as i64 [S, 2] what follows marked packets, lost ones, and bytes that made no sense.

        A packet that was lost before frame n was stored at most a reordering before it. Nothing refers to it from the next key
        frame on; but the first packet behind senseless bytes is no key frame only because it says so. What is wrong with a packet
        may have begun in the one before. A recording that does not begin with a key frame refers to frames that were not recorded.

        Args:
            table: The file's frames.
            slack: See `Damage`.
        """
        order = table.decode_order
        row_of = np.argsort(order)
        is_key = np.isin(np.arange(len(order)), table.keyframes)
        damage = Damage(order, table.keyframes, slack=slack)
        if self.num_ahead > 0:
            damage.mark(0, self.num_ahead)
        bad_rows = {near for row in self.complaint_rows for near in (row - 1, row)}
        # What is missing of a corrupt packet may have been the beginning of the next.
        bad_rows |= {int(row_of[frame]) + near for frame in self.corrupt for near in (-1, 0, 1)}
        bad_rows |= {int(row_of[frame]) + near for frame in table.lost for near in (-1, 0)}
        bad_rows |= {int(row_of[frame]) for frame in self.wiped}
        for row in bad_rows & set(range(len(order))):
            damage.add(int(order[row]))
        if self.lost_row is not None and len(order) > 0:
            damage.add(int(order[min(max(0, self.lost_row - 1), len(order) - 1)]))
            damage.mark(max(0, int(order[self.lost_row :].min(initial=self.lost_row)) - slack), len(order))
        if table.contradicted is not None:
            damage.mark(*table.contradicted)
        for frame in table.joins:
            if not is_key[frame]:
                damage.add(frame)
        reorder = reorder_of(order)
        for frame in self.jumps.losses:
            for affected in range(max(0, frame - reorder), frame):
                if not is_key[affected]:
                    damage.mark(affected, affected + 1)
            if not is_key[frame] or self.complaint is not None:
                damage.add(frame)
        return damage.ranges()


def find_faults(
    file: OpenVideo,
    video: VideoPackets,
    table: FrameTable,
    jumps: TimeJumps,
    *,
    failure: str | None,
    complaint_ahead: str | None,
) -> Faults:
    """Put together what is wrong with a file.

    Args:
        file: The file.
        video: Its packets.
        table: Its frames.
        jumps: Where time jumps in it.
        failure: Why demuxing stopped before the end of the file, if it did.
        complaint_ahead: What FFmpeg complained of while it opened the file, wherever it looked then.
    """
    packets, numbers = video.packets, table.packet_numbers
    frames = list(zip(table.decode_order.tolist(), numbers.tolist(), strict=True))
    complaints = video.complaints
    if table.num_headless:  # what refers to a key frame before the beginning makes no sense to the demuxer either
        complaint_ahead = None
        complaints = {number: text for number, text in complaints.items() if number > numbers[0]}
    complaint = complaint_ahead or next(iter(complaints.values()), None)
    num_listed, lost_from = _lost_packets(file, video, has_complaints=complaint is not None)
    row_at = np.searchsorted(numbers, np.arange(len(packets) + 1))  # the row of the next packet that shows a frame
    return Faults(
        num_found=len(packets),
        num_shown=len(packets) - video.num_hidden,
        failure=failure,
        complaint=complaint,
        complaint_rows=[int(row_at[number]) for number in complaints],
        num_ahead=0 if complaint_ahead is None else _num_within(video, table, _READ_AHEAD_S),
        corrupt=[f for f, number in frames if packets[number].is_corrupt and number not in table.whole_packets],
        wiped=[frame for frame, number in frames if packets[number].is_wiped],
        num_listed=num_listed,
        lost_row=None if lost_from is None else int(row_at[min(lost_from, len(packets))]),
        jumps=jumps,
    )


def _num_within(video: VideoPackets, table: FrameTable, seconds: float) -> int:
    """Count the frames that are shown within some seconds from the first one's time."""
    time_base = video.stream.time_base
    if len(table.times) == 0 or not table.are_true or time_base is None:
        return len(table.times)
    return int(np.searchsorted(table.times, table.times[0] + seconds / float(time_base), side="right"))


def _lost_packets(file: OpenVideo, video: VideoPackets, *, has_complaints: bool) -> tuple[int, int | None]:
    """Count the frames that the file's own index lists (0: it has none); find the first packet whose number lost ones shifted.

    An AVI has no times: its demuxer counts the packets it finds, and one that it cannot find moves all that follow.
    """
    stream, packets = video.stream, video.packets
    if len(video.streams) > 1:
        return 0, None
    is_avi = file.container.format.name == "avi"
    listed = getattr(stream, "index_entries", None)  # PyAV 15
    if not is_avi or listed is None:
        return (0 if is_avi else int(stream.frames)), None
    if has_complaints and max(len(listed), len(packets)) < stream.frames:  # the index is damaged as well
        return int(stream.frames), 0
    entries = [entry for entry in listed if entry.size > 0]  # an empty chunk says that the picture before it stays
    if len(entries) <= len(packets):
        return len(entries), None
    for number, (entry, packet) in enumerate(zip(entries, packets, strict=False)):
        if packet.pos is not None and packet.pos != entry.pos + _AVI_HEADER_BYTES:
            return len(entries), number
    return len(entries), len(packets)
