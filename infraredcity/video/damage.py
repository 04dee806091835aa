"""Work out which frames of a file are suspect: how far damaged packets spread."""

from collections.abc import Sequence

import numpy as np

from infraredcity.video.types import MAX_REORDER_FRAMES


class Damage:
    """The frames of a file that are known to be suspect; more may be added while the file is decoded.

    Damage to a packet spreads to whatever is decoded after it, flagged or not, up to the next key frame; and to the frames that are
    shown before that key frame but stored behind it. So all of these are suspect (measured: 213 wrong frames, 1 flagged).

    Args:
        decode_order: i64 [N], frame index of each packet in the order of the file.
        keyframes: i64 [K], frame indices of key frames.
        ranges: Half-open ranges of frames that are suspect already.
        slack: Frames by which an index in `decode_order` may be wrong, where times do not tell.
    """

    def __init__(
        self,
        decode_order: np.ndarray,
        keyframes: np.ndarray,
        ranges: Sequence[tuple[int, int]] | np.ndarray = (),
        *,
        slack: int = 0,
    ) -> None:
        self._slack = slack
        self._order = decode_order
        self._packet_of = np.argsort(decode_order)
        self._key_packets = np.sort(self._packet_of[keyframes])
        self._is_suspect = np.zeros(len(decode_order), bool)
        for first, stop in ranges:
            self.mark(int(first), int(stop))

    def reach(self, frame_index: int) -> tuple[int, int]:
        """Find the range of frames, half-open, that damage to the packet of `frame_index` makes suspect."""
        first, stop = self._reach(frame_index)
        return max(0, first - self._slack), min(len(self._order), stop + self._slack)

    def _reach(self, frame_index: int) -> tuple[int, int]:
        packet = int(self._packet_of[frame_index])
        place = int(np.searchsorted(self._key_packets, packet, side="right"))
        last_key = int(self._order[self._key_packets[place - 1]]) if place > 0 else -1
        if frame_index < last_key:  # shown before its key frame: nothing that is shown after that one refers to it
            behind = self._order[packet : packet + MAX_REORDER_FRAMES + 1]
            return int(behind[behind < last_key].min()), last_key
        if place == len(self._key_packets):
            return int(self._order[packet:].min()), len(self._order)
        key_packet = int(self._key_packets[place])
        return int(self._order[packet:key_packet].min()), int(self._order[key_packet])

    def add(self, frame_index: int) -> None:
        """Mark what is suspect because the packet of `frame_index` is damaged."""
        self.mark(*self.reach(frame_index))

    def mark(self, first: int, stop: int) -> None:
        """Mark the frames from `first` to before `stop` as suspect."""
        self._is_suspect[first:stop] = True

    def covers(self, frame_index: int) -> bool:
        """Whether a frame is suspect."""
        return bool(self._is_suspect[frame_index])

    def start_of(self, frame_index: int) -> int:
        """Find the first frame of the suspect range that holds `frame_index`; `frame_index` itself if it is not suspect."""
        clean = np.flatnonzero(~self._is_suspect[: frame_index + 1])
        return min(frame_index, int(clean[-1]) + 1 if len(clean) else 0)

    def ranges(self) -> np.ndarray:
        """Return the suspect ranges, half-open, as i64 [S, 2]."""
        edges = np.diff(np.concatenate([[0], self._is_suspect.astype(np.int8), [0]]))
        return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1).astype(np.int64)
