"""Heads that select boxes inside the graph: YOLOv10 and YOLO26 by TopK, SSD and RetinaNet by NonMaxSuppression."""

import numpy as np
import onnx
from onnx import TensorProto

from models.detector_heads.build import CLASSES, IMAGE, SIDES, STRIDES, HeadNet, strides_of_cells
from models.detector_heads.dense import distances_to_corners, expected_distances, scales_of_yolov8

__all__ = ["retinanet", "ssd", "yolo26", "yolov10"]

_BEST = 20


def yolov10() -> onnx.ModelProto:
    """Distances by DFL. The best 20 cells, then the best 20 of their classes: TopK and GatherElements twice."""
    net = HeadNet()
    box, logits = scales_of_yolov8(net, 64)
    return _best_cells(net, expected_distances(net, box), logits)


def yolo26() -> onnx.ModelProto:
    """Distances straight from the layer (no DFL), selected as in YOLOv10."""
    net = HeadNet()
    return _best_cells(net, *scales_of_yolov8(net, 4))


def _best_cells(net: HeadNet, distances: str, logits: str) -> onnx.ModelProto:
    first, last = distances_to_corners(net, distances)
    strides = net.constant("detect.strides", strides_of_cells().T[None].copy())
    boxes = net.node("Mul", net.concat("detect.xyxy", first, last, axis=1), strides, name="detect.boxes")
    both = net.concat("detect.output", boxes, net.node("Sigmoid", logits, name="detect.scores"), axis=1)
    boxes, scores = net.split("select.split", net.transpose("select.transpose", both, 0, 2, 1), (4, CLASSES), 2)
    most = net.node("ReduceMax", scores, net.ints("select.axis", -1), name="select.best_class", keepdims=0)
    count = net.ints("select.count", _BEST)
    net.node("TopK", most, count, name="select.cells", outputs=2, axis=-1)
    at = net.node("Unsqueeze", "select.cells_1", net.ints("select.last", -1), name="select.cell_rows")
    boxes = net.node("GatherElements", boxes, _repeated(net, at, 4), name="select.boxes", axis=1)
    scores = net.node("GatherElements", scores, _repeated(net, at, CLASSES), name="select.scores", axis=1)
    flat = net.reshape("select.flat", scores, 0, _BEST * CLASSES)
    best = net.node("TopK", flat, count, name="select.pairs", outputs=2, axis=-1)
    classes = net.constant("select.classes", np.int64(CLASSES))
    label = net.node("Mod", "select.pairs_1", classes, name="select.label")
    row = net.node("Div", "select.pairs_1", classes, name="select.row")
    row = net.node("Unsqueeze", row, "select.last", name="select.row_column")
    chosen = net.node("GatherElements", boxes, _repeated(net, row, 4), name="select.chosen", axis=1)
    best = net.node("Unsqueeze", best, "select.last", name="select.best_scores")
    label = net.node("Unsqueeze", label, "select.last", name="select.label_column")
    label = net.node("Cast", label, name="select.label_float", to=TensorProto.FLOAT)
    return net.detector([net.concat("output0", chosen, best, label, axis=2)])


def _repeated(net: HeadNet, rows: str, columns: int) -> str:
    repeats = net.ints(f"{rows}.repeat_{columns}", 1, 1, columns)
    return net.node("Tile", rows, repeats, name=f"{rows}.times_{columns}")


