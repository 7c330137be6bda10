"""Exported models of sensitive modules: judged by how much the module itself amplifies, and never waved through."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.parity import Feeds, Outputs, Run, measure_parity
from passes.errors import ExportError

FEEDS: Feeds = {"input": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}


def exported(gain: float) -> onnx.ModelProto:
    """sin(gain x), which amplifies what its input moves by."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "gain"], ["h"]), helper.make_node("Sin", ["h"], ["output"])],
        "sine",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [numpy_helper.from_array(np.array(gain, np.float32), "gain")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def module(gain: float, error: float = 0.0) -> Run:
    """The module that was exported. It rounds otherwise, by two units of the last digit."""

    def run(feeds: Feeds) -> Outputs:
        return [(np.sin(gain * feeds["input"].astype(np.float64) * (1 + 2e-7)) + error).astype(np.float32)]

    return run


def test_what_is_not_sensitive_is_compared_on_noise(caplog: pytest.LogCaptureFixture) -> None:
    parity = measure_parity(exported(2), module(2), FEEDS, module(2)(FEEDS))
    assert parity.kind == "random"
    assert parity.relative < 1e-5
    assert not caplog.text


def test_a_sensitive_module_is_judged_by_what_it_amplifies(caplog: pytest.LogCaptureFixture) -> None:
    """It differs by 1e-3 on noise, where 6e-2 would be its due, and by a tenth of that where it amplifies a tenth."""
    parity = measure_parity(exported(2000), module(2000), FEEDS, module(2000)(FEEDS))
    assert parity.kind == "faint random"
    assert 5e-5 < parity.relative < 3e-4
    assert "the module is sensitive: its outputs move by" in caplog.text
    assert f"when faint random inputs move by 1e-06; the export was checked on them: {parity}" in caplog.text


@pytest.mark.parametrize("gain", [2, 2000])
def test_a_wrong_model_is_refused_also_of_a_sensitive_module(gain: float) -> None:
    wrong = module(gain, error=0.05)
    with pytest.raises(
        ExportError, match=r"differs from torch: .*\(the outputs of torch itself move by [0-9]e-0[46] when"
    ):
        measure_parity(exported(gain), wrong, FEEDS, wrong(FEEDS))


def test_a_module_that_cannot_be_judged_is_refused_with_the_reason() -> None:
    with pytest.raises(ExportError, match=r"the export cannot be checked: .* move by .* give trained weights"):
        measure_parity(exported(1e6), module(1e6), FEEDS, module(1e6)(FEEDS))


def test_a_module_that_draws_numbers_is_told_so() -> None:
    draw = np.random.default_rng(0)

    def drawn(feeds: Feeds) -> Outputs:
        images = feeds["input"]
        return [images + draw.normal(size=images.shape).astype(np.float32)]

    with pytest.raises(ExportError, match=r"differs from torch: .* gives two results for one input"):
        measure_parity(exported(1), drawn, FEEDS, drawn(FEEDS))


def test_a_tolerance_of_the_user_decides_alone() -> None:
    assert measure_parity(exported(2000), module(2000), FEEDS, module(2000)(FEEDS), 0.1).kind == "random"
    with pytest.raises(ExportError, match=r"differs from torch: .*, more than `tolerance=1e-08`"):
        measure_parity(exported(2), module(2), FEEDS, module(2)(FEEDS), 1e-8)
