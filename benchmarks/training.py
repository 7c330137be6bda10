"""Quantization-aware training, measured on images that it did not use.

Measured are the gain over the post-training start, and the difference between the written file and the torch network
that was trained. The difference between the file with and without onnxruntime's optimizations shows how much of it is
the rounding of the kernels.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from benchmarks.bar import Bar
from benchmarks.low_bits import with_bits, with_gptq
from benchmarks.shared_data import RESNET20, ROAD_SIGNS
from converter import Recipe, Settings, convert, find_recipe, train
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.runtime.session import Progress

__all__ = ["qat_cifar", "qat_road_signs"]

_LEAST_AGREEMENT, _MOST_APART = 99.9, 1.0  # percent


def qat_cifar(progress: Progress) -> Iterator[Bar]:
    """Train ResNet-20 at 2 bits on 1,024 labelled images, and at 4 bits on 512 images without using labels."""
    model = RESNET20.model()
    images = {count: RESNET20.images(model, count) for count in (512, 1024)}
    augmented = {"flip": True, "shift": 4}
    yield from _trained("ResNet-20", model, 2, *images[1024], augmented | {"rate": 0.001}, None, progress)
    unlabelled = {"objective": "float", "rate": 0.0002, "epochs": 6}
    yield from _trained("ResNet-20", model, 4, *images[512], augmented | unlabelled, 0.2, progress)


def qat_road_signs(progress: Progress) -> Iterator[Bar]:
    """Train ResNet-18 on 2,048 labelled road signs, with every layer at 4 and at 2 bits, for two epochs."""
    model = ROAD_SIGNS.model()
    training, evaluation = ROAD_SIGNS.images(model, 2048)
    for bits, limit in ((4, 0.1), (2, 0.5)):
        yield from _trained(
            "ResNet-18 road signs", model, bits, training, evaluation, {"shift": 3, "epochs": 2}, limit, progress
        )


def _trained(
    name: str,
    model: onnx.ModelProto,
    bits: int,
    training: Dataset,
    evaluation: Dataset,
    settings: dict[str, Any],
    limit: float | None,
    progress: Progress,
) -> Iterator[Bar]:
    """Compare the trained file with its start, and with the torch network that it was written from.

    ``limit`` is the largest loss of the trained file against float, in points.
    """
    from benchmarks.trained_parity import parity, trained_network, unoptimized

    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / f"{stage}.onnx" for stage in ("float", "start", "trained")]
        checkpoint = Path(folder) / "training.checkpoint"
        save_onnx(model, paths[0])
        start = convert(model, training, recipe=with_bits(bits), progress=progress)
        start.save(paths[1])
        result = train(
            model,
            training,
            recipe=_qat(bits),
            qat=settings,
            settings=Settings(checkpoint=checkpoint),
            progress=progress,
        )
        result.save(paths[2])
        measured = evaluate(paths, evaluation, latency=False, progress=progress).models
        network = trained_network(model, training, result.recipe, checkpoint, progress)
        near = parity(network, result.model, evaluation)
        itself = parity(unoptimized(result.model), result.model, evaluation)
    losses = [100 * (_top1(measured[0]) - _top1(other)) for other in measured[1:]]
    what = f"{name}, W{bits}A8 trained on {len(training):,} images: top-1 lost"
    note = (
        f"post-training {losses[0]:+.2f}; {100 * _top1(measured[2]):.2f} ± {100 * (measured[2].top1_error or 0):.2f} % "
        f"of {measured[2].images:,} images, {100 * (measured[2].agreement or 0):.1f} % as float, {result.seconds:.0f} s"
    )
    yield Bar(what, losses[1], limit, "points", note=note)
    both = f"{name}, W{bits}A8 trained: torch network and its file"
    yield Bar(
        f"{both}, one class", 100 * near.agreement, _LEAST_AGREEMENT, "%", True, f"of {near.images:,} test images"
    )
    rms = f"of the range of the scores; {100 * near.rms:.2f} % in the mean square"
    yield Bar(f"{both}, largest difference", 100 * near.farthest, _MOST_APART, "%", note=rms)
    what = f"{name}, W{bits}A8 trained: the file with onnxruntime's optimizations off and on, one class"
    note = f"largest difference {100 * itself.farthest:.2f} %, {100 * itself.rms:.2f} % in the mean square"
    yield Bar(what, 100 * itself.agreement, None, "%", note=note)


def _qat(bits: int) -> Recipe:
    return with_gptq(find_recipe("int4-qat"), f"W{bits}A8-qat", bits=bits)


def _top1(model: Measurement) -> float:
    if model.top1 is None:
        raise ValueError(f"{model.model}: the data have no labels")
    return model.top1