def ssd() -> onnx.ModelProto:
    """Prior boxes: variances, exp and corners; softmax over classes; NonMaxSuppression; a varying number of rows."""
    net, kinds = HeadNet(), 2
    boxes: list[str] = []
    logits: list[str] = []
    for level, x in enumerate(net.pyramid(net.relu)):
        count = SIDES[level] ** 2 * kinds
        for what, width, rows in (("loc", 4, boxes), ("conf", CLASSES + 1, logits)):
            y = net.layer(f"{what}.{level}", x, kinds * width, 3)
            if what == "conf":
                net.constants[f"{y}.bias"][:: CLASSES + 1] += np.float32(2)  # background
            rows.append(net.reshape(f"{y}.rows", net.transpose(f"{y}.nhwc", y, 0, 2, 3, 1), 0, count, width))
    offsets = net.concat("loc", *boxes, axis=1)
    centres, sizes = _priors(kinds)
    centre = _scaled(net, "decode.centre", net.slice("decode.xy", offsets, 0, 2, 2), 0.1 * sizes)
    centre = net.node("Add", centre, net.constant("decode.priors", centres), name="decode.centres")
    size = _scaled(net, "decode.log_size", net.slice("decode.wh", offsets, 2, 4, 2), np.full_like(sizes, 0.2))
    size = _scaled(net, "decode.size", net.node("Exp", size, name="decode.exp"), sizes)
    half = net.node("Div", size, net.scalar("decode.two", 2), name="decode.half")
    corners = [net.node(op, centre, half, name=f"decode.{op.lower()}") for op in ("Sub", "Add")]
    everything = net.concat("decode.boxes", *corners, axis=2)
    chances = net.node("Softmax", net.concat("conf", *logits, axis=1), name="softmax", axis=-1)
    scores = net.transpose("scores_by_class", net.slice("objects", chances, 1, CLASSES + 1, 2), 0, 2, 1)
    return net.detector(_suppressed(net, everything, scores, limit=0.25))


