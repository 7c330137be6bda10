"""Requirements of a target on shapes and operator set. They are checked early. The file's batch is fixed."""

import logging

import onnx
from onnx import shape_inference

from converter.model_io.light import light_model
from converter.recipes.recipe import Recipe
from converter.targets.target import Target
from converter.verification.rules import violations
from passes.base import Stage
from passes.errors import TargetError

__all__ = ["fix_batch", "require_fit", "require_kernels", "require_weight_only"]

_LOG = logging.getLogger(__name__)


def require_fit(model: onnx.ModelProto, target: Target) -> None:
    """Require that the float model can be written for the target.

    Raises:
        TargetError: An input has an open dimension besides the batch, or the operator set is too new.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if target.opset is not None and opset > target.opset:
        raise TargetError(
            f"the model has opset {opset}, target {target.name} takes {target.opset} at most; export the model with "
            f"opset {target.opset}"
        )
    if not target.static_shapes:
        return
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis and not dim.HasField("dim_value"):
                raise TargetError(
                    f"input {value.name!r} has an open dimension {axis} ({dim.dim_param or 'unnamed'}), target "
                    f"{target.name} needs fixed shapes; export the model with a fixed height and width"
                )


def require_weight_only(model: onnx.ModelProto, recipe: Recipe, target: Target) -> None:
    """Require that the target accepts what the recipe quantizes: activations too, or weights only.

    Raises:
        TargetError: The target does not accept it, or it runs floats only and the recipe quantizes activations.
    """
    quantizes_activations = any(step.stage == Stage.RANGES for step in recipe.passes)
    if target.floats_only and quantizes_activations:
        raise TargetError(
            f"target {target.name} runs floats only, and recipe {recipe.name} quantizes activations: "
            f"{target.floats_only}; use recipe fp16, or int8-weight-only for a smaller file"
        )
    if recipe.storage == "dynamic" and not target.quantizes_in_runs:
        _LOG.warning(
            f"target {target.name} does not quantize activations in its runs, so all layers have float activations; "
            "recipes that calibrate, such as int8, are faster there"
        )
    if quantizes_activations:
        return
    if not target.rules.weight_only and not recipe.narrows_floats:
        raise TargetError(
            f"target {target.name} needs integer activations; use a recipe that quantizes activations, such as int8"
        )
    require_kernels(model, target)


def require_kernels(model: onnx.ModelProto, target: Target) -> None:
    """Require that the target has a float kernel for everything that stays in float.

    Raises:
        TargetError: A kernel is missing.
    """
    for violation in violations(model, target):
        if violation.fact == "no_float":
            raise TargetError(
                f"{violation.what} on target {target.name}; use a recipe that quantizes activations, such as int8"
            )


def fix_batch(model: onnx.ModelProto, target: Target) -> None:
    """Set an open batch to 1, in place. Do nothing if the target accepts open shapes."""
    if not target.static_shapes:
        return
    opened: set[str] = set()
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                opened.add(dim.dim_param)
                dim.dim_value = 1
    if not opened:
        return
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") and dim.dim_param in opened:
                dim.dim_value = 1
    del model.graph.value_info[:]
    model.graph.value_info.extend(shape_inference.infer_shapes(light_model(model)).graph.value_info)
