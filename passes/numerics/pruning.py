"""Prune and quantize a layer from one Hessian.

1. Which weights go: chosen by magnitude, by ExactOBS (`passes.numerics.obs`) or by SparseGPT's sweep
   (`passes.numerics.sparse_sweep`).
2. A sweep decides on each weight once. So weights that were removed and weights that were kept are exchanged
   afterwards, by the alternating direction method of multipliers (Boža 2024, arXiv 2401.02938): X is the best weight
   near Z, and Z is X without its weakest weights,

       X = (W H + ρ (Z - U)) (H + ρ I)⁻¹,   Z = strongest of X + U,   U += X - Z

   with inputs scaled so that the diagonal of H is 1. More weights become zero from round to round. The best ρ is
   chosen on some of the outputs, and the sweep's own mask stays if it is better there.
3. The weights that are left move to the optimum (`passes.numerics.kept_weights`).
4. GPTQ's sweep rounds them (`passes.numerics.gptq`). Removed weights have the code of zero, which is on every grid.

SparseGPT chooses mask and codes in one sweep. Choosing them one after the other from the same Hessian has half the
error or less: the scales fit the weights that are left, and inputs that come early make up too
(`docs/design/pruning.md`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from passes.numerics.gptq import GptqResult, damped, gptq
from passes.numerics.grid import Floats
from passes.numerics.kept_weights import best_values
from passes.numerics.moments import Moments
from passes.numerics.obs import exact_mask
from passes.numerics.sparse_sweep import swept_mask
from passes.numerics.sparsity import Mask, Sparsity
from passes.numerics.weight_grid import GridForm

__all__ = ["Method", "Pruning", "prune", "prune_and_round"]

Method = Literal["sweep", "exact", "magnitude"]

_PENALTIES = (0.2, 0.4, 0.8)  # ρ; the best one depends on the layer
_RAMP = 15  # rounds until all of the share is zero
_JUDGED = 64  # most output channels on which ρ is chosen


@dataclass(frozen=True)
class Pruning:
    """How a layer is pruned.

    Attributes:
        sparsity: Which weights may be removed, and how many.
        method: What chooses them: "sweep", "exact" or "magnitude".
        exchange: Rounds of exchanging removed and kept weights after the sweep.
        make_up: Whether the weights that are left make up for the others before they are rounded. If not, removed
            weights just become zero.
    """

    sparsity: Sparsity
    method: Method = "sweep"
    exchange: int = 30
    make_up: bool = True


def prune(weight: Floats, hessian: Floats, pruning: Pruning) -> tuple[Mask, Floats]:
    """Return the weights that are left, and the values with which they make up for the others, both ``[g, o, k]``.

    Args:
        weight: ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        pruning: How to prune.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not positive definite.
    """
    sparsity = pruning.sparsity
    if not sparsity.removed(weight.size):
        return np.ones(weight.shape, np.bool_), weight
    if pruning.method == "sweep":
        kept, values = _swept(weight, hessian, sparsity, pruning.exchange)
    elif pruning.method == "exact":
        kept = exact_mask(weight, hessian, sparsity)
        values = _exact_values(weight, kept, hessian)
    else:
        kept = sparsity.strongest(np.square(weight))
        values = best_values(weight, kept, hessian, tolerance=1e-5)
    return kept, values if pruning.make_up else np.where(kept, weight, np.float32(0))


def _exact_values(weight: Floats, kept: Mask, hessian: Floats) -> Floats:
    """Return the best values to float32 rounding. Inputs may be nearly equal."""
    precise: list[Any] = [weight.astype(np.float64), kept, hessian.astype(np.float64)]
    return best_values(*precise, tolerance=1e-9, rounds=4 * weight.shape[2]).astype(np.float32)


def _swept(weight: Floats, hessian: Floats, sparsity: Sparsity, exchange: int) -> tuple[Mask, Floats]:
    """Return the sweep's mask, or the exchanged one if that is better on some of the outputs, with the best values."""
    kept, values = swept_mask(weight, hessian, sparsity)
    if not exchange:
        return kept, best_values(weight, kept, hessian, start=values)
    judged = np.s_[:, :: -(-weight.shape[1] // _JUDGED)]
    sample = weight[judged]
    size = np.sqrt(np.einsum("gkk->gk", hessian))
    even = hessian / (size[:, :, None] * size[:, None, :])  # with a diagonal of 1
    least = _error(sample, best_values(sample, kept[judged], hessian, start=values[judged]), hessian)
    chosen = None
    for rho in _PENALTIES:
        near = _Near(even, rho)
        error = _error(sample, _exchanged(sample, hessian, sparsity, near, exchange)[1], hessian)
        if error < least:
            least, chosen = error, near
    if chosen is None:
        return kept, best_values(weight, kept, hessian, start=values)
    return _exchanged(weight, hessian, sparsity, chosen, exchange)


class _Near:
    """Finds the weight of least error that is near another, for a Hessian whose diagonal is 1.

    Args:
        hessian: ``[g, k, k]``.
        rho: Penalty ρ of the distance.
    """

    def __init__(self, hessian: Floats, rho: float) -> None:
        self.hessian, self.rho = hessian, np.float32(rho)
        # At most k / ρ in condition: float32 is enough.
        inverse = np.linalg.inv(hessian + self.rho * np.eye(hessian.shape[1], dtype=np.float32))
        self.inverse: Floats = np.asarray(inverse, np.float32)

    def __call__(self, pulled: Floats, other: Floats) -> Floats:
        """Return the weight ``[g, o, k]`` near ``other``. ``pulled`` is the target times the Hessian."""
        found: Floats = (pulled + self.rho * other) @ self.inverse
        return found


def _exchanged(weight: Floats, hessian: Floats, sparsity: Sparsity, near: _Near, rounds: int) -> tuple[Mask, Floats]:
    """Return the weights that the alternating directions keep, and their best values."""
    size = np.sqrt(np.einsum("gkk->gk", hessian))[:, None]
    wanted = weight * size
    pulled = wanted @ near.hessian
    found, offset = wanted, np.zeros_like(wanted)
    kept = np.ones(weight.shape, np.bool_)
    for step in range(rounds):
        spared = max(0.0, 1 - (step + 1) / min(_RAMP, rounds)) ** 3
        kept = sparsity.softened(spared).strongest(np.square(found + offset))
        zeroed = np.where(kept, found + offset, np.float32(0))
        offset = offset + found - zeroed
        found = near(pulled, zeroed - offset)
    return kept, best_values(weight, kept, hessian, start=found / size)


def _error(weight: Floats, values: Floats, hessian: Floats) -> float:
    """Return the squared output error of values, up to a factor."""
    missed = weight - values
    return float(np.einsum("gok,gok->", missed @ hessian, missed, dtype=np.float64))


def prune_and_round(
    weight: Floats,
    moments: Moments,
    form: GridForm,
    *,
    pruning: Pruning,
    min_scale: Floats | None = None,
    damping: float = 0.01,
    act_order: bool = True,
    rounds: int = 0,
    beam: int = 1,
) -> GptqResult:
    """Prune and quantize ``weight`` ``[g, o, k]``, like `passes.numerics.gptq.gptq`, and with its arguments.

    Args:
        pruning: How to prune. If it removes nothing, the result is that of `gptq`, bit for bit.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not finite, or not positive definite even with damping 1.
    """
    kept, values = prune(weight, damped(moments.hessian, damping), pruning)
    return gptq(
        values,
        moments,
        form,
        min_scale=min_scale,
        damping=damping,
        act_order=act_order,
        rounds=rounds,
        beam=beam,
        kept=kept,
    )
