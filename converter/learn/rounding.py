"""Learning one block: Adam on what its deployed form gets wrong, judged on images it does not learn from.

The loss is the squared error of the block's outputs, after whatever activation ends it, over their variance. Adam
(Kingma & Ba 2015) with a cosine to zero; what is kept is the best state that the held-out images have seen, which is
the block as it was unless something is better.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from converter.learn.fake_quantize import LearnedWeight, QuantizedBlock
from converter.learn.samples import Samples, batches, run_in_batches
from passes.learned_rounding import LearnedRounding

__all__ = ["Outcome", "learn"]

_JUDGEMENTS = 4  # times that the held-out images are looked at


@dataclass(frozen=True)
class Outcome:
    """Signal to noise of a block's outputs on held-out images, in dB, before and after; whether anything was kept."""

    before_db: float
    after_db: float
    improved: bool


def learn(block: QuantizedBlock, train: Samples, held_out: Samples, settings: LearnedRounding) -> Outcome:
    """Move the block's parameters to the best ones found; they stay as they are if none are better."""
    torch.manual_seed(settings.seed)
    power = {name: _power(value) for name, value in train.target.items()}
    learned = [weight for weight in block.weights if isinstance(weight, LearnedWeight)]
    groups = (
        ([weight.offset for weight in learned], settings.offset_rate),
        ([weight.growth for weight in learned], settings.scale_rate),
        ([weight.shift for weight in learned if weight.shift is not None], settings.bias_rate),
    )
    optimizer = torch.optim.Adam([{"params": part, "lr": rate} for part, rate in groups if part and rate])
    rates = [group["lr"] for group in optimizer.param_groups]
    before = best = _judged(block, held_out, power)
    state = copy.deepcopy(block.state_dict())
    every = -(-settings.steps // _JUDGEMENTS)
    for step, index in enumerate(batches(len(train), min(settings.batch, len(train)), settings.steps)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        target = {name: value[index] for name, value in train.target.items()}
        loss = _loss(block(_mixed(train, index, settings.drop)), target, power)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            found = _judged(block, held_out, power)
            if found < best:  # never true of NaN
                best, state = found, copy.deepcopy(block.state_dict())
    block.load_state_dict(state)
    return Outcome(_decibel(before), _decibel(best), best < before)


def _mixed(samples: Samples, index: Tensor, drop: float) -> dict[str, Tensor]:
    """Quantized inputs, a share of their values taken from the float network (QDrop, Wei et al. 2022, §4.3)."""
    if not drop:
        return {name: value[index] for name, value in samples.quantized.items()}
    result = {}
    for name, value in samples.quantized.items():
        quantized, exact = value[index], samples.exact[name][index]
        result[name] = torch.where(torch.rand_like(exact) < drop, exact, quantized)
    return result


def _judged(block: QuantizedBlock, samples: Samples, power: dict[str, Tensor]) -> float:
    return float(_loss(run_in_batches(block, samples.quantized), samples.target, power))


def _loss(found: dict[str, Tensor], target: dict[str, Tensor], power: dict[str, Tensor]) -> Tensor:
    """Squared error over variance, mean of the outputs."""
    errors = [(found[name] - value).square().mean() / power[name] for name, value in target.items()]
    return torch.stack(errors).mean()


def _power(value: Tensor) -> Tensor:
    """Mean over channels of their variance; never zero."""
    axes = [axis for axis in range(value.ndim) if axis != 1 or value.ndim == 1]
    return value.var(dim=axes, unbiased=False).mean().clamp_min(1e-20)


def _decibel(loss: float) -> float:
    return -10 * math.log10(max(loss, 1e-20)) if math.isfinite(loss) else float("-inf")
