import pytest

from infraredcity.showing import visible, visible_lines


@pytest.mark.parametrize("code", [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_marks_of_direction_are_escapes(code: int):
    assert visible(f"exe.{chr(code)}gpj") == f"exe.\\u{code:04x}gpj"


def test_what_moves_a_cursor_or_ends_a_line_is_an_escape():
    assert visible("a\x1b[2Kb\rc\nd\0\x7f\u2028\udcff\t") == r"a\x1b[2Kb\rc\nd\x00\x7f\u2028\udcff\t"
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"


def test_writing_of_all_peoples_stays_as_it_is():
    text = "città, шоссе, 夜の街, شارع, רחוב, नगर, क्‍ष, 👩‍🚒, a b\u00a0c"
    assert visible(text) == text


def test_very_long_numbers_are_cut_and_hashes_are_not():
    assert visible("says 1" + "0" * 4000) == f"says 1{'0' * 39}... (4001 digits)"
    assert visible("0123456789" * 4) == "0123456789" * 4
