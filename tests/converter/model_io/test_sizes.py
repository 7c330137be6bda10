"""Models above protobuf's 2 GiB. A lower limit stands for them: everything then goes through files beside the model."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.model_io.sizes import fits_one_file, model_digest, serialized_bytes, weight_bytes
from converter.pipeline.settings import Settings
from converter.runtime.optimized_graph import OptimizedGraph
from converter.runtime.session import open_session
from tests.support.models import SIDE, images, small_cnn
from tests.support.recipes import LEARNING, SOLVING, brief


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.model_io.sizes.INLINE_LIMIT", 200)
    monkeypatch.setattr("converter.model_io.write._EXTERNAL_FROM", 64)


def test_sizes_without_serializing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may be larger by a few bytes for each tensor, which a size in the report does not show."""
    model = small_cnn()
    exact, weights = model.ByteSize(), weight_bytes(model)
    assert serialized_bytes(model) == exact
    assert weights == sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    monkeypatch.setattr("converter.model_io.sizes.INLINE_LIMIT", 1000)
    assert not fits_one_file(model)
    assert exact * 0.99 < serialized_bytes(model) <= exact


def test_digests_see_weights_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_digest(small_cnn()) == hashlib.sha256(small_cnn().SerializeToString(deterministic=True)).hexdigest()
    monkeypatch.setattr("converter.model_io.sizes.INLINE_LIMIT", 1000)
    renamed = small_cnn()
    renamed.graph.node[0].name = "other"
    digests = [model_digest(model) for model in (small_cnn(), small_cnn(), small_cnn(seed=1), renamed)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("recipe", [name for name in SOLVING if name not in LEARNING])
def test_a_large_model_is_converted_as_a_small_one(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same nodes and codes, in a file with its weights beside it that runs."""
    onnx.save_model(small_cnn(), tmp_path / "float.onnx", save_as_external_data=True, location="w", size_threshold=64)
    path = tmp_path / "out.onnx"
    large = converter.convert(tmp_path / "float.onnx", images(32), recipe=brief(recipe), evaluation=images(8))
    large.save(path)
    assert path.with_name("out.onnx.data").exists()
    assert OptimizedGraph.open(path).problem == OptimizedGraph.open(large.model).problem == ""
    report = converter.report_facts(large)
    assert report["bytes"]["before"] > weight_bytes(small_cnn())
    monkeypatch.undo()
    small = converter.convert(small_cnn(), images(32), recipe=brief(recipe))
    read = onnx.load_model(path)
    assert read.graph.node == small.model.graph.node
    for ours, theirs in zip(read.graph.initializer, small.model.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(ours), onnx.numpy_helper.to_array(theirs))


@pytest.mark.usefixtures("small_limit")
def test_a_large_model_is_measured_and_compared(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(8, 3, SIDE, SIDE)).astype(np.float32)
    model = small_cnn()
    converter.convert(model, images(32)).save(tmp_path / "out.onnx")
    onnx.save_model(model, tmp_path / "float.onnx")
    pair = (tmp_path / "float.onnx", tmp_path / "out.onnx")
    assert converter.evaluate(pair, data, latency=False).models[1].sqnr_db
    assert converter.compare(*pair, data).layers
    assert converter.verify(pair[1], "cpu", reference=pair[0]).passed
    assert converter.inspect(pair[1]).layers


@pytest.mark.usefixtures("small_limit")
def test_a_search_over_a_large_model(tmp_path: Path) -> None:
    budget = converter.Budget(None, 40_000, None)
    result = converter.convert_within(
        small_cnn(), images(64), budget=budget, cache=tmp_path, settings=Settings(limit=32)
    )
    assert serialized_bytes(result.model) < 40_000


def test_a_session_maps_the_weights_of_a_middling_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through a file, and the graph that is written for a look at it stays one file."""
    feeds = {"input": np.ones((2, 3, SIDE, SIDE), np.float32)}
    expected = open_session(small_cnn()).run(None, feeds)[0]
    monkeypatch.setattr("converter.model_io.cpu_session._IN_MEMORY", 0)
    monkeypatch.setattr("converter.model_io.write._EXTERNAL_FROM", 64)
    np.testing.assert_array_equal(open_session(small_cnn()).run(None, feeds)[0], expected)
    assert OptimizedGraph.open(small_cnn()).problem == ""
