"""Metrics of detectors and pose networks: COCO's mean average precision, and object keypoint similarity."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.metrics.metric import Labels, Metric, Outputs, SampleMean
from passes.errors import DataError, UsageError

__all__ = ["Decode", "MeanAveragePrecision", "Oks"]

Decode = Callable[[Outputs], Sequence[tuple[Any, Any, Any]]]
"""Turns the outputs of a batch into boxes [k, 4] (x0, y0, x1, y1), scores [k] and classes [k] of each sample."""


class MeanAveragePrecision(Metric):
    """Mean average precision over IoU 0.50 to 0.95 (COCO's AP), in percent, by pycocotools.

    Labels ``boxes`` are one array [m, 5] for each sample: class, x0, y0, x1, y1. Without labels, the detections of the
    float model with ``truth_score`` and more are the truth.

    Args:
        decode: Turns outputs into detections, see `Decode`. It does the non-maximum suppression, if the model has none.
        iou: Only this IoU counts, such as 0.5. None: the mean over 0.50 to 0.95.
        truth_score: Least score of a float detection that stands for a label.

    Raises:
        UsageError: There is no ``decode``.

    Source: Lin et al., Microsoft COCO, 2014; the evaluation code of the COCO API.
    """

    name: ClassVar[str] = "map"
    unit: ClassVar[str] = "%"
    needs: ClassVar[tuple[str, ...]] = ("boxes",)

    def __init__(self, decode: Decode | None = None, iou: float | None = None, truth_score: float = 0.35) -> None:
        if decode is None:
            raise UsageError(
                "metric map needs a function that turns outputs into boxes, scores and classes; "
                "write map(decode='FILE.py:FUNCTION')"
            )
        self._decode, self._iou, self._truth_score = decode, iou, truth_score
        self._found: list[dict[str, Any]] = []
        self._right: list[dict[str, Any]] = []
        self._images = 0

    def update(self, outputs: Outputs, labels: Labels) -> None:
        detections, right = self._detections(outputs), labels["boxes"]
        if len(detections) != len(right):
            raise DataError(
                f"metric map: decode() returned {len(detections)} samples, but there are {len(right)} in the batch; "
                "return boxes, scores and classes for each sample"
            )
        for (boxes, scores, classes), truth in zip(detections, right, strict=True):
            self._images += 1
            for box, score, kind in zip(boxes, scores, classes, strict=True):
                self._found.append(self._entry(box, int(kind)) | {"score": float(score)})
            for kind, *box in _rows(truth).tolist():
                entry = self._entry(box, int(kind))
                self._right.append(entry | {"id": len(self._right) + 1, "iscrowd": 0})

    def value(self) -> float:
        if not self._right:
            raise DataError("metric map: no sample has a box; give data with labels `boxes`")
        from pycocotools.coco import COCO  # an extra
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            truth = COCO()
            truth.dataset = {
                "images": [{"id": index + 1} for index in range(self._images)],
                "annotations": self._right,
                "categories": [{"id": kind} for kind in sorted({entry["category_id"] for entry in self._right})],
                "info": {},
            }
            truth.createIndex()
            if not self._found:
                return 0.0
            evaluation = COCOeval(truth, truth.loadRes(self._found), "bbox")
            if self._iou is not None:
                evaluation.params.iouThrs = np.array([self._iou])
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all areas, 100 detections
        known = precision[precision > -1]
        return 100.0 * float(known.mean()) if known.size else 0.0

    def truth(self, outputs: Outputs) -> Labels:
        """Return the detections with high scores."""
        labels = []
        for boxes, scores, classes in self._detections(outputs):
            kept = np.asarray(scores) >= self._truth_score
            rows = np.concatenate([np.asarray(classes)[kept, None], np.asarray(boxes).reshape(-1, 4)[kept]], axis=1)
            labels.append(rows)
        return {"boxes": labels}

    def _detections(self, outputs: Outputs) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Return what decode() says, as arrays of the right shapes."""
        detections = []
        for sample in self._decode(outputs):
            if len(sample) != 3:
                raise DataError("metric map: decode() must return (boxes, scores, classes) for each sample")
            boxes, scores, classes = (np.asarray(each, np.float64) for each in sample)
            scores, classes = scores.reshape(-1), classes.reshape(-1)
            if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
                raise DataError(f"metric map: decode() returned boxes {list(boxes.shape)}, not [k, 4]")
            if not len(scores) == len(classes) == len(boxes.reshape(-1, 4)):
                raise DataError(
                    f"metric map: decode() returned {len(boxes.reshape(-1, 4))} boxes, {len(scores)} scores and "
                    f"{len(classes)} classes; return one of each for every detection"
                )
            detections.append((boxes.reshape(-1, 4), scores, classes))
        return detections

    def _entry(self, box: Any, kind: int) -> dict[str, Any]:
        x0, y0, x1, y1 = (float(each) for each in box)
        width, height = max(0.0, x1 - x0), max(0.0, y1 - y0)
        return {
            "image_id": self._images,
            "category_id": kind,
            "bbox": [x0, y0, width, height],
            "area": width * height,
        }


def _rows(boxes: Any) -> NDArray[np.float64]:
    """Return the boxes of a sample as class, x0, y0, x1, y1: [m, 5]."""
    rows = np.asarray(boxes, np.float64)
    if rows.size and (rows.ndim != 2 or rows.shape[1] != 5):
        raise DataError(
            f"metric map: the boxes of a sample have shape {list(rows.shape)}, not [m, 5]; give class, x0, y0, x1, y1 "
            "of each, and in a table of all samples the number of the sample before them: [m, 6]"
        )
    return rows.reshape(-1, 5)


_COCO_SIGMAS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)  # thousandths


