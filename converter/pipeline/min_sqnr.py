"""Raise a file to a SQNR: what costs most at the outputs stays in float, or gets more bits, and the file is made again.

Weights get 8 bits. Activations get 16 on a target that has integer kernels for them, and stay in float on others.

The choice follows from what each rounding costs (`converter.error_sources`). The error of the new file is measured. If
it is still too large, more is chosen, in proportion to what is missing.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence

from converter.display.numbers import decibels
from converter.error_sources.choose import choose
from converter.error_sources.measure import ErrorSource, measure
from converter.pipeline.finish import Written
from converter.pipeline.mending import Mending
from converter.pipeline.prepare import Prepared
from converter.qdq.floats import float_model
from converter.recipes.overrides import with_layers
from converter.recipes.recipe import Recipe
from converter.recipes.requested_layers import RequestedLayers
from converter.runtime.session import Progress
from converter.speed.profile import node_seconds
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.float_activations import FloatActivations
from passes.errors import BudgetError, ModelError, UsageError
from passes.ir.rules import Rules

__all__ = ["advice", "fault", "reach", "require_judgeable", "without_rounding"]

_CHECKED = RequestedLayers((), {})  # the first file has found all layers that the call names
_ROUNDS = 6
_SAMPLES = 4  # that measure what each rounding costs
_PROFILED = 3  # runs of the profile
_NAMED, _WARNED = 3, 2  # most sources in a warning, and samples that find them
_SECONDS = 90.0  # most that finding them may take


def require_judgeable(aim_db: float | None, recipe: Recipe, *, has_data: bool) -> None:
    """Check that a file can be raised to a SQNR.

    Raises:
        UsageError: There are no samples, or the recipe has only one result.
    """
    if aim_db is None:
        return
    if not has_data:
        raise UsageError(f"`min_sqnr={aim_db:g}` is judged on samples; give `calibration=`")
    if recipe.keeps:
        raise UsageError(f"recipe {recipe.name!r} keeps the codes of the model, so `min_sqnr=` has no effect")
    if recipe.trains:
        raise UsageError(f"recipe {recipe.name!r} trains the model, and `min_sqnr=` would train it again; leave it out")


def _sources(
    written: Written, job: Prepared, count: int, progress: Progress, within: float = math.inf
) -> tuple[ErrorSource, ...]:
    """Measure what every rounding in a file costs, on a few of the samples. Empty if it would take too long."""
    with job.footprint.step("sensitivity"):
        return measure(written.work, job.samples(count), progress, within=within)


def reach(
    first: Written, job: Prepared, write: Callable[[Prepared], Written], progress: Progress
) -> tuple[Written, Prepared, Mending]:
    """Make files until every output has `Settings.min_sqnr`.

    Args:
        first: The file by the recipe.
        job: The conversion that made it.
        write: Makes a file.
        progress: Called while it is measured what costs most.

    Returns:
        The file, the conversion that made it, and the record.

    Raises:
        BudgetError: No file reaches it.
    """
    aim = job.settings.min_sqnr
    assert aim is not None
    if not _judged(first):
        raise BudgetError(f"`min_sqnr={aim:g}`: no output of the model can be compared with float; leave it out", None)
    whole = frozenset(first.work.quantized if not job.target.rules.weight_only else ())
    wider = _gets_wider(job.recipe, job.target.rules)
    exact: list[ErrorSource] = []
    sources: tuple[ErrorSource, ...] = ()
    seconds: dict[str, float] = {}
    tried = [(first, job)]
    while _worst(tried[-1][0]) < aim and len(tried) <= _ROUNDS:
        if not sources:
            sources = _sources(first, job, _SAMPLES, progress)
            seconds = node_seconds(float_model(first.work.graph), job.samples(1)[0], _PROFILED)
        chosen = choose(sources, _measured(tried[-1][0], sources), aim, exact, seconds)
        if not chosen:
            break
        exact += chosen
        recipe = without_rounding(job.recipe, exact, whole, job.target.rules)
        made = dataclasses.replace(job, recipe=recipe, requested=_CHECKED)
        tried.append((write(made), made))
    best, made = max(tried, key=lambda each: _worst(each[0]))
    before, after = _worst(first), _worst(best)
    if after < aim:
        raise BudgetError(
            f"no file reaches `min_sqnr={aim:g}`, and none was written; the best of {len(tried)} has "
            f"{decibels(after)} (the recipe's own has {decibels(before)})",
            None,
        )
    if not _has_codes(best) and _has_codes(first):
        raise BudgetError(
            f"no file reaches `min_sqnr={aim:g}` unless all layers stay in float, and none was written; the recipe's "
            f"own has {decibels(before)}",
            None,
        )
    return best, made, Mending(aim, before, after, *_changes(exact, whole, wider), len(tried))


def _has_codes(written: Written) -> bool:
    return bool(written.work.quantized or written.work.recurrent)


def _judged(written: Written) -> dict[str, float]:
    """Return the SQNR of every output that keeps its shape. It is -inf if there is NaN or Inf."""
    if written.fidelity is None:
        return {}
    outputs = written.fidelity.outputs
    return {name: error for name, error in outputs.items() if name not in written.fidelity.changing}


def _measured(written: Written, sources: Sequence[ErrorSource]) -> dict[str, float]:
    """Return the SQNR of what the sources were measured on. Outputs of other names count for all of it."""
    judged = _judged(written)
    known = {name: judged[name] for name in sources[0].sqnr_db if name in judged} if sources else {}
    if known and min(known.values()) == min(judged.values()):
        return known
    return dict.fromkeys(sources[0].sqnr_db if sources else (), min(judged.values()))


def _noise(source: ErrorSource, output: str) -> float:
    """Return what a source costs at an output, or at its worst output if that one was not measured."""
    return source.noise(output) if output in source.sqnr_db else 10 ** (-source.worst_db / 10)


def _worst(written: Written) -> float:
    """Return the SQNR of the worst output that keeps its shape."""
    return min(_judged(written).values(), default=-math.inf)


_Names = tuple[str, ...]


def _changes(
    exact: Sequence[ErrorSource], whole: Collection[str], wider: bool
) -> tuple[_Names, _Names, _Names, _Names]:
    """Return nodes whose activations stay in float, and get 16 bits, and layers that stay in float, and get 8 bits."""
    touched = dict.fromkeys(node for source in exact if source.kind == "activation" for node in source.nodes)
    nodes, wide = ((), tuple(touched)) if wider else (tuple(touched), ())
    weights = [source for source in exact if source.kind == "weight"]
    layers = dict.fromkeys(name for source in weights if source.bits == 8 for name in source.names)
    layers |= dict.fromkeys(name for name in nodes if name in whole)
    bits = dict.fromkeys(name for source in weights if source.bits != 8 for name in source.names)
    return (
        tuple(name for name in nodes if name not in layers),
        tuple(name for name in wide if name not in layers),
        tuple(layers),
        tuple(name for name in bits if name not in layers),
    )


def _gets_wider(recipe: Recipe, rules: Rules) -> bool:
    """Whether activations get 16 bits before they stay in float."""
    eight = any(isinstance(step, ActivationRanges) and step.bits == 8 for step in recipe.passes)
    return eight and 16 in rules.activation_bits


def without_rounding(recipe: Recipe, exact: Sequence[ErrorSource], whole: Collection[str], rules: Rules) -> Recipe:
    """Return the recipe that does not round these sources.

    Args:
        recipe: The recipe.
        exact: The sources.
        whole: Layers that cannot have float activations and a quantized weight on the target, so that they stay in
            float as a whole.
        rules: Those of the target.
    """
    nodes, wide, layers, bits = _changes(exact, whole, _gets_wider(recipe, rules))
    changed = with_layers(recipe, layers, dict.fromkeys(bits, 8))
    if wide:
        steps = (step.widened(wide) if isinstance(step, ActivationRanges) else step for step in changed.passes)
        changed = dataclasses.replace(changed, passes=tuple(steps))
    return changed.with_pass(FloatActivations(nodes, "float activations for `min_sqnr=`")) if nodes else changed


def fault(written: Written, job: Prepared, progress: Progress) -> str:
    """Say what costs most at the worst output of a file that is far from float.

    Empty if nothing is known, or if measuring it takes much longer than a warning is worth.
    """
    outputs = _judged(written)
    if not outputs:
        return ""
    worst = min(outputs, key=outputs.__getitem__)
    try:
        found = _sources(written, job, _WARNED, progress, _SECONDS)
    except ModelError:  # the file itself is written all the same
        return ""
    ranked = sorted(found, key=lambda source: -_noise(source, worst))
    total = sum(_noise(source, worst) for source in ranked)
    named: list[ErrorSource] = []
    while len(named) < min(_NAMED, len(ranked)) and sum(_noise(each, worst) for each in named) <= total / 2:
        named.append(ranked[len(named)])
    if not named or not _noise(named[0], worst):
        return ""
    words = ", ".join(f"the {each.kind} {'of ' if each.kind == 'weight' else ''}{each.name}" for each in named)
    most = math.isinf(total) or sum(_noise(each, worst) for each in named) > total / 2
    return f"most of it comes from {words}" if most else f"{words} cost most"


def advice(recipe: Recipe) -> str:
    """Say what can be done about a file that is far from float."""
    if recipe.keeps or recipe.trains:
        return "`exclude=` leaves layers in float"
    return "`min_sqnr=20` leaves what costs most in float, and `sensitivity` lists what each tensor costs"
