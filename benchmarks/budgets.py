"""Mixed bits against uniform bits at the same bytes, and the smallest file that drops at most half a point.

The images that calibrate and the images that judge attempts come from the calibration set. The results are measured on
other images. The searches store their measurements in build/budgets, so that an interrupted benchmark can be resumed.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from benchmarks.bar import Bar
from benchmarks.shared_data import EFFICIENTNET, RESNET20, RESNET56, ROAD_SIGNS, ROOT
from converter import Budget, Recipe, Result, Settings, convert, convert_within
from converter.budget.mixed import BASE
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.recipes.overrides import with_bits
from converter.runtime.session import Progress

__all__ = [
    "CACHE",
    "ROAD_SIGN_IMAGES",
    "budget_bars",
    "budget_cifar",
    "budget_imagenet",
    "budget_road_signs",
    "uniform",
]

_DROP = 0.5
_WIDTHS = (4, 3)
ROAD_SIGN_IMAGES = 2560
CACHE = ROOT / "build" / "budgets"


def budget_cifar(progress: Progress) -> Iterator[Bar]:
    """Measure ResNet-20 and ResNet-56. 512 images calibrate, and 512 judge."""
    for name, pretrained, widths in (("ResNet-20", RESNET20, ()), ("ResNet-56", RESNET56, _WIDTHS)):
        model = pretrained.model()
        data, evaluation = pretrained.images(model, 1024)
        yield from budget_bars(name, model, data, evaluation, 512, widths, 3.0, CACHE, progress)


def budget_road_signs(progress: Progress) -> Iterator[Bar]:
    """Measure ResNet-18 on road signs. 512 images calibrate, and 2,048 judge."""
    model = ROAD_SIGNS.model()
    data, evaluation = ROAD_SIGNS.images(model, ROAD_SIGN_IMAGES)
    yield from budget_bars("ResNet-18, road signs", model, data, evaluation, 512, _WIDTHS, 3.0, CACHE, progress)


def budget_imagenet(progress: Progress) -> Iterator[Bar]:
    """Measure EfficientNet-Lite0. 256 images calibrate, 372 judge, and the results are measured on 372 others."""
    model = EFFICIENTNET.model()
    data, evaluation = EFFICIENTNET.images(model, 628)
    yield from budget_bars("EfficientNet-Lite0", model, data, evaluation, 256, _WIDTHS, 4.5, CACHE, progress)


def uniform(bits: int) -> Recipe:
    """Return the recipe of mixed bits with the same bits in every layer."""
    return dataclasses.replace(with_bits(BASE, bits), name=f"uniform {bits}")


def budget_bars(
    name: str,
    model: onnx.ModelProto,
    data: Dataset,
    evaluation: Dataset,
    calibrate: int,
    widths: tuple[int, ...],
    most_bits: float,
    cache: Path,
    progress: Progress,
) -> Iterator[Bar]:
    """Measure the bars of one model.

    Args:
        name: Name of the model in the bars.
        model: The float model.
        data: Images to calibrate on and to judge attempts on.
        evaluation: Images that the results are measured on.
        calibrate: Number of images that calibrate.
        widths: Uniform bits that mixed bits are compared with.
        most_bits: Bar on the mean bits of the smallest file that drops at most half a point.
        cache: Folder for the measurements of the searches.
        progress: Called during the work.
    """
    for bits in widths:
        plain = convert(model, data, recipe=uniform(bits), settings=Settings(limit=calibrate), progress=progress)
        budget = Budget(max_bytes=plain.model.ByteSize())
        mixed = convert_within(model, data, budget, settings=Settings(limit=calibrate), cache=cache, progress=progress)
        reference, one, other = _measured(model, [plain, mixed], evaluation, progress)
        note = (
            f"{one.bytes:,} -> {other.bytes:,} bytes, top-1 {_percent(reference)} -> {_percent(one)} -> "
            f"{_percent(other)} ± {100 * (one.top1_error or 0):.2f} % of {one.images:,} images, {one.sqnr_db:.2f} -> "
            f"{other.sqnr_db:.2f} dB, {mixed.seconds:.0f} s"
        )
        gain = (other.sqnr_db or 0.0) - (one.sqnr_db or 0.0)
        yield Bar(f"{name}, bytes of {bits} bits: gained by mixing", gain, 0.0, "dB", at_least=True, note=note)
    yield from _smallest(name, model, data, evaluation, calibrate, most_bits, cache, progress)


def _smallest(
    name: str,
    model: onnx.ModelProto,
    data: Dataset,
    evaluation: Dataset,
    calibrate: int,
    most_bits: float,
    cache: Path,
    progress: Progress,
) -> Iterator[Bar]:
    """Measure the smallest file that drops at most half a point: its bits, its drop on other images, and its speed."""
    budget = Budget(max_drop=_DROP)
    result = convert_within(model, data, budget, settings=Settings(limit=calibrate), cache=cache, progress=progress)
    search = result.search
    assert search is not None
    size = result.model.ByteSize()
    chosen = next(attempt for attempt in search.attempts if attempt.bytes == size)
    plain = convert(model, data, recipe="int8", settings=Settings(limit=calibrate), progress=progress)
    reference, small, int8 = _measured(model, [result, plain], evaluation, progress, latency=True)
    note = (
        f"{len(search.attempts)} attempts, {search.held_out:,} held-out images: {chosen.drop:.2f} points lost there; "
        f"{reference.bytes / small.bytes:.1f}x smaller, {result.seconds:.0f} s"
    )
    yield Bar(f"{name}, --max-drop {_DROP}: bits per weight", chosen.mean_bits, most_bits, "bits", note=note)
    lost = 100 * ((reference.top1 or 0.0) - (small.top1 or 0.0))
    note = (
        f"{_percent(reference)} -> {_percent(small)} ± {100 * (small.top1_error or 0):.2f} % of {small.images:,} "
        f"images, agreement {100 * (small.agreement or 0):.1f} %, {small.sqnr_db:.1f} dB"
    )
    yield Bar(f"{name}, --max-drop {_DROP}: lost on unseen images", lost, None, "points", note=note)
    ratio = (small.latency_ms or 0.0) / (int8.latency_ms or 1.0)
    note = f"{int8.latency_ms:.2f} and {small.latency_ms:.2f} ms, in turn"
    yield Bar(f"{name}, --max-drop {_DROP}: latency over int8", ratio, 1.1, "times", note=note)


def _measured(
    model: onnx.ModelProto, results: list[Result], evaluation: Dataset, progress: Progress, latency: bool = False
) -> tuple[Measurement, ...]:
    """Evaluate the float model and its conversions on the same images."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / f"{index}.onnx" for index in range(len(results) + 1)]
        for proto, path in zip([model, *(result.model for result in results)], paths, strict=True):
            save_onnx(proto, path)
        return evaluate(paths, evaluation, latency=latency, progress=progress).models


def _percent(measured: Measurement) -> str:
    return f"{100 * (measured.top1 or 0.0):.2f}"
