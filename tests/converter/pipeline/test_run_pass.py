"""How a pass is run: what it requires is asked early, what it ensures after it; a kind is registered once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from converter import (
    Correction,
    CorrectionPass,
    DataError,
    GraphPass,
    LayerPass,
    Model,
    ModelError,
    Needs,
    PassReport,
    Problem,
    QuantizationError,
    Recipe,
    Solution,
    Stage,
    Stats,
    absmax_grid,
    convert,
)
from converter.pipeline.images import Images
from converter.pipeline.run_pass import PassContext, run_kind, run_pass
from converter.recipes.registry import PASSES
from passes.activations.activation_ranges import ActivationRanges
from passes.base import Pass
from passes.graph.normalise.normalise import Normalise
from passes.numerics.output_statistics import OutputStatistics
from passes.weights.bias_correction import BiasCorrection
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn
from tests.support.networks import images, prepared, quiet, resnet

X = images(16, 3, 12, 12)
ran: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()


@dataclass(frozen=True)
class Traced(GraphPass):
    """Says when it runs; refuses a model, or what it left, if it is told to."""

    name: ClassVar[str] = "traced"

    refuses: bool = False
    breaks_promise: bool = False
    breaks_graph: bool = False

    def requires(self, model: Model) -> None:
        ran.append(f"{self.name} asked")
        if self.refuses:
            raise QuantizationError(f"{self.name}: not this model")

    def apply(self, model: Model, stats: Stats) -> PassReport:
        ran.append(self.name)
        if self.breaks_graph:
            model.graph.nodes[0].name = model.graph.nodes[1].name
        return PassReport(self.name, skipped=dict.fromkeys(model.layers(), "traced"))

    def ensures(self, model: Model) -> None:
        if self.breaks_promise:
            raise QuantizationError(f"{self.name}: promise broken")


@dataclass(frozen=True)
class TracedRanges(Traced):
    """The same where ranges are chosen."""

    name: ClassVar[str] = "traced_ranges"
    stage: ClassVar[Stage] = Stage.RANGES


@dataclass(frozen=True)
class TracedRefinement(Traced):
    """The same behind the weights."""

    name: ClassVar[str] = "traced_refinement"
    stage: ClassVar[Stage] = Stage.REFINEMENT


@dataclass(frozen=True)
class Liar(GraphPass):
    """Wants statistics, and says that it needs no data."""

    name: ClassVar[str] = "liar"

    @property
    def needs_data(self) -> bool:
        return False

    def needs(self, model: Model) -> Needs:
        return Needs(channels=frozenset(model.layers()))

    def apply(self, model: Model, stats: Stats) -> PassReport:
        raise AssertionError("it ran without its statistics")


@dataclass(frozen=True)
class Painted(Pass):
    """Of a kind that only this test has."""

    name: ClassVar[str] = "painted"
    stage: ClassVar[Stage] = Stage.FLOAT


@dataclass(frozen=True)
class Unregistered(Pass):
    """Of a kind that nobody runs."""

    name: ClassVar[str] = "unregistered"
    stage: ClassVar[Stage] = Stage.REFINEMENT


@run_kind.register
def _run_painted(step: Painted, model: Model, context: PassContext) -> PassReport:
    ran.append(f"{step.name} with seed {context.recipe.seed}")
    return PassReport(step.name, skipped=dict.fromkeys(model.layers(), "painted"))


@dataclass(frozen=True)
class Scaling(GraphPass):
    """Multiplies what the first Relu reads, and says that the outputs stay."""

    name: ClassVar[str] = "scaling"
    keeps_outputs: ClassVar[bool] = True

    factor: float = 1.0

    def apply(self, model: Model, stats: Stats) -> PassReport:
        for item in model.graph.nodes:
            if item.op == "Relu":
                scale = gs.Constant(f"{self.name}.scale", np.full((), self.factor, np.float32))
                result = gs.Variable(f"{self.name}.scaled", np.float32)
                model.graph.nodes.append(gs.Node("Mul", f"{self.name}.by", inputs=[item.inputs[0], scale]))
                model.graph.nodes[-1].outputs = [result]
                item.inputs[0] = result
                break
        model.graph.toposort()
        return PassReport(self.name, skipped=dict.fromkeys(model.layers(), "scaled"))


@dataclass(frozen=True)
class Loud(Scaling):
    """The same, without a promise."""

    name: ClassVar[str] = "loud"
    keeps_outputs: ClassVar[bool] = False


@pytest.mark.parametrize("before", [(), (Loud(3.0),)])
def test_a_pass_that_promises_equal_outputs_is_compared(before: tuple[Pass, ...]) -> None:
    def made(step: Pass) -> Recipe:
        return Recipe("r", "", (Normalise(), *before, step, Rtn()))

    with pytest.raises(ModelError, match="scaling changes what the model computes: output 'y' has"):
        convert(resnet(), recipe=made(Scaling(1.5)))
    convert(resnet(), recipe=made(Scaling(1.0)))


def test_which_passes_promise_equal_outputs() -> None:
    promising = {name for name, kind in PASSES.items() if kind.keeps_outputs}
    assert promising == {"normalise", "fold_batchnorm", "exclude", "integer_forms"}


def test_later_passes_are_asked_before_activations_are_calibrated() -> None:
    steps = (Normalise(), Traced(), TracedRanges(), Rtn(), TracedRefinement())
    convert(resnet(), recipe=Recipe("r", "", steps))
    assert ran == [
        "traced asked", "traced",
        "traced_ranges asked", "traced_refinement asked", "traced_ranges", "traced_refinement",
    ]  # fmt: skip


def test_a_refinement_that_cannot_be_is_refused_before_the_weights() -> None:
    steps = (Normalise(), TracedRanges(), Rtn(), TracedRefinement(refuses=True))
    with pytest.raises(QuantizationError, match="traced_refinement: not this model"):
        convert(resnet(), recipe=Recipe("r", "", steps))
    assert ran == ["traced_ranges asked", "traced_refinement asked"]


def test_a_layer_that_is_not_there_is_refused_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrated(*_: object, **__: object) -> None:
        raise AssertionError("activations were calibrated before the refusal")

    monkeypatch.setattr("converter.pipeline.shards.calibrate", calibrated)
    steps = (Normalise(), ActivationRanges(), Gptq(layer_bits={"nothere": 8}))
    with pytest.raises(QuantizationError, match=r"layer_bits: .*nothere"):
        convert(resnet(), X, recipe=Recipe("r", "", steps))


def test_a_promise_is_checked_after_the_pass() -> None:
    with pytest.raises(QuantizationError, match="traced: promise broken"):
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Traced(breaks_promise=True), Rtn())))
    assert ran == ["traced asked", "traced"]


def test_the_model_is_checked_after_every_pass() -> None:
    with pytest.raises(QuantizationError, match=r"after traced: two nodes are named .*; please report this"):
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Traced(breaks_graph=True), Rtn())))


def test_statistics_without_images_are_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="liar needs calibration data") as caught:
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Liar(), Rtn())))
    assert "\n" not in str(caught.value)


def test_a_kind_is_registered_once() -> None:
    result = convert(resnet(), recipe=Recipe("r", "", (Normalise(), Painted(), Rtn()), seed=3))
    assert ran == ["painted with seed 3"]
    assert [report.name for report in result.passes] == ["normalise", "painted", "rtn"]


def test_a_kind_that_nobody_registered_is_refused_before_any_pass_runs() -> None:
    with pytest.raises(QuantizationError, match="unregistered: Unregistered is of no kind that can be run; derive it"):
        convert(resnet(), recipe=Recipe("r", "", (Normalise(), Traced(), Rtn(), Unregistered())))
    assert ran == []


def test_a_pass_outside_the_recipe_is_asked_for_itself() -> None:
    model = prepared(resnet())
    context = PassContext(Images(None, None, None, None, None, None), 1 << 20, Recipe("r", "", (Rtn(),)), quiet)
    run_pass(TracedRanges(), model, context)
    assert ran == ["traced_ranges asked", "traced_ranges"]


def test_each_kind_reports_every_layer_once() -> None:
    result = convert(resnet(), X, recipe=Recipe("r", "", (Normalise(), ActivationRanges(), Rtn(), BiasCorrection())))
    names = {layer.name for layer in result.layers}
    for report in result.passes:
        assert report.changed.keys() | report.skipped.keys() == names
        assert not report.changed.keys() & report.skipped.keys()
    assert np.isfinite([layer.after_db for layer in result.layers if layer.after_db is not None]).all()


@dataclass(frozen=True)
class Careless(GraphPass):
    """A pass with an error of its author."""

    name: ClassVar[str] = "careless"

    layer: str = "stem"
    forgets: str = ""
    tensor: str = ""

    def needs(self, model: Model) -> Needs:
        if self.forgets == "the needs":
            return [self.layer]  # type: ignore[return-value]
        if self.tensor:
            return Needs(histograms=frozenset({self.tensor}))
        return Needs(channels=[self.layer])  # type: ignore[arg-type]  # a list will do

    def apply(self, model: Model, stats: Stats) -> PassReport:
        if self.forgets == "the report":
            return None  # type: ignore[return-value]
        if self.forgets == "the layers":
            return PassReport(self.name)
        if self.forgets == "a key":
            raise KeyError("stem")
        return PassReport(self.name, skipped=dict.fromkeys(model.layers(), f"saw {list(stats.channels)}"))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Careless(layer="steam"), r"needs\(\) of careless.*'steam'; did you mean 'stem'"),
        (Careless(forgets="the report"), "careless returned NoneType and not its report; return a PassReport"),
        (Careless(forgets="the needs"), r"careless: needs\(\) returned list; return Needs"),
        (Careless(tensor="steam"), r"needs\(\) of careless: no tensor is named 'steam'"),
        (Careless(forgets="a key"), r"careless raised KeyError: 'stem' \(test_run_pass.py, line \d+\)"),
        (Careless(forgets="the layers"), r"careless does not report layer 'stem' \(and 6 more\); name it in"),
    ],
)
def test_an_error_in_a_users_pass_names_the_pass(step: Careless, message: str) -> None:
    recipe = Recipe("own", "", (Normalise(), step, ActivationRanges(), Rtn(bits=8)), storage="int8")
    with pytest.raises(QuantizationError, match=message):
        convert(resnet(), X, recipe=recipe)


@dataclass(frozen=True)
class Unsolved(LayerPass):
    """A pass that gives no solution, or codes of another shape."""

    name: ClassVar[str] = "unsolved"
    wants_moments: ClassVar[bool] = False

    cut: bool = False

    def solve(self, problem: Problem) -> Solution:
        if not self.cut:
            return None  # type: ignore[return-value]
        grid = absmax_grid(problem.weight, problem.bits, min_scale=problem.min_scale)
        return Solution(grid.codes(problem.weight)[:, :1], grid, problem.bias, None, None)


@dataclass(frozen=True)
class Uncorrected(CorrectionPass):
    """A pass that gives no correction."""

    name: ClassVar[str] = "uncorrected"

    def correct(self, outputs: OutputStatistics) -> Correction:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Unsolved(), r"unsolved: solve\(\) returned NoneType; return a Solution"),
        (
            Unsolved(cut=True),
            r"unsolved: solve\(\) gave stem codes of shape \(1, 1, 27\); give the shape",
        ),
        (Uncorrected(), r"uncorrected: correct\(\) returned NoneType; return a Correction"),
    ],
)
def test_a_wrong_answer_of_a_users_pass_names_the_method(step: Pass, message: str) -> None:
    steps = (Normalise(), ActivationRanges(), Rtn(bits=8))
    with pytest.raises(QuantizationError, match=message):
        convert(resnet(), X, recipe=Recipe("own", "", steps).with_pass(step))


def test_a_report_bears_the_name_of_its_pass() -> None:
    @dataclass(frozen=True)
    class Renamed(Traced):
        name: ClassVar[str] = "renamed"

        def apply(self, model: Model, stats: Stats) -> PassReport:
            return replace(super().apply(model, stats), name="another")

    result = convert(resnet(), recipe=Recipe("r", "", (Normalise(), Renamed(), Rtn())))
    assert [report.name for report in result.passes] == ["normalise", "renamed", "rtn"]


def test_needs_take_any_iterable_of_names() -> None:
    recipe = Recipe("own", "", (Normalise(), Careless(), ActivationRanges(), Rtn(bits=8)), storage="int8")
    report = convert(resnet(), X, recipe=recipe).passes[1]
    assert set(report.skipped.values()) == {"saw ['stem']"}
