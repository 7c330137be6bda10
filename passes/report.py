"""Reports of passes. A report has every linear layer once: as changed, or as skipped with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import ActivationGrid

__all__ = ["Change", "CoveredRange", "LossGrid", "PassReport"]


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
    """

    name: str
    changed: Mapping[str, Change] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    grids: Mapping[str, LossGrid] = field(default_factory=dict)
    ranges: Mapping[str, CoveredRange] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<PassReport of {self.name}: {len(self.changed)} layers changed, {len(self.skipped)} skipped>"
