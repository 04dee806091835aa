"""Format text for people: sizes and times, and foreign text made safe for a terminal or a page.

Names of files, members of tars and facts of json files come from whoever made a data set. A direction mark turns `exe.jpg` into
`gpj.exe`, and an escape sequence rewrites lines of a terminal. Such characters are shown as escapes.
"""

import re
import unicodedata

MAX_DIGITS = 40
"""A longer number is cut; no count, size or time has this many digits."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""All marks of Unicode's bidirectional algorithm. Source: UAX 9, section 2."""
_INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of control characters, surrogates (in a file name that is not UTF-8), line and paragraph separators."""
_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")


def visible(text: str) -> str:
    """Make one line of text safe to show: characters that move, hide or turn text become escapes; very long numbers are cut."""
    escaped = text if text.isprintable() else "".join(map(_escape, text))
    return _NUMBER.sub(lambda number: f"{number[0][:MAX_DIGITS]}... ({len(number[0])} digits)", escaped)


def _escape(letter: str) -> str:
    if letter in _DIRECTIONS:
        return f"\\u{ord(letter):04x}"
    return repr(letter)[1:-1] if unicodedata.category(letter) in _INVISIBLE else letter


def visible_lines(text: str) -> str:
    """Make a text of several lines safe to show, see `visible`."""
    return "\n".join(map(visible, text.split("\n")))


def format_bytes(size_bytes: int) -> str:
    """Format a number of bytes for people: 31.3 MB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_time(seconds: float) -> str:
    """Format a time for people, to hundredths of a second: 0:08.04, 12:30.00, 1:02:03.50."""
    hundredths = round(abs(seconds) * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and hundredths else ""
    before_seconds = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{sign}{before_seconds}:{rest // 100:02d}.{rest % 100:02d}"
