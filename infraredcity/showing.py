"""Text that others wrote, made safe to show: on a terminal, in a page.

Names of files, members of tars and facts of json files come from whoever made a data set. A mark that turns the direction of
writing makes `gpj.exe` of `exe.jpg`, an escape sequence rewrites a terminal's lines: such characters are shown as escapes.
"""

import re
import unicodedata

MAX_DIGITS = 40
"""A longer number is cut; no count, size or time here has as many digits."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""All marks of Unicode's algorithm for two directions. Source: UAX 9, section 2."""
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Controls, halves of pairs (a file name that is not UTF-8), separators of lines and of paragraphs."""
_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")


def visible(text: str) -> str:
    """One line of text as it can be shown: what moves, hides or turns text is an escape, and a very long number is cut."""
    seen = text if text.isprintable() else "".join(map(_seen, text))
    return _NUMBER.sub(lambda number: f"{number[0][:MAX_DIGITS]}... ({len(number[0])} digits)", seen)


def _seen(letter: str) -> str:
    if letter in _DIRECTIONS:
        return f"\\u{ord(letter):04x}"
    return repr(letter)[1:-1] if unicodedata.category(letter) in _UNSEEN else letter


def visible_lines(text: str) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(visible, text.split("\n")))


def format_bytes(size_bytes: int) -> str:
    """Bytes for people: 31.3 MB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_time(seconds: float) -> str:
    """Write a time for people, to hundredths: 0:08.04, 12:30.00, 1:02:03.50."""
    hundredths = round(abs(seconds) * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and hundredths else ""
    before_seconds = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{sign}{before_seconds}:{rest // 100:02d}.{rest % 100:02d}"
