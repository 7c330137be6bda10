"""Mutations of a model: of its structure, field by field, and of the bytes of its file."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import helper, numpy_helper

__all__ = ["mutated"]

_NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, (1 << 31) - 1, -(1 << 31), (1 << 62), -(1 << 62))
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "x",
    "y",
    "w",
    "a",
    "Conv",
    "If",
    "Loop",
    "NoSuchOperator",
    "ai.onnx.ml",
    "com.microsoft",
    "[/]",
    "\x1b[2J",
    "é" * 300,
)
_BYTES = (b"", b"\0", b"\xff\xfe\xfa", b"x" * 7, b"\x80" * 64)
_CHANGES = (1, 1, 1, 2, 4)  # of the structure: after a single one, most models still run


def mutated(model: onnx.ModelProto, seed: int) -> bytes:
    """Return the bytes of a broken copy of a model.

    Args:
        model: The model. It does not change.
        seed: Decides everything. Two of three have a changed structure, the others changed bytes.
    """
    random_source = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if seed % 3 < 2:
        for _ in range(random_source.choice(_CHANGES)):
            random_source.choice(_STRUCTURE)(copy, random_source)
        return bytes(copy.SerializeToString())
    data = bytearray(copy.SerializeToString())
    for _ in range(random_source.randint(1, 8)):
        random_source.choice(_CHANGES_OF_BYTES)(data, random_source)
    return bytes(data)


# --- structure -------------------------------------------------------------------------------------------------------


def _messages(message: Message) -> Iterator[Message]:
    """Yield a message and all messages inside of it."""
    yield message
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        for inner in value if hasattr(value, "__len__") and not isinstance(value, Message) else [value]:
            yield from _messages(inner)


def _change_a_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """Give a field of any message another value, or remove it."""
    message = rng.choice(list(_messages(model)))
    field = rng.choice(list(message.DESCRIPTOR.fields))
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return
    present = getattr(message, field.name)
    repeated = hasattr(present, "append") or hasattr(present, "add")
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if repeated and len(present):
            _change_a_list(present, rng)
        elif repeated:
            present.add()
        else:
            present.SetInParent()
        return
    value = _value(field, rng)
    try:
        if not repeated:
            setattr(message, field.name, value)
        elif len(present) and rng.random() < 0.7:
            present[rng.randrange(len(present))] = value
        else:
            present.append(value)
    except (ValueError, TypeError):  # out of the range of the field
        message.ClearField(field.name)


def _value(field: FieldDescriptor, rng: random.Random) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(_BYTES)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    return rng.choice(_NUMBERS)


def _change_a_list(items: object, rng: random.Random) -> None:
    """Remove, repeat or move an element of a list of messages."""
    count = len(items)  # type: ignore[arg-type]
    place, other = rng.randrange(count), rng.randrange(count)
    what = rng.randrange(3)
    if what == 0:
        del items[place]  # type: ignore[attr-defined]
    elif what == 1:
        items.add().CopyFrom(items[place])  # type: ignore[attr-defined,index]
    else:
        kept = type(items[place])()  # type: ignore[index]
        kept.CopyFrom(items[place])  # type: ignore[index]
        items[place].CopyFrom(items[other])  # type: ignore[index]
        items[other].CopyFrom(kept)  # type: ignore[index]


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [message for message in _messages(model.graph) if isinstance(message, onnx.NodeProto)]


def _change_nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    if len(model.graph.node):
        _change_a_list(model.graph.node, rng)


def _change_initializers(model: onnx.ModelProto, rng: random.Random) -> None:
    if len(model.graph.initializer):
        _change_a_list(model.graph.initializer, rng)


def _rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a node read or write another tensor, so that a circle or a second writer may come about."""
    nodes = _nodes(model)
    names = [name for node in nodes for name in (*node.input, *node.output)] + list(_TEXTS)
    if not nodes:
        return
    node = rng.choice(nodes)
    side = rng.choice([node.input, node.output])
    if len(side):
        side[rng.randrange(len(side))] = rng.choice(names)
    else:
        side.append(rng.choice(names))


