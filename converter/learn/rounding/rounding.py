"""Learning of one block. Its codes, scales and biases follow the gradient of the error of its deployed form.

The loss is the squared error of the block's outputs over their variance. Outputs are taken after the activation that
ends the block. Scales and biases are learned with Adam (Kingma & Ba 2015), whose rate falls to zero as a cosine. Codes
move by whole steps (`converter.learn.rounding.moves`) and stop moving before Adam ends. The result is the state that is
best on the held-out samples, which may be the initial one. `converter.learn.held_out` hides these images from earlier
passes.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.learn.rounding.fake_quantize import LearnedWeight, QuantizedBlock
from converter.learn.rounding.moves import CodeMoves, curvature
from converter.learn.rounding.samples import Samples, batches, run_in_batches
from passes.weights.learned_rounding import LearnedRounding

__all__ = ["Outcome", "learn"]

_JUDGEMENTS = 4  # evaluations on the held-out samples
_PROBES = 16  # batches on which the curvature is measured
_MOVING = 0.8  # share of the steps in which codes move; after it, scales and biases settle


@dataclass(frozen=True)
class Outcome:
    """Result of learning a block.

    Attributes:
        before_db: Signal-to-noise ratio of the block's outputs on held-out samples before learning, in dB.
        after_db: The same after learning.
        improved: Whether the block changed.
        moved: Number of codes that changed.
    """

    before_db: float
    after_db: float
    improved: bool
    moved: int


def learn(block: QuantizedBlock, train: Samples, held_out: Samples, settings: LearnedRounding, seed: int) -> Outcome:
    """Bring the block to the best state on the held-out samples. It does not change if no state is better."""
    draws = torch.Generator().manual_seed(seed)
    size = min(settings.batch, len(train))
    power = {name: _power(value) for name, value in train.target.items()}
    learned = block.learned()
    start = [weight.codes.clone() for weight in learned]
    moves = _moves(block, train, settings, power, draws) if settings.move_share else None
    groups = (
        ([weight.growth for weight in learned], settings.scale_rate),
        ([weight.shift for weight in learned if weight.shift is not None], settings.bias_rate),
    )
    optimizer = torch.optim.Adam([{"params": part, "lr": rate} for part, rate in groups])
    before = best = _held_out_loss(block, held_out, power)
    state = copy.deepcopy(block.state_dict())
    every = -(-settings.steps // _JUDGEMENTS)
    for step, index in enumerate(batches(len(train), size, settings.steps, draws)):
        for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        target = {name: value[index] for name, value in train.target.items()}
        loss = _loss(block(_mixed(train, index, settings.drop, draws)), target, power)
        block.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if moves is not None:
            moves.step(step < _MOVING * settings.steps)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            present = _held_out_loss(block, held_out, power)
            if present < best:  # never true of NaN
                best, state = present, copy.deepcopy(block.state_dict())
    block.load_state_dict(state)
    moved = sum(int((weight.codes != codes).sum()) for weight, codes in zip(learned, start, strict=True))
    return Outcome(_decibel(before), _decibel(best), best < before, moved)


def _moves(
    block: QuantizedBlock, train: Samples, settings: LearnedRounding, power: dict[str, Tensor], draws: torch.Generator
) -> CodeMoves:
    learned: list[LearnedWeight] = block.learned()
    size = min(settings.batch, len(train))

    def outputs() -> Iterator[dict[str, Tensor]]:
        for index in batches(len(train), size, _PROBES, draws):
            yield block({name: value[index] for name, value in train.quantized.items()})

    return CodeMoves(
        learned,
        curvature(learned, outputs(), power, draws),
        share=settings.move_share,
        certainty=settings.certainty,
        batch_share=size / len(train),
    )


def _mixed(samples: Samples, index: Tensor, drop: float, draws: torch.Generator) -> dict[str, Tensor]:
    """Quantized inputs, with a share of their values taken from the float network (QDrop, Wei et al. 2022, §4.3)."""
    if not drop:
        return {name: value[index] for name, value in samples.quantized.items()}
    result = {}
    for name, value in samples.quantized.items():
        quantized, exact = value[index], samples.exact[name][index]
        taken = (torch.rand(exact.shape, generator=draws) < drop).to(exact.device)
        result[name] = torch.where(taken, exact, quantized)
    return result


def _held_out_loss(block: QuantizedBlock, samples: Samples, power: dict[str, Tensor]) -> float:
    return float(_loss(run_in_batches(block, samples.quantized), samples.target, power))


def _loss(outputs: dict[str, Tensor], target: dict[str, Tensor], power: dict[str, Tensor]) -> Tensor:
    """Squared error over variance, averaged over the outputs."""
    errors = [(outputs[name] - value).square().mean() / power[name] for name, value in target.items()]
    return torch.stack(errors).mean()


def _power(value: Tensor) -> Tensor:
    """Variance of each channel, averaged over channels. It is never zero."""
    axes = [axis for axis in range(value.ndim) if axis != 1 or value.ndim == 1]
    return value.var(dim=axes, unbiased=False).mean().clamp_min(1e-20)


def _decibel(loss: float) -> float:
    return -10 * math.log10(max(loss, 1e-20)) if math.isfinite(loss) else float("-inf")
