"""Sequential calibration: solve one layer after the other, on the inputs that the network before it produces.

Two streams of activations run side by side, segment by segment (`converter.calibration.paired_run`). One is the float
network's. The other is the quantized network's, with weights and activations as they will be deployed: each segment is
emitted and run as the final file will be. Each segment runs once. Only tensors that a later segment reads are held.
"""

from collections.abc import Mapping
from dataclasses import replace

from converter.cache.folder import NOWHERE, Cache
from converter.calibration.activation_cache import ActivationCache
from converter.calibration.layer_inputs import SequentialCalibration
from converter.calibration.recurrent import round_recurrent
from converter.calibration.solving import keep_layer, restore_layer, rounding, solve_layer
from converter.data.dataset import Dataset
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.session import Progress
from passes.base import LayerPass
from passes.ir.linear import Linear
from passes.ir.model import UNREACHED, Model
from passes.ir.ties import shared_with, tied_layers
from passes.numerics.moments import Moments
from passes.report import Change, PassReport

__all__ = ["solve_layers"]


def solve_layers(
    model: Model,
    layer_pass: LayerPass,
    data: Dataset | None,
    progress: Progress,
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    seed: int = 0,
    solved: Cache = NOWHERE,
) -> PassReport:
    """Run a layer pass over every layer that will be quantized.

    Args:
        model: Changed in place. Weights become dequantized values, and `Model.quantized` gets the codes.
        layer_pass: The pass that solves a layer.
        data: Calibration data. It may be None for a pass that needs no moments.
        progress: Called after every layer.
        memory_budget: Bytes of activations in memory: half for samples that run together, half for those that are kept.
            Later ones go to files.
        seed: Random seed of the output positions that are sampled from each image.
        solved: Solved layers of this very pass, model and data. Layers that are in it are not solved again, and others
            are stored as soon as they are solved. Without moments, it is not used.

    Returns:
        The report of the pass.

    Raises:
        QuantizationError: A layer cannot be solved.
        DataError: An activation is NaN or Inf, and the message names the tensor. Or a stored layer is damaged.
    """
    _untie_float_layers(model)
    layers = model.layers_to_quantize()
    ties = tied_layers(layers.values())
    tables = model.tables()
    bits = layer_pass.bits_of(layers, model.graph, tables, model.selected)
    recurrent = layer_pass.bits_of_recurrent(model)
    # Recurrent weights are rounded first, and layers with ties before the float stream has come to them.
    reference = Model(model.graph.copy(), model.rules) if ties or recurrent else model
    rounded = round_recurrent(model, layer_pass, recurrent)
    changed: dict[str, Change] = {}

    def members_of(layer: Linear) -> list[Linear]:
        return [layers[name] for name in ties.get(layer.name, (layer.name,))]

    def solve(layer: Linear, moments: Moments | None) -> None:
        solver = rounding(layer_pass) if layer.name in tables else layer_pass
        change = solve_layer(model, solver, layer, bits[layer.name], moments, members_of(layer))
        if moments is not None:
            keep_layer(model, members_of(layer), change, solved)
        note(layer, change)

    def note(layer: Linear, change: Change) -> None:
        for member in members_of(layer):
            table = f"weight shared with {', '.join(tables[layer.name].readers)}" if layer.name in tables else ""
            parts = (change.what, shared_with(member.name, ties), table)
            changed[member.name] = replace(change, what=", ".join(part for part in parts if part))
        progress(layer_pass.name, len(changed), len(layers))

    notes: tuple[str, ...] = ()
    if layer_pass.wants_moments and data is not None:
        others = _moments_of_later_readers(reference, layers, ties, data, memory_budget, seed) if ties else {}
        with ActivationCache(memory_budget // 2) as cache:
            calibration = SequentialCalibration(
                model,
                reference,
                layers,
                data,
                cache,
                seed=seed,
                sequential=layer_pass.sequential,
                together=memory_budget // 2,
            )
            for layer in calibration.solving_order():
                if layer.name in changed:
                    continue
                stored = restore_layer(model, members_of(layer), solved)
                if stored is not None:
                    note(layer, stored)
                    continue
                weight = None if layer_pass.reads_cross else model.weight(layer)
                both = (calibration.find_moments(layer, weight=weight), others.pop(layer.name, None))
                known = [each for each in both if each is not None]
                if known:
                    solve(layer, Moments.pooled(*known) if len(known) > 1 else known[0])
                else:
                    model.float_reasons |= dict.fromkeys(ties.get(layer.name, (layer.name,)), UNREACHED)
        if cache.spilled:
            notes = (f"{cache.spilled} activation batches were kept in files",)
    else:
        for layer in layers.values():
            if layer.name not in changed:
                solve(layer, None)
    ordered = {name: changed[name] for name in layers if name in changed} | rounded
    return PassReport(layer_pass.name, ordered, dict(model.float_reasons), notes)


def _untie_float_layers(model: Model) -> None:
    """Give layers that are quantized a weight of their own, where they share it with layers that stay in float."""
    for names in set(tied_layers(model.layers().values()).values()):
        quantized = [name for name in names if name not in model.float_reasons]
        if quantized and len(quantized) < len(names):
            model.untie(quantized)


def _moments_of_later_readers(
    model: Model,
    layers: dict[str, Linear],
    ties: Mapping[str, tuple[str, ...]],
    data: Dataset,
    memory_budget: int,
    seed: int,
) -> dict[str, Moments]:
    """Moments of all layers but the first that runs of those that share a weight, in the float network.

    Returns:
        The moments by the name of the layer that runs first.
    """
    result: dict[str, Moments] = {}
    first: dict[tuple[str, ...], str] = {}
    with ActivationCache(memory_budget // 2) as cache:
        calibration = SequentialCalibration(
            model, model, layers, data, cache, seed=seed, sequential=False, together=memory_budget // 2
        )
        for layer in calibration.solving_order():
            if layer.name not in ties:
                continue
            leader = first.setdefault(ties[layer.name], layer.name)
            if leader != layer.name:
                moments = calibration.find_moments(layer, halved=True)
                if moments is not None:
                    result[leader] = Moments.pooled(result[leader], moments) if leader in result else moments
    return result