def _change_an_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Give an attribute another type or value, or add one."""
    nodes = _nodes(model)
    if not nodes:
        return
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute) if len(node.attribute) and rng.random() < 0.8 else node.attribute.add()
    attribute.type = rng.choice(attribute.DESCRIPTOR.fields_by_name["type"].enum_type.values).number
    if rng.random() < 0.5:
        del attribute.ints[:]
        attribute.ints.extend(rng.choices(_NUMBERS, k=rng.randrange(5)))
    else:
        attribute.i = rng.choice(_NUMBERS)


def _change_dimensions(model: onnx.ModelProto, rng: random.Random) -> None:
    """Give a weight or an input other sizes."""
    if rng.random() < 0.5 and len(model.graph.initializer):
        tensor = rng.choice(model.graph.initializer)
        del tensor.dims[:]
        tensor.dims.extend(rng.choices(_NUMBERS, k=rng.randrange(5)))
    elif len(model.graph.input):
        shape = rng.choice(model.graph.input).type.tensor_type.shape
        dimension = rng.choice(shape.dim) if len(shape.dim) else shape.dim.add()
        dimension.dim_value = rng.choice(_NUMBERS)


def _cut_data(model: onnx.ModelProto, rng: random.Random) -> None:
    """Cut the data of a weight, or say that they lie in a file."""
    if not len(model.graph.initializer):
        return
    tensor = rng.choice(model.graph.initializer)
    if rng.random() < 0.5:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        return
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        tensor.external_data.add(key=key, value=rng.choice([*_TEXTS[:4], "../x", "/etc/hostname", "-1", "9" * 40]))


def _change_versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        model.ir_version = rng.choice([0, 1, 2, 3, 9, 12, 999, 1 << 40])
    elif len(model.opset_import):
        rng.choice(model.opset_import).version = rng.choice([-1, 0, 1, 6, 7, 12, 21, 26, 999, 1 << 40])


def _nest(model: onnx.ModelProto, rng: random.Random) -> None:
    """Put the graph into an attribute of one of its own nodes, or a node into a function that calls itself."""
    if not len(model.graph.node):
        return
    if rng.random() < 0.5:
        body = onnx.GraphProto()
        body.CopyFrom(model.graph)
        rng.choice(model.graph.node).attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(body)
        return
    function = model.functions.add(name="Again", domain="own")
    function.opset_import.add(domain="own", version=1)
    function.node.add(op_type="Again", domain="own", input=["a"], output=["b"])
    function.input.append("a")
    function.output.append("b")
    model.opset_import.add(domain="own", version=1)
    node = rng.choice(model.graph.node)
    node.op_type, node.domain = "Again", "own"


def _make_sparse(model: onnx.ModelProto, rng: random.Random) -> None:
    """Make a weight sparse: as an initializer, a constant, or a constant in a function. Break every other one."""
    dense = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    if not dense:
        return
    tensor = rng.choice(dense)
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, onnx.checker.ValidationError):  # broken by an earlier change
        return
    at = np.nonzero(array) if rng.random() < 0.5 and array.ndim else np.nonzero(array.reshape(-1))
    indices = np.stack(at, axis=1).astype(np.int64) if len(at) > 1 else at[0].astype(np.int64)
    sparse = onnx.SparseTensorProto(dims=array.shape)
    sparse.values.CopyFrom(numpy_helper.from_array(array[array != 0], tensor.name))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices, f"{tensor.name} at"))
    if rng.random() < 0.5:
        _break_sparse(sparse, rng)
    place = rng.randrange(4)
    model.graph.initializer.remove(tensor)
    if place == 0:
        model.graph.sparse_initializer.append(sparse)
        return
    constant = helper.make_node("Constant", [], [tensor.name], sparse_value=sparse)
    model.graph.node.insert(0, constant)
    if place > 1:
        _wrap(model, 0, rng)


def _break_sparse(sparse: onnx.SparseTensorProto, rng: random.Random) -> None:
    what = rng.randrange(4)
    if what == 0 and len(sparse.dims):
        sparse.dims[rng.randrange(len(sparse.dims))] = rng.choice((*_NUMBERS, 10**9, 1 << 40))
    elif what == 1 and len(sparse.indices.raw_data) >= 8:
        place = 8 * rng.randrange(len(sparse.indices.raw_data) // 8)
        index = rng.choice(_NUMBERS).to_bytes(8, "little", signed=True)
        sparse.indices.raw_data = sparse.indices.raw_data[:place] + index + sparse.indices.raw_data[place + 8 :]
    elif what == 2:
        part = rng.choice([sparse.values, sparse.indices])
        del part.dims[:]
        part.dims.extend(rng.choices(_NUMBERS, k=rng.randrange(3)))
    else:
        message: Message = rng.choice([sparse, sparse.values, sparse.indices])
        message.ClearField(rng.choice([field.name for field in message.DESCRIPTOR.fields]))


def _move_into_function(model: onnx.ModelProto, rng: random.Random) -> None:
    """Move a node into a function of the model, which computes the same."""
    if len(model.graph.node):
        _wrap(model, rng.randrange(len(model.graph.node)), rng)


def _wrap(model: onnx.ModelProto, place: int, rng: random.Random) -> None:
    """Move a node into a function, that function's call into another one, and so on."""
    node = model.graph.node[place]
    captures = bool(next((a for a in node.attribute if a.HasField("g")), None))
    if captures and rng.random() < 0.8:  # a function sees no tensor of the graph
        return
    imports = list(model.opset_import)
    if all(entry.domain != "wrapped" for entry in imports):
        imports.append(helper.make_opsetid("wrapped", 1))
        model.opset_import.append(imports[-1])
    given, made = [name for name in dict.fromkeys(node.input) if name], [name for name in node.output if name]
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = f"Wrapped{len(model.functions)}"
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        model.functions.append(helper.make_function("wrapped", name, given, made, [inner], imports))
        node.CopyFrom(helper.make_node(name, given, made, domain="wrapped"))


_STRUCTURE: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _change_a_field,
    _change_a_field,
    _change_a_field,
    _change_nodes,
    _change_initializers,
    _rewire,
    _change_an_attribute,
    _change_dimensions,
    _cut_data,
    _change_versions,
    _nest,
    _make_sparse,
    _move_into_function,
)


# --- bytes -----------------------------------------------------------------------------------------------------------


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(min(len(data), 4096))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    if data:
        place = rng.randrange(min(len(data), 4096))
        data[place : place + 4] = rng.randbytes(4)


def _insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(min(len(data), 4096) + 1)
    data[place:place] = rng.randbytes(rng.randint(1, 16))


def _remove(data: bytearray, rng: random.Random) -> None:
    if data:
        place = rng.randrange(min(len(data), 4096))
        del data[place : place + rng.randint(1, 16)]


def _cut(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) + 1) :]


_CHANGES_OF_BYTES = (_flip, _flip, _overwrite, _insert, _remove, _cut)
