"""What the weights that are left become, once others are removed: the optimum of the output error.

With the rows w of the weight before and v after, and the Hessian H of the output error, v is the minimum of
``(w - v) H (w - v)ᵀ`` with zeros where weights were removed. That is one linear system for each row. Conjugate
gradients solve all of them at once with products of whole matrices, where a factorisation for each row would take k³
operations for each of its outputs. The weights are scaled so that the diagonal of H is 1 (Hestenes & Stiefel 1952).
"""

import numpy as np

from passes.numerics.grid import Floats
from passes.numerics.sparsity import Mask

__all__ = ["best_values"]


def best_values(
    weight: Floats,
    kept: Mask,
    hessian: Floats,
    *,
    start: Floats | None = None,
    tolerance: float = 3e-4,
    rounds: int = 100,
) -> Floats:
    """Return the values with the least output error ``[g, o, k]``, which are zero where ``kept`` is not set.

    Without `start`, and if all weights are kept, these are the weights themselves, to the last bit.

    Args:
        weight: ``[g, o, k]``.
        kept: Weights that are left, ``[g, o, k]``.
        hessian: ``[g, k, k]``, positive definite.
        start: Values to start from. None: the weights.
        tolerance: The gradient that may be left, as a share of the one at zero. With the default, the error is within
            0.3 % of the least one.
        rounds: Most rounds. Each takes one product with the Hessian.
    """
    values = np.where(kept, weight if start is None else start, np.float32(0))
    diagonal = np.einsum("gkk->gk", hessian)[:, None]
    pulled = weight @ hessian
    gradient = np.where(kept, (weight - values) @ hessian, np.float32(0))
    scaled = gradient / diagonal
    direction = scaled
    length = (gradient * scaled).sum(axis=2, keepdims=True)
    enough = (np.square(pulled) / diagonal).sum(axis=2, keepdims=True) * np.float32(tolerance**2)
    for _ in range(rounds):
        if (length <= enough).all():
            break
        bent = np.where(kept, direction @ hessian, np.float32(0))
        step = _ratio(length, (direction * bent).sum(axis=2, keepdims=True))
        values = values + step * direction
        gradient = gradient - step * bent
        scaled = gradient / diagonal
        before, length = length, (gradient * scaled).sum(axis=2, keepdims=True)
        direction = scaled + _ratio(length, before) * direction
    return values


def _ratio(one: Floats, other: Floats) -> Floats:
    """Return one / other, and 0 where the other is not positive: such a row is at its optimum."""
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)
