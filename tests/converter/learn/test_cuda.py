"""Learning on a CUDA device, if there is one. The files run in onnxruntime on the CPU."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from converter import Recipe, Result, convert, train  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.base import Device, Pass  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.numerics.error import sqnr_db  # noqa: E402
from passes.weights.learned_rounding import LearnedRounding  # noqa: E402
from passes.weights.qat import Qat  # noqa: E402
from passes.weights.rtn import Rtn  # noqa: E402
from tests.support.networks import images, resnet, run  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

X, UNSEEN = images(64, 3, 12, 12), images(64, 3, 12, 12, seed=9)
START: tuple[Pass, ...] = (Normalise(), ActivationRanges(), Rtn(bits=2))
TRAINING = Qat(epochs=15, batch=16, rate=0.01, objective="float")
ROUNDING = LearnedRounding(steps=30, batch=16)
CUDA: Device = "cuda"


def decibels(result: Result) -> float:
    """SQNR of the scores of unseen images."""
    return sqnr_db(run(resnet(), UNSEEN)[0], run(result.model, UNSEEN)[0])


@pytest.mark.parametrize("step", [TRAINING, ROUNDING], ids=["train", "learned_rounding"])
def test_learning_brings_unseen_images_closer_to_the_float_network(step: Qat | LearnedRounding) -> None:
    start = convert(resnet(), X, recipe=Recipe("start", "", START))
    recipe = Recipe("learned", "", (*START, replace(step, device=CUDA)))
    learned = train(resnet(), X, recipe=recipe) if isinstance(step, Qat) else convert(resnet(), X, recipe=recipe)
    assert learned.passes[-1].changed
    assert decibels(learned) > decibels(start) + 1


def test_a_training_on_cuda_is_near_that_on_the_cpu() -> None:
    results = []
    for device in (CUDA, "cpu"):
        steps = (*START[:-1], Rtn(bits=4), replace(TRAINING, epochs=2, device=device))
        results.append(run(train(resnet(), X, recipe=Recipe("trained", "", steps)).model, UNSEEN)[0])
    assert np.mean(results[0].argmax(1) == results[1].argmax(1)) >= 0.95
    assert sqnr_db(results[1], results[0]) > 15  # sums of fewer bits in another order, and codes between two roundings
