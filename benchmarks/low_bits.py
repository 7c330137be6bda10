"""Every layer at 4, 3 and 2 bits with 8-bit activations, on images that calibration has not seen."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.accuracy import accuracy_losses
from benchmarks.bar import Bar
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS, shared_file
from converter import Recipe, find_recipe
from converter.data import input_specs, load_data
from converter.runtime import Progress
from passes.gptq import Gptq

__all__ = ["low_bits", "low_bits_efficientnet", "with_bits"]


def with_bits(bits: int) -> Recipe:
    """The recipe `int4` with other bits, in every layer."""
    recipe = find_recipe("int4")
    passes = tuple(replace(step, bits=bits) if isinstance(step, Gptq) else step for step in recipe.passes)
    return replace(recipe, name=f"W{bits}A8", description=f"{bits}-bit weights, 8-bit activations", passes=passes)


def low_bits(progress: Progress) -> Iterator[Bar]:
    """ResNet-20 and ResNet-56 on CIFAR-10 and ResNet-18 on road signs, 512 calibration images."""
    limits = ((with_bits(4), 0.2), (with_bits(3), 0.7), (with_bits(2), 4.0))
    for name, pretrained in (("ResNet-20", RESNET20), ("ResNet-56", RESNET56), ("ResNet-18 road signs", ROAD_SIGNS)):
        model = pretrained.model()
        yield from accuracy_losses(name, model, *pretrained.images(model, 512), limits, progress)


def low_bits_efficientnet(progress: Progress) -> Iterator[Bar]:
    """EfficientNet-Lite0 on the ImageNet sample: images of even index calibrate, those of odd index evaluate."""
    model = EFFICIENTNET.model()
    data = load_data(shared_file(EFFICIENTNET.calibration), input_specs(model), preprocess=EFFICIENTNET.preprocess)
    even, odd = (data.select(np.arange(first, len(data), 2)) for first in (0, 1))
    limits = ((with_bits(4), 0.7), (with_bits(3), 4.0))
    yield from accuracy_losses("EfficientNet-Lite0", model, even, odd, limits, progress)
