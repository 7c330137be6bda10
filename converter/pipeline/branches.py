"""Layers inside the branches of an If: every branch is converted as a model of its own.

A branch runs once, if at all, and everything that it reads is known before. So it is a model whose inputs are the
tensors that it reads from the graph around it. Its calibration data are the values of these tensors on the samples that
choose the branch. The bodies of Loop and Scan run any number of times on values that change, and stay in float.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from converter.data.inputs import runtime_dtype
from converter.data.preprocess import Preprocess
from converter.model_io.protobuf import constant_tensors, copy_fields
from converter.pipeline.prepare import Prepared
from converter.pipeline.result import LayerReport, Result
from converter.recipes.recipe import Recipe
from converter.runtime.runner import Runner
from passes.channels.prune_channels import PruneChannels
from passes.errors import ConvertError, DataError, ModelError, first_line
from passes.graph.normalise.shapes import infer_shapes
from passes.ir.bodies import CAPTURED, captured, make_way
from passes.ir.linear import LINEAR_OPS, has_layers
from passes.ir.model import Model
from passes.ir.onnx_graph import choices_with_layers, import_graph, node_bodies
from passes.ir.selectors import matching

__all__ = ["ConvertBranch", "convert_branches"]

_LOG = logging.getLogger(__name__)

Feeds = dict[str, NDArray[Any]]
Calibration = Callable[[], Iterator[Feeds]]
ConvertBranch = Callable[[onnx.ModelProto, Calibration | None, Recipe], Result]
"""Converts the model of a branch with its calibration data and recipe."""


def convert_branches(
    work: Model, job: Prepared, convert: ConvertBranch
) -> dict[tuple[str, str], tuple[LayerReport, ...]]:
    """Convert the branches of every If that have layers inside. They replace the branches in the graph.

    Args:
        work: The model, after all passes.
        job: The conversion of the whole model.
        convert: Converts one branch. If it refuses, the branch stays in float, and a line is logged.

    Returns:
        The reports of the layers in each branch that was converted, by the names of the If and of the attribute.

    Raises:
        ModelError: The model has no other layers, and no branch could be converted.
    """
    refused: list[str] = []
    reports: dict[tuple[str, str], tuple[LayerReport, ...]] = {}
    for host in choices_with_layers(work.graph):
        if host.name in work.float_branches:
            continue
        source = next((node for node in job.source.graph.node if _is_same(node, host)), None)
        if source is None:
            refused.append(f"{host.name} stays in float: it is inside of another If in the file")
            continue
        for entry in source.attribute:
            branch = _Branch(job.source, source, entry)
            try:
                result = branch.convert(job, convert)
            except ConvertError as error:
                refused.append(f"{entry.name} of {host.name} stays in float: {first_line(error)}")
                continue
            if result is not None:
                host.attrs[entry.name] = branch.converted(result.model, set(work.graph.tensors()))
                reports[str(host.name), entry.name] = result.layers
        _forget_constants(host)
    if refused and not reports and not work.layers():
        raise ModelError(f"nothing to quantize: {refused[0]}")
    for line in refused:
        _LOG.warning(line)
    return reports


def _is_same(source: onnx.NodeProto, host: gs.Node) -> bool:
    """Whether a node of the float model is the one in the graph that the passes changed."""
    if source.op_type != "If":
        return False
    return (source.name and source.name == host.name) or [tensor.name for tensor in host.outputs] == list(source.output)


class _Branch:
    """One branch of an If as a model of its own.

    Args:
        whole: The float model around it.
        node: The If.
        entry: Its attribute with the branch.
    """

    def __init__(self, whole: onnx.ModelProto, node: onnx.NodeProto, entry: onnx.AttributeProto) -> None:
        self.whole, self.condition, self.body, self.chosen = whole, node.input[0], entry.g, entry.name == "then_branch"
        constants = constant_tensors(whole.graph)
        names = captured(onnx.NodeProto(op_type="If", attribute=[entry]))
        self.inputs = [name for name in names if name not in constants]
        self.model = onnx.ModelProto()
        copy_fields(whole, self.model, skip={"graph", "metadata_props"})
        self.model.graph.CopyFrom(self.body)
        self.model.graph.name = self.body.name or entry.name
        for name in names:
            if name in constants:
                self.model.graph.initializer.add().CopyFrom(constants[name])
                self.model.graph.initializer[-1].name = name

    def convert(self, job: Prepared, convert: ConvertBranch) -> Result | None:
        """Convert the branch. None: it has no layers.

        Raises:
            ConvertError: It cannot be converted, or no sample chooses it.
        """
        if not has_layers(self.model.graph):
            return None
        if not self.inputs:
            raise DataError("it reads constants only")
        calibration, sample = None, None
        if job.images.calibration is not None:
            calibration = self._recorded(job)
            sample = next(calibration(), None)
            if sample is None:
                raise DataError("no calibration sample chooses it")
        self.model.graph.input.extend(self._inputs(sample))
        return convert(self.model, calibration, _inside(job.recipe, self.model))

    def _inputs(self, sample: Feeds | None) -> list[onnx.ValueInfoProto]:
        """Return inputs with the types that onnxruntime gives them, and the sizes that hold for every sample."""
        shapes = infer_shapes(import_graph(self.whole))
        runner = Runner(_with_outputs(self.whole, self.inputs), "the model")
        types = {spec.name: spec.dtype for spec in runner.specs} | {
            name: runtime_dtype(name, kind) for name, kind in runner.types.items() if name in self.inputs
        }
        values = []
        for name in self.inputs:
            shape = shapes.get(name) if sample is None else shapes.get(name, (None,) * sample[name].ndim)
            if shape is None:
                raise ModelError(f"nothing says how many axes {name} has")
            sizes = [f"{name}.{axis}" if size is None else size for axis, size in enumerate(shape)]
            values.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(types[name]), sizes))
        return values

    def _recorded(self, job: Prepared) -> Calibration:
        """Return a function that yields what the branch reads, for every calibration sample that chooses it."""
        data = job.images.calibration
        assert data is not None
        fed = {value.name for value in self.whole.graph.input}
        computed = [name for name in dict.fromkeys([self.condition, *self.inputs]) if name not in fed]

        def samples() -> Iterator[Feeds]:
            runner = Runner(_with_outputs(self.whole, computed), "the model", outputs=computed)
            for batch in data.batches(1):
                feeds = runner.inputs(batch.feeds)
                values = feeds | dict(zip(computed, runner.execute(feeds), strict=True))
                if bool(np.all(values[self.condition])) == self.chosen:
                    yield {name: values[name] for name in self.inputs}

        return samples

    def converted(self, model: onnx.ModelProto, around: set[str]) -> onnx.GraphProto:
        """Return the converted model as a branch.

        Args:
            model: The converted model.
            around: Names in the graph around it. The branch's own names become different ones.
        """
        body = onnx.GraphProto()
        copy_fields(model.graph, body, skip={"input", "name", "doc_string"})
        body.name, body.doc_string = self.body.name, self.body.doc_string
        make_way(body, around)
        return body


def _forget_constants(host: gs.Node) -> None:
    """Remove constants that a converted branch has inside from what the If reads."""
    names = host.attrs.get(CAPTURED, [])
    entries = [helper.make_attribute("body", body) for body in node_bodies(host)]
    read = captured(onnx.NodeProto(op_type="If", attribute=entries))
    own = list(host.inputs)[: len(host.inputs) - len(names)]
    outside = dict(zip(names, list(host.inputs)[len(own) :], strict=True))
    kept = [name for name in names if name in read]
    host.inputs = [*own, *(outside[name] for name in kept)]
    if kept:
        host.attrs[CAPTURED] = kept
    else:
        host.attrs.pop(CAPTURED, None)


def _inside(recipe: Recipe, model: onnx.ModelProto) -> Recipe:
    """Return the recipe for a branch: without the selectors that match nothing in it. A branch keeps its channels."""
    graph = import_graph(model)
    known = [str(node.name) for node in graph.nodes if node.op in LINEAR_OPS | {"If"}]
    passes = []
    for step in recipe.passes:
        if isinstance(step, PruneChannels):
            continue
        changes: dict[str, Any] = {}
        if hasattr(step, "layers"):
            changes["layers"] = tuple(matching(step.layers, graph, known))
        for field in ("layer_bits", "layer_sparsity"):
            values = getattr(step, field, {})
            if values:
                changes[field] = {name: values[name] for name in matching(values, graph, known)}
        passes.append(dataclasses.replace(step, **changes) if changes else step)
    return dataclasses.replace(recipe, passes=tuple(passes), preprocess=Preprocess())


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return a copy of the model that returns these tensors too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output} | {value.name for value in copy.graph.input}
    added = [name for name in dict.fromkeys(names) if name not in present]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in added)
    return copy
