"""Exported models of sensitive modules: judged by how much the module itself amplifies, and never waved through."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.model_io.parity import Feeds, Network, Outputs, measure_parity
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


def module(gain: float, error: float = 0.0) -> Network:
    """The module that was exported. It rounds otherwise, by two units of the last digit."""

    def run(feeds: Feeds, *_: float) -> Outputs:
        return [(np.sin(gain * feeds["input"].astype(np.float64) * (1 + 2e-7)) + error).astype(np.float32)]

    return run


def test_what_is_not_sensitive_is_compared_on_noise(caplog: pytest.LogCaptureFixture) -> None:
    parity = measure_parity(exported(2), module(2), FEEDS, module(2)(FEEDS))
    assert parity.kind == "random samples"
    assert parity.relative < 1e-5
    assert not caplog.text


def test_a_sensitive_module_is_judged_by_what_it_amplifies(caplog: pytest.LogCaptureFixture) -> None:
    """It differs by 1e-3 on noise, where 6e-2 would be its due, and by a tenth of that where it amplifies a tenth."""
    parity = measure_parity(exported(2000), module(2000), FEEDS, module(2000)(FEEDS))
    assert parity.kind == "faint random samples"
    assert 5e-5 < parity.relative < 3e-4
    assert "the module is sensitive: its outputs move by" in caplog.text
    assert f"when its inputs move by 1e-06; the export was checked with that in mind: {parity}" in caplog.text


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

    def drawn(feeds: Feeds, *_: float) -> Outputs:
        images = feeds["input"]
        return [images + draw.normal(size=images.shape).astype(np.float32)]

    with pytest.raises(ExportError, match=r"differs from torch: .* gives two results for one input"):
        measure_parity(exported(1), drawn, FEEDS, drawn(FEEDS))


def test_a_tolerance_of_the_user_decides_alone() -> None:
    assert measure_parity(exported(2000), module(2000), FEEDS, module(2000)(FEEDS), 0.1).kind == "random samples"
    with pytest.raises(ExportError, match=r"differs from torch: .*, more than `tolerance=1e-08`"):
        measure_parity(exported(2), module(2), FEEDS, module(2)(FEEDS), 1e-8)


def quiet(values: float) -> Feeds:
    """Two samples on which the sine is not sensitive."""
    return {"input": np.full((2, 3, 16, 16), values, np.float32)}


def judged(torch: Network, *samples: Feeds) -> None:
    gain = 1e6
    measure_parity(exported(gain), torch, FEEDS, torch(FEEDS), samples=samples, kind="images of photos")


def test_samples_judge_in_place_of_noise(caplog: pytest.LogCaptureFixture) -> None:
    """On noise, nothing can be said of this module. On samples near 0, it is not sensitive."""
    torch = module(1e6)
    with pytest.raises(ExportError, match="cannot be checked"):
        judged(torch)
    judged(torch, quiet(1e-6), quiet(2e-6))
    assert not caplog.text


def test_a_model_that_is_wrong_on_the_samples_only_is_refused() -> None:
    """The module has a branch on its values that the export did not keep."""
    right = module(2)

    def branching(feeds: Feeds, *_: float) -> Outputs:
        outputs = right(feeds)
        return [outputs[0] + 1] if feeds["input"].max() < 1 else outputs

    measure_parity(exported(2), branching, FEEDS, branching(FEEDS))
    with pytest.raises(ExportError, match=r"differs from torch: .* of max \|output\| on 4 images of photos, more than"):
        measure_parity(
            exported(2), branching, FEEDS, branching(FEEDS), None, [quiet(0.1), quiet(0.2)], "images of photos"
        )


def looked_up() -> onnx.ModelProto:
    """sin(gain words[ids]): its only input are integers."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "ids"], ["h"]),
            helper.make_node("Sin", ["h"], ["output"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(WORDS, "words")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


WORDS = np.random.default_rng(0).uniform(-700, 700, 50).astype(np.float32)
IDS: Feeds = {"ids": np.arange(8).reshape(2, 4)}


@pytest.mark.parametrize(("error", "kind"), [(0.0, "random samples"), (0.1, "")])
def test_weights_move_where_all_inputs_are_integers(error: float, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def torch(feeds: Feeds, moved: float = 0, seed: int = 0) -> Outputs:
        signs = np.random.default_rng(seed).choice([-1, 1], WORDS.shape)
        words = WORDS.astype(np.float64) * (1 + 2e-7 + moved * signs)
        return [(np.sin(words[feeds["ids"]]) + error).astype(np.float32)]

    if kind:
        assert measure_parity(looked_up(), torch, IDS, torch(IDS)).kind == kind
        assert "its outputs move by" in caplog.text
        assert "when its weights move by 1e-06" in caplog.text
    else:
        with pytest.raises(ExportError, match=r"torch itself move by [0-9]e-04 when its weights move by 1e-06"):
            measure_parity(looked_up(), torch, IDS, torch(IDS))
