"""The float network with a switch for every rounding of the quantized model.

A tensor ``t`` of `Model.activation_qparams` becomes ``Where(switch, DequantizeLinear(QuantizeLinear(t)), t)``, and the
weight of a quantized layer becomes an input of the graph whose default is the float weight. So one session measures
every rounding alone, and any set of them together.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter.calibration.correction import float_network
from converter.qdq.floats import float_model
from converter.runtime.choices import chosen_tensors, same_choice
from converter.runtime.few_samples import Feeds
from converter.runtime.output_errors import Outputs
from converter.runtime.output_parts import joined_outputs
from converter.runtime.session import open_session
from passes.errors import ModelError, first_line
from passes.ir.bodies import enclose
from passes.ir.fresh_name import fresh_name
from passes.ir.model import Model
from passes.ir.surgery import tensor_names
from passes.numerics.grid import ActivationGrid

__all__ = ["SwitchedNetwork"]


class SwitchedNetwork:
    """A session of the float network whose roundings are off, each until `run` names it.

    Args:
        model: The model after all passes of a recipe. It does not change.
        groups: Activations that are rounded together. Every tensor is in at most one group.
        samples: Inputs of runs.
        travels: Whether other processes get the network, pickled. It takes the memory of its weights once more.

    Attributes:
        samples: Inputs of runs. They include what the exact network chooses, such as the best boxes.
        outputs: Names of what is compared, see `converter.runtime.choices.SameChoice`.
        joined: Outputs that may have parts of different kinds.

    Raises:
        ModelError: onnxruntime cannot load the network.
    """

    def __init__(
        self, model: Model, groups: Sequence[Sequence[str]], samples: Sequence[Feeds], *, travels: bool = False
    ) -> None:
        network = float_network(model)
        proto = float_model(network.graph, exposed=True)
        same = None
        if chosen_tensors(proto.graph):
            same = same_choice(proto, float_model(network.graph), samples)
        self.samples = samples if same is None else same.feeds
        proto = proto if same is None else same.model
        self.outputs = [value.name for value in proto.graph.output]
        self.joined = joined_outputs(proto.graph)
        taken = tensor_names(model.graph)
        self._switches = [fresh_name(f"{group[0]}_rounded", taken) for group in groups]
        switch_of = {name: switch for group, switch in zip(groups, self._switches, strict=True) for name in group}
        _insert_switches(proto.graph, switch_of, model.activation_qparams, taken)
        self._off = {switch: np.array(False) for switch in self._switches}
        self._rounded = {name: _constants(network, model, name) for name in (*model.quantized, *model.recurrent)}
        _make_inputs(proto.graph, {constant for each in self._rounded.values() for constant in each})
        enclose(proto.graph)
        self._proto = proto if travels else None
        self._session = open_session(proto)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs. It opens a session of its own."""
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        assert self._proto is not None  # it travels
        self._session = open_session(self._proto)

    def run(self, feeds: Feeds, groups: Iterable[int] = (), layers: Iterable[str] = ()) -> Outputs:
        """Run one sample.

        Args:
            feeds: Inputs of the network.
            groups: Indices of the groups of activations that are rounded.
            layers: Layers whose weights are rounded. Layers that share a weight are named together.

        Raises:
            ModelError: The run fails.
        """
        switched = {self._switches[index]: np.array(True) for index in groups}
        weights = {name: values for layer in layers for name, values in self._rounded[layer].items()}
        try:
            results: Outputs = self._session.run(self.outputs, feeds | self._off | switched | weights)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ModelError(
                f"the float model with one tensor rounded fails when it runs: {first_line(error)}"
            ) from error
        return results


def _insert_switches(
    graph: onnx.GraphProto, switch_of: Mapping[str, str], grids: Mapping[str, ActivationGrid], taken: set[str]
) -> None:
    """Put the rounding of activations, with its switch, behind what computes them."""
    inputs = {value.name for value in graph.input}
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for name, switch in switch_of.items():
        if name in inputs:
            renamed[name] = fresh_name(f"{name}_switched", taken)
            nodes += _switch(graph, name, renamed[name], switch, grids[name], taken)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in switch_of:  # readers and outputs of the graph keep the name
                node.output[index] = fresh_name(f"{name}_exact", taken)
                nodes += _switch(graph, node.output[index], name, switch_of[name], grids[name], taken)
    graph.ClearField("value_info")
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
    for switch in dict.fromkeys(switch_of.values()):
        graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))


def _switch(
    graph: onnx.GraphProto, source: str, result: str, switch: str, grid: ActivationGrid, taken: set[str]
) -> list[onnx.NodeProto]:
    """Return the nodes that compute ``result``: ``source``, or ``source`` on a grid if the switch is on."""
    parameters = [fresh_name(f"{result}_scale", taken), fresh_name(f"{result}_zero_point", taken)]
    values: list[NDArray[Any]] = [np.asarray(grid.scale, np.float32), np.asarray(grid.zero_point, grid.dtype)]
    for name, value in zip(parameters, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    codes, rounded = fresh_name(f"{result}_codes", taken), fresh_name(f"{result}_on_grid", taken)
    return [
        helper.make_node("QuantizeLinear", [source, *parameters], [codes]),
        helper.make_node("DequantizeLinear", [codes, *parameters], [rounded]),
        helper.make_node("Where", [switch, rounded, source], [result]),
    ]


def _constants(network: Model, model: Model, layer: str) -> dict[str, NDArray[Any]]:
    """Return the quantized weight and bias of a layer by the names of the float constants in whose place they are.

    For an LSTM, GRU or RNN, these are its weights W and R.
    """
    before, after = (each.node(layer).inputs[1:3] for each in (network, model))
    pairs = zip(before, after, strict=True)
    return {str(one.name): np.asarray(other.values) for one, other in pairs if isinstance(one, gs.Constant)}


def _make_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Make initializers inputs of the graph whose defaults are their values."""
    for tensor in graph.initializer:
        if tensor.name in names:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
