"""The trained torch network and its file are almost equal, and another training's file differs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.trained_parity import parity, trained_network, unoptimized  # noqa: E402
from converter import Recipe, Result, Settings, convert, train  # noqa: E402
from converter.data.dataset import Dataset, load_data  # noqa: E402
from converter.data.inputs import input_specs  # noqa: E402
from passes.activations.activation_ranges import ActivationRanges  # noqa: E402
from passes.graph.normalise.normalise import Normalise  # noqa: E402
from passes.weights.gptq import Gptq  # noqa: E402
from passes.weights.qat import Qat  # noqa: E402
from tests.support.networks import images, quiet, resnet, run  # noqa: E402

START = (Normalise(), ActivationRanges(), Gptq(bits=3))
TRAINING = Qat(epochs=4, batch=16, rate=0.01)


def data(seed: int) -> Dataset:
    x = images(64, 3, 12, 12, seed=seed)
    return load_data((x, run(resnet(), x)[0].argmax(axis=1)), input_specs(resnet()))


def trained(checkpoint: Path) -> Result:
    return train(
        resnet(), data(1), recipe=Recipe("trained", "", (*START, TRAINING)), settings=Settings(checkpoint=checkpoint)
    )


def test_the_file_matches_the_trained_network(tmp_path: Path) -> None:
    result = trained(tmp_path / "c")
    assert result.passes[-1].changed, "an epoch was kept"
    network = trained_network(resnet(), data(1), result.recipe, tmp_path / "c", quiet)
    same = parity(network, result.model, data(9))
    assert (same.images, same.agreement) == (64, 1.0)
    assert same.rms <= same.farthest < 1e-4  # half a step of one bias would be more
    assert parity(unoptimized(result.model), result.model, data(9)).farthest < 1e-4
    before = parity(network, convert(resnet(), data(1), recipe=Recipe("start", "", START)).model, data(9))
    assert before.farthest > 3e-2, "the file before the training is not that network"
    assert before.rms > 2 * same.rms


def test_parity_counts_images_and_measures_in_ranges(tmp_path: Path) -> None:
    result = trained(tmp_path / "c")
    unseen, file = data(9), result.model
    scores = run(file, next(unseen.batches(64)).feeds)[0]
    span = float(np.ptp(scores))

    def shifted(inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the file's scores, with the best class of the first image lowered by half of their range."""
        lowered = run(file, {name: value.numpy() for name, value in inputs.items()})[0].copy()
        lowered[0, lowered[0].argmax()] -= span / 2
        return {str(file.graph.output[0].name): torch.from_numpy(lowered)}

    difference = parity(shifted, file, unseen)
    lowered = scores[0].copy()
    lowered[lowered.argmax()] -= span / 2
    lost = int(lowered.argmax() != scores[0].argmax())
    assert difference.agreement == 1 - lost / 64
    assert difference.farthest == pytest.approx(0.5, rel=1e-5)
    assert difference.rms == pytest.approx(0.5 / np.sqrt(scores.size), rel=1e-5)
