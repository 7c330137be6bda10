"""What rounding a weight costs the layer's output, from the Hessian alone: the measure that AWQ searches by.

Lin et al. 2024 (arXiv:2306.00978, equation 4) minimise ``‖Q(W diag(s)) (diag(s)⁻¹ X) - W X‖`` over s. With
``D = Q(W s) - W s`` that is ``tr(D H' Dᵀ)``, ``H' = S⁻¹ H S⁻¹``: no activation is stored, and no data is seen again.
"""

import numpy as np

from passes.numerics.grid import Floats
from passes.numerics.weight_scale_search import search_grid

__all__ = ["output_power", "rounding_noise"]

_CANDIDATES = 20  # of a grid's range; a quarter of what the solvers try, for this is done for every s


def rounding_noise(weight: Floats, hessian: Floats, bits: int, *, block_size: int | None, symmetric: bool) -> float:
    """Squared output error of rounding ``weight`` ``[g, o, k]`` to nearest, with ``hessian`` ``[g, k, k]``."""
    even = np.ones((weight.shape[0], weight.shape[2]), np.float32)
    grid = search_grid(weight, bits, even, block_size=block_size, symmetric=symmetric, candidates=_CANDIDATES)
    return output_power(grid.values(grid.codes(weight)) - weight, hessian)


def output_power(weight: Floats, hessian: Floats) -> float:
    """``tr(W H Wᵀ)``: twice the mean square of the outputs of ``weight`` ``[g, o, k]``, summed."""
    return max(float(np.einsum("gok,gok->", weight @ hessian, weight, optimize=True)), 0.0)
