"""Exported graphs: names, dynamic batch, rewrites, parity with torch, and every refusal."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from converter.model_io.export import ExportResult, export_module
from converter.model_io.parity import Parity
from passes.errors import ExportError

torch = pytest.importorskip("torch")
nn = torch.nn
functional = torch.nn.functional


class Block(nn.Module):  # type: ignore[name-defined, misc]
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + y)


class Net(nn.Module):  # type: ignore[name-defined, misc]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.act = nn.SiLU()
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2, bias=False)
        self.clip = nn.ReLU6()
        self.scale = nn.Parameter(torch.rand(8, 8, 1, 1))
        self.drop = nn.Dropout(0.5)
        self.tokens = nn.Linear(8, 6, bias=False)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        x = self.act(self.stem(functional.pad(x, (0, 1, 0, 1))))
        x = self.clip(self.up(self.layer1(x)))
        x = functional.conv2d(x, self.scale)
        x = self.tokens(x.flatten(2).transpose(1, 2)).mean(1)
        return self.fc(self.drop(x))


def randomize_batch_norms(module: Any) -> Any:
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-1, 1)
            m.running_var.uniform_(0.5, 2)
    return module


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(1)
    return randomize_batch_norms(Net())


@pytest.fixture(scope="module")
def result(net: Any) -> ExportResult:
    return export_module(net, (1, 3, 16, 16))


def nodes(result: ExportResult) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in result.model.graph.node}


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    actual: list[np.ndarray] = ort.InferenceSession(model.SerializeToString()).run(None, {"input": x})
    return actual


def test_nodes_bear_module_paths(result: ExportResult) -> None:
    assert [(node.op_type, node.name) for node in result.model.graph.node] == [
        ("Conv", "stem"),
        ("Sigmoid", "act.sigmoid"),
        ("Mul", "act"),
        ("Conv", "layer1.0.conv1"),
        ("BatchNormalization", "layer1.0.bn1"),
        ("Relu", "layer1.0.relu"),
        ("Conv", "layer1.0.conv2"),
        ("BatchNormalization", "layer1.0.bn2"),
        ("Add", "layer1.0.add"),
        ("Relu", "layer1.0.relu_1"),
        ("Conv", "layer1.1.conv1"),
        ("BatchNormalization", "layer1.1.bn1"),
        ("Relu", "layer1.1.relu"),
        ("Conv", "layer1.1.conv2"),
        ("BatchNormalization", "layer1.1.bn2"),
        ("Add", "layer1.1.add"),
        ("Relu", "layer1.1.relu_1"),
        ("ConvTranspose", "up"),
        ("Clip", "clip"),
        ("Conv", "conv2d"),
        ("Reshape", "view"),
        ("Transpose", "transpose"),
        ("MatMul", "tokens"),
        ("ReduceMean", "mean"),
        ("Gemm", "fc"),
    ]


def test_tensors_bear_their_nodes_names(result: ExportResult) -> None:
    *inner, last = result.model.graph.node
    assert all(list(node.output) == [node.name] for node in inner)
    assert list(last.output) == ["output"]
    assert [value.name for value in result.model.graph.input] == ["input"]


def test_parameters_keep_their_names_and_values(net: Any, result: ExportResult) -> None:
    actual = {i.name: onnx.numpy_helper.to_array(i) for i in result.model.graph.initializer}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        expected = value.numpy().T if name == "tokens.weight" else value.numpy()  # x @ Wᵀ is MatMul(x, Wᵀ)
        np.testing.assert_array_equal(actual[name], expected, err_msg=name)
    assert set(actual) - set(net.state_dict()) == {"clip.min", "clip.max", "view.shape", "mean.axes"}
    assert [actual["clip.min"].item(), actual["clip.max"].item()] == [0, 6]


def test_pad_became_the_convs(result: ExportResult) -> None:
    stem = nodes(result)["stem"]
    assert next(list(a.ints) for a in stem.attribute if a.name == "pads") == [0, 0, 1, 1]
    assert list(stem.input) == ["input", "stem.weight"]  # no bias of zeros


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size(net: Any, result: ExportResult, batch: int) -> None:
    x = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    (actual,) = run(result.model, x.numpy())
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_batch_is_the_only_dynamic_dimension(result: ExportResult) -> None:
    graph = result.model.graph
    for value in (*graph.input, *graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(d.dim_value > 0 for d in others)


def test_file_carries_nothing_of_this_machine(result: ExportResult) -> None:
    assert result.model.opset_import[0].version == 21
    assert result.model.ir_version == 10
    assert not result.model.metadata_props
    assert all(not n.metadata_props and not n.doc_string for n in result.model.graph.node)
    assert __file__.encode() not in result.model.SerializeToString()
    assert b"stack_trace" not in result.model.SerializeToString()


def test_parity_is_small_and_can_be_printed(result: ExportResult) -> None:
    assert 0 < result.parity.relative < 1e-5
    assert str(Parity(0.5, 2.0)) == "max |onnxruntime - torch| = 2.5e-01 of max |output| on 2 random samples"
    assert Parity(0.0, 0.0).relative == 0


def test_same_seed_same_file(net: Any, result: ExportResult) -> None:
    assert export_module(net, (1, 3, 16, 16)).model == result.model


def test_module_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_module(module, (1, 3, 4, 4))
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert logging.root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")


class Several(nn.Module):  # type: ignore[name-defined, misc]
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Conv2d(3, 2, 1)

    def forward(self, x: Any) -> Any:
        y = self.output(x)
        return {"b": y.relu(), "a": (y, y.mean((2, 3)))}


def test_several_outputs_in_the_order_of_torchs_leaves() -> None:
    torch.manual_seed(2)
    module = Several()
    model = export_module(module, (1, 3, 4, 4)).model
    assert [value.name for value in model.graph.output] == ["output_0", "output_1", "output_2"]
    x = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(module(x))
    for actual, wanted in zip(run(model, x.numpy()), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=0, atol=1e-5)


def test_parameters_named_like_the_graphs_input_and_output() -> None:
    class Named(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
            self.input = nn.Parameter(torch.full((2, 1, 1), 3.0))
            self.register_buffer("output", torch.full((2, 1, 1), 5.0))

        def forward(self, x: Any) -> Any:
            return self.conv(x) * self.input + self.output

    graph = export_module(Named(), (1, 3, 4, 4)).model.graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["output"]
    actual = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    assert set(actual) == {"conv.weight", "conv.bias", "input_1", "output_1"}
    assert (actual["input_1"].flat[0], actual["output_1"].flat[0]) == (3, 5)


def test_layer_named_like_the_graphs_output() -> None:
    class Named(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Conv2d(3, 2, 1)

        def forward(self, x: Any) -> Any:
            return self.output(x).relu()

    model = export_module(Named(), (1, 3, 4, 4)).model
    assert [(n.name, list(n.output)) for n in model.graph.node] == [("output", ["output_1"]), ("relu", ["output"])]


class Forward(nn.Module):  # type: ignore[name-defined, misc]
    """A module whose forward is the function it is given, with a 3x64 -> 2 linear layer at hand."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 2)
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(
            lambda m, x: m.linear(x.reshape(1, -1)), r"Forward does not run on an input \[2, 3, 8, 8\]", id="batch_of_1"
        ),
        pytest.param(
            lambda m, x: m.linear(x.flatten(1)) if x.shape[0] == 2 else m.linear(x.reshape(3, -1)),
            "works only on batches of 3|cannot export .* with a dynamic batch|fixed batch size",
            id="batch_of_3",
        ),
        pytest.param(
            lambda m, x: m.linear(x.flatten(1)) * (2 if x.sum() > 0 else 1),
            "cannot export Forward with a dynamic batch.*without branches on tensor values",
            id="branch_on_a_value",
        ),
        pytest.param(
            lambda m, x: torch.special.i0(m.linear(x.flatten(1))),
            "cannot export Forward .*DispatchError: No ONNX function found",
            id="operator_without_onnx",
        ),
        pytest.param(lambda m, x: m.linear(x.flatten(1)) + torch.rand(2), "differs from torch", id="random_in_forward"),
        pytest.param(lambda m, x: m.linear(x.flatten(1)) / 0, "returns NaN or Inf for 2 random samples", id="inf"),
        pytest.param(lambda _, x: (x, "text"), "returns Tensor, str; forward", id="text_output"),
        pytest.param(lambda *_: None, "returns .*; forward.* must return tensors only", id="no_output"),
    ],
)
def test_refused_forward(function: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_module(Forward(function), (1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(), (1,), (1, 3, 0, 8), (-1, 3, 8, 8)])
def test_refused_shape(net: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match=r"input shape .* for example 1,3,224,224"):
        export_module(net, shape)


def test_wrong_number_of_channels_is_torchs_word(net: Any) -> None:
    with pytest.raises(ExportError, match=r"does not run on an input \[2, 4, 16, 16\]: .*channels.*`input_shape=`"):
        export_module(net, (1, 4, 16, 16))


def test_onnxscript_missing(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"needs onnxscript; pip install convert-onnx\[torch\]"):
        export_module(net, (1, 3, 16, 16))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_refused_dtype(dtype: str) -> None:
    module = nn.Conv2d(3, 2, 1).to(getattr(torch, dtype))
    with pytest.raises(ExportError, match=rf"weight is torch.{dtype}; return module.float\(\)"):
        export_module(module, (1, 3, 4, 4))


def test_refused_device() -> None:
    with pytest.raises(ExportError, match="weight is on meta"):
        export_module(nn.Conv2d(3, 2, 1, device="meta"), (1, 3, 4, 4))


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        pytest.param(lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False), (1, 4, 9), "Conv", id="conv1d"),
        pytest.param(lambda: nn.Conv3d(2, 4, 3, bias=False), (1, 2, 5, 5, 5), "Conv", id="conv3d"),
        pytest.param(
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), (1, 3, 8, 8), "Conv", id="weight_norm"
        ),
    ],
)
def test_one_layer_is_one_node(layer: Callable[[], Any], shape: tuple[int, ...], kind: str) -> None:
    model = export_module(nn.Sequential(layer()), shape).model
    assert [(node.op_type, node.name) for node in model.graph.node] == [(kind, "0")]
    assert model.graph.node[0].input[1] == "0.weight"
