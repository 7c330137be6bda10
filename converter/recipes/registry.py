"""Passes by the names that recipes use: the built-in ones, and those of other packages by their entry points."""

from collections.abc import Mapping
from types import MappingProxyType

from converter.model_io.entry_points import entry_point_names, load_entry_point
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.base import Pass
from passes.errors import RecipeError
from passes.graph.exclude import Exclude
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.normalise.normalise import Normalise
from passes.rotation.rotate import Rotate
from passes.scale_migration.awq import Awq
from passes.scale_migration.equalize import Equalize
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.batchnorm_reestimation import ReestimateBatchnorm
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.keep import KeepCodes, KeepRanges
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.obq import Obq
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn

__all__ = ["GROUP", "PASSES", "find_pass", "pass_names"]

GROUP = "convert_onnx.passes"
"""Group of entry points in which other packages offer their passes."""

PASSES: Mapping[str, type[Pass]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Normalise,
            FoldBatchnorm,
            IntegerForms,
            Exclude,
            FloatActivations,
            Equalize,
            SmoothQuant,
            Awq,
            Rotate,
            ActivationRanges,
            KeepRanges,
            Rtn,
            Gptq,
            Obq,
            KeepCodes,
            BiasCorrection,
            ReestimateBatchnorm,
            LearnedRounding,
            Qat,
        )
    }
)


def find_pass(name: str) -> type[Pass] | None:
    """The pass of that name: built in, or of another package; None if there is none. Built-in names come first.

    Raises:
        RecipeError: another package offers the name, but cannot be imported or gives no pass of that name.
    """
    if name in PASSES:
        return PASSES[name]
    found = load_entry_point(GROUP, name, RecipeError)
    if found is None:
        return None
    if not isinstance(found, type) or not issubclass(found, Pass):
        raise RecipeError(f"entry point {name!r} in {GROUP} is {found!r}, which is no subclass of converter.Pass")
    if getattr(found, "name", None) != name:
        raise RecipeError(f"entry point {name!r} in {GROUP} has a pass named {getattr(found, 'name', None)!r}")
    return found


def pass_names() -> list[str]:
    """Names that a recipe can use: the built-in passes in the order of a recipe, then those of other packages."""
    return [*PASSES, *(name for name in entry_point_names(GROUP) if name not in PASSES)]
