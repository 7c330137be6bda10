"""The main job: a small CNN, trained here on scikit-learn's digits, through every recipe to a measured file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from converter import ExportOptions, Recipe, Result, convert
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import Measurement, evaluate
from converter.runtime.session import open_session
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Pass
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.rtn import Rtn

pytestmark = pytest.mark.slow  # its network is trained here

EPOCHS, TRAINED_ON, CALIBRATED_ON = 10, 1000, 128


class Block(nn.Module):
    """Depthwise and pointwise convolution around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.bn1(self.depthwise(x)))
        return nn.functional.relu(x + self.bn2(self.pointwise(y)))


class DigitNet(nn.Module):
    """Images [n, 1, 8, 8] -> scores [n, 10]; 13,000 weights in 7 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.block1 = Block(32)
        self.down = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.block2 = Block(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.bn(self.stem(x)))
        x = nn.functional.relu(self.down(self.block1(x)))
        scores: torch.Tensor = self.fc(torch.flatten(self.pool(self.block2(x)), 1))
        return scores


@dataclass(frozen=True)
class Trained:
    """The float network, images to calibrate on, and images and labels that neither it nor a recipe has seen."""

    network: nn.Module
    calibration: NDArray[np.float32]
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """Adam with a falling rate; images are shifted by up to a pixel, so that the network has something to learn."""
    torch.manual_seed(0)
    network = DigitNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=6e-3)
    batches = len(images) // 50
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for batch in order[: batches * 50].reshape(batches, 50):
            shift = torch.randint(-1, 2, (2,)).tolist()
            loss = nn.functional.cross_entropy(network(torch.roll(images[batch], shift, (2, 3))), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    """Trained once, in one thread, from fixed seeds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    digits = load_digits()
    images = (digits.images[:, None] / 8 - 1).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    seen, unseen = order[:TRAINED_ON], order[TRAINED_ON:]
    network = train(torch.from_numpy(images[seen]), torch.from_numpy(labels[seen]))
    yield Trained(network, images[seen[:CALIBRATED_ON]], images[unseen], labels[unseen])
    torch.set_num_threads(threads)


def recipe(*steps: Pass) -> Recipe:
    return Recipe("test", "", (Normalise(), FoldBatchnorm(), *steps))


RECIPES: dict[str, str | Recipe] = {
    "int8": "int8",
    "int8-gptq": "int8-gptq",
    "int4": "int4",
    "int4-weight-only": "int4-weight-only",
    "int4-matmulnbits": "int4-matmulnbits",
    "rtn4": recipe(ActivationRanges(), Rtn(bits=4)),
    "rtn3": recipe(ActivationRanges(), Rtn(bits=3)),
    "gptq3": recipe(ActivationRanges(), Gptq(bits=3)),
    "rtn3-weight-only": recipe(Rtn(bits=3)),
    "gptq3-weight-only": recipe(Gptq(bits=3)),
    "rtn2": recipe(ActivationRanges(), Rtn(bits=2)),
    "gptq2": recipe(ActivationRanges(), Gptq(bits=2)),
    "rtn2-weight-only": recipe(Rtn(bits=2)),
    "gptq2-weight-only": recipe(Gptq(bits=2)),
    "apart2": recipe(ActivationRanges(), Gptq(bits=2, sequential=False)),
    "learned2": recipe(ActivationRanges(), Gptq(bits=2, sequential=False), LearnedRounding()),
}


@dataclass(frozen=True)
class Converted:
    """Every recipe's result, and the measurements of its file with the float model's first."""

    results: dict[str, Result]
    measured: dict[str, Measurement]


@pytest.fixture(scope="module")
def converted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """From the torch module, exported once, to files on the disk, and what `evaluate` makes of them."""
    folder = tmp_path_factory.mktemp("models")
    results: dict[str, Result] = {}
    model: onnx.ModelProto | nn.Module = trained.network
    shape: tuple[int, ...] | None = (1, 1, 8, 8)
    for name, steps in RECIPES.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("converter.qdq.weights._SMALL", 0)  # all layers stay packed, also the small ones
            results[name] = convert(model, trained.calibration, recipe=steps, export=ExportOptions(input_shape=shape))
        results[name].save(folder / f"{name}.onnx")
        model, shape = results[name].reference, None
    onnx.save(results["int8"].reference, folder / "float.onnx")
    names = ["float", *RECIPES]
    data = load_data((trained.images, trained.labels), input_specs(results["int8"].reference))
    measured = evaluate([folder / f"{name}.onnx" for name in names], data, latency=False).models
    return Converted(results, dict(zip(names, measured, strict=True)))


def points_lost(converted: Converted, name: str) -> float:
    before, after = converted.measured["float"].top1, converted.measured[name].top1
    assert before is not None
    assert after is not None
    return 100 * (before - after)


def decibels(converted: Converted, name: str) -> float:
    found = converted.measured[name].sqnr_db
    assert found is not None
    return found


def test_the_float_model_has_learnt_something(converted: Converted) -> None:
    assert converted.measured["float"].images == 797
    assert points_lost(converted, "float") == 0
    # a linear model reaches 0.93; 0.960 to 0.964 measured, since training multiplies the last digits of sums
    assert (converted.measured["float"].top1 or 0) > 0.945


