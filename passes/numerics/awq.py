"""The loss that AWQ minimises: the output error of a rounded weight, computed from the Hessian alone.

Lin et al. 2024 (arXiv:2306.00978, equation 4) minimise ``‖Q(W diag(s)) (diag(s)⁻¹ X) - W X‖`` over s. With
``D = Q(W s) - W s`` and ``H' = S⁻¹ H S⁻¹`` the squared norm is ``tr(D H' Dᵀ)``. So no activations are stored, and the
calibration data is read once.
"""

import numpy as np

from passes.numerics.grid import Floats
from passes.numerics.weight_scale_search import search_grid

__all__ = ["output_power", "rounding_noise"]

_CANDIDATES = 20  # ranges tried per grid; a quarter of the solvers' number, because every s needs a search


def rounding_noise(weight: Floats, hessian: Floats, bits: int, *, block_size: int | None, symmetric: bool) -> float:
    """Return the squared output error of ``weight`` ``[g, o, k]`` rounded to nearest, for ``hessian`` ``[g, k, k]``."""
    even = np.ones((weight.shape[0], weight.shape[2]), np.float32)
    grid = search_grid(weight, bits, even, block_size=block_size, symmetric=symmetric, candidates=_CANDIDATES)
    return output_power(grid.values(grid.codes(weight)) - weight, hessian)


def output_power(weight: Floats, hessian: Floats) -> float:
    """Return ``tr(W H Wᵀ)``: twice the mean square of the outputs of ``weight`` ``[g, o, k]``, summed over outputs."""
    return max(float(np.einsum("gok,gok->", weight @ hessian, weight, optimize=True)), 0.0)