def _priors(kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres and sizes of prior boxes on the scale of the image, [1, priors, 2] each."""
    centres, sizes = [], []
    for side, stride in zip(SIDES, STRIDES, strict=True):
        grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 1, 2) + 0.5) / side
        centres.append(np.broadcast_to(grid, (side * side, kinds, 2)).reshape(-1, 2))
        shapes = 2 * stride / IMAGE * np.array([[1.0, 1.0], [1.4, 0.7]])[:kinds]
        sizes.append(np.broadcast_to(shapes, (side * side, kinds, 2)).reshape(-1, 2))
    return np.concatenate(centres)[None].astype(np.float32), np.concatenate(sizes)[None].astype(np.float32)


def _scaled(net: HeadNet, name: str, x: str, factors: np.ndarray) -> str:
    return net.node("Mul", x, net.constant(f"{name}.factors", factors.astype(np.float32)), name=name)


def _suppressed(net: HeadNet, boxes: str, scores: str, limit: float) -> list[str]:
    """Select by NonMaxSuppression, and gather what it selects. Return the outputs."""
    most, overlap = net.constant("nms.most", np.int64(10)), net.scalar("nms.overlap", 0.5)
    chosen = net.node("NonMaxSuppression", boxes, scores, most, overlap, net.scalar("nms.limit", limit), name="nms")
    columns = [
        net.node("Squeeze", net.slice(f"nms.{name}", chosen, column, column + 1, 1), "nms.axis", name=name)
        for column, name in ((1, "labels"), (2, "rows"))
    ]
    net.ints("nms.axis", 1)
    flat = net.node("Squeeze", boxes, net.ints("nms.batch", 0), name="nms.one_image")
    kept = net.node("Gather", flat, columns[1], name="boxes", axis=0)
    best = net.node("GatherND", scores, chosen, name="scores")
    return [kept, best, columns[0]]


def retinanet() -> onnx.ModelProto:
    """One head for all scales, sigmoid, the best of each scale, clipped deltas written by ScatterND, then suppression.

    A last ScatterND writes the scores that are kept into a row of zeros, as exporters do for masks.
    """
    net, kinds = HeadNet(), 2
    all_boxes, all_scores = [], []
    for level, x in enumerate(net.pyramid(net.relu)):
        first = "" if level == 0 else "head.{}.0"
        count = SIDES[level] ** 2 * kinds
        found = {}
        for what, width in (("cls", CLASSES), ("box", 4)):
            y = net.relu(net.layer(f"head.{what}_conv.{level}", x, 16, 3, shared=first and f"head.{what}_conv.0"))
            y = net.layer(f"head.{what}.{level}", y, kinds * width, 3, shared=first and f"head.{what}.0")
            if what == "cls" and level == 0:
                net.prior(y, slice(None), -1.0)
            found[what] = net.reshape(f"{y}.rows", net.transpose(f"{y}.nhwc", y, 0, 2, 3, 1), 0, count, width)
        name = f"level.{level}"
        scores = net.node("Sigmoid", found["cls"], name=f"{name}.sigmoid")
        most = net.node("ReduceMax", scores, net.ints(f"{name}.axis", -1), name=f"{name}.best", keepdims=0)
        net.node("TopK", most, net.ints(f"{name}.count", min(count, 24)), name=f"{name}.top", outputs=2, axis=1)
        at = net.node("Unsqueeze", f"{name}.top_1", net.ints(f"{name}.last", -1), name=f"{name}.at")
        start = sum(kinds * side * side for side in SIDES[:level])
        centres, sizes = (values[:, start : start + count] for values in _priors(kinds))
        picked = {
            "deltas": (found["box"], 4),
            "classes": (scores, CLASSES),
            "centres": (net.constant(f"{name}.anchor_centres", IMAGE * centres), 2),
            "sizes": (net.constant(f"{name}.anchor_sizes", IMAGE * sizes), 2),
        }
        chosen = {
            key: net.node("GatherElements", values, _repeated_once(net, at, width), name=f"{name}.{key}", axis=1)
            for key, (values, width) in picked.items()
        }
        all_boxes.append(_anchored(net, name, chosen))
        all_scores.append(chosen["classes"])
    boxes = net.concat("decode.boxes", *all_boxes, axis=1)
    scores = net.transpose("scores_by_class", net.concat("all_scores", *all_scores, axis=1), 0, 2, 1)
    outputs = _suppressed(net, boxes, scores, limit=0.5)
    zeros = net.node("Mul", scores, net.scalar("mask.zero", 0), name="mask.zeros")
    return net.detector([*outputs, net.node("ScatterND", zeros, "nms", outputs[1], name="mask")])


def _repeated_once(net: HeadNet, rows: str, columns: int) -> str:
    return f"{rows}.times_{columns}" if f"{rows}.repeat_{columns}" in net.constants else _repeated(net, rows, columns)


def _anchored(net: HeadNet, name: str, chosen: dict[str, str]) -> str:
    """Decode the deltas of one scale. In-place writes of the two corners are two ScatterND, as PyTorch exports them."""
    centre = net.node("Mul", net.slice(f"{name}.dxy", chosen["deltas"], 0, 2, 2), chosen["sizes"], name=f"{name}.shift")
    centre = net.node("Add", centre, chosen["centres"], name=f"{name}.centre")
    size = net.slice(f"{name}.dwh", chosen["deltas"], 2, 4, 2)
    bounds = net.scalar(f"{name}.low", -4), net.scalar(f"{name}.high", 4.135)
    size = net.node("Exp", net.node("Clip", size, *bounds, name=f"{name}.clip"), name=f"{name}.exp")
    size = net.node("Mul", size, chosen["sizes"], name=f"{name}.size")
    half = net.node("Mul", size, net.scalar(f"{name}.half", 0.5), name=f"{name}.half_size")
    columns = net.transpose(f"{name}.columns", chosen["deltas"], 2, 1, 0)
    inside = net.scalar(f"{name}.zero", 0), net.scalar(f"{name}.side", IMAGE)
    for op, rows in (("Sub", (0, 1)), ("Add", (2, 3))):
        corner = net.node(op, centre, half, name=f"{name}.corner_{op.lower()}")
        corner = net.node("Clip", corner, *inside, name=f"{name}.inside_{op.lower()}")
        corner = net.transpose(f"{name}.rows_{op.lower()}", corner, 2, 1, 0)
        index = net.constant(f"{name}.index_{op.lower()}", np.array(rows, np.int64)[:, None])
        columns = net.node("ScatterND", columns, index, corner, name=f"{name}.write_{op.lower()}")
    return net.transpose(f"{name}.boxes", columns, 2, 1, 0)
