"""Detection: NanoDet-m on COCO, by mean average precision and by the float model's own detections.

    python -m benchmarks.nanodet                       int8, int8-gptq and int4 beside quantize_static
    python -m benchmarks.nanodet --min-sqnr 24         what single roundings cost, and int8 raised to 24 dB, as well
    convert-onnx evaluate float.onnx int8.onnx --data even.npz --metric "map(decode='benchmarks/nanodet.py:decode')"

The labels scatter by about a point between sets of 64 images. The float model's detections with scores of 0.35 and more
are the steadier truth.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared_data import shared_file
from converter import Preprocess, Settings, convert, evaluate, sensitivity
from converter.error_sources.choose import expected_db
from converter.metrics.detection import MeanAveragePrecision
from converter.report.table import evaluation_table, show

__all__ = ["PREPROCESS", "decode", "main"]

PREPROCESS = Preprocess(mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), scale=255, channels="bgr")
_STRIDES = (8, 16, 32)
_SIDE, _BINS, _CLASSES = 320, 8, 80
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
    options = parser.parse_args(arguments)
    model = shared_file("detection/nanodet_m.onnx")
    calibration, even = shared_file("detection/coco_calibration.npz"), shared_file("detection/coco_even.npz")
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


def _static(model: Path, calibration: Path, folder: Path) -> Path:
    from benchmarks.shipped.__main__ import static_file
    from converter.data.dataset import load_data
    from converter.data.inputs import input_specs
    from converter.model_io.load import read_onnx

    data = load_data(calibration, input_specs(read_onnx(model)), preprocess=PREPROCESS)
    return static_file(model, [batch.feeds for batch in data.batches(1)], folder)


if __name__ == "__main__":
    sys.exit(main())
