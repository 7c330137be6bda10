"""Detection: NanoDet-m on COCO, by mean average precision and by the float model's own detections.

    python -m benchmarks.nanodet                       int8, int8-gptq and int4 beside quantize_static
    python -m benchmarks.nanodet --min-sqnr 24         what single roundings cost, and int8 raised to 24 dB, as well
    python -m benchmarks.nanodet --verify openvino qnn web     int8 and int4 for these targets, run on them
    python -m benchmarks.nanodet --max-drop 0.5        the smallest file that loses so much mAP on the labels
    convert-onnx evaluate float.onnx int8.onnx --data even.npz --metric "map(decode='benchmarks/nanodet.py:decode')"

The labels scatter by about a point between sets of 64 images. The float model's detections with scores of 0.35 and more
are the steadier truth.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared_data import shared_file
from converter import Budget, Preprocess, Settings, convert, convert_within, evaluate, sensitivity, verify
from converter.budget.held_out_judge import JUDGING, Judge
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.display.numbers import decibels
from converter.error_sources.choose import expected_db
from converter.metrics.detection import MeanAveragePrecision
from converter.model_io.load import read_onnx
from converter.report.search import search_tables
from converter.report.table import evaluation_table, plain_table, show

__all__ = ["PREPROCESS", "decode", "main"]

PREPROCESS = Preprocess(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), scale=255, channels="bgr")
_STRIDES = (8, 16, 32)
_SIDE, _BINS, _CLASSES = 320, 8, 80
_VERIFIED = 16  # images that run on each target
_LEAST_SCORE, _SAME_BOX, _MOST = 0.02, 0.6, 100


def decode(outputs: Mapping[str, NDArray[Any]]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Return the boxes, scores and classes of one image. The model takes one image at a time."""
    boxes, scores = [], []
    known = {each.shape: each for each in outputs.values()}  # the file's names do not say which output is which
    for stride in _STRIDES:
        cells = _SIDE // stride
        rows, columns = np.divmod(np.arange(cells * cells), cells)
        centres = np.stack([columns, rows], 1) * stride + 0.5 * stride - 0.5  # [cells, 2]
        bins = known[cells * cells, 4 * _BINS].reshape(-1, 4, _BINS).astype(np.float64)
        shares = np.exp(bins - bins.max(axis=2, keepdims=True))
        distance = (shares / shares.sum(axis=2, keepdims=True)) @ np.arange(_BINS) * stride  # left, top, right, bottom
        boxes.append(np.concatenate([centres - distance[:, :2], centres + distance[:, 2:]], axis=1))
        scores.append(known[cells * cells, _CLASSES])
    return [_without_doubles(np.concatenate(boxes).clip(0, _SIDE), np.concatenate(scores))]


def _without_doubles(
    boxes: NDArray[np.float64], scores: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Keep the best of boxes that overlap, for each class on its own."""
    cells, classes = np.nonzero(scores > _LEAST_SCORE)
    order = np.argsort(-scores[cells, classes], kind="stable")
    cells, classes = cells[order], classes[order]
    apart = boxes[cells] + (classes * 2.0 * _SIDE)[:, None]  # boxes of different classes never overlap
    kept: list[int] = []
    left = np.arange(len(cells))
    while len(left) and len(kept) < _MOST:
        first, left = left[0], left[1:]
        kept.append(int(first))
        left = left[_overlap(apart[first], apart[left]) <= _SAME_BOX]
    return boxes[cells[kept]], scores[cells[kept], classes[kept]], classes[kept]


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of a box with others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    area = float(np.prod(box[2:] - box[:2]))
    return np.asarray(both / (area + np.prod(others[:, 2:] - others[:, :2], axis=1) - both))


def average_precision() -> MeanAveragePrecision:
    """Mean average precision on the labels."""
    return MeanAveragePrecision(decode)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the detector by each recipe, and measure the files on the images with boxes."""
    parser = argparse.ArgumentParser(prog="benchmarks.nanodet", description="Detection by NanoDet-m.")
    parser.add_argument("--recipes", nargs="+", default=["int8", "int8-gptq", "int4"], metavar="RECIPE")
    parser.add_argument("--min-sqnr", type=float, metavar="DB", help="Also raise `int8` to this SQNR.")
    parser.add_argument("--verify", nargs="+", metavar="TARGET", help="Only run int8 and int4 on these targets.")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="Only search within this drop of mAP.")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="Measurements of the search, to resume it.")
    options = parser.parse_args(arguments)
    model = shared_file("detection/nanodet_m.onnx")
    calibration, even = shared_file("detection/coco_calibration.npz"), shared_file("detection/coco_even.npz")
    if options.verify:
        return _verify(model, calibration, even, options.verify)
    if options.max_drop is not None:
        return _search(model, calibration, even, options.max_drop, options.cache)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"float": model}
        for recipe in options.recipes:
            path = Path(folder) / f"{recipe}.onnx"
            result = convert(model, calibration, recipe=recipe, preprocess=PREPROCESS, settings=Settings(limit=128))
            result.save(path)
            paths[recipe] = path
        if options.min_sqnr is not None:
            paths["int8 raised"] = _raised(model, calibration, Path(folder), options.min_sqnr)
        paths["quantize_static"] = _static(model, calibration, Path(folder))
        with np.load(even) as arrays:
            images = arrays["x"]  # without boxes, the float model's detections are the truth
        for data, timed in ((even, True), (images, False)):
            measured = evaluate(
                list(paths.values()),
                data,
                names=list(paths),
                metric=average_precision,
                preprocess=PREPROCESS,
                latency=timed,
            )
            show([evaluation_table(measured)])
    return 0


