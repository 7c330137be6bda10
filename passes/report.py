"""What a pass says it did: every linear layer once, changed or skipped with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from passes.numerics.grid import ActivationGrid

__all__ = ["Change", "CoveredRange", "LossGrid", "PassReport"]


@dataclass(frozen=True)
class Change:
    """What a pass did to a layer; errors are signal-to-noise ratios in dB, where the pass knows them."""

    what: str
    before_db: float | None = None
    after_db: float | None = None


@dataclass(frozen=True)
class LossGrid:
    """What a search saw for one layer, so that it can be drawn as a line or a heat map.

    Attributes:
        axes: name and points of every parameter, in order.
        losses: one for every combination of points, an axis per parameter.
        plain: the loss of leaving the layer alone.
    """

    axes: Mapping[str, tuple[float, ...]]
    losses: NDArray[np.float64]
    plain: float


@dataclass(frozen=True)
class CoveredRange:
    """What calibration saw of a quantized activation tensor, and how much of it the grid covers.

    Attributes:
        grid: of the tensor.
        low, high: the smallest and the largest value seen, after a clamp that the quantizer takes over.
        clipped: share of the values seen that lie more than half a step beyond the grid's ends.
    """

    grid: ActivationGrid
    low: float
    high: float
    clipped: float


@dataclass(frozen=True, repr=False)
class PassReport:
    """Every linear layer once: changed or skipped.

    ``notes`` are about the model as a whole; ``grids`` hold the losses of a search, by layer; ``ranges`` what was
    decided for activations, by tensor.
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