def test_the_file_computes_what_torch_computes(trained: Trained, converted: Converted) -> None:
    with torch.no_grad():
        expected = trained.network(torch.from_numpy(trained.images)).numpy()
    session = open_session(converted.results["int8"].reference, threads=1)
    found = np.asarray(session.run(None, {session.get_inputs()[0].name: trained.images})[0])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


# 797 images: one point is 8 of them. Networks of four seeds lost -0.25 to 0.25 points with 8 bits, -0.25 to 0.5 with 4
# and -0.4 to 0.9 with 3, at 34.5 to 40 dB, 28.6 to 33 and 21.6 to 23. The largest losses allowed are four times these
# ranges. The floors in dB lie above rounding to the nearest with 4 bits (16 to 20) and 3 bits (7 to 11). One seed gives
# the same numbers with 1 and 2 threads and with the BLAS kernels of three processors.
FLOORS = {
    "int8": (2.0, 28),
    "int8-gptq": (2.0, 32),
    "int4": (2.5, 23),
    "int4-weight-only": (2.5, 23),
    "int4-matmulnbits": (2.5, 23),
    "gptq3": (4.0, 17),
    "gptq3-weight-only": (4.0, 17),
}


@pytest.mark.parametrize("name", FLOORS)
def test_accuracy(converted: Converted, name: str) -> None:
    points, floor = FLOORS[name]
    assert points_lost(converted, name) <= points
    assert decibels(converted, name) >= floor


@pytest.mark.parametrize("form", ["", "-weight-only"])
def test_gptq_keeps_at_few_bits_what_rounding_loses(converted: Converted, form: str) -> None:
    """The error is compared at 3 and 2 bits, the classes at 2. Rounding to 3 bits loses 3 to 16 points, by luck."""
    for bits in (3, 2):  # one bit more would give 6 dB; 7.8 to 15.5 measured at 3 bits, 14.8 and more at 2
        assert decibels(converted, f"gptq{bits}{form}") > decibels(converted, f"rtn{bits}{form}") + 6
    assert points_lost(converted, f"rtn2{form}") > points_lost(converted, f"gptq2{form}") + 40  # 67 to 82 measured


def test_eight_bits_by_gptq_are_nearer_to_float_and_no_larger(converted: Converted) -> None:
    assert decibels(converted, "int8-gptq") > decibels(converted, "int8")
    assert converted.measured["int8-gptq"].bytes < converted.measured["int8"].bytes + 1_000  # the recipe's text


def test_four_bits_by_gptq_beat_four_bits_by_rounding(converted: Converted) -> None:
    assert decibels(converted, "int4") > decibels(converted, "rtn4") + 6


def test_learned_rounding_gains_on_unseen_images(converted: Converted) -> None:
    """Learned rounding improves codes that GPTQ solved for each layer alone: by 6.0 to 7.3 dB, with 128 images.

    It cannot be shown on sequential GPTQ: with 128 images the gain there is smaller than its own spread.
    """
    assert decibels(converted, "learned2") > decibels(converted, "apart2") + 4
    assert points_lost(converted, "learned2") < points_lost(converted, "apart2")  # 1.8 to 15 points less measured


def test_sizes(converted: Converted) -> None:
    """Bytes per weight, by difference: what the graph itself takes is the same in both files."""
    sizes = {name: converted.measured[name].bytes for name in ("float", *RECIPES)}
    layers = converted.results["int8"].layers
    weights = sum(int(np.prod(layer.shape)) for layer in layers)
    casts = 160 * len(layers)  # a Cast and its names for each layer
    provenance = 400  # the recipes' texts differ
    assert weights > 11_000
    assert abs((sizes["int8"] - sizes["rtn4"]) - weights / 2) < casts + provenance
    assert abs((sizes["rtn4"] - sizes["rtn2"]) - weights / 4) < provenance
    assert abs(sizes["rtn4"] - sizes["rtn3"]) < provenance
    blocks = [layer.multiples for layer in converted.results["int4"].layers if layer.multiples]
    assert blocks
    multiples = sum(count / 2 + 460 for count in blocks)  # and the nodes that multiply
    assert abs((sizes["int4"] - sizes["rtn4"]) - multiples) < provenance
    assert sizes["int4-weight-only"] - multiples < sizes["float"] / 4
    assert sizes["int4-matmulnbits"] < sizes["float"] / 4


def test_every_layer_of_the_deployed_file_runs_on_integers(converted: Converted, tmp_path: Path) -> None:
    result = converted.results["int4"]
    assert [layer.op for layer in result.layers] == ["Conv"] * 6 + ["Gemm"]
    assert {layer.name for layer in result.layers} >= {"stem", "block1.depthwise", "fc"}
    assert {layer.activation_bits for layer in result.layers} == {8}
    open_session(result.model, threads=1, optimized=tmp_path / "optimized.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 6
    assert operators.count("QLinearAdd") == 2
    assert not {"Conv", "FusedConv", "Relu", "Clip", "Add", "BatchNormalization", "ReduceMean"} & set(operators)