def _raised(model: Path, calibration: Path, folder: Path, aim: float) -> Path:
    """Raise `int8` to a SQNR, and say what single roundings cost in all and how the file reached it."""
    found = sensitivity(model, calibration, preprocess=PREPROCESS, settings=Settings(limit=64))
    worst = min(expected_db(found.sources).values())
    print(f"the sum of {len(found.sources)} single errors leaves {worst:.1f} dB at the worst output")
    for source in found.ranked()[:4]:
        print(f"  {source.kind} {source.name}: {100 * found.share(source):.0f} % of the error")
    settings = Settings(limit=128, min_sqnr=aim)
    result = convert(model, calibration, recipe="int8", preprocess=PREPROCESS, settings=settings)
    assert result.mending is not None  # an aim was given
    print(result.mending.describe())
    path = folder / "raised.onnx"
    result.save(path)
    return path


def _verify(model: Path, calibration: Path, even: Path, targets: Sequence[str]) -> int:
    """Convert the detector for each target, run the files there, and compare them with the CPU and with float.

    The result is 1 if a file fails, or if a target's runtime is not here.
    """
    columns = ("target", "recipe", "ran on", "left to others", "SQNR to the CPU", "SQNR to float", "the CPU's", "")
    table, failed = plain_table("", columns, (3, 4, 5, 6)), False
    with tempfile.TemporaryDirectory() as folder:
        for target, recipe in itertools.product(targets, ("int8", "int4")):
            path = Path(folder) / f"{recipe}-{target}.onnx"
            settings = Settings(limit=128)
            convert(model, calibration, recipe=recipe, target=target, preprocess=PREPROCESS, settings=settings).save(
                path
            )
            found = verify(path, target, even, reference=model, limit=_VERIFIED)
            failed = failed or not found.passed or found.how != "run"
            errors = (decibels(value) for value in (found.sqnr_db, found.float_db, found.cpu_float_db))
            left = "" if found.nodes is None else str(len(found.left))
            cells = (target, recipe, found.runtime, left, *errors, "; ".join(found.failures) or "passed")
            print(*cells, flush=True)
            table.add_row(*cells)
    show([table])
    return int(failed)


def _search(model: Path, calibration: Path, even: Path, points: float, cache: Path | None) -> int:
    """Search within a drop on the labels. Half of the images with boxes calibrate, and the other half judges.

    The file is measured on the half that did not judge, by the labels, and on the images without boxes, against float.
    The result is 1 if it drops by more than the budget and twice the error there, or is no smaller than `int8`.
    """
    data = load_data(even, input_specs(read_onnx(model)), preprocess=PREPROCESS, annotated=True)
    settings = Settings(limit=len(data) // 2, metric=average_precision)
    found = convert_within(model, data, Budget(max_drop=points), settings=settings, cache=cache)
    assert found.search is not None  # a budget was given
    show(search_tables(found.search))
    plain = convert(model, data, recipe="int8", settings=Settings(limit=len(data) // 2))
    half, _ = JUDGING.split(data, len(data) // 2, found.recipe.seed)
    lost = Judge(model, half, classes=False, metric=average_precision).judge(found.model).drop
    assert lost is not None  # a metric was given
    print(f"on {len(half)} images that did not judge: {100 * lost.counted:.2f} ± {100 * lost.error:.2f} points lost")
    with tempfile.TemporaryDirectory() as folder:
        paths = [model, Path(folder) / "int8.onnx", Path(folder) / "found.onnx"]
        plain.save(paths[1])
        found.save(paths[2])
        with np.load(calibration) as arrays:
            others = arrays["x"]
        names = ["float", "int8", "found"]
        show([evaluation_table(evaluate(paths, others, names=names, metric=average_precision, preprocess=PREPROCESS))])
        larger = paths[2].stat().st_size >= paths[1].stat().st_size
    return int(larger or 100 * lost.counted > points + 200 * lost.error)


def _static(model: Path, calibration: Path, folder: Path) -> Path:
    from benchmarks.shipped.__main__ import static_file

    data = load_data(calibration, input_specs(read_onnx(model)), preprocess=PREPROCESS)
    return static_file(model, [batch.feeds for batch in data.batches(1)], folder)


if __name__ == "__main__":
    sys.exit(main())
