"""What a pass says of itself: the defaults of each kind, and what the built-in passes say."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from converter.recipes.registry import PASSES
from passes.activations.keep_ranges import KeepRanges
from passes.base import CorrectionPass, GraphPass, LayerPass, LearningPass, Pass, Stage, require_codes
from passes.errors import QuantizationError
from passes.graph.exclude import Exclude
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Needs, Stats
from passes.weights.gptq import Gptq
from passes.weights.keep import KeepCodes
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.obq import Obq
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn
from tests.support.networks import prepared, resnet


@dataclass(frozen=True)
class Looking(GraphPass):
    """Wants statistics."""

    name: ClassVar[str] = "looking"

    def needs(self, model: Model) -> Needs:
        return Needs(channels=frozenset(model.layers()))


@dataclass(frozen=True)
class Blind(GraphPass):
    """Wants none, and leaves a trace."""

    name: ClassVar[str] = "blind"

    def apply(self, model: Model, stats: Stats) -> PassReport:
        model.float_reasons |= dict.fromkeys(model.layers(), "blind was here")
        return PassReport(self.name)


def test_every_built_in_pass_is_of_one_kind() -> None:
    for kind in PASSES.values():
        assert sum(issubclass(kind, each) for each in (GraphPass, LayerPass, CorrectionPass, LearningPass)) == 1
        assert issubclass(kind, Pass)


def test_which_built_in_passes_need_data() -> None:
    needing = {name for name, kind in PASSES.items() if kind().needs_data}
    assert {"smoothquant", "awq", "activation_ranges", "gptq", "obq", "bias_correction", "qat"} <= needing
    assert not needing & {"normalise", "fold_batchnorm", "exclude", "equalize", "rtn", "keep_ranges", "keep_codes"}


def test_a_graph_pass_needs_data_if_it_overrides_needs() -> None:
    assert Looking().needs_data
    assert not Blind().needs_data


@pytest.mark.parametrize("kind", [GraphPass, LayerPass, CorrectionPass])
def test_most_passes_neither_learn_nor_judge(kind: type[Pass]) -> None:
    step = kind()
    assert (step.device, step.held_out, step.trains, step.keeps_codes) == (None, 0.0, False, False)
    assert step.with_device("cpu") is step
    assert step.with_excluded(["conv"]) is None


def test_passes_that_learn_say_where_and_what_they_judge_by() -> None:
    for step in (LearnedRounding(held_out=0.25), Qat(held_out=0.25)):
        assert (step.device, step.held_out, step.stage) == ("auto", 0.25, Stage.REFINEMENT)
        assert step.with_device("cpu").device == "cpu"
    assert Qat.trains
    assert not LearnedRounding.trains


@pytest.mark.parametrize("kind", [LearnedRounding, Qat])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_pass_judges_by_some_and_learns_from_others(kind: type[LearnedRounding | Qat], share: float) -> None:
    with pytest.raises(ValueError, match=f"held_out must be between 0 and 1, not {share}"):
        kind(held_out=share)


def test_who_solves_layers() -> None:
    gptq = Gptq()
    assert gptq.solver is gptq
    assert [step.solver for step in (Exclude(), KeepCodes(), Qat())] == [None, None, None]
    assert KeepCodes.keeps_codes


def test_a_layer_alone_is_solved_quickly() -> None:
    assert Rtn(bits=4, sequential=True).alone() == Rtn(bits=4, sequential=False)
    for step in (Gptq(refine=5), Obq(refine=5)):
        alone = step.alone()
        assert type(alone) is type(step)
        assert (alone.sequential, alone.asymmetric_target, alone.beam, alone.few_rows, alone.refine) == (
            False, False, 1, False, 1,
        )  # fmt: skip
    assert Gptq(refine=0).alone().refine == 0


def test_bits_of_a_call_go_before_its_own_and_excluded_layers_have_none() -> None:
    step = Gptq(layer_bits={"a": 8, "b": 8, "c": 8})
    assert step.with_bits({"b": 3}, ["c"]).layer_bits == {"a": 8, "b": 3}
    with pytest.raises(ValueError, match="9"):
        step.with_bits({"b": 9}, [])


def test_excluded_layers_of_a_call() -> None:
    step = Exclude(("a", "b"))
    assert step.with_bits({"a": 4}, []) == Exclude(("b",))
    assert step.with_excluded(["b", "c"]) == Exclude(("a", "b", "c"))


def test_a_layer_pass_requires_the_layers_that_it_names() -> None:
    model = prepared(resnet())
    name = next(iter(model.layers()))
    Rtn(layer_bits={name: 4}).requires(model)
    with pytest.raises(QuantizationError, match="nothere"):
        Rtn(layer_bits={"nothere": 4}).requires(model)
    model.float_reasons[name] = "excluded"
    with pytest.raises(QuantizationError, match=name):
        Rtn(layer_bits={name: 4}).requires(model)


@pytest.mark.parametrize("step", [KeepRanges(), KeepCodes()])
def test_keeping_requires_a_quantized_model(step: Pass) -> None:
    with pytest.raises(QuantizationError, match="nothing to keep: the model is not quantized"):
        step.requires(prepared(resnet()))


@pytest.mark.parametrize("step", [Rtn(), KeepCodes()])
def test_what_quantizes_weights_ensures_codes_or_a_reason(step: Pass) -> None:
    model = prepared(resnet())
    first, *others = model.layers()
    model.float_reasons |= dict.fromkeys(others, "excluded")
    with pytest.raises(QuantizationError, match=f"{step.name} gave {first} no codes, and no reason to stay in float"):
        step.ensures(model)
    model.float_reasons[first] = "excluded"
    step.ensures(model)
    require_codes(model, step.name)


def test_a_pass_without_needs_is_applied_without_data() -> None:
    model = prepared(resnet())
    Looking().apply_without_data(model)
    Rtn().apply_without_data(model)
    assert not model.float_reasons
    Blind().apply_without_data(model)
    assert model.float_reasons.keys() == model.layers().keys()
