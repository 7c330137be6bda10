"""Choose how many channels each group keeps, before the passes of a conversion run."""

import dataclasses

from converter.channels.choice import ChannelChoices, require_possible
from converter.channels.costs import products_of, seconds_of
from converter.channels.effects import measure_group_effects, tried_numbers
from converter.pipeline.prepare import Prepared
from converter.pipeline.run_pass import PassContext, require, run_pass
from converter.recipes.recipe import Recipe
from converter.runtime.session import Progress
from passes.channels.channel_groups import ChannelGroups, channel_groups
from passes.channels.prune_channels import Cost, PruneChannels
from passes.errors import DataError, QuantizationError
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph

__all__ = ["channel_step", "measure_channels", "with_channels_chosen"]

_HELD_OUT = 64  # samples on which effects are measured, at most a quarter of all


def channel_step(recipe: Recipe) -> PruneChannels | None:
    """Return the pass of a recipe that removes channels, or None."""
    return next((step for step in recipe.passes if isinstance(step, PruneChannels)), None)


def with_channels_chosen(job: Prepared, progress: Progress) -> Prepared:
    """Return the job with a recipe that says how many channels each group keeps.

    Running that recipe gives the same file without a measurement.

    Raises:
        QuantizationError: Channels cannot be chosen for this model or target.
        UsageError: So many channels cannot go.
    """
    step = channel_step(job.recipe)
    if step is None or not step.chooses:
        return job
    with job.footprint.step("choose channels"):
        choices = measure_channels(job, step, progress, share=step.share)
    return dataclasses.replace(job, recipe=replaced(job.recipe, step, choices.step(step, step.share)))


def replaced(recipe: Recipe, step: PruneChannels, other: PruneChannels) -> Recipe:
    """Return the recipe with another pass that removes channels."""
    return dataclasses.replace(recipe, passes=tuple(other if each is step else each for each in recipe.passes))


def measure_channels(job: Prepared, step: PruneChannels, progress: Progress, *, share: float = 0.0) -> ChannelChoices:
    """Measure what it costs to remove channels of each group, and what it saves.

    Args:
        job: Inputs of the conversion.
        step: The pass.
        progress: Called while effects are measured.
        share: Share of the cost that is to go. It is refused before effects are measured if it cannot.

    Raises:
        QuantizationError: There is nothing to measure, or the target's speed cannot be measured here.
        DataError: There are too few samples.
        UsageError: The share cannot go, whatever it does to the outputs.
    """
    of = _cost_of(job, step)
    data = job.images.shown_to(step)
    if data is None or len(data) < 2:
        raise DataError("prune_channels needs at least 2 samples: some judge what the others choose; give more")
    model = Model(import_graph(job.source), job.target.rules, existing_qparams=job.existing)
    context = PassContext(job.images, job.settings.memory_budget, job.recipe, progress)
    for before in job.recipe.passes[: job.recipe.passes.index(step)]:
        with job.requested.before(before, model):
            run_pass(before, model, context)
    require(step, model, context)
    held, fit = data.split(max(1, min(_HELD_OUT, len(data) // 4)), job.recipe.seed)
    seed, budget = job.recipe.seed, job.settings.memory_budget
    every = channel_groups(model)
    numbers = {group.name: tried_numbers(step, group) for group in every.groups}
    groups = ChannelGroups(
        tuple(group for group in every.groups if len(numbers[group.name]) > 1), every.outputs, every.inputs
    )
    if not groups.groups:
        raise QuantizationError(f"no channels can go: {_why_none(every, step)}; leave `prune_channels=` out")
    sample = next(fit.batches(1))
    if of == "macs":
        costs = products_of(model, groups, sample)
    else:
        costs = seconds_of(job.source, model, groups, job.recipe, job.target, sample, progress)
    require_possible(share, costs, [numbers[group.name][-1] / group.size for group in groups.groups], of)
    effects = tuple(measure_group_effects(model, step, fit, held, progress, seed=seed, memory_budget=budget))
    return ChannelChoices(effects, costs, of)


def _why_none(groups: ChannelGroups, step: PruneChannels) -> str:
    """Return why no channel of a model can go."""
    if groups.groups:
        largest = max(groups.groups, key=lambda group: group.size)
        return f"{largest.name} has most, {largest.size}, of which {step.fewest} stay"
    return next(iter(groups.outputs.values()), "the model has no layers")


def _cost_of(job: Prepared, step: PruneChannels) -> Cost:
    """Return what channels are to save: time on this machine, or products.

    Raises:
        QuantizationError: Time is asked for, and the target is another machine.
    """
    if step.of == "auto":
        return "latency" if job.target.cpu_kernels and not job.settings.deterministic else "macs"
    if step.of == "latency" and not job.target.cpu_kernels:
        raise QuantizationError(
            f'prune_channels: of = "latency" times the CPU of this machine, and target {job.target.name} runs '
            'elsewhere; use of = "macs"'
        )
    return step.of
