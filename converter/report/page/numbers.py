"""Numbers as people read them; every function is a filter of the templates. What is not known is a dash."""

from converter.report.table import ratio, size, times

__all__ = [
    "count",
    "decibels",
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
]

_NOTHING = "–"
_MINUTE = 60


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def decibels(value: float | None) -> str:
    """A ratio in dB, one decimal."""
    return _NOTHING if value is None else f"{value:.1f} dB".replace("-", "−")


def lost(value: float | None, unit: str = " points") -> str:
    """A drop in percentage points; one below zero is a gain."""
    return _NOTHING if value is None else f"{value:.2f}{unit}".replace("-", "−")


def milliseconds(value: float | None) -> str:
    """A latency, with three digits that mean something."""
    return _NOTHING if value is None else f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def percent(value: float | None) -> str:
    """A fraction in percent, two decimals."""
    return _NOTHING if value is None else f"{100 * value:.2f} %"


def plain(value: float | None) -> str:
    """Any number, four digits."""
    return _NOTHING if value is None else f"{value:.4g}".replace("-", "−")


def points(difference: float) -> str:
    """A difference of two fractions in percentage points."""
    return f"{100 * difference:+.2f} points".replace("-", "−")


def seconds(value: float) -> str:
    """A duration."""
    if value < _MINUTE:
        return f"{value:.{2 if value < 10 else 1}f} s"
    return f"{int(value // _MINUTE)} min {value % _MINUTE:.0f} s"


def share(value: float) -> str:
    """A fraction that is often small or zero, in percent."""
    if value == 0:
        return "0 %"
    return "< 0.001 %" if value < 1e-5 else f"{100 * value:.2g} %"
