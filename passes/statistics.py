"""The statistics that a pass asks for, and what calibration gives it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from passes.numerics.channels import ChannelStatistics
from passes.numerics.histogram import Histogram
from passes.numerics.moments import Moments

__all__ = ["Needs", "Stats"]


@dataclass(frozen=True)
class Needs:
    """The statistics a pass wants: histograms of tensors, channel statistics and moments of layers' inputs.

    ``tensors`` are others whose channel statistics are wanted, with the axis of their channels.
    """

    histograms: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    moments: frozenset[str] = frozenset()
    tensors: frozenset[tuple[str, int]] = frozenset()

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
    """What calibration saw: histograms and ``tensors`` by tensor name; channel statistics and moments by layer name."""

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    channels: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    tensors: Mapping[str, ChannelStatistics] = field(default_factory=dict)
