"""Qronos: the first code corrects the errors of the layers before, and GPTQ's sweep spreads what is left.

Zhang, Zhang, Colbert & Saab 2026 (arXiv 2505.11695, ICLR 2026). X are the inputs of the float network and X̂ those of
the quantized one. Step t rounds weight t while the others stay, then moves those that are not rounded yet:

    q_t = argmin_p ‖X w - Σ_{s<t} q_s X̂_s - p X̂_t - Σ_{s>t} w_s X̂_s‖²
    w_{>t} = argmin_v ‖X w - Σ_{s≤t} q_s X̂_s - X̂_{>t} v‖²

The paper proves that from the second step on, this is rounding to nearest and GPTQ's update. So only the first step
needs moments of both networks. With ``H = X̂ᵀX̂`` and ``P = w (X - X̂)ᵀX̂``:

    q_1 = Q(w_1 + P_1 / H_11),   w_{>1} = W*_{>1} + (W*_1 - q_1) H_1,>1 H_>1,>1⁻¹

W* is the asymmetric target with the damping of the sweep, W + P (H + λI)⁻¹. GPTQ from W* takes the same second step. It
differs in q_1 alone, which is Q(W*_1). A tensor S that is added to the layer's output adds ``(S - Ŝ)ᵀX̂`` to P.
"""

import numpy as np

from passes.numerics.asymmetric_target import projection
from passes.numerics.gptq import GptqResult, importance_of, inverse_factor, permuted, rounding_order, sweep
from passes.numerics.grid import Floats, code_range
from passes.numerics.moments import Moments
from passes.numerics.weight_grid import GridForm

__all__ = ["qronos"]


def qronos(
    weight: Floats,
    moments: Moments,
    form: GridForm,
    *,
    min_scale: Floats | None = None,
    damping: float = 0.01,
    act_order: bool = True,
) -> GptqResult:
    """Quantize ``weight`` ``[g, o, k]`` for the inputs that ``moments`` describe.

    Args:
        weight: Weight of the layer, ``[g, o, k]`` float32.
        moments: Moments of the layer's rows, with the same g and k. Without `cross`, both networks have the same
            inputs, and the result is GPTQ's.
        form: Form of the grid. Its scales are searched for W*.
        min_scale: Smallest allowed scale, ``[g, o]``.
        damping: λ as a share of the mean of diag H. The first code is chosen without it.
        act_order: Whether inputs are rounded by falling diag H rather than in their own order.

    Raises:
        numpy.linalg.LinAlgError: The Hessian is not finite, or not positive definite even with damping 1.
    """
    order = rounding_order(moments, act_order)
    undo = np.argsort(order, axis=1)[:, None, :]
    columns = order[:, None, :]
    factor, damping = inverse_factor(permuted(moments.hessian, order), damping)
    upper = factor.astype(np.float32, order="C")
    target = exact = np.take_along_axis(weight, columns, axis=2)
    first = exact[:, :, 0]
    if moments.has_errors:
        pull = np.take_along_axis(projection(weight, moments), columns, axis=2)
        target = (exact + (pull @ factor.transpose(0, 2, 1)) @ factor).astype(np.float32)
        norm = np.take_along_axis(moments.diagonal, order, axis=1)[:, :1]
        first = first + np.divide(pull[:, :, 0], norm, out=np.zeros_like(first), where=norm > 0)  # 0: a dead input
    grid = form.grid(np.take_along_axis(target, undo, axis=2), importance_of(upper, order), min_scale)
    scale, zero = grid.spread(weight.shape[2])
    step, offset = np.take_along_axis(scale, columns, axis=2), np.take_along_axis(zero, columns, axis=2)
    codes = np.empty(weight.shape, np.int8)
    nearest = np.clip(np.rint(first / step[:, :, 0]) + offset[:, :, 0], *code_range(form.bits))
    codes[:, :, 0] = nearest
    error = (target[:, :, 0] - (nearest - offset[:, :, 0]) * step[:, :, 0]) / upper[:, 0, 0, None]
    rest = target[:, :, 1:] - error[:, :, None] * upper[:, None, 0, 1:]
    codes[:, :, 1:] = sweep(rest, upper[:, 1:, 1:], step[:, :, 1:], offset[:, :, 1:], form.bits)
    return GptqResult(np.take_along_axis(codes, undo, axis=2), grid, damping)
