"""Accuracy with every layer at 4, 3 and 2 bits and 8-bit activations, on images that did not calibrate."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from benchmarks.accuracy import accuracy_losses
from benchmarks.bar import Bar
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS, shared_file
from converter import Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.runtime.session import Progress

__all__ = ["image_halves", "low_bits", "low_bits_efficientnet", "two_level", "with_bits", "with_gptq"]

_SCALES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "a scale a channel": {"block_size": None, "two_level": False},
        "blocks of 16": {"block_size": 16, "fewest_blocks": 0},
        "blocks of 8": {"block_size": 8, "fewest_blocks": 0},
        "blocks of 8, smaller in small layers": {},
    }
)


def with_bits(bits: int, recipe_name: str = "int4", **fields: Any) -> Recipe:
    """Return a built-in recipe with the same bits in every layer and other fields of its GPTQ pass."""
    recipe = with_gptq(find_recipe(recipe_name), f"W{bits}A8", bits=bits, **fields)
    return replace(recipe, description=f"{bits}-bit weights, 8-bit activations")


def with_gptq(recipe: Recipe, name: str, **fields: Any) -> Recipe:
    """Return the recipe with other fields of its GPTQ pass."""
    return replace(recipe.with_solver(**fields), name=name)


def low_bits(progress: Progress) -> Iterator[Bar]:
    """Measure ResNet-20 and ResNet-56 (CIFAR-10, four sets of 512 calibration images) and ResNet-18 (road signs)."""
    limits = ((with_bits(4), 0.2), (with_bits(3), 0.7), (with_bits(2), 4.0))
    for name, pretrained in (("ResNet-20", RESNET20), ("ResNet-56", RESNET56)):
        model = pretrained.model()
        data, evaluation = pretrained.images(model, 1024)
        halves = [np.arange(0, 512), np.arange(512, 1024), np.arange(0, 1024, 2), np.arange(1, 1024, 2)]
        yield from accuracy_losses(name, model, [data.select(half) for half in halves], evaluation, limits, progress)
    model = ROAD_SIGNS.model()
    yield from accuracy_losses("ResNet-18 road signs", model, *ROAD_SIGNS.images(model, 512), limits, progress)


def low_bits_efficientnet(progress: Progress) -> Iterator[Bar]:
    """Measure EfficientNet-Lite0 on the ImageNet sample. Images of even index calibrate, the others evaluate."""
    model = EFFICIENTNET.model()
    even, odd = image_halves(model)
    limits = ((find_recipe("int8-gptq"), 0.7), (with_bits(4), 0.7), (with_bits(3), 4.0))
    yield from accuracy_losses("EfficientNet-Lite0", model, even, odd, limits, progress)


def two_level(progress: Progress) -> Iterator[Bar]:
    """Measure the effect of block scales and of the block size on the SQNR of the scores and on the file size."""
    small, large = RESNET20.model(), EFFICIENTNET.model()
    networks = (
        ("ResNet-20", small, *RESNET20.images(small, 512), (4, 3, 2)),
        ("EfficientNet-Lite0", large, *image_halves(large), (4, 3)),
    )
    for name, model, calibration, evaluation, widths in networks:
        with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
            variants = [(bits, scales) for bits in widths for scales in _SCALES]
            paths = [Path(folder) / f"{index}.onnx" for index in range(len(variants) + 1)]
            save_onnx(model, paths[0])
            for (bits, scales), path in zip(variants, paths[1:], strict=True):
                recipe = with_bits(bits, **_SCALES[scales])
                settings = Settings(limit=len(calibration))
                convert(model, calibration, recipe=recipe, settings=settings, progress=progress).save(path)
            results = evaluate(paths, evaluation, latency=False, progress=progress).models[1:]
        for (bits, scales), each in zip(variants, results, strict=True):
            yield Bar(f"{name}, W{bits}A8: {scales}", each.sqnr_db or 0.0, None, "dB", note=f"{each.bytes:,} bytes")


def image_halves(model: onnx.ModelProto) -> tuple[Dataset, Dataset]:
    """Return the images of even and of odd index of the ImageNet sample."""
    data = load_data(shared_file(EFFICIENTNET.calibration), input_specs(model), preprocess=EFFICIENTNET.preprocess)
    return data.select(np.arange(0, len(data), 2)), data.select(np.arange(1, len(data), 2))
