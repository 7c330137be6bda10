"""Export of a torch module to an ONNX model with a dynamic batch. Its nodes have the names of the module's layers.

torch.onnx.export writes the graph. Exact rewrites then remove its artefacts: zero biases, Shape and Cast chains, a Pad
before a Conv. Every BatchNormalization stays, because passes need its statistics. Names:

    layer                       node             its output       its other inputs
    a module of one node        layer1.0.conv1   layer1.0.conv1   layer1.0.conv1.weight
    an operator in forward()    layer1.0.add     layer1.0.add
    one of several in a module  act.sigmoid, act

A name that is used twice gets `_1`, `_2`. The graph's own inputs and outputs are called `input` and `output`
(`output_0`, `output_1` if there are several).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from converter.model_io.example_inputs import example_inputs, in_order_of, random_tensors
from converter.model_io.factory import apply_weights, load_factory, load_module, load_weights, require_torch
from converter.model_io.parity import PARITY_BATCH, RANDOM, Parity, measure_parity
from converter.model_io.save import save_onnx
from converter.model_io.torch_network import TorchNetwork, arguments_of, evaluating, require_float32_on_cpu
from converter.model_io.user_code import Terminated
from passes.errors import ExportError, first_line

if TYPE_CHECKING:
    import onnx_ir
    import torch

__all__ = [
    "ExportResult",
    "Unjudged",
    "apply_weights",
    "export_module",
    "export_unjudged",
    "load_factory",
    "load_module",
    "load_weights",
]

_LOG = logging.getLogger(__name__)

EXAMPLE_BATCH = 3  # batch that torch traces; parity runs another size, so a batch size that was baked in is found
SCOPES = "pkg.torch.onnx.name_scopes"
ROLES = {"W": "weight", "B": "bias", "C": "bias"}  # ONNX's names of operator inputs -> torch's names


@dataclass(frozen=True, repr=False)
class ExportResult:
    """An exported model, and the measurement that it computes what the module computes.

    Attributes:
        model: The float ONNX model.
        parity: Difference between the outputs of onnxruntime and of torch.
    """

    model: onnx.ModelProto
    parity: Parity

    def __repr__(self) -> str:
        return f"<ExportResult: {len(self.model.graph.node)} nodes, {self.parity}>"

    def save(self, path: str | Path) -> None:
        """Write the model. An existing file is replaced only after the new file has been checked and loaded.

        Raises:
            OutputError: The file cannot be written.
        """
        save_onnx(self.model, Path(path))


@dataclass(frozen=True, repr=False)
class Unjudged:
    """An exported model that was not compared with its module yet.

    Attributes:
        model: The float ONNX model.
        network: The module.
        random: Random inputs by name.
        expected: Outputs of the module on them.
        tolerance: See `measure_parity`.
    """

    model: onnx.ModelProto
    network: TorchNetwork
    random: dict[str, NDArray[Any]]
    expected: list[NDArray[Any]]
    tolerance: float | None

    def judged(self, samples: Sequence[Mapping[str, NDArray[Any]]] = (), kind: str = RANDOM) -> ExportResult:
        """Compare the model with its module.

        Args:
            samples: Inputs of a few runs. Without them, random inputs judge.
            kind: What the samples are, for messages.

        Raises:
            ExportError: See `export_module`.
        """
        runs = [dict(feeds) for feeds in samples]
        parity = measure_parity(self.model, self.network, self.random, self.expected, self.tolerance, runs, kind)
        return ExportResult(self.model, parity)


def export_module(
    module: torch.nn.Module,
    input_shape: Sequence[int] | Mapping[str, Any],
    *,
    opset: int = 21,
    seed: int = 0,
    tolerance: float | None = None,
) -> ExportResult:
    """Export a module in eval mode, and compare the model with it on random inputs.

    Args:
        module, input_shape, opset, seed, tolerance: As in `export_unjudged`.

    Raises:
        ExportError: See `export_unjudged`, or the outputs of the exported model differ from the module's by more than
            1e-4 of the largest and by more than ten times of what the module's own outputs move when its inputs move
            by 1e-6.
    """
    return export_unjudged(module, input_shape, opset=opset, seed=seed, tolerance=tolerance).judged()


def export_unjudged(
    module: torch.nn.Module,
    input_shape: Sequence[int] | Mapping[str, Any],
    *,
    opset: int = 21,
    seed: int = 0,
    tolerance: float | None = None,
) -> Unjudged:
    """Export a module in eval mode, for inputs `[batch, *sizes[1:]]` of any batch size.

    Args:
        module: The module. It does not change.
        input_shape: Shape with the batch, such as `(1, 3, 224, 224)`. The value of the batch does not matter. A module
            with several inputs takes shapes by name, see `converter.model_io.example_inputs.parse_input`.
        opset: Opset of the model.
        seed: Random seed of the example and of the samples for the comparison.
        tolerance: Largest difference from torch, as a fraction of the largest output. See `measure_parity`.

    Raises:
        ExportError: torch is missing, or the module does not run on such an input or cannot be exported with a dynamic
            batch.
    """
    torch = require_torch()
    if importlib.util.find_spec("onnxscript") is None:
        raise ExportError("exporting from PyTorch needs onnxscript; pip install convert-onnx[torch]")
    if not isinstance(input_shape, Mapping):
        shape = tuple(input_shape)
        if len(shape) < 2 or any(size < 1 for size in shape):
            text = ",".join(str(size) for size in shape)
            raise ExportError(
                f"input shape {text!r}: give the batch and at least one more size, for example 1,3,224,224"
            )
    require_float32_on_cpu(module)
    inputs = in_order_of(module, example_inputs(input_shape))
    generator = torch.Generator().manual_seed(seed)
    random = {name: values.numpy() for name, values in random_tensors(inputs, PARITY_BATCH, generator).items()}
    example = random_tensors(inputs, EXAMPLE_BATCH, generator)
    network = TorchNetwork(module)
    expected = network(random)
    _LOG.info("torch traces %s twice, which takes as long as it has operators: started", network.name)
    with evaluating(module):
        program = _torch_export(module, example, len(expected), opset)
    _LOG.info("torch traces %s: done", network.name)
    _simplify(program)
    _rename(program, module)
    model = _to_proto(program)
    _check(model)
    return Unjudged(model, network, random, expected, tolerance)


def _torch_export(
    module: torch.nn.Module, example: Mapping[str, torch.Tensor], outputs: int, opset: int
) -> onnx_ir.Model:
    torch = require_torch()
    names = ["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)]
    positional, named = arguments_of(example)
    batch_size = torch.export.Dim("batch")
    axes = {name: {0: batch_size} for name in example}
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                positional,
                kwargs=named or None,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=list(example),
                output_names=names,
                dynamic_shapes=axes if named else tuple(axes.values()),
            )
    except Terminated:
        raise
    except (Exception, SystemExit) as error:  # the exporter's error types are private, and forward() may raise anything
        raise _refusal(module, error) from error
    if program is None:
        raise ExportError(f"torch {torch.__version__} returned no ONNX program; it must be 2.6 or newer")
    model: onnx_ir.Model = program.model
    if any(value.shape is None or isinstance(value.shape[0], int) for value in model.graph.inputs):
        raise ExportError(
            f"{type(module).__name__} works only on batches of {EXAMPLE_BATCH}, the example's; "
            f"use x.flatten(1) or x.shape[0] in forward() where a batch size is written as a number"
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress, hints and deprecation warnings. Errors are still raised."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.ERROR))
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", ".*axis name", UserWarning)  # several inputs share the batch's axis
            yield
    finally:
        logging.disable(disabled)


def _refusal(module: torch.nn.Module, error: BaseException) -> ExportError:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = re.findall(r'File "([^"]+)", line (\d+), in forward', str(cause))
    where = f" (forward(), line {lines[-1][1]})" if lines else ""
    return ExportError(
        f"torch.onnx.export cannot export {type(module).__name__} with a dynamic batch{where}: "
        f"{type(cause).__name__}: {first_line(cause)}; write forward() without branches on tensor values, numpy or a "
        f"fixed batch size, or export the model yourself and give convert-onnx the .onnx file"
    )


def _simplify(model: onnx_ir.Model) -> None:
    """Rewrite in place, exactly: fold constants, remove no-ops, put Pad into Conv. BatchNormalization stays."""
    from onnx_ir.passes import common as cleanup
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common as rules

    exact_rules = [
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.materialize_reshape_shape_rule,
        rules.fuse_pad_into_conv_rule,
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
    ]
    limit = 1 << 30  # bytes: transposed and reshaped weights are folded too
    for _ in range(2):  # a rewrite makes more shapes known, which allows more folding
        optimizer.fold_constants(model, onnx_shape_inference=True, input_size_limit=limit, output_size_limit=limit)
        rewriter.RewritePass(exact_rules)(model)
        optimizer.remove_unused_nodes(model)
    cleanup.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    cleanup.RemoveUnusedNodesPass()(model)
    for node in model.graph:
        if node.op_type == "Reshape":
            shape = node.inputs[1].const_value if node.inputs[1] is not None else None
            if shape is not None and 0 not in shape.numpy():
                node.attributes.pop("allowzero", None)


def _rename(model: onnx_ir.Model, module: torch.nn.Module) -> None:
    """Name nodes, their outputs and the constants that are not parameters. The module docstring has the rules."""
    nodes, tensors = _Names(), _Names()
    parameters = {name for name, _ in itertools.chain(module.named_parameters(), module.named_buffers())}
    fixed = {id(value) for value in itertools.chain(model.graph.inputs, model.graph.outputs)}
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        if id(value) in fixed or value.name in parameters:
            value.name = tensors.unique(str(value.name))  # a parameter may have the name of an input or output
            fixed.add(id(value))
    constants = [value for value in model.graph.initializers.values() if id(value) not in fixed]
    for i, value in enumerate(constants):
        value.name = f"constant {i}"  # frees the names that are given below
    for node, wanted in _wanted_names(model, module):
        node.name = nodes.unique(wanted)
        for i, output in enumerate(node.outputs):
            if id(output) not in fixed:
                output.name = tensors.unique(node.name if i == 0 else f"{node.name}.{i}")
    for value in constants:
        user, index = next(iter(value.uses()))
        value.name = tensors.unique(f"{user.name}.{_role(user, index)}")


class _Names:
    """Gives out each name once: `relu`, `relu_1`, `relu_2`."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def unique(self, name: str) -> str:
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        unused = name if name not in self.taken else next(n for n in numbered if n not in self.taken)
        self.taken.add(unused)
        return unused


