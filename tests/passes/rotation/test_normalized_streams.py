"""Residual streams with normalizations in front of their layers: exact where they are rotated, refused elsewhere."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto

from passes.graph.check import check
from passes.graph.normalise.normalise import normalise
from passes.ir.model import Model
from passes.numerics.error import sqnr_db
from passes.numerics.weight_scale_search import absmax_grid
from passes.rotation.rotate import Rotate
from passes.rotation.rotation_groups import rotation_groups
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import scale_groups
from passes.statistics import Stats
from tests.support.graphs import array, assert_same_outputs, build, node, run
from tests.support.integer_rules import RULES
from tests.support.task_models import vision_transformer

WIDTH = 12


def heavy(*shape: int, seed: int) -> np.ndarray:
    return np.asarray(array(*shape, seed=seed) ** 3)


class Stream:
    """Patches of images [N, 3, 6, 6] as tokens, blocks with a normalization in front, and five scores.

    Args:
        norm: Operator of the normalizations.
        shift: Whether they have one.
        bias: Whether layers have one.
    """

    def __init__(self, norm: str = "LayerNormalization", *, shift: bool = True, bias: bool = True) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.norm, self.shift, self.bias = norm, shift and norm == "LayerNormalization", bias

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = values
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, heavy(*shape, seed=len(self.constants)))

    def op(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(node(op, list(inputs), [name], name=name, **attributes))
        return name

    def tokens(self, token: bool = True) -> str:
        biases = [self.weight("patches.b", WIDTH)] if self.bias else []
        x = self.op("Conv", "x", self.weight("patches.w", WIDTH, 3, 2, 2), *biases, name="patches", strides=[2, 2])
        x = self.op("Reshape", x, self.constant("flat", np.array([0, WIDTH, -1])), name="flatten")
        x = self.op("Transpose", x, name="tokens", perm=[0, 2, 1])
        if token:
            many = self.op("Expand", self.weight("token", 1, 1, WIDTH), self._shape(), name="many")
            x = self.op("Concat", many, x, name="joined", axis=1)
        return self.op("Add", x, self.weight("places", 1, 9 + token, WIDTH), name="placed")

    def _shape(self) -> str:
        batch = self.op("Shape", "x", name="batch", start=0, end=1)
        return self.op("Concat", batch, self.constant("rest", np.array([1, WIDTH])), name="many.shape", axis=0)

    def normalized(self, x: str, name: str) -> str:
        parameters = [self.constant(f"{name}.scale", 1 + array(WIDTH, seed=len(self.constants)) ** 2)]
        parameters += [self.weight(f"{name}.shift", WIDTH)] if self.shift else []
        return self.op(self.norm, x, *parameters, name=name, axis=-1)

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        y = self.op("MatMul", x, self.weight(f"{name}.w", inputs, outputs), name=name)
        return self.op("Add", y, self.weight(f"{name}.b", outputs), name=f"{name}.added") if self.bias else y

    def block(self, x: str, name: str, middle: str | None) -> str:
        y = self.normalized(x, f"{name}.norm")
        if middle is None:  # one layer that reads and writes the stream
            return self.op("Add", x, self.linear(y, f"{name}.only", WIDTH, WIDTH), name=name)
        y = self.op(middle, self.linear(y, f"{name}.up", WIDTH, 20), name=f"{name}.middle")
        return self.op("Add", self.linear(y, f"{name}.down", 20, WIDTH), x, name=name)

    def scores(self, x: str, how: str) -> str:
        if how == "token":
            x = self.op("Gather", x, self.constant("place", np.array(0)), name="picked", axis=1)
        elif how == "mean":
            x = self.op("ReduceMean", x, self.constant("over", np.array([1])), name="picked", keepdims=0)
        else:
            x = self.op("Transpose", x, name="turned", perm=[0, 2, 1])
            x = self.op("Reshape", x, self.constant("square", np.array([0, WIDTH, 1, -1])), name="square_")
            x = self.op("GlobalAveragePool", x, name="pooled")
            x = self.op("Reshape", x, self.constant("vector", np.array([0, WIDTH])), name="picked")
        return self.op("Gemm", x, self.weight("head.w", 5, WIDTH), name="y", transB=1)

    def model(self) -> Model:
        opset = 23 if self.norm == "RMSNormalization" else 18
        graph = gs.import_onnx(build(self.nodes, self.constants, ("N", 3, 6, 6), opset=opset))
        normalise(graph)
        return Model(graph, RULES)


def rotated(model: Model, *, steps: int = 5, seed: int = 0) -> dict[str, str]:
    """Rotate, and check that the outputs stay the same. Return why layers stayed as they are."""
    before = gs.export_onnx(model.graph)
    report = Rotate(steps=steps, seed=seed, through_normalization=True).apply(model, Stats())
    assert sorted([*report.changed, *report.skipped]) == sorted(model.layers())
    assert_same_outputs(before, model.graph, array(3, 3, 6, 6), 1e-4)
    check(model, "rotate")
    return dict(report.skipped)


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["LayerNormalization", "RMSNormalization"]),
    shift=st.booleans(),
    bias=st.booleans(),
    middles=st.lists(st.sampled_from(["Relu", "Sigmoid", None]), min_size=1, max_size=3),
    end=st.sampled_from(["token", "mean", "pool"]),
    token=st.booleans(),
    seed=st.integers(0, 99),
)
def test_streams_of_all_forms_stay_the_same(
    norm: str, shift: bool, bias: bool, middles: list[str | None], end: str, token: bool, seed: int
) -> None:
    stream = Stream(norm, shift=shift, bias=bias)
    x = stream.tokens(token)
    for index, middle in enumerate(middles):
        x = stream.block(x, f"block{index}", middle)
    stream.scores(stream.normalized(x, "last"), end)
    model = stream.model()
    (group,) = rotation_groups(model, through_normalization=True).groups
    assert group.keeps_mean == (norm == "LayerNormalization")
    assert len(group.normalizations) == len(middles) + 1
    old = {name: model.weight(layer) for name, layer in model.layers().items()}
    skipped = rotated(model, steps=5, seed=seed)
    assert set(skipped) == {"patches", *(f"block{i}.down" for i, middle in enumerate(middles) if middle is not None)}
    for name, layer in model.layers().items():  # also what is skipped writes to the stream
        assert np.abs(model.weight(layer) - old[name]).max() > 0.1
    for each in model.graph.nodes:
        if each.op == norm:
            assert all((each.inputs[index].values == 2 - index).all() for index in range(1, len(each.inputs)))


def test_a_vision_transformer_is_one_stream() -> None:
    graph = gs.import_onnx(vision_transformer())
    normalise(graph)
    model = Model(graph, RULES)
    for layer in model.layers().values():
        weight = model.weight(layer)
        model.write(layer, weight * np.abs(array(*weight.shape)), None)  # as it is, it has nothing to flatten
    before = gs.export_onnx(graph)
    report = Rotate(steps=5, through_normalization=True).apply(model, Stats())
    blocks = [f"layer.{block}.{name}" for block in (0, 1) for name in ("query", "key", "value", "fc1")]
    assert set(report.changed) == {*blocks, "classifier"}
    assert report.skipped["layer.0.output"].startswith("layer.0.mixed (MatMul) does not treat all channels alike")
    assert_same_outputs(before, graph, array(2, 3, 224, 224), 1e-4)
    check(model, "rotate")


def test_scales_can_still_be_migrated_behind_it() -> None:
    """SmoothQuant and AWQ write their factors into the normalizations."""
    stream = Stream()
    stream.scores(stream.normalized(stream.block(stream.tokens(), "block", "Relu"), "last"), "token")
    model = stream.model()
    before = gs.export_onnx(model.graph)
    assert rotated(model).keys() == {"patches", "block.down"}
    (group,) = (each for each in scale_groups(model).groups if each.norms_before)
    rescale(model, group, np.exp2(np.arange(WIDTH, dtype=np.float64) % 5))
    assert_same_outputs(before, model.graph, array(3, 3, 6, 6), 1e-4)


def test_layers_without_a_bias_get_one_for_the_shift() -> None:
    stream = Stream(bias=False)
    stream.scores(stream.normalized(stream.block(stream.tokens(), "block", None), "last"), "token")
    model = stream.model()
    rotated(model)
    nodes = {str(each.name): each for each in model.graph.nodes}
    added = nodes["block.only.add"]
    assert added.inputs[0] is nodes["block.only"].outputs[0]
    assert added.outputs[0] is nodes["block"].inputs[1]
    assert len(nodes["y"].inputs) == 3  # a Gemm has a bias of its own


def test_a_shift_of_zero_adds_nothing() -> None:
    stream = Stream(bias=False)
    x = stream.block(stream.tokens(), "block", "Relu")
    stream.constants["block.norm.shift"][:] = 0
    stream.scores(x, "token")
    model = stream.model()
    count = len(model.graph.nodes)
    rotated(model)
    assert len(model.graph.nodes) == count


def test_normalizations_are_left_alone_unless_a_recipe_asks() -> None:
    stream = Stream()
    stream.scores(stream.normalized(stream.block(stream.tokens(), "block", "Relu"), "last"), "token")
    skipped = Rotate().apply(stream.model(), Stats()).skipped
    assert skipped["block.up"] == "block.norm (LayerNormalization) does not treat all channels alike and linearly"


def test_a_normalization_behind_the_shortcut_fixes_the_stream() -> None:
    """As in BERT: the shortcut reads what is normalized, and cannot take over a scale."""
    stream = Stream()
    x = stream.normalized(stream.tokens(), "first")
    y = stream.op("Relu", stream.linear(x, "up", WIDTH, 20), name="middle")
    x = stream.op("Add", x, stream.linear(y, "down", 20, WIDTH), name="sum")
    stream.scores(stream.normalized(x, "second"), "token")
    skipped = rotated(stream.model())
    assert skipped["up"] == skipped["y"] == "sum (Add) cannot take over the scale of first"


ONE, KEEPS = np.ones(WIDTH, np.float32), "middle ({}) does not keep all channels on one axis"


@pytest.mark.parametrize(
    ("op", "attributes", "constants", "width", "reason"),
    [
        ("Mul", {}, [ONE], WIDTH, "middle (Mul) does not treat all channels alike and linearly"),
        ("Relu", {}, [], WIDTH, "middle (Relu) does not treat all channels alike and linearly"),
        ("Transpose", {"perm": [0, 2, 1]}, [], 9, "norm (LayerNormalization) may normalize over other axes than that"),
        ("Reshape", {}, [np.array([0, 9, 3, 4])], 4, KEEPS.format("Reshape")),
        ("Concat", {"axis": 2}, [], 2 * WIDTH, KEEPS.format("Concat")),
        ("Gather", {"axis": 2}, [np.arange(6)], 6, KEEPS.format("Gather")),
        ("Slice", {}, [np.array([0]), np.array([6]), np.array([2])], 6, KEEPS.format("Slice")),
        ("ReduceMax", {}, [np.array([1])], WIDTH, "middle (ReduceMax) does not treat all channels alike and linearly"),
        ("Add", {}, [ONE[:1]], WIDTH, "middle (Add) has a constant that is not one float32 for each channel"),
        ("LayerNormalization", {}, [ONE], WIDTH, "norm (LayerNormalization) cannot take over the scale of middle"),
    ],
)
def test_the_reason_names_what_stands_between(
    op: str, attributes: dict[str, Any], constants: list[np.ndarray], width: int, reason: str
) -> None:
    stream = Stream()
    x = stream.tokens(token=False)
    operands = [stream.constant(f"operand{index}", values) for index, values in enumerate(constants)]
    x = stream.op(op, x, *([x] if op == "Concat" else operands), name="middle", **attributes)
    x = stream.op("LayerNormalization", x, stream.constant("norm.scale", np.ones(width, np.float32)), name="norm")
    stream.op("MatMul", x, stream.weight("w", width, 5), name="y")
    analysis = rotation_groups(stream.model(), through_normalization=True)
    assert not analysis.groups
    assert analysis.reasons["y"].startswith(reason)


def test_scales_that_are_computed_or_of_other_axes_stay() -> None:
    for norm, reason in (
        (node("LayerNormalization", ["placed", "s"], ["n"], axis=1, name="norm"), "may normalize over other axes than"),
        (node("LayerNormalization", ["placed", "c"], ["n"], name="norm"), "has a scale or shift that is not one const"),
        (node("LayerNormalization", ["placed", "g"], ["n", "m"], name="norm"), "also writes means or deviations"),
    ):
        stream = Stream()
        stream.tokens(token=False)
        stream.constants |= {"s": ONE[:1], "g": ONE, "all": np.array([0, 1])}
        stream.op("ReduceMean", "placed", "all", name="c", keepdims=0)
        stream.nodes.append(norm)
        stream.op("MatMul", "n", stream.weight("w", WIDTH, 5), name="y")
        reason = f"norm (LayerNormalization) {reason}"
        assert rotation_groups(stream.model(), through_normalization=True).reasons["y"].startswith(reason)


def test_a_convolution_that_pads_does_not_take_a_shift() -> None:
    """Padded zeros stand for tokens without the shift."""
    for pads, shift in ((0, 1), (1, 0), (1, 1)):
        stream = Stream()
        x = stream.normalized(stream.tokens(token=False), "norm")
        stream.constants["norm.shift"] *= np.float32(shift)
        x = stream.op("Transpose", x, name="turned", perm=[0, 2, 1])
        x = stream.op("Reshape", x, stream.constant("square", np.array([0, WIDTH, 3, 3])), name="images")
        stream.op("Conv", x, stream.weight("w", 5, WIDTH, 3, 3), name="y", pads=[pads] * 4)
        skipped = rotated(stream.model())
        assert skipped.get("y") == ("y pads what norm has shifted with zeros" if pads and shift else None)


def test_a_layer_that_reads_another_axis_fixes_the_channels() -> None:
    stream = Stream()
    stream.op("Conv", "x", stream.weight("v", 6, 3, 1, 1), name="first")
    stream.op("MatMul", "first", stream.weight("w", 6, 5), name="y")
    reasons = rotation_groups(stream.model(), through_normalization=True).reasons
    assert reasons["y"] == "y reads its inputs from another axis than that of the channels"


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_a_table_are_rotated_unless_another_node_reads_it(shared: bool) -> None:
    stream = Stream()
    x, table = stream.tokens(token=False), stream.weight("table", 3, WIDTH)
    mean, spatial = stream.op("GlobalAveragePool", "x", name="mean"), stream.constant("spatial", np.array([2, 3]))
    for op in ("ArgMax", "ArgMin") if shared else ("ArgMax",):
        index = stream.op("Squeeze", stream.op(op, mean, name=op, axis=1), spatial, name=f"{op} index")  # [N, 1]
        x = stream.op("Add", x, stream.op("Gather", table, index, name=f"row of {op}"), name=f"sum of {op}")
    stream.scores(stream.normalized(x, "norm"), "token")
    skipped = rotated(stream.model())
    assert skipped.get("y") == ("row of ArgMax (Gather) shares its table with another node" if shared else None)


def test_rounding_loses_less() -> None:
    """Round all layers to nearest at 4 bits, and compare outputs that the rotation does not change."""

    def stream() -> Model:
        made = Stream()
        x = made.tokens()
        for index in range(3):
            x = made.block(x, f"block{index}", "Sigmoid")
        made.scores(made.normalized(x, "last"), "mean")
        return made.model()

    def rounded(model: Model) -> np.ndarray:
        for layer in model.layers().values():
            weight = model.weight(layer)
            grid = absmax_grid(weight, 4)
            model.write(layer, grid.values(grid.codes(weight)), None)
        return run(gs.export_onnx(model.graph), x)[0]

    x = array(64, 3, 6, 6, seed=3)
    expected = run(gs.export_onnx(stream().graph), x)[0]
    gains = []
    for seed in range(3):
        model = stream()
        Rotate(seed=seed, through_normalization=True).apply(model, Stats())
        gains.append(sqnr_db(expected, rounded(model)) - sqnr_db(expected, rounded(stream())))
    assert min(gains) > 1
