"""Factories by path and weights files: what loads, and what each refusal says."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.model_io.factory import apply_weights, load_factory, load_module, load_weights
from passes.errors import ConvertError, ExportError, UsageError

torch = pytest.importorskip("torch")

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, bias):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=bias)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))

def net(num_classes: int = 5, *, bias: bool = False):
    return Net(num_classes, bias)

def broken():
    raise RuntimeError("no weights on this disk")

def quits():
    raise SystemExit(3)

def number():
    return 7

constant = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def test_factory_by_path(file: Path) -> None:
    assert load_factory(f"{file}:net").state_dict()["fc.weight"].shape == (5, 4)
    assert str(file.parent) not in sys.path


def test_class_is_a_factory(file: Path) -> None:
    assert "conv.bias" in load_factory(f"{file}:Net(num_classes=2, bias=True)").state_dict()


def test_literal_arguments_reach_the_factory(file: Path) -> None:
    state = load_factory(f"{file}:net(num_classes=43, bias=True)").state_dict()
    assert state["fc.weight"].shape == (43, 4)
    assert "conv.bias" in state


def test_siblings_are_importable_and_do_not_leak_to_another_folder(tmp_path: Path) -> None:
    for folder, channels in (("a", 2), ("b", 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "blocks_of_net.py").write_text(f"CHANNELS = {channels}\n")
        (tmp_path / folder / "net.py").write_text(
            "from torch import nn\nfrom blocks_of_net import CHANNELS\ndef net(): return nn.Conv2d(3, CHANNELS, 1)\n"
        )
    assert load_factory(f"{tmp_path}/a/net.py:net").out_channels == 2
    assert load_factory(f"{tmp_path}/b/net.py:net").out_channels == 9
    assert "blocks_of_net" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}", "is not FILE.py:FACTORY"),
        ("{folder}/absent.py:net", "absent.py: no such file"),
        ("{file}:nett", "has no 'nett'; did you mean 'net'"),
        ("{file}:broken", r"net:?.*broken raised RuntimeError: no weights on this disk \(net.py, line 18\)"),
        ("{file}:quits", "quits raised SystemExit: 3"),
        ("{file}:number", "number returned int, not a torch.nn.Module"),
        ("{file}:constant", "constant is int, not a function"),
        ("{file}:net(43)", r"arguments must be named, for example \(num_classes=43\)"),
        ("{file}:net(**dict(num_classes=4))", "arguments must be named"),
        ("{file}:net(num_classes=len('ab'))", "num_classes=len.'ab'. is not a literal"),
        ("{file}:net(num_classes=)", "cannot read the arguments"),
        ("{file}:net(num_classes=2)(bias=True)", "cannot read the arguments"),
        ("{file}:net(classes=43)", "takes .num_classes: int = 5, .*unexpected keyword argument 'classes'"),
        ("{file}:Net", r"takes \(num_classes, bias\): missing a required argument: 'num_classes'"),
    ],
)
def test_refused_factory(file: Path, spec: str, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        load_factory(spec.format(file=file, folder=file.parent))


@pytest.mark.parametrize(
    "arguments",
    ["({[]: 1})", "(a={[]: 1})", "(a={{}: 1})", "(a=1, a=2)", "(a=\0)", f"(a={'(' * 9999})", "(a=-'x')"],
    ids=["positional", "list_key", "dict_key", "twice", "null", "deep", "type_error"],
)
def test_arguments_that_are_no_literals(file: Path, arguments: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_factory(f"{file}:net{arguments}")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_factory_names_those_it_has(file: Path) -> None:
    with pytest.raises(UsageError, match=r"is not FILE.py:FACTORY.*; it has .*net.py:net, "):
        load_factory(f"{file}:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def net(:\n", "loading it raised SyntaxError"),
        ("import a_package_that_is_not_there\n", "loading it raised ModuleNotFoundError: No module named"),
        ("1 / 0\n", "loading it raised ZeroDivisionError"),
    ],
)
def test_refused_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad_file.py"
    path.write_text(text)
    with pytest.raises(ExportError, match=message):
        load_factory(f"{path}:net")
    assert str(tmp_path) not in sys.path


def test_torch_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ExportError, match=r"needs torch .*pip install convert-onnx\[torch\]"):
        load_factory(f"{file}:net")


def save(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".pth"])
def test_weights_of_every_format_in_half_precision(file: Path, tmp_path: Path, suffix: str) -> None:
    state = load_factory(f"{file}:net").state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    module = load_module(f"{file}:net", save(tmp_path / f"w{suffix}", half))
    for name, value in module.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, half[name].to(value.dtype))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoint_is_unwrapped_and_its_prefix_removed(file: Path, tmp_path: Path, wrapper: str) -> None:
    state = load_factory(f"{file}:net").state_dict()
    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 3, wrapper: {f"module.{k}": v for k, v in state.items()}}, path)
    actual = load_weights(path)
    assert set(actual) == set(state)
    assert all(torch.equal(actual[name], state[name]) for name in state)


def test_num_batches_tracked_may_be_missing_or_left_over(file: Path) -> None:
    module = load_factory(f"{file}:net")
    state = module.state_dict()
    without = {k: torch.ones_like(v) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    apply_weights(module, without | {"old.num_batches_tracked": torch.tensor(5)})
    assert torch.equal(module.state_dict()["conv.weight"], torch.ones(4, 3, 3, 3))


def test_missing_unexpected_and_other_shapes_are_named_together(file: Path) -> None:
    module = load_factory(f"{file}:net")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    weights = {name: torch.zeros_like(value) for name, value in before.items()}
    del weights["bn.bias"]
    weights["head.weight"] = torch.zeros(2)
    weights["fc.weight"] = torch.zeros(43, 4)
    with pytest.raises(ExportError) as caught:
        apply_weights(module, weights, "signs.npz")
    message = str(caught.value)
    assert "signs.npz does not fit Net" in message
    assert "1 missing: bn.bias" in message
    assert "1 unexpected: head.weight" in message
    assert "1 of another shape: fc.weight [43, 4], the model has [5, 4]" in message
    assert "FACTORY(num_classes=43)" in message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_many_missing_keys_are_counted(file: Path) -> None:
    with pytest.raises(ExportError, match=r"7 missing: conv.weight, bn.weight, .* and 2 more"):
        apply_weights(load_factory(f"{file}:net"), {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.bin", b"", r"weights are .safetensors, .npz, .pt, .pth files, not .bin"),
        ("w.npz", b"not a zip", "it is not an .npz archive"),
        ("w.pt", b"not a checkpoint", "not a file of plain tensors"),
        ("w.safetensors", b"x", "w.safetensors is not a safetensors file"),
    ],
)
def test_refused_weights_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=message):
        load_weights(tmp_path / name)


def test_absent_weights_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent.npz: no such weights file"):
        load_weights(tmp_path / "absent.npz")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_truncated_weights_file(file: Path, tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"w{suffix}", load_factory(f"{file}:net").state_dict())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ExportError, match=rf"w\{suffix}(:| cannot be read as .npz:| is) (not a|it is truncated)"):
        load_weights(path)


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ExportError, match=r"save module.state_dict\(\)"):
        load_weights(tmp_path / "whole.pt")


def test_array_of_python_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ExportError, match=r"w.npz cannot be read as .npz: it has an array of Python objects"):
        load_weights(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": 3}, "'fc.weight' is of type int, not a tensor"),
        ({}, "holds no parameters"),
        ([1, 2], "holds no parameters but list"),
    ],
)
def test_checkpoint_without_tensors(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=message):
        load_weights(tmp_path / "w.pt")
