"""Formatting of numbers for people. Every function is a filter of the templates. An unknown number is a dash."""

import math
from collections.abc import Sequence

__all__ = [
    "NOTHING",
    "count",
    "decibels",
    "faster",
    "lost",
    "milliseconds",
    "percent",
    "plain",
    "points",
    "ratio",
    "seconds",
    "share",
    "size",
    "times",
    "uncertain",
]

NOTHING = "–"
_MINUTE = 60
_ROUNDING = 1.05  # the value is the ratio of two medians, and the quartiles are those of ratios
_UNCERTAIN = 1.3  # third quartile of a ratio over its first one, above which other work disturbed the measurement


def count(value: int) -> str:
    """Format an integer with thousands separators."""
    return f"{value:,}"


def decibels(value: float | None) -> str:
    """Format a ratio in dB with one decimal. None, NaN and -inf give a dash, +inf gives "equal"."""
    if value is None or math.isnan(value) or value == -math.inf:
        return NOTHING
    return "equal" if math.isinf(value) else f"{value:.1f} dB".replace("-", "−")


def lost(value: float | None, unit: str = " points") -> str:
    """Format a drop in percentage points. A drop below zero is a gain."""
    return NOTHING if value is None else f"{value:.2f}{unit}".replace("-", "−")


def milliseconds(value: float | None) -> str:
    """Format a latency in milliseconds with about three significant digits."""
    return NOTHING if value is None else f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def percent(value: float | None) -> str:
    """Format a fraction in percent with two decimals."""
    return NOTHING if value is None else f"{100 * value:.2f} %"


def plain(value: float | None) -> str:
    """Format a number with four significant digits."""
    return NOTHING if value is None else f"{value:.4g}".replace("-", "−")


def points(difference: float) -> str:
    """Format a difference of two fractions in percentage points, with its sign."""
    return f"{100 * difference:+.2f} points".replace("-", "−")


def seconds(value: float) -> str:
    """Format a duration in seconds, or in minutes and seconds."""
    if value < _MINUTE:
        return f"{value:.{2 if value < 10 else 1}f} s"
    return f"{int(value // _MINUTE)} min {value % _MINUTE:.0f} s"


def share(value: float) -> str:
    """Format a fraction in percent that is often small or zero."""
    if value == 0:
        return "0 %"
    return "< 0.001 %" if value < 1e-5 else f"{100 * value:.2g} %"


_UNITS = ("B", "kB", "MB", "GB")


def size(count: int) -> str:
    """Format a number of bytes with a unit. Units are powers of 1000.

    >>> size(46_800_000)
    '46.8 MB'
    """
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def ratio(value: float, more: str, less: str, quartiles: Sequence[float] | None = None) -> str:
    """Format a ratio as `2.50x faster` or `1.10x slower`. ``quartiles`` are the quartiles of ``value``.

    >>> ratio(0.5, "faster", "slower", (0.45, 0.52))
    '2.00x slower (1.92 to 2.22)'
    """
    if value < 1:
        value, more, quartiles = 1 / value, less, quartiles and (1 / quartiles[1], 1 / quartiles[0])
    factor, _, spread = times(value, quartiles).partition(" ")
    return " ".join(filter(None, (factor, more, spread)))


def faster(speedup: float | None, quartiles: Sequence[float] | None = None) -> str:
    """Format a speedup as `2.50x faster` or `1.10x slower`, or as a dash if it is not known."""
    return NOTHING if speedup is None else ratio(speedup, "faster", "slower", quartiles)


def times(value: float, quartiles: Sequence[float] | None = None) -> str:
    """Format a factor. The range of its quartiles is shown if it is wide enough to see, and named if it is too wide.

    >>> times(1.9, (1.85, 1.97))
    '1.90x (1.85 to 1.97)'
    >>> times(2.4, (0.9, 14))
    '2.40x (0.90 to 14.00, other work ran: not reliable)'
    """
    if quartiles is None:
        return f"{value:.2f}x"
    low, high = (f"{each:.2f}" for each in quartiles)
    if low == high:
        return f"{value:.2f}x"
    return f"{value:.2f}x ({low} to {high}{', other work ran: not reliable' if uncertain(value, quartiles) else ''})"


def uncertain(value: float, quartiles: Sequence[float]) -> bool:
    """Whether measurements of a ratio scatter so much, or lie so far from its value, that the value says little."""
    low, high = quartiles
    return high > _UNCERTAIN * low or not low / _ROUNDING <= value <= high * _ROUNDING
