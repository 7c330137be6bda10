"""Exported models are judged on the data at hand: those that calibrate, or those of a measurement."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import converter
from converter.model_io.torch_network import TorchNetwork
from passes.errors import ExportError

torch = pytest.importorskip("torch")
nn = torch.nn

SHAPE = converter.ExportOptions(input_shape=(1, 3, 8, 8))
DATA = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)


class Wild(nn.Module):  # type: ignore[name-defined, misc]
    """A network whose outputs on noise hang on the last digit of a float. On small inputs they do not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.sin(1e6 * self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "judge",
    [
        lambda data: converter.convert(Wild(), data, export=SHAPE, settings=converter.Settings(timing=False)),
        lambda data: converter.evaluate([Wild()], data, export=SHAPE),
        lambda data: converter.sensitivity(Wild(), data, export=SHAPE),
    ],
    ids=["convert", "evaluate", "sensitivity"],
)
def test_the_data_judge_an_export(judge: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(ExportError, match=r"cannot be checked: .* on 4 samples of data, and the outputs of torch"):
        judge(DATA)
    assert judge(DATA * 1e-7)


def test_the_message_says_images_where_data_are_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    with pytest.raises(ExportError, match="on 4 images of data, and"):
        converter.convert(Wild(), pixels, export=SHAPE)


@pytest.mark.parametrize("use", [converter.inspect, converter.export, converter.open_model])
def test_without_data_noise_judges(use: Callable[..., object]) -> None:
    with pytest.raises(ExportError, match=r"cannot be checked: .* on 2 random samples, and"):
        use(Wild(), export=SHAPE)


def test_an_output_that_is_not_finite_on_the_data_is_refused() -> None:
    class Logarithm(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return torch.log(self.fc(x).abs() * (x.sum(1, keepdim=True) > 0))

    shape = converter.ExportOptions(input_shape=(1, 4))
    given = np.abs(np.random.default_rng(0).normal(size=(40, 4))).astype(np.float32)
    converter.convert(Logarithm(), given, export=shape, settings=converter.Settings(timing=False))
    with pytest.raises(ExportError, match="returns NaN or Inf for 4 samples of data; check its weights"):
        converter.convert(Logarithm(), -given, export=shape)


def test_moved_weights_move_the_outputs_and_not_the_module() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    network, ids = TorchNetwork(module), {"input": np.arange(6).reshape(2, 3)}
    before = network(ids)[0]
    moved = [network(ids, 1e-3, seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(network(ids)[0], before)
    assert np.array_equal(moved[0], moved[1])
    assert not np.array_equal(moved[0], moved[2])
    assert 0 < np.abs(moved[0] - before).max() < 1e-2 * np.abs(before).max()