class Oks(SampleMean):
    """Mean object keypoint similarity, in percent.

        OKS = mean over labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2))

    Labels: ``keypoints`` [n, k, 3] (x, y, visible) and ``area`` [n] of each object. Without ``area``, it is that of the
    box around the keypoints.

    Args:
        decode: Turns outputs into keypoints [n, k, 2]. None: the first output has this form.
        sigmas: Deviation of each keypoint. Default: COCO's for 17 keypoints, else 0.05.

    Source: COCO's keypoint evaluation.
    """

    name: ClassVar[str] = "oks"
    unit: ClassVar[str] = "%"
    needs: ClassVar[tuple[str, ...]] = ("keypoints",)

    def __init__(self, decode: Callable[[Outputs], Any] | None = None, sigmas: Sequence[float] | None = None) -> None:
        super().__init__()
        self._decode, self._sigmas = decode, sigmas

    def samples(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        found = self._keypoints(outputs)  # [n, k, 2]
        right = np.asarray(labels["keypoints"], np.float64)  # [n, k, 3]
        if right.shape[:2] != found.shape[:2]:
            raise DataError(f"metric oks: labels keypoints are {list(right.shape)}, the network's {list(found.shape)}")
        count = found.shape[1]
        default = [sigma / 1000 for sigma in _COCO_SIGMAS] if count == len(_COCO_SIGMAS) else [0.05] * count
        spread = (2 * np.asarray(self._sigmas or default)) ** 2  # [k]
        visible = right[:, :, 2] > 0 if right.shape[2] > 2 else np.ones(right.shape[:2], bool)
        size = np.ptp(right[:, :, :2], axis=1)  # [n, 2]
        area = np.asarray(labels.get("area", size.prod(axis=1)), np.float64).reshape(-1, 1)  # [n, 1]
        distance = ((found - right[:, :, :2]) ** 2).sum(axis=2)  # [n, k]
        alike = np.exp(-distance / (2 * np.maximum(area, 1e-9) * spread))
        return np.asarray(100.0 * (alike * visible).sum(axis=1) / np.maximum(visible.sum(axis=1), 1))

    def truth(self, outputs: Outputs) -> Labels:
        """Return the float model's keypoints, all of them visible."""
        found = self._keypoints(outputs)
        return {"keypoints": np.concatenate([found, np.ones((*found.shape[:2], 1))], axis=2)}

    def _keypoints(self, outputs: Outputs) -> NDArray[np.float64]:
        found = np.asarray(next(iter(outputs.values())) if self._decode is None else self._decode(outputs), np.float64)
        if found.ndim != 3 or found.shape[2] < 2:
            raise DataError(
                f"metric oks: keypoints are {list(found.shape)}, not [n, k, 2]; give decode='FILE.py:FUNCTION'"
            )
        return found[:, :, :2]