def _wanted_names(model: onnx_ir.Model, module: torch.nn.Module) -> Iterator[tuple[onnx_ir.Node, str]]:
    modules = dict(module.named_modules())

    def path(node: onnx_ir.Node) -> str:
        scopes = _scopes(node)
        return scopes[-2] if len(scopes) > 1 and scopes[-2] in modules else ""

    for name, run in itertools.groupby(model.graph, key=path):
        group = list(run)
        if name and _is_layer(modules[name]):
            owners = [node for node in group if any(v is not None and _within(v, name) for v in node.inputs)]
            head = owners[0] if owners else group[-1]
        else:
            head = None
        for node in group:
            yield node, name if node is head else f"{name}.{_operator(node)}".lstrip(".")


def _scopes(node: onnx_ir.Node) -> list[str]:
    """The module path from the root, followed by torch's name for the operation: `["", "layer1", "add_5"]`."""
    return re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))


def _is_layer(module: torch.nn.Module) -> bool:
    return not any(module.children()) or type(module).__module__.startswith("torch.nn.")


def _within(value: onnx_ir.Value, path: str) -> bool:
    return value.is_initializer() and str(value.name).startswith(f"{path}.")


def _operator(node: onnx_ir.Node) -> str:
    """The operation's name: torch's if this node is its result, else ONNX's. Examples: add, relu, mean, sigmoid."""
    scopes = _scopes(node)
    if not scopes or scopes[-1] != node.outputs[0].name or scopes[-1].startswith("_"):
        return node.op_type.lower()
    return re.sub(r"_\d+$", "", scopes[-1])


def _role(node: onnx_ir.Node, index: int) -> str:
    """Role of an input for its node: weight, bias, or ONNX's own name (min, axes, shape, starts)."""
    if node.op_type == "MatMul":
        return "weight"
    inputs = onnx.defs.get_schema(node.op_type, node.domain).inputs
    formal = inputs[min(index, len(inputs) - 1)].name  # the last input may be variadic
    if node.op_type == "Gemm":
        return "weight" if formal in ("A", "B") else "bias"
    return ROLES.get(formal, formal) if "Conv" in node.op_type else formal


def _to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """Serialize without torch's metadata. Its stack traces would name files of this machine."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    return onnx_ir.to_proto(model)


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"torch.onnx.export wrote a model that onnx.checker refuses: {first_line(error)}") from error
