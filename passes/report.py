"""Reports of passes. A report has every linear layer once: as changed, or as skipped with a reason.

LSTM, GRU and RNN may be in it too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passes.errors import QuantizationError
from passes.numerics.grid import ActivationGrid

__all__ = ["Change", "CoveredRange", "LossGrid", "PassReport", "TakenChannels", "require_complete"]


@dataclass(frozen=True)
class Change:
    """Change of one layer by a pass.

    Attributes:
        what: What the pass did.
        before_db: SQNR before the change, in dB. None if the pass does not know it.
        after_db: SQNR after the change, in dB. None if the pass does not know it.
    """

    what: str
    before_db: float | None = None
    after_db: float | None = None


@dataclass(frozen=True)
class LossGrid:
    """Losses of a parameter search for one layer. A report draws them as a line or a heat map.

    Attributes:
        axes: Name and points of every parameter, in order.
        losses: Loss of every combination of points, with one axis per parameter.
        plain: Loss of the unchanged layer.
    """

    axes: Mapping[str, tuple[float, ...]]
    losses: NDArray[np.float64]
    plain: float


@dataclass(frozen=True)
class CoveredRange:
    """Range of a quantized activation tensor on the calibration data, and how much of it the grid covers.

    Attributes:
        grid: Grid of the tensor.
        low, high: Smallest and largest value, after a clamp that the quantizer takes over.
        clipped: Share of the values that lie more than half a step beyond the grid's ends.
    """

    grid: ActivationGrid
    low: float
    high: float
    clipped: float


@dataclass(frozen=True)
class TakenChannels:
    """Channels that a pass took out of the graph, and what became smaller by that.

    Attributes:
        groups: Channels of each group before and after, by name. Groups that kept all are missing.
        channels: Channels of all groups together, before and after.
        weights: Weights of all layers before and after.
        macs: Products of all layers for one sample before and after. None if they are not known.
    """

    groups: Mapping[str, tuple[int, int]]
    channels: tuple[int, int]
    weights: tuple[int, int]
    macs: tuple[int, int] | None = None

    def describe(self) -> str:
        """Return how many channels went, and the share of weights and products that went with them."""
        before, after = self.channels
        if not before:
            return "no channel can go"
        shares = [f"{1 - self.weights[1] / max(self.weights[0], 1):.0%} of the weights"]
        if self.macs is not None:
            shares.append(f"{1 - self.macs[1] / max(self.macs[0], 1):.0%} of the products")
        return f"{before - after:,} of {before:,} channels removed, {' and '.join(shares)}"


@dataclass(frozen=True, repr=False)
class PassReport:
    """Report of one pass. Every linear layer is in it once: as changed or as skipped.

    Attributes:
        name: Name of the pass.
        changed: Changes by layer name.
        skipped: Reasons by layer name.
        notes: Notes on the model as a whole.
        seconds: Time that the pass took.
        grids: Losses of a parameter search, by layer name.
        ranges: Ranges and grids of activations, by tensor name.
        taken: Channels that were taken out of the graph. None: the pass takes none.
    """

    name: str
    changed: Mapping[str, Change] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    grids: Mapping[str, LossGrid] = field(default_factory=dict)
    ranges: Mapping[str, CoveredRange] = field(default_factory=dict)
    taken: TakenChannels | None = None

    def __repr__(self) -> str:
        return f"<PassReport of {self.name}: {len(self.changed)} layers changed, {len(self.skipped)} skipped>"


def require_complete(report: object, name: str, layers: Collection[str], recurrent: Collection[str] = ()) -> PassReport:
    """Return the report of a pass. Refuse one that does not have every layer once.

    Args:
        report: What the pass returned. A pass of another package may return anything.
        name: Name of the pass.
        layers: Names of all layers of the model, after the pass.
        recurrent: Names of other nodes that it may have.

    Raises:
        QuantizationError: The report is none, or a layer is missing, unknown, in it twice, or skipped without a
            reason. The message names the pass and the layer.
    """
    if not isinstance(report, PassReport):
        raise QuantizationError(f"{name} returned {type(report).__name__} and not its report; return a PassReport")
    changed, skipped = report.changed, report.skipped
    for found, problem in (
        (
            [each for each in layers if each not in changed and each not in skipped],
            "does not report {}; name it in `changed`, or in `skipped` with a reason",
        ),
        ([each for each in changed if each in skipped], "reports {} as changed and as skipped; name it once"),
        (
            [each for each in (*changed, *skipped) if each not in layers and each not in recurrent],
            "reports {}, which the model does not have; leave it out",
        ),
        (
            [each for each, change in changed.items() if not _is_change(change)],
            "has no Change for {}; map its name to Change(what)",
        ),
        (
            [each for each, reason in skipped.items() if not _is_text(reason)],
            "has no reason to skip {}; map its name to a text",
        ),
    ):
        if found:
            first, *others = found
            more = f" (and {len(others)} more)" if others else ""
            raise QuantizationError(f"{name} " + problem.format(f"layer {first!r}{more}"))
    return report


def _is_change(value: object) -> bool:
    return isinstance(value, Change)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
