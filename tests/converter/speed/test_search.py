"""The search for layers that run faster with float activations, with latencies that the test sets."""

import re
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from converter import Settings, convert
from converter.cli.main import cli
from converter.data.dataset import Batch
from converter.recipes.builtin import find_recipe, stored_recipe
from converter.report.speed import speed_tables
from converter.report.table import show
from converter.runtime.session import open_session
from converter.speed import search
from converter.speed.profile import layer_seconds, node_seconds
from converter.speed.search import Speed, find_slow_layers, leaving, require_measurable
from converter.speed.trial import Trials
from converter.targets.catalog import find_target
from passes.errors import UsageError
from tests.support.models import SIDE, small_cnn

IMAGES = np.random.default_rng(3).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)
INT8, CPU = find_recipe("int8"), find_target("cpu")


def quiet(what: str, done: int, total: int) -> None:
    """Ignore the progress."""


def integer_operators(model: onnx.ModelProto, folder: Path) -> list[str]:
    open_session(model, threads=1, optimized=folder / "optimized.onnx")
    return sorted(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("floats", [(), ("deep",), ("stem", "deep", "fc")])
def test_trial_runs_the_operators_of_the_real_file(floats: tuple[str, ...], tmp_path: Path) -> None:
    speed = Speed(1, 1, 1, 1, floats, (), (1, 1), (1, 1), (1, 1))
    real = convert(small_cnn(), IMAGES, recipe=leaving(INT8, speed)).model
    trial = Trials(small_cnn(), INT8, CPU).file(floats)
    assert integer_operators(trial, tmp_path) == integer_operators(real, tmp_path)


def test_trial_leaves_the_source_as_it_was() -> None:
    source = small_cnn()
    before = source.SerializeToString()
    Trials(source, INT8, CPU).file(("deep",))
    assert source.SerializeToString() == before


def test_profile_knows_every_layer() -> None:
    trials = Trials(small_cnn(transpose=False), INT8, CPU)
    nodes = {layer.name: [layer.name] for layer in trials.layers}
    for floats in ((), ("stem", "deep", "fc")):
        times = node_seconds(trials.file(floats), {"input": IMAGES[:1]}, 2)
        assert layer_seconds(times, {"stem": ["stem", "relu"], "deep": ["deep"], "fc": ["fc"]}).keys() == nodes.keys()


def slow(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
    """Set the time of a file to 1 s, plus the given seconds for each layer on integers."""

    def cost(model: onnx.ModelProto) -> float:
        floats = {node.name for node in model.graph.node if node.op_type == "Mul" and node.name.endswith("_rescale")}
        return 1 + sum(more for name, more in seconds.items() if f"{name}.weight_rescale" not in floats)

    class Clock:
        def __init__(self, model: onnx.ModelProto, name: str, threads: int) -> None:
            self.seconds, self.batch = cost(model), None

        def inputs(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return feeds

    def times(_: object, runners: list[Clock]) -> np.ndarray:
        return np.array([[runner.seconds for runner in runners]] * 5)

    monkeypatch.setattr(search, "Runner", Clock)
    monkeypatch.setattr(search._Race, "times", times)
    monkeypatch.setattr(search, "_expected", lambda *_: {name: more / 2 for name, more in seconds.items()})


def find() -> Speed:
    return find_slow_layers(small_cnn(transpose=False), INT8, CPU, Batch({"input": IMAGES[:1]}, None), quiet)


def shown(speed: Speed) -> str:
    text = StringIO()
    show(speed_tables(speed), text)
    return text.getvalue()


def test_a_layer_that_is_slower_on_integers_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, {"stem": 0.5, "deep": -0.2, "fc": -0.2})
    speed = find()
    assert speed.layers == ("stem",)
    assert speed.gain == pytest.approx(1.1 / 0.6)
    assert speed.integer_ms / speed.chosen_ms == pytest.approx(speed.gain)
    assert [attempt.kept for attempt in speed.attempts if attempt.layers == ("stem",)] == [True]
    assert speed.gain_quartiles == pytest.approx((1.1 / 0.6, 1.1 / 0.6))
    assert re.search(r"as written +600 ms +1\.83x\n", shown(speed))


def test_neighbours_stay_in_float_together(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, {"stem": 0.5, "deep": 0.2, "fc": -0.3})
    assert find().layers == ("stem", "deep")


def test_a_file_that_is_slower_as_a_whole_becomes_float(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, {"stem": 0.5, "deep": -0.4, "fc": 0.3})
    monkeypatch.setattr(search, "_expected", lambda *_: {})
    monkeypatch.setattr(search, "_STEM", 0)
    assert find().layers == ("stem", "deep", "fc")


def test_no_layer_stays_in_float_if_none_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, {"stem": 0.001, "deep": -0.2, "fc": -0.2})
    speed = find()
    assert speed.layers == ()
    assert speed.attempts
    assert (speed.chosen_ms, speed.chosen_quartiles) == (speed.integer_ms, speed.integer_quartiles), "the same file"
    assert "the same file" in shown(speed)
    assert leaving(INT8, speed) is INT8


def test_the_recipe_gives_the_same_file_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, {"stem": -0.2, "deep": 0.5, "fc": -0.2})
    measured = convert(small_cnn(transpose=False), IMAGES, settings=Settings(measure_speed=True))
    assert measured.speed is not None
    assert measured.speed.layers == ("deep",)
    facts = {entry.key: entry.value for entry in measured.model.metadata_props}
    assert "deep" in facts["convert_onnx.speed"]
    recipe = stored_recipe(measured.model, "the file")
    repeated = convert(small_cnn(transpose=False), IMAGES, recipe=recipe)
    assert repeated.speed is None
    assert repeated.model.graph == measured.model.graph


def test_a_real_measurement_is_reported(tmp_path: Path) -> None:
    onnx.save(small_cnn(), tmp_path / "float.onnx")
    np.savez(tmp_path / "images.npz", x=IMAGES)
    arguments = ["convert", str(tmp_path / "float.onnx"), "-o", str(tmp_path / "out.onnx"), "--measure-speed"]
    done = CliRunner().invoke(cli, [*arguments, "--calibration", str(tmp_path / "images.npz")])
    assert done.exit_code == 0, done.output
    assert "Measured speed" in done.output
    assert "every layer on integers" in done.output


@pytest.mark.parametrize(
    ("recipe", "target", "message"),
    [
        ("int8", "qnn", "times the CPU of this machine, and target qnn runs elsewhere; leave it out"),
        (
            "int4-weight-only",
            "cpu",
            "'int4-weight-only' quantizes no activations, so `measure_speed=True` has no effect",
        ),
    ],
)
def test_refused_if_nothing_can_be_measured(recipe: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_measurable(find_recipe(recipe), find_target(target))
    with pytest.raises(UsageError, match=message):
        convert(small_cnn(), IMAGES, recipe=recipe, target=target, settings=Settings(measure_speed=True))
