"""Check early, on the model alone, that a recipe can learn: before data are read and layers are solved."""

import contextlib

import onnx

from converter.calibration.segments import cut
from converter.data.inputs import input_specs, share_batch
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.targets.target import Target
from passes.base import Stage
from passes.errors import QuantizationError
from passes.ir.model import Model
from passes.ir.onnx_graph import choices_with_layers, import_graph
from passes.statistics import Stats

__all__ = ["no_layer", "require_learnable"]

_OTHER = "recipes int4 and int8-gptq take it"


def require_learnable(
    source: onnx.ModelProto, recipe: Recipe, target: Target, requested: RequestedLayers | None = None
) -> None:
    """Require that the passes of a recipe that learn can do so in this model. Torch must be installed.

    Args:
        source: The float model. It does not change.
        recipe: The recipe.
        target: Its rules decide the form of the graph.
        requested: Layers that the call names.

    Raises:
        UsageError: The call excludes a layer that does not exist.
        QuantizationError: The inputs share no batch, a pass trains and the network has an operator without a gradient,
            or a pass learns and no layer is among operators with gradients. The message names another recipe.
    """
    if not recipe.learns:
        return
    if not share_batch(input_specs(source)):
        raise QuantizationError(
            f"recipe {recipe.name!r} learns on batches, and the inputs of the model share no batch axis; {_OTHER}"
        )
    from converter.learn.graph.program import unsupported
    from converter.learn.rounding.loss import NO_GRADIENTS

    model = Model(import_graph(source), target.rules)
    with contextlib.nullcontext() if requested is None else requested.refused():
        for step in recipe.passes:
            if step.stage <= Stage.FLOAT and not step.needs_data:
                step.apply(model, Stats())  # type: ignore[attr-defined]  # passes of these stages are graph passes
    by_name = {node.name: node for node in model.graph.nodes}
    segments = [segment for segment in cut(model.graph, model.layers()) if segment.layer is not None]
    reasons = [unsupported([by_name[name] for name in segment.nodes]) for segment in segments]
    if not segments:
        raise QuantizationError(f"recipe {recipe.name!r} can learn no layer: {no_layer(model)}")
    if all(reasons):
        raise QuantizationError(
            f"recipe {recipe.name!r} can learn no layer: in the model, {next(filter(None, reasons))}; {_OTHER}"
        )
    reason = unsupported(model.graph.nodes)
    if reason and any(step.needs_gradients for step in recipe.passes if not step.trains):
        raise QuantizationError(NO_GRADIENTS.format(reason))
    if recipe.trains and reason:
        learned = f"recipe int2-learned learns {sum(not each for each in reasons)} of {len(reasons)} layers"
        raise QuantizationError(f"recipe {recipe.name!r} cannot train the network: {reason}; {learned}, and {_OTHER}")


def no_layer(model: Model) -> str:
    """Return why no layer of a model can learn that has none outside of bodies, and what takes the model."""
    if choices_with_layers(model.graph):
        return f"all of them are in branches of an If; {_OTHER}"
    if model.recurrent_layers():
        return "the model has only LSTM, GRU or RNN; recipe int4-weight-only takes it"
    return "the model has none"
