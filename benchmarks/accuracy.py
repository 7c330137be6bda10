"""Top-1 accuracy that a recipe costs, on images that did not calibrate."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from benchmarks.bar import Bar
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56
from converter import Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.runtime.session import Progress

__all__ = ["INT3_WEIGHT_ONLY", "accuracy_losses", "cifar", "imagenet"]

INT3_WEIGHT_ONLY = replace(
    find_recipe("int4-weight-only").with_solver(bits=3),
    name="int3-weight-only",
    description="3-bit weights by sequential GPTQ, float activations",
)


def cifar(progress: Progress) -> Iterator[Bar]:
    """Measure ResNet-20 and ResNet-56 on CIFAR-10 with 512 calibration images."""
    limits = (*_eight_bits(0.2), (find_recipe("int4"), 0.5), (INT3_WEIGHT_ONLY, 1.0))
    for name, pretrained in (("ResNet-20", RESNET20), ("ResNet-56", RESNET56)):
        model = pretrained.model()
        yield from accuracy_losses(name, model, *pretrained.images(model, 512), limits, progress)


def imagenet(progress: Progress) -> Iterator[Bar]:
    """Measure EfficientNet-Lite0 on the ImageNet sample. 256 images calibrate, and the others evaluate."""
    limits = (*_eight_bits(0.5), (find_recipe("int4"), 1.5))
    model = EFFICIENTNET.model()
    yield from accuracy_losses("EfficientNet-Lite0", model, *EFFICIENTNET.images(model, 256), limits, progress)


def _eight_bits(limit: float) -> tuple[tuple[Recipe, float], ...]:
    return tuple((find_recipe(name), limit) for name in ("int8", "int8-gptq"))


def accuracy_losses(
    name: str,
    model: onnx.ModelProto,
    calibration: Dataset | Sequence[Dataset],
    evaluation: Dataset,
    limits: Sequence[tuple[Recipe, float]],
    progress: Progress,
) -> Iterator[Bar]:
    """Convert ``model`` with every recipe and compare it with float on the same images.

    Args:
        name: Name of the model in the bars.
        model: The float model.
        calibration: One set of calibration images, or several. With several, the loss is the mean over them, which
            averages out the effect of single codes.
        evaluation: Images to compare on.
        limits: Recipes with their largest losses in points.
        progress: Called during the conversions.
    """
    sets = [calibration] if isinstance(calibration, Dataset) else list(calibration)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        seconds = []
        for recipe, _ in limits:
            for index, data in enumerate(sets):
                result = convert(model, data, recipe=recipe, settings=Settings(limit=len(data)), progress=progress)
                paths.append(Path(folder) / f"{recipe.name}-{index}.onnx")
                result.save(paths[-1])
                seconds.append(result.seconds)
        reference, *others = evaluate(paths, evaluation, latency=False, progress=progress).models
    for index, (recipe, limit) in enumerate(limits):
        own = slice(index * len(sets), (index + 1) * len(sets))
        losses = [100 * (_top1(reference) - _top1(other)) for other in others[own]]
        note = _note(reference, others[own], seconds[own])
        if len(sets) > 1:
            each = ", ".join(f"{loss:+.2f}" for loss in losses)
            note = f"mean of {len(sets)} sets of {len(sets[0])} calibration images ({each}); {note}"
        yield Bar(f"{name}, {recipe.name}: top-1 lost", float(np.mean(losses)), limit, "points", note=note)


def _note(reference: Measurement, others: Sequence[Measurement], seconds: Sequence[float]) -> str:
    """Describe what the figure was computed from. With several files, the numbers are means."""
    top1, agreement, sqnr, size, took = (
        float(np.mean(values))
        for values in (
            [_top1(other) for other in others],
            [_known(other.agreement) for other in others],
            [_known(other.sqnr_db) for other in others],
            [other.bytes for other in others],
            seconds,
        )
    )
    error = 100 * (others[0].top1_error or 0)
    return (
        f"{100 * _top1(reference):.2f} -> {100 * top1:.2f} ± {error:.2f} % of {others[0].images:,} images, "
        f"agreement {100 * agreement:.1f} %, {sqnr:.1f} dB, {reference.bytes / size:.1f}x smaller, {took:.0f} s"
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the model is no classifier, or was not compared with float")
    return value


def _top1(model: Measurement) -> float:
    if model.top1 is None:
        raise ValueError(f"{model.model}: the data have no labels")
    return model.top1
