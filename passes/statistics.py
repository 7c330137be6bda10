"""Statistics that a pass requests, and the statistics that calibration collects for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from passes.numerics.channels import ChannelStatistics
from passes.numerics.histogram import Histogram
from passes.numerics.moments import Moments

__all__ = ["Needs", "Stats"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Needs:
    """Statistics that a pass requests.

    Attributes:
        histograms: Tensors whose histograms are wanted.
        channels: Layers for whose inputs channel statistics are wanted.
        moments: Layers for whose inputs moments are wanted.
        tensors: Other tensors whose channel statistics are wanted, each with the axis of its channels.
    """

    histograms: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    moments: frozenset[str] = frozenset()
    tensors: frozenset[tuple[str, int]] = frozenset()

    def __post_init__(self) -> None:
        for name in ("histograms", "channels", "moments", "tensors"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))  # any iterable may be given

    def __bool__(self) -> bool:
        return bool(self.histograms or self.channels or self.moments or self.tensors)

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.histograms | other.histograms,
            self.channels | other.channels,
            self.moments | other.moments,
            self.tensors | other.tensors,
        )


@dataclass(frozen=True)
class Stats:
    """Statistics that calibration collected.

    Attributes:
        histograms: Histograms by tensor name.
        channels: Channel statistics of inputs, by layer name.
        moments: Moments of inputs, by layer name.
        tensors: Channel statistics by tensor name.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    tensors: Mapping[str, ChannelStatistics] = field(default_factory=dict)

    @classmethod
    def joined(cls, first: "Stats", second: "Stats") -> "Stats":
        """Return the statistics of the samples of both together."""
        moments = _joined(first.moments, second.moments, Moments.joined)
        return cls(
            _joined(first.histograms, second.histograms, Histogram.joined),
            _joined(first.channels, second.channels, ChannelStatistics.joined),
            {name: replace(each, halves=None) for name, each in moments.items()},
            _joined(first.tensors, second.tensors, ChannelStatistics.joined),
        )


def _joined(
    first: Mapping[str, Value], second: Mapping[str, Value], join: Callable[[Value, Value], Value]
) -> dict[str, Value]:
    """Join the values of each name. A name of one of them only has the value that it has there."""
    both = {name: join(value, second[name]) for name, value in first.items() if name in second}
    return {**first, **second, **both}
