"""Load an ONNX file from any exporter as a checked `onnx.ModelProto` at opset 21 or later.

Every refusal is a `ModelError` of one line. It names the file, quotes the offending value and says what to do next.
`passes.graph.normalise.normalise` refuses what only the nodes show: training mode, float16 weights.
"""

import difflib
import logging
from pathlib import Path

import onnx
from onnx import TensorProto

from converter.model_io.check import check_model
from converter.model_io.declared_shapes import correct_shapes
from converter.model_io.external_data import load_external_data
from converter.model_io.files import is_utf8, special_kind
from converter.model_io.functions import with_inlined_functions
from converter.model_io.half_precision import widen_halves
from converter.model_io.malformed import refusing_malformed
from converter.model_io.operator_libraries import libraries
from converter.model_io.protobuf import graphs, model_tensors
from converter.model_io.repair import repair, sort_nodes
from converter.model_io.sparse import require_sound_sparse
from converter.model_io.upgrade import IR_VERSION, OPSET, upgrade_opset
from passes.errors import ModelError, first_line

__all__ = [
    "IR_VERSION",
    "OPSET",
    "load_onnx",
    "load_proto",
    "read_onnx",
    "read_whole_onnx",
    "upgrade_opset",
]

# fmt: off
_OWN_DOMAINS = frozenset([  # of onnxruntime, besides that of ONNX's own operators
    "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft",
    "com.microsoft.nchwc", "com.microsoft.experimental", "com.microsoft.dml", "com.ms.internal.nhwc",
    "org.pytorch.aten",
])
# fmt: on
_LOG = logging.getLogger(__name__)

# fmt: off
_INTEGER_OPS = frozenset([
    "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits",
    "DynamicQuantizeLSTM",
])
# fmt: on
_SIGNATURES = (
    (b"\x89PNG", "a PNG image; give the exported .onnx file"),
    (b"\xff\xd8\xff", "a JPEG image; give the exported .onnx file"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?); pass FILE.py:FACTORY with `weights=` instead"),
    (b"\x80\x02", "a pickle (an old PyTorch checkpoint?); pass FILE.py:FACTORY with `weights=` instead"),
    (b"\x89HDF", "an HDF5 file (a Keras model?); export it to ONNX first"),
    (b"version https://git-lfs", "a git-lfs pointer; fetch the file itself with `git lfs pull`"),
)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read a float model or one in QDQ form, with its external data. Bring it to opset >= 21 and IR version >= 10.

    External data must be in the model's own folder. What onnxruntime accepts is put right: see
    `converter.model_io.repair`. Local functions are inlined. float16 is read as float32. A line is logged for
    everything of this that a user should know.

    Raises:
        ModelError: One of these reasons: there is no such file; it is a folder, is not an ONNX file, is truncated or
            has no nodes; its external data are missing; onnx.checker refuses it; it has no inputs; it has integer
            operators; its opset cannot be upgraded.
    """
    path = Path(path)
    model = read_onnx(path)
    with refusing_malformed(str(path)):
        _refuse_empty_or_integer(str(path), model)
        load_external_data(path, model)
        return _prepared(str(path), model)


def load_proto(model: onnx.ModelProto, name: str = "model") -> onnx.ModelProto:
    """Check and upgrade a model in memory as `load_onnx` does. `model` itself does not change.

    Args:
        model: The model.
        name: Name of the model in error messages.

    Raises:
        ModelError: As for `load_onnx`, or the weights are in files outside of the model.
    """
    with refusing_malformed(name):
        return _loaded(model, name)


def _loaded(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    outside = [tensor for tensor in model_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    if outside:
        raise ModelError(
            f"{name}: the data of {outside[0].name} are in a file outside of the model in memory; "
            "load it with onnx.load(path), or pass the path"
        )
    _refuse_empty_or_integer(name, model)
    require_sound_sparse(name, model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _prepared(name, copy)


def _prepared(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    repair(model)
    _require_shaped_inputs(name, model.graph)
    _check(name, model)
    if model.functions:
        model = with_inlined_functions(model)
    _require_operators(name, model)
    notes = widen_halves(model) + correct_shapes(model)
    upgrade_opset(model, name)
    notes += correct_shapes(model)  # newer opsets infer more
    _check(name, model, full=True)
    for note in notes:
        _LOG.warning(f"{name}: {note}")
    return model


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read any ONNX file, quantized or not, unchanged and without its external data.

    Raises:
        ModelError: There is no such file, or it is a folder, not an ONNX file, truncated, or a sparse tensor in it is
            damaged.
    """
    _require_file(path)
    model = _parse(path)
    require_sound_sparse(str(path), model)
    return model


