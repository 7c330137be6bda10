"""Models with outliers compute the same function as before, and they have outliers."""

import numpy as np
import pytest

from benchmarks.smoothquant import with_outliers, with_smoothquant
from converter import find_recipe
from converter.calibration.statistics import calibrate
from passes.activations.activation_ranges import ActivationRanges
from passes.scale_migration.smoothquant import SmoothQuant
from passes.statistics import Needs
from tests.support.networks import dataset, images, prepared, quiet, relative_error, resnet, run

X = images(16, 3, 12, 12)


@pytest.mark.parametrize("channels", [1, 3])
def test_outliers_do_not_change_the_function(channels: int) -> None:
    proto = with_outliers(resnet(), factor=100.0, channels=channels)
    assert relative_error(run(proto, X)[0], run(resnet(), X)[0]) < 1e-5
    peaks = []
    for model in (prepared(resnet()), prepared(proto)):
        needs = Needs(channels=frozenset({"block.conv2"}))
        peaks.append(calibrate(model, needs, dataset(model, X), quiet).channels["block.conv2"].absmax)
    larger = peaks[1] > 50 * peaks[0]
    assert larger.sum() == channels
    np.testing.assert_allclose(peaks[1][~larger], peaks[0][~larger], rtol=1e-4)


def test_smoothquant_goes_before_the_ranges() -> None:
    recipe = with_smoothquant(find_recipe("int8"))
    kinds = [type(step) for step in recipe.passes]
    assert kinds.index(SmoothQuant) == kinds.index(ActivationRanges) - 1
    assert [step for step in recipe.passes if not isinstance(step, SmoothQuant)] == list(find_recipe("int8").passes)
