"""The network that 8-bit activations hurt, and the benchmark without its runtime."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks import wide_activations
from benchmarks.shared_data import MissingData
from converter.runtime.session import no_progress


def test_its_weights_are_exact_in_8_bits() -> None:
    model = wide_activations.network()
    onnx.checker.check_model(model, full_check=True)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "first.weight")
    codes = 40 * numpy_helper.to_array(weight)
    assert np.abs(codes - np.rint(codes)).max() < 1e-4
    assert (np.abs(codes).max(axis=(1, 2, 3)).round() == 127).all()


def test_it_is_skipped_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_activations, "find_environment", lambda *_: "qnn is not here")
    with pytest.raises(MissingData, match="qnn is not here; convert-onnx targets setup qnn"):
        next(wide_activations.wide_activations(no_progress))
