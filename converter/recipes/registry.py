"""Registry of passes by name: the built-in ones, and those of other packages by their entry points."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from converter.model_io.entry_points import entry_point_names, load_entry_point
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.activations.keep_ranges import KeepRanges
from passes.base import Pass, Stage
from passes.channels.prune_channels import PruneChannels
from passes.errors import RecipeError
from passes.graph.embeddings import Embeddings
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
from passes.weights.float16 import Float16
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.keep import KeepCodes
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.obq import Obq
from passes.weights.prune import Prune
from passes.weights.qat import Qat
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn

__all__ = ["GROUP", "PASSES", "added_pass_names", "find_pass", "pass_names", "require_usable"]

GROUP = "convert_onnx.passes"
"""Group of the entry points by which other packages offer passes."""

PASSES: Mapping[str, type[Pass]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Normalise,
            FoldBatchnorm,
            IntegerForms,
            Exclude,
            FloatActivations,
            PruneChannels,
            Equalize,
            SmoothQuant,
            Awq,
            Rotate,
            Embeddings,
            ActivationRanges,
            KeepRanges,
            Rtn,
            Gptq,
            Obq,
            Gpfq,
            Qronos,
            Prune,
            KeepCodes,
            Float16,
            BiasCorrection,
            ReestimateBatchnorm,
            LearnedRounding,
            Qat,
        )
    }
)


def find_pass(name: str) -> type[Pass] | None:
    """Return the pass of this name, built in or of another package. None if there is none.

    Raises:
        RecipeError: Another package offers the name, but cannot be imported or has no pass of this name. Or a package
            offers a pass under the name of a built-in one.
    """
    if name in PASSES:
        return PASSES[name]
    loaded = load_entry_point(GROUP, name, PASSES, RecipeError)
    if loaded is None:
        return None
    if not isinstance(loaded, type) or not issubclass(loaded, Pass):
        raise RecipeError(f"entry point {name!r} in {GROUP} is {loaded!r}, which is not a subclass of converter.Pass")
    if getattr(loaded, "name", None) != name:
        raise RecipeError(f"entry point {name!r} in {GROUP} has a pass named {getattr(loaded, 'name', None)!r}")
    return loaded


def pass_names() -> list[str]:
    """Return the names of all passes: the built-in ones in the order of a recipe, then those of other packages.

    Raises:
        RecipeError: A package offers a pass under the name of a built-in one.
    """
    return [*PASSES, *added_pass_names()]


def added_pass_names() -> list[str]:
    """Return the names of the passes of other packages. No package is imported.

    Raises:
        RecipeError: A package offers a pass under the name of a built-in one.
    """
    return entry_point_names(GROUP, PASSES, RecipeError)


def require_usable(step: Any) -> None:
    """Refuse an object that is no valid pass, or that could not be read back from the recipe in a file.

    Raises:
        RecipeError: The object is no pass or no dataclass, it has no stage, no name or the name of a built-in pass, or
            TOML has no form for a field.
    """
    kind = type(step)
    if not isinstance(step, Pass):
        raise RecipeError(f"{kind.__name__} is not a pass; derive it from GraphPass, LayerPass or CorrectionPass")
    name = getattr(step, "name", None)
    if not isinstance(name, str) or not name:
        raise RecipeError(f'{kind.__name__} has no name; give it one: name: ClassVar[str] = "..."')
    if "__dataclass_fields__" not in vars(kind):
        raise RecipeError(f"{name}: {kind.__name__} is not a dataclass; decorate it with @dataclass(frozen=True)")
    if not isinstance(getattr(step, "stage", None), Stage):
        raise RecipeError(f"{name}: its stage is no converter.Stage; give it one, such as Stage.FLOAT")
    if PASSES.get(name, kind) is not kind:
        raise RecipeError(f"{kind.__name__} has the name {name!r} of a built-in pass; give it another name")
    for field in dataclasses.fields(step):
        value = getattr(step, field.name)
        if value is not None and not _has_toml(value):
            raise RecipeError(
                f"{name}: TOML has no form for {field.name} = {value!r}, and a file holds its recipe; use a number, a "
                "text, or a tuple or a mapping of them"
            )


def _has_toml(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_toml(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_has_toml, value))
    return isinstance(value, (bool, int, float, str))
