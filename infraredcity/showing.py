"""Text that others wrote, made safe to show: on a terminal, in a page.

Names of files, members of tars and facts of json files come from whoever made a data set. A mark that turns the direction of
writing makes `gpj.exe` of `exe.jpg`, an escape sequence rewrites a terminal's lines: such characters are shown as escapes.
"""

import base64
import hashlib
import html
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


def in_page(value: object) -> str:
    """A value as text of a page, harmless in markup and in attributes."""
    return html.escape(visible(str(value)))


def policy_hash(text: str) -> str:
    """How a Content-Security-Policy names the one style or script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
