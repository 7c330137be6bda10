"""Preprocessing inside of a file and in front of it: ResNet-18's time at 224 pixels, and classes of road signs.

    python -m benchmarks embedded-preprocessing

Both files are int8, on the same images. The time in front is that of numpy: scaling, mean, std, and the layout, as
`converter.Preprocess` does it. Resizing is not part of either time.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_resnet18
from benchmarks.shared_data import ROAD_SIGNS, shared_file
from converter import Preprocess, Settings, convert
from converter.data.inputs import InputSpec, input_specs
from converter.runtime.latency import interleaved_times
from converter.runtime.runner import Runner
from converter.runtime.session import Progress

__all__ = ["embedded_preprocessing"]

_CALIBRATE, _JUDGED, _SIGNS = 32, 500, 256
_FASTER, _ROUNDS, _BUDGET = 1.05, 120, 120.0
_IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def embedded_preprocessing(progress: Progress) -> Iterator[Bar]:
    """Measure the time of ResNet-18 from uint8 images to scores, and the classes of road signs."""
    yield from _times(progress)
    yield from _classes(progress)


def _times(progress: Progress) -> Iterator[Bar]:
    model = random_resnet18()
    images = np.clip(50 * random_images(_CALIBRATE) + 120, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    spec, image = input_specs(model)[0], np.ascontiguousarray(images[:1])
    layouts = {"nhwc": image, "nchw": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        runners = {}
        for name in (None, *layouts):
            settings = Settings(embed_preprocess=name)
            path = Path(folder) / f"{name}.onnx"
            convert(model, images, preprocess=_IMAGENET, settings=settings, progress=progress).save(path)
            runners[name] = Runner(path, path.name, threads=1)
    calls: list[Callable[[], object]] = [partial(_outside, runners[None], spec, image)]
    calls += [partial(runners[name].execute, {spec.name: pixels}) for name, pixels in layouts.items()]
    times = np.quantile(interleaved_times(calls, rounds=_ROUNDS, budget=_BUDGET), 0.25, axis=0) * 1e3
    for name, time in zip(layouts, times[1:], strict=True):
        note = f"{times[0]:.2f} -> {time:.2f} ms, batch 1, 1 thread, lower quartiles of interleaved rounds"
        yield Bar(f"ResNet-18, {name}: faster than numpy in front", times[0] / time, _FASTER, "x", True, note)


def _outside(runner: Runner, spec: InputSpec, image: NDArray[np.uint8]) -> object:
    return runner.execute({spec.name: _IMAGENET.tensor(image, spec)})


def _classes(progress: Progress) -> Iterator[Bar]:
    model, used = ROAD_SIGNS.model(), ROAD_SIGNS.preprocess
    spec = input_specs(model)[0]
    fit, _ = _spread(ROAD_SIGNS.calibration, _SIGNS)
    images, labels = _spread(str(ROAD_SIGNS.evaluation), _JUDGED)
    found = {}
    for name in (None, "nhwc"):
        file = convert(model, fit, preprocess=used, settings=Settings(embed_preprocess=name), progress=progress).model
        found[name] = _best(file, images if name else used.tensor(images, spec))
    floats = _best(model, used.tensor(images, spec))
    for name, best in found.items():
        where = "in front" if name is None else "inside"
        note = f"top-1 {100 * np.mean(best == labels):.1f} %, float {100 * np.mean(floats == labels):.1f} %"
        share = 100 * float(np.mean(best == floats))
        yield Bar(f"road signs, {where}: same class as float", share, None, "%", True, note)
    share, note = 100 * float(np.mean(found[None] == found["nhwc"])), f"{_JUDGED} test images"
    yield Bar("road signs: same class inside as in front", share, 100, "%", True, note)


def _spread(name: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return ``count`` images and labels, evenly spread over a file of the shared data."""
    with np.load(shared_file(name)) as file:
        images, labels = file["x"], file["y"]
    rows = np.arange(count) * len(images) // count
    return images[rows], labels[rows]


def _best(model: onnx.ModelProto, images: NDArray[np.generic]) -> NDArray[np.int64]:
    runner = Runner(model, "the file")
    name = runner.specs[0].name
    scores = [runner.execute({name: np.asarray(images[start : start + 50])})[0] for start in range(0, len(images), 50)]
    return np.asarray(np.concatenate(scores).argmax(axis=1), np.int64)