def read_whole_onnx(path: Path) -> onnx.ModelProto:
    """Read any ONNX file, quantized or not, with its external data. Its nodes are sorted, and nothing else changes.

    Raises:
        ModelError: As for `read_onnx`, or its external data are missing or truncated.
    """
    model = read_onnx(path)
    with refusing_malformed(str(path)):
        load_external_data(path, model)
        sort_nodes(model.graph)
    return model


# --- reading ---------------------------------------------------------------------------------------------------------


def _require_file(path: Path) -> None:
    if path.is_dir():
        files = sorted(entry.name for entry in path.glob("*.onnx"))
        hint = f"pass a file in it, such as {files[0]}" if files else "it holds no .onnx file"
        raise ModelError(f"{path} is a folder, not an ONNX file; {hint}")
    if not is_utf8(path):
        raise ModelError(f"{path}: the name or its folder is not UTF-8, which onnxruntime needs; rename it")
    if kind := special_kind(path):
        raise ModelError(f"{path} is {kind}, not a file; save the model to a file first")
    if path.exists():
        return
    if not path.parent.is_dir():
        raise ModelError(f"{path}: no such file; folder {path.parent} does not exist")
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    near = difflib.get_close_matches(path.name, names, n=1)
    raise ModelError(f"{path}: no such file" + (f"; did you mean {near[0]}?" if near else "; check the path"))


def _parse(path: Path) -> onnx.ModelProto:
    """The protobuf without its external data."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path} is empty (0 bytes); export or download it again")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise ModelError(f"{path} is not an ONNX file but {what}")
    if _is_text(head):
        line = head.split(b"\n")[0][:40].decode("utf-8", "replace")
        raise ModelError(f"{path} is not an ONNX file but text, starting with {line!r}; give the exported .onnx file")
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, for which there are no type stubs
        if head[0] == 0x08:  # field 1 of ModelProto, ir_version, which every exporter writes first
            size = path.stat().st_size
            raise ModelError(f"{path} is truncated or damaged ({size:,} bytes); export or download it again") from error
        reason = "it does not parse as a model; give the exported .onnx file"
        raise ModelError(f"{path} is not an ONNX file: {reason}") from error
    if not model.ir_version and not model.HasField("graph"):
        raise ModelError(f"{path} is not an ONNX file: it holds no graph; give the exported .onnx file")
    if not model.HasField("graph"):
        raise ModelError(f"{path} is truncated or damaged: it holds no graph; export or download it again")
    if model.graph.node and not model.graph.output:
        raise ModelError(f"{path} has no outputs; export it again")
    if not model.opset_import:  # the field after the graph
        raise ModelError(f"{path} is truncated or damaged: it names no opset; export or download it again")
    return model


def _is_text(head: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head)


def _refuse_empty_or_integer(name: str, model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise ModelError(f"{name}: the graph is empty (no nodes); export the model again")
    count: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _INTEGER_OPS:
            count[node.op_type] = count.get(node.op_type, 0) + 1
    if count:
        ops = ", ".join(f"{number} {op}" for op, number in sorted(count.items()))
        raise ModelError(
            f"{name} is quantized already, to operators that compute on integers ({ops}); files in QDQ form are read "
            "(quant_format=QuantFormat.QDQ in onnxruntime); make it so, or pass the float model it was made from"
        )


def _require_shaped_inputs(name: str, graph: onnx.GraphProto) -> None:
    if not graph.input:
        raise ModelError(f"{name}: no inputs at all; give a model that computes from data")
    for value in graph.input:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"{name}: input {value.name} has no shape; export the model with the shapes of its inputs")


def _require_operators(name: str, model: onnx.ModelProto) -> None:
    """Require a library for operators that are neither ONNX's nor onnxruntime's own."""
    if libraries():
        return
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.domain and node.domain not in _OWN_DOMAINS:
                raise ModelError(
                    f"{name}: onnxruntime has no {node.op_type} of domain {node.domain!r}; "
                    "name the library that has it with `custom_ops=` (in Python: `with converter.custom_ops(LIBRARY)`)"
                )


def _check(name: str, model: onnx.ModelProto, *, full: bool = False) -> None:
    try:
        check_model(model, full=full)
    except ValueError as error:
        raise ModelError(f"{name} is not a valid ONNX model: {first_line(error)}") from error
