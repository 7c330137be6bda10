"""Pruning and GPTQ from one Hessian; see `passes.numerics.pruning`.

Target, scale search, bias correction and refinement are those of `passes.weights.gptq`. Refinement moves the codes of
weights that are left, and no others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from passes.base import Problem
from passes.ir.layer_names import require_known
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.ir.onnx_graph import layers_in_branches
from passes.numerics.gptq import GptqResult, gptq
from passes.numerics.pruning import Method, Pruning, prune_and_round
from passes.numerics.sparsity import Sparsity, parse_pattern
from passes.weights.gptq import Gptq

__all__ = ["Prune"]

_HALF = 0.5  # share without `sparsity`


@dataclass(frozen=True)
class Prune(Gptq):
    """Prune weights and quantize the others. It has the fields of `Gptq` too.

    A layer whose weights stay is quantized by GPTQ, and the report says why they stay.

    Attributes:
        sparsity: Share of each layer's weights that become zero, 0 to below 1. The default is 0.5. With n:m it follows
            from the pattern. A weight that is left may still round to zero.
        pattern: "unstructured", or n:m such as "2:4": of every 4 neighbouring input channels, at the same place of the
            kernel, at most 2 weights of an output channel are not zero. Sparse tensor cores need 2:4. Layers whose
            input channels m does not divide keep all weights.
        method: What chooses the weights. "sweep" is SparseGPT's sweep, then exchanges of removed and kept weights.
            "exact" is ExactOBS. "magnitude" takes the smallest weights, for comparison.
        largest_inputs: Most inputs per group of a layer that "exact" solves. Larger layers use "sweep".
        exchange: Rounds of exchanges after the sweep. 0: none.
        make_up: Whether the weights that are left make up for the others before they are rounded.
        fewest_inputs: Least number of inputs per group of a layer that is pruned. With few inputs, the others cannot
            make up for what is removed, as in depthwise layers, and there is little to gain.
        layer_sparsity: Shares by layer name, instead of `sparsity`. With n:m a share can only be 0: all weights stay.

    Raises:
        ValueError: A field is out of range.
    """

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "pruning"

    sparsity: float | None = None
    pattern: str = "unstructured"
    method: Method = "sweep"
    largest_inputs: int = 288
    exchange: int = 30
    make_up: bool = True
    fewest_inputs: int = 32
    layer_sparsity: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = parse_pattern(self.pattern)
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is a share, at least 0 and below 1, not {self.sparsity:g}")
        for name, share in self.layer_sparsity.items():
            if not 0 <= share < 1:
                raise ValueError(f"layer_sparsity of {name} is a share, at least 0 and below 1, not {share:g}")
        if groups is not None:
            _require_share_of_pattern(self.pattern, 1 - groups[0] / groups[1], self.sparsity, self.layer_sparsity)
        for field_name, least in (("largest_inputs", 1), ("exchange", 0), ("fewest_inputs", 0)):
            if getattr(self, field_name) < least:
                raise ValueError(f"{field_name} must be at least {least}, not {getattr(self, field_name)}")

    @property
    def removes(self) -> str:
        """The pattern."""
        return self.pattern

    def alone(self) -> Self:
        """Without what makes up for the layers before, and without what takes long."""
        return dataclasses.replace(super().alone(), exchange=0)

    def requires(self, model: Model) -> None:
        """Require that every layer in `layer_bits` and `layer_sparsity` exists and is to be quantized."""
        super().requires(model)
        known = [*model.layers_to_quantize(), *layers_in_branches(model.graph)]
        require_known(self.layer_sparsity, known, "layer_sparsity")

    def with_bits(self, bits: Mapping[str, int], exclude: Collection[str]) -> Self:
        """Return the pass with these bits added to `layer_bits`, and without settings of the excluded layers."""
        shares = {name: share for name, share in self.layer_sparsity.items() if name not in exclude}
        return dataclasses.replace(super().with_bits(bits, exclude), layer_sparsity=shares)

    def share_of(self, layer: Linear) -> float:
        """Return the wanted share of zero weights of a layer."""
        groups = parse_pattern(self.pattern)
        whole = 1 - groups[0] / groups[1] if groups is not None else _HALF
        return self.layer_sparsity.get(layer.name, whole if self.sparsity is None else self.sparsity)

    def why_whole(self, layer: Linear) -> str:
        """Return why all weights of a layer stay. Empty if some are removed."""
        inputs, channels = layer.matrix_shape[2], _channels(layer)
        groups = parse_pattern(self.pattern)
        if self.share_of(layer) == 0:
            return "not pruned: its share is 0"
        if inputs < self.fewest_inputs:
            return f"not pruned: {inputs} inputs are fewer than fewest_inputs {self.fewest_inputs}"
        if groups is not None and channels % groups[1]:
            return f"not pruned: {channels} input channels are no multiple of {groups[1]}"
        return ""

    def solver_of(self, problem: Problem) -> Callable[..., GptqResult]:
        """Return what prunes and rounds the layer, or `gptq` for a layer whose weights all stay."""
        layer = problem.layer
        if self.why_whole(layer):
            return gptq
        sparsity = Sparsity(self.share_of(layer), parse_pattern(self.pattern), _neighbours(layer))
        pruning = Pruning(sparsity, self._method(layer), self.exchange, self.make_up)
        return functools.partial(prune_and_round, pruning=pruning)

    def notes(self, problem: Problem) -> tuple[str, ...]:
        """Return what was pruned, or why nothing was, and why by another method."""
        layer = problem.layer
        if why := self.why_whole(layer):
            return (why,)
        by = self._method(layer)
        instead = ""
        if by != self.method:
            instead = f"by sweep: {layer.matrix_shape[2]} inputs are more than largest_inputs {self.largest_inputs}"
        kind = self.pattern if ":" in self.pattern else f"{100 * self.share_of(layer):g} %"
        return tuple(part for part in (f"{kind} pruned", instead) if part)

    def _method(self, layer: Linear) -> Method:
        large = layer.matrix_shape[2] > self.largest_inputs
        return "sweep" if self.method == "exact" and large else self.method


def _require_share_of_pattern(pattern: str, share: float, sparsity: float | None, layers: Mapping[str, float]) -> None:
    """Refuse shares that a pattern n:m does not have."""
    if sparsity is not None and not math.isclose(sparsity, share):
        raise ValueError(
            f"pattern {pattern} removes {share:g} of the weights, so sparsity cannot be {sparsity:g}; leave it out"
        )
    for name, other in layers.items():
        if other and not math.isclose(other, share):
            raise ValueError(
                f"pattern {pattern} removes {share:g} of the weights, so layer_sparsity of {name} cannot be {other:g}; "
                "give 0 to keep all, or leave it out"
            )


def _channels(layer: Linear) -> int:
    """Return the number of input channels in a group."""
    return layer.matrix_shape[2] // math.prod(layer.kernel)


def _neighbours(layer: Linear) -> np.ndarray:
    """Return the inputs ``[k]`` channel by channel for each place of the kernel: the order in which n:m holds."""
    taps = math.prod(layer.kernel)
    return np.arange(layer.matrix_shape[2]).reshape(-1, taps).T.ravel()
