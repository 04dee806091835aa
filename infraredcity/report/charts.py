"""Draw small charts as inline SVG: a histogram, a line over time, bars by size.

Pure functions from numbers to the markup of `chart.svg.j2`. Colours and line styles come from the page's style sheet by class, so
that light, dark and print each have their own. Every chart has a text that says what it shows; its numbers belong in a table beside
it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from infraredcity.report.template import fill
from infraredcity.showing import format_time

_WIDTH, _HEIGHT = 360, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 24
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_GAP_FACTOR = 2.5
"""A line breaks where a step of time is more than this many times the usual one."""


def ticks(low: float, high: float, *, at_most: int = 4) -> list[float]:
    """Choose at most `at_most` round values in [low, high], spaced by 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / at_most))
    steps = (power * factor for factor in (1, 2, 5, 10, 20))
    step = next(step for step in steps if math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1 <= at_most)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def histogram(bins: Sequence[int], *, marks: Sequence[tuple[str, float]], stop: int, says: str) -> str:
    """Draw bars for counts in equal bins from 0 to `stop`, their height as a share of all.

    Args:
        bins: Counts, at least one above 0.
        marks: Names and places of upright lines, such as ("median", 120.0).
        stop: Where the last bin ends.
        says: What the chart shows, in words.
    """
    whole, highest = sum(bins), max(bins)
    bar = _PLOT_WIDTH / len(bins)
    path = "".join(
        f"M{_LEFT + number * bar:.1f} {_TOP + _PLOT_HEIGHT}v-{count / highest * _PLOT_HEIGHT:.1f}h{bar:.1f}V{_TOP + _PLOT_HEIGHT}z"
        for number, count in enumerate(bins)
        if count
    )
    share = 100 * highest / whole
    return _chart(
        "bars",
        path,
        marks=[f"M{_x(place, 0.0, float(stop)):.1f} {_TOP}V{_TOP + _PLOT_HEIGHT}" for _, place in marks],
        x_ticks=[(float(value), f"{value:g}") for value in (0, stop // 4, stop // 2, 3 * stop // 4, stop - 1)],
        x_range=(0.0, float(stop)),
        y_ticks=[(value, f"{value:g} %") for value in ticks(0.0, share, at_most=3)],
        y_range=(0.0, share),
        says=says,
    )


def line(times_s: Sequence[float], values: Sequence[float], *, from_zero: bool = False, says: str) -> str:
    """Draw a line of values over time, broken where time jumps; at least one value.

    Args:
        times_s: Times of the values, ascending.
        values: What is shown.
        from_zero: Whether the scale begins at 0 rather than near the lowest value.
        says: What the chart shows, in words.
    """
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, max((high - low) * 0.55, 2.0)
    y_range = (0.0, max(1.1 * high, 1.0)) if from_zero else (middle - half, middle + half)
    x_range = _time_range(times_s)
    steps = sorted(later - earlier for earlier, later in pairwise(times_s))
    usual = steps[(len(steps) - 1) // 2] if steps else 0.0
    path, before = "", None
    for time_s, value in zip(times_s, values, strict=True):
        begins = before is None or time_s - before > _GAP_FACTOR * usual
        path += f"{'M' if begins else 'L'}{_x(time_s, *x_range):.1f} {_y(value, *y_range):.1f}{'h0' if begins else ''}"
        before = time_s
    return _chart(
        "line",
        path,
        x_ticks=_time_ticks(x_range),
        x_range=x_range,
        y_ticks=[(value, f"{value:g}") for value in ticks(*y_range)],
        y_range=y_range,
        says=says,
    )


def bars(labels: tuple[str, str], counts: Sequence[int], *, says: str) -> str:
    """Draw a bar for each count and name the first and the last; at least one count."""
    highest = max(*counts, 1) if len(counts) > 1 else max(counts[0], 1)
    slot = _PLOT_WIDTH / len(counts)
    path = "".join(
        f"M{_LEFT + (number + 0.1) * slot:.1f} {_TOP + _PLOT_HEIGHT}v-{count / highest * _PLOT_HEIGHT:.1f}h{0.8 * slot:.1f}"
        f"V{_TOP + _PLOT_HEIGHT}z"
        for number, count in enumerate(counts)
        if count
    )
    whole = sorted({round(value) for value in ticks(0.0, float(highest))})
    return _chart(
        "bars",
        path,
        x_ticks=[(0.0, labels[0]), (1.0, labels[1])],
        x_range=(0.0, 1.0),
        y_ticks=[(float(value), f"{value:,}") for value in whole],
        y_range=(0.0, float(highest)),
        says=says,
    )


def _chart(
    kind: str,
    path: str,
    *,
    marks: Sequence[str] = (),
    x_ticks: Sequence[tuple[float, str]],
    x_range: tuple[float, float],
    y_ticks: Sequence[tuple[float, str]],
    y_range: tuple[float, float],
    says: str,
) -> str:
    base = _TOP + _PLOT_HEIGHT
    texts = [("end", f"{_LEFT - 6}", f"{_y(value, *y_range) + 4:.1f}", label) for value, label in y_ticks]
    for number, (value, label) in enumerate(x_ticks):
        anchor = "start" if number == 0 else "end" if number == len(x_ticks) - 1 else "middle"
        texts.append((anchor, f"{_x(value, *x_range):.1f}", f"{base + 17}", label))
    return fill(
        Path(__file__).parent,
        "chart.svg.j2",
        width=_WIDTH,
        height=_HEIGHT,
        says=says,
        grid="".join(f"M{_LEFT} {_y(value, *y_range):.1f}h{_PLOT_WIDTH}" for value, _ in y_ticks),
        kind=kind,
        path=path,
        marks=marks,
        axis=f"M{_LEFT} {base}h{_PLOT_WIDTH}",
        texts=texts,
    )


def _time_range(times_s: Sequence[float]) -> tuple[float, float]:
    return (times_s[0], times_s[-1]) if times_s[-1] > times_s[0] else (times_s[0] - 0.5, times_s[0] + 0.5)


def _time_ticks(x_range: tuple[float, float]) -> list[tuple[float, str]]:
    return [(value, format_time(value)) for value in x_range]


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * _PLOT_WIDTH


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (high - value) / (high - low) * _PLOT_HEIGHT if high > low else float(_TOP + _PLOT_HEIGHT)
