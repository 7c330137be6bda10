"""Cost of sequential calibration: segments run once, only live tensors are held, and large ones go to files."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest

import converter.calibration.sequential
from converter.calibration.activation_cache import ActivationCache, Value
from converter.calibration.segments import cut
from converter.calibration.sequential import solve_layers
from converter.qdq.writer import emit
from converter.runtime.session import open_session
from passes.base import Problem, Solution
from passes.errors import QuantizationError
from passes.weights.gptq import Gptq
from tests.support.networks import branches, chain, dataset, images, prepared, quantize, quiet, set_ranges
from tests.support.recorded_pass import NETWORKS, Recorded, solved


class CountedSession:
    """A session that counts its runs."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = {node.name for node in proto.graph.node}
        self.runs = 0
        self._session = open_session(proto, threads=1)

    def run(self, *arguments: Any) -> Any:
        self.runs += 1
        return self._session.run(*arguments)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_segment_runs_once(name: str, sequential: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[CountedSession] = []

    def counted(proto: onnx.ModelProto) -> CountedSession:
        sessions.append(CountedSession(proto))
        return sessions[-1]

    monkeypatch.setattr("converter.calibration.paired_run.open_session", counted)
    solved(name, Recorded(bits=3, sequential=sequential), ranges=False)
    model = prepared(NETWORKS[name][0])
    needed = [segment for segment in cut(model.graph, model.layers()) if segment.outputs]
    assert len(sessions) == len(needed) * (2 if sequential else 1)
    assert {session.runs for session in sessions} == {3 if "fixed" in name else 2}
    for node in (node for segment in needed for node in segment.nodes):
        assert sum(node in session.nodes for session in sessions) == (2 if sequential else 1)


class Seen(ActivationCache):
    """An ActivationCache that records the most bytes it held in memory."""

    opened: ClassVar[list["Seen"]] = []

    def __init__(self, memory_budget: int) -> None:
        super().__init__(memory_budget)
        self.peak = 0
        self.opened.append(self)

    def append(self, stream: str, name: str, array: Value) -> None:
        super().append(stream, name, array)
        self.peak = max(self.peak, self._bytes_in_memory)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """The caches that a test opens."""
    monkeypatch.setattr(Seen, "opened", [])
    monkeypatch.setattr(converter.calibration.sequential, "ActivationCache", Seen)
    return Seen.opened


def test_only_live_tensors_are_held(cache: list[Seen]) -> None:
    data = images(40, 4, 12, 12)
    quantize(chain(10), Recorded(bits=3), {"t0": data})
    # a layer's input and output in two streams, where the network has 20 tensors in each
    assert 3 * data.nbytes <= cache[0].peak <= 4 * data.nbytes
    quantize(chain(10), Recorded(bits=3, sequential=False), {"t0": data})
    assert cache[1].peak <= 2 * data.nbytes


LARGE: dict[str, tuple[onnx.ModelProto, Any]] = {
    "chain": (chain(4, 32), {"t0": images(20, 4, 32, 32)}),
    "fixed_batch_branches": (branches(batch=8, side=32), {"a": images(20, 3, 32, 32), "b": images(20, 4)}),
}
"""Networks whose tensors are large enough for files."""


@pytest.mark.parametrize("name", LARGE)
def test_activations_in_files_give_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("converter.calibration.paired_run.batch_size", lambda *_: 16)
    proto, data = LARGE[name]
    models, reports = [], []
    for budget in (1 << 30, 0):
        model = prepared(proto)
        set_ranges(model, data)
        reports.append(solve_layers(model, Gptq(bits=3), dataset(model, data), quiet, memory_budget=budget))
        models.append(emit(model).SerializeToString(deterministic=True))
    assert models[0] == models[1]
    assert reports[0].notes == ()
    assert "activation batches were kept in files" in reports[1].notes[0]
    assert not list(tmp_path.iterdir())


def test_a_layer_that_cannot_be_solved_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("converter.calibration.paired_run.batch_size", lambda *_: 16)

    @dataclass(frozen=True)
    class Fails(Recorded):
        def solve(self, problem: Problem) -> Solution:
            if problem.layer.name == "conv2":
                assert list(tmp_path.rglob("*.bin")), "nothing had gone to files"
                raise QuantizationError("conv2: no")
            return super().solve(problem)

    with pytest.raises(QuantizationError, match="conv2: no"):
        quantize(LARGE["chain"][0], Fails(), LARGE["chain"][1], memory_budget=0)
    assert not list(tmp_path.iterdir())
