"""Learning of one block. Its codes, scales and biases follow the gradient of the error of its deployed form.

Outputs are taken after the activation that ends the block (`converter.learn.rounding.loss`). Scales and biases are
learned with Adam (Kingma & Ba 2015). Codes move by whole steps (`converter.learn.rounding.moves`) and stop moving
before Adam ends, or they are rounded softly (`converter.learn.rounding.soft_rounding`). The result is the state that is
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
from converter.learn.rounding.loss import BlockLoss
from converter.learn.rounding.moves import CodeMoves, curvature
from converter.learn.rounding.samples import Samples, batches, run_in_batches
from converter.learn.rounding.soft_rounding import SoftWeight, regularizer
from passes.weights.learned_rounding import LearnedRounding

__all__ = ["Outcome", "learn"]

_JUDGEMENTS = 4  # evaluations on the held-out samples
_PROBES = 16  # batches on which the curvature is measured
_MOVING = 0.8  # share of the steps in which codes move; after it, scales and biases settle
_MOMENTUM = 0.9  # of sgd


@dataclass(frozen=True)
class Outcome:
    """Result of learning a block.

    Attributes:
        before_db: Signal-to-noise ratio of the block's outputs on held-out samples before learning, in dB.
        after_db: The same after learning. With another loss than "error" it may be lower although the loss fell.
        improved: Whether the block changed, which is so if the loss fell.
        moved: Number of codes that changed.
    """

    before_db: float
    after_db: float
    improved: bool
    moved: int


def learn(
    block: QuantizedBlock, train: Samples, held_out: Samples, settings: LearnedRounding, seed: int, loss: BlockLoss
) -> Outcome:
    """Bring the block to the best state on the held-out samples. It does not change if no state is better."""
    draws = torch.Generator().manual_seed(seed)
    size = min(settings.batch, len(train))
    learned = block.learned()
    soft = [weight for weight in learned if isinstance(weight, SoftWeight)]
    start = [weight.codes.clone() for weight in learned]
    moving = settings.method == "moves" and settings.move_share > 0
    moves = _moves(block, train, settings, loss, draws) if moving else None
    optimizer, rates = _optimizer(learned, soft, settings)

    for weight in soft:
        weight.rounded = True
    plain = loss if loss.kind == "error" else BlockLoss("error", train.target, axes=loss.axes)
    noise = _judged(block, held_out, plain)
    before = best = noise if plain is loss else _judged(block, held_out, loss)
    state = copy.deepcopy(block.state_dict())
    for weight in soft:
        weight.rounded = False
    every = -(-settings.steps // _JUDGEMENTS)
    for step, index in enumerate(batches(len(train), size, settings.steps, draws)):
        done = step / settings.steps
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (0.5 * (1 + math.cos(math.pi * done)) if settings.decays else 1.0)
        target = {name: value[index] for name, value in train.target.items()}
        error = loss(block(_mixed(train, index, settings.drop, draws)), target)
        penalty = regularizer(soft, done) if soft else None
        block.zero_grad()
        (error if penalty is None else error + settings.regularizer * penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if moves is not None:
            moves.step(step < _MOVING * settings.steps)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            for weight in soft:
                weight.round_codes()
            present = _judged(block, held_out, loss)
            if present < best:  # never true of NaN
                best, state = present, copy.deepcopy(block.state_dict())
            for weight in soft:
                weight.rounded = False
    block.load_state_dict(state)
    for weight in soft:
        weight.rounded = True
    moved = sum(int((weight.codes != codes).sum()) for weight, codes in zip(learned, start, strict=True))
    left = best if plain is loss else _judged(block, held_out, plain)
    return Outcome(_decibel(noise), _decibel(left), best < before, moved)


def _optimizer(
    learned: list[LearnedWeight], soft: list[SoftWeight], settings: LearnedRounding
) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimizer, and the highest rate of each of its groups of parameters."""
    groups = [
        ([weight.growth for weight in learned], settings.scale_rate),
        ([weight.shift for weight in learned if weight.shift is not None], settings.bias_rate),
        ([weight.logit for weight in soft], settings.soft_rate),
    ]
    parameters = [{"params": part, "lr": rate} for part, rate in groups]
    rates = [rate for _, rate in groups]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=_MOMENTUM), rates
    return torch.optim.Adam(parameters), rates


def _moves(
    block: QuantizedBlock, train: Samples, settings: LearnedRounding, loss: BlockLoss, draws: torch.Generator
) -> CodeMoves:
    learned: list[LearnedWeight] = block.learned()
    size = min(settings.batch, len(train))

    def outputs() -> Iterator[dict[str, Tensor]]:
        for index in batches(len(train), size, _PROBES, draws):
            yield loss.weighted(block({name: value[index] for name, value in train.quantized.items()}))

    return CodeMoves(
        learned,
        curvature(learned, outputs(), loss.power, draws),
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


@torch.no_grad()
def _judged(block: QuantizedBlock, samples: Samples, loss: BlockLoss) -> float:
    return float(loss(run_in_batches(block, samples.quantized), samples.target))


def _decibel(loss: float) -> float:
    return -10 * math.log10(max(loss, 1e-20)) if math.isfinite(loss) else float("-inf")
