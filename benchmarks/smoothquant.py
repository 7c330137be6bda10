"""Effect of SmoothQuant on an int8 file: none if channels are even, and higher accuracy if they have outliers.

    python -m benchmarks smoothquant

The models with outliers compute the same function as the originals. Three channels of every group that can be scaled
are made 30 times larger, and the layers that read them undo it (`passes.scale_migration.rescale`).
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from benchmarks.bar import Bar
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS
from converter import Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.qdq.floats import float_model
from converter.runtime.session import Progress
from converter.targets.catalog import find_target
from passes.graph.fold_batchnorm import fold_batchnorm
from passes.graph.normalise.normalise import normalise
from passes.ir.model import Model
from passes.scale_migration.rescale import rescale
from passes.scale_migration.scale_groups import scale_groups
from passes.scale_migration.smoothquant import SmoothQuant

__all__ = ["smoothquant", "with_outliers", "with_smoothquant"]

_INT8 = find_recipe("int8")
_LEAST_DB = -0.5  # two equally good int8 files of one network differ by as much


def with_smoothquant(recipe: Recipe) -> Recipe:
    """Return the recipe with SmoothQuant before its activation ranges."""
    return recipe.with_pass(SmoothQuant(), f"{recipe.name}-smoothquant")


def with_outliers(proto: onnx.ModelProto, factor: float = 30.0, channels: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Return a model of the same function with ``channels`` of every scale group larger by ``factor``."""
    model = Model(gs.import_onnx(proto), find_target("cpu").rules)
    normalise(model.graph)
    fold_batchnorm(model.graph)
    rng = np.random.default_rng(seed)
    for group in scale_groups(model).groups:
        factors = np.ones(group.size)
        factors[rng.choice(group.size, min(channels, group.size), replace=False)] = factor
        rescale(model, group, factors)
    return float_model(model.graph)


def smoothquant(progress: Progress) -> Iterator[Bar]:
    """Measure trained models, and two of them with outliers."""
    for name, pretrained, calibrate, outliers in (
        ("ResNet-20", RESNET20, 512, True),
        ("ResNet-56", RESNET56, 512, False),
        ("ResNet-18, road signs", ROAD_SIGNS, 512, True),
        ("EfficientNet-Lite0", EFFICIENTNET, 256, False),
    ):
        model = pretrained.model()
        data = pretrained.images(model, calibrate)
        yield from _against_int8(name, model, *data, False, progress)
        if outliers:
            yield from _against_int8(f"{name} with outliers", with_outliers(model), *data, True, progress)


def _against_int8(
    name: str, model: onnx.ModelProto, calibration: Dataset, evaluation: Dataset, must_gain: bool, progress: Progress
) -> Iterator[Bar]:
    """Compare with plain int8: top-1 in points and SQNR in dB."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / f"{kind}.onnx" for kind in ("float", "int8", "smooth")]
        save_onnx(model, paths[0])
        for recipe, path in zip((_INT8, with_smoothquant(_INT8)), paths[1:], strict=True):
            settings = Settings(limit=len(calibration))
            convert(model, calibration, recipe=recipe, settings=settings, progress=progress).save(path)
        reference, plain, smooth = evaluate(paths, evaluation, latency=False, progress=progress).models
        agreement = evaluate(paths[1:], evaluation, latency=False, progress=progress).models[1].agreement
    # one standard error of the difference: only images that the two files classify differently contribute
    noise = 100 * math.sqrt((1 - (agreement or 0.0)) / smooth.images)
    percents = f"{_percent(reference)} float, {_percent(plain)} int8, {_percent(smooth)} SmoothQuant"
    note = f"{percents} of {smooth.images:,} images"
    least = round(2 * noise if must_gain else -2 * noise, 2)
    yield Bar(f"{name}: top-1 gained", 100 * ((smooth.top1 or 0.0) - (plain.top1 or 0.0)), least, "points", True, note)
    before, after = plain.sqnr_db or math.inf, smooth.sqnr_db or math.inf
    note = f"{before:.1f} dB int8, {after:.1f} dB SmoothQuant"
    yield Bar(f"{name}: SQNR gained", after - before, 10.0 if must_gain else _LEAST_DB, "dB", True, note)


def _percent(measured: Measurement) -> str:
    if measured.top1 is None:
        raise ValueError(f"{measured.model}: the data have no labels")
    return f"{100 * measured.top1:.2f} %"
