import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from roma.errors import EvaluationError
from roma.evaluation.flow import Flow, path_of, read_flow, resized


def write_png16(path: Path, pixels: list[list[tuple[int, int, int]]]) -> Path:
    """A 16-bit R, G, B PNG byte by byte, so that no library's idea of the channels' order comes in."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in row) for row in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_kitti_flow_is_decoded_by_hand(tmp_path: Path):
    # 2^15 + 64 * 1.5 = 32864; 2^15 - 64 * 2 = 32640; 65535 is 511.984375 pixels, 0 is -512.
    pixels = [[(32864, 32640, 1), (32768, 32769, 0)], [(65535, 0, 1), (0, 65535, 1)]]
    path = write_png16(path_of(tmp_path, 12), pixels)
    assert path.name == "000012.png"
    flow = read_flow(path)
    assert flow.field[0].tolist() == [[1.5, 0], [511.984375, -512]]
    assert flow.field[1].tolist() == [[-2, 1 / 64], [-512, 511.984375]]
    assert flow.visible.tolist() == [[True, False], [True, True]]


def test_a_file_that_is_no_flow_is_named(tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"000003\.png: cannot be read"):
        read_flow(tmp_path / "000003.png")
    cv2.imwrite(str(tmp_path / "eight.png"), np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(
        EvaluationError, match=r"eight\.png: expected a flow as a 16-bit PNG .* found uint8 \[4, 5, 3\]"
    ):
        read_flow(tmp_path / "eight.png")
    for name, text in (("text.png", "no picture"), ("empty.png", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(EvaluationError, match=rf"{name}: .* found no picture"):
            read_flow(tmp_path / name)


def flow_of(right: list[list[float]], down: list[list[float]], visible: list[list[bool]]) -> Flow:
    return Flow(field=np.array([right, down], np.float32), visible=np.array(visible))


def test_a_smaller_flow_is_the_mean_in_the_pixels_of_its_size():
    before = flow_of(
        [[1, 3, 8, 8], [1, 3, 8, 8]],
        [[2, 2, 4, 4], [6, 6, 4, 4]],
        [[True, True, True, True], [True, True, False, True]],
    )
    after = resized(before, 2, 1)
    assert after.field.tolist() == [[[1, 4]], [[2, 2]]]  # u halved (2 -> 1, 8 -> 4), v halved (4 -> 2)
    assert after.visible.tolist() == [[True, False]]
    squeezed = resized(before, 2, 2)
    assert squeezed.field[1].tolist() == [[2, 4], [6, 4]]  # the height stays, and so does v
    assert squeezed.visible.tolist() == [[True, True], [True, False]]


def test_every_covered_pixel_must_be_visible_even_if_covered_in_part():
    before = flow_of([[3, 6, 9]], [[0, 0, 0]], [[True, False, True]])
    after = resized(before, 2, 1)
    # The left new pixel covers all of 3 and half of 6: 4 of 3 pixels' width is 8/3 of 2.
    assert after.field[0, 0].tolist() == pytest.approx([4 * 2 / 3, 8 * 2 / 3])
    assert after.visible.tolist() == [[False, False]]
    # Of 22 pixels over 30, the one at 11 begins at 15, but for rounding: the hidden one before it must not reach in.
    wide = flow_of([[0.0] * 30], [[0.0] * 30], [[x != 14 for x in range(30)]])
    assert np.flatnonzero(~resized(wide, 22, 1).visible[0]).tolist() == [10]
    narrow = flow_of([[1, 2]], [[0, 0]], [[True, False]])
    assert resized(narrow, 4, 1).field[0].tolist() == [[2, 2, 4, 4]]
    assert resized(narrow, 4, 1).visible.tolist() == [[True, True, False, False]]
