"""Heads that write a box and scores for every cell: YOLOv5, YOLOv8 and YOLO11, NanoDet, YOLOX."""

import numpy as np
import onnx

from models.detector_heads.build import CELLS, CLASSES, SIDES, STRIDES, HeadNet, anchor_points, strides_of_cells

__all__ = ["distances_to_corners", "expected_distances", "nanodet", "scales_of_yolov8", "yolov5", "yolov8", "yolox"]

_ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))  # those of YOLOv5
_BINS = 16


def yolov5() -> onnx.ModelProto:
    """Anchors: (2 s(xy) + grid) * stride, (2 s(wh))² * anchor, objectness and classes, in one tensor."""
    net, width, all_rows = HeadNet(), 5 + CLASSES, []
    for level, x in enumerate(net.pyramid(net.silu)):
        name, side = f"detect.m.{level}", SIDES[level]
        net.layer(name, x, 3 * width)
        for anchor in range(3):
            net.prior(name, slice(width * anchor + 4, width * (anchor + 1)), -2.0)
        cells = net.reshape(f"{name}.reshape", name, 0, 3, width, side, side)
        squashed = net.node("Sigmoid", net.transpose(f"{name}.transpose", cells, 0, 1, 3, 4, 2), name=f"{name}.sigmoid")
        xy, wh, scores = net.split(f"{name}.split", squashed, (2, 2, 1 + CLASSES), 4)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)[None, None] - 0.5
        centre = net.node("Mul", xy, net.scalar(f"{name}.two_xy", 2), name=f"{name}.xy_times_two")
        grid_name = net.constant(f"{name}.grid", np.broadcast_to(grid, (1, 3, side, side, 2)).astype(np.float32))
        centre = net.node("Add", centre, grid_name, name=f"{name}.xy_grid")
        centre = net.node("Mul", centre, net.scalar(f"{name}.stride", STRIDES[level]), name=f"{name}.xy")
        size = net.node("Mul", wh, net.scalar(f"{name}.two_wh", 2), name=f"{name}.wh_times_two")
        size = net.node("Pow", size, net.scalar(f"{name}.square", 2), name=f"{name}.wh_square")
        anchors = np.array(_ANCHORS[level], np.float32).reshape(1, 3, 1, 1, 2) / 10
        size = net.node("Mul", size, net.constant(f"{name}.anchor_grid", anchors), name=f"{name}.wh")
        rows = net.concat(f"{name}.boxes_and_scores", centre, size, scores, axis=4)
        all_rows.append(net.reshape(f"{name}.rows", rows, 0, 3 * side * side, width))
    return net.detector([net.concat("output0", *all_rows, axis=1)], "n")


def expected_distances(net: HeadNet, x: str) -> str:
    """Turn 16 logits for each side of a box into an expected distance: YOLOv8's distribution focal loss (DFL)."""
    sides = net.transpose("detect.dfl.transpose", net.reshape("detect.dfl.reshape", x, 0, 4, _BINS, CELLS), 0, 2, 1, 3)
    chances = net.node("Softmax", sides, name="detect.dfl.softmax", axis=1)
    bins = net.constant("detect.dfl.conv.weight", np.arange(_BINS, dtype=np.float32).reshape(1, _BINS, 1, 1))
    return net.reshape("detect.distances", net.node("Conv", chances, bins, name="detect.dfl.conv"), 0, 4, CELLS)


def distances_to_corners(net: HeadNet, distances: str) -> tuple[str, str]:
    """Return the first and the last corner of every box, in units of the stride."""
    points = net.constant("detect.anchor_points", anchor_points().T[None].copy())
    first = net.node("Sub", points, net.slice("detect.lt", distances, 0, 2, 1), name="detect.x1y1")
    last = net.node("Add", points, net.slice("detect.rb", distances, 2, 4, 1), name="detect.x2y2")
    return first, last


def scales_of_yolov8(net: HeadNet, sides: int) -> tuple[str, str]:
    """Return `sides` numbers for the box, and logits of the classes, of all cells: [n, numbers, cells]."""
    rows = []
    for level, x in enumerate(net.pyramid(net.silu)):
        box = net.layer(f"detect.cv2.{level}.out", net.silu(net.layer(f"detect.cv2.{level}.conv", x, 16, 3)), sides)
        scores = net.layer(
            f"detect.cv3.{level}.out", net.silu(net.layer(f"detect.cv3.{level}.conv", x, 16, 3)), CLASSES
        )
        net.prior(scores, slice(None), -2.0)
        if sides == 4 * _BINS:  # boxes of a trained network are a few cells wide
            net.constants[f"{box}.bias"] -= np.tile(0.3 * np.arange(_BINS, dtype=np.float32), 4)
        else:
            net.constants[f"{box}.bias"] += np.float32(1.5)
        both = net.concat(f"detect.concat.{level}", box, scores, axis=1)
        rows.append(net.reshape(f"detect.rows.{level}", both, 0, sides + CLASSES, SIDES[level] ** 2))
    box, scores = net.split("detect.split", net.concat("detect.concat", *rows, axis=2), (sides, CLASSES), 1)
    return box, scores


def yolov8() -> onnx.ModelProto:
    """Anchor-free: expected distances of a softmax over 16 bins, centre and size, classes."""
    net = HeadNet()
    box, logits = scales_of_yolov8(net, 4 * _BINS)
    first, last = distances_to_corners(net, expected_distances(net, box))
    both = net.node("Add", first, last, name="detect.corners_sum")
    centre = net.node("Div", both, net.scalar("detect.two", 2), name="detect.centre")
    size = net.node("Sub", last, first, name="detect.size")
    strides = net.constant("detect.strides", strides_of_cells().T[None].copy())
    boxes = net.node("Mul", net.concat("detect.xywh", centre, size, axis=1), strides, name="boxes")
    scores = net.node("Sigmoid", logits, name="scores")
    return net.detector([net.concat("output0", boxes, scores, axis=1)], "n")


def nanodet() -> onnx.ModelProto:
    """Depthwise heads with LeakyRelu. Classes and 4 * 8 logits of distances, not decoded."""
    net, rows = HeadNet(), []
    for level, x in enumerate(net.pyramid(net.leaky)):
        for step in range(2):
            name = f"head.{level}.{step}"
            x = net.leaky(net.layer(f"{name}.depthwise", x, 16, 3, group=16))
            x = net.leaky(net.layer(f"{name}.pointwise", x, 16))
        both = net.layer(f"head.{level}.gfl", x, CLASSES + 32)
        net.prior(both, slice(CLASSES), -2.0)
        scores, box = net.split(f"head.{level}.split", both, (CLASSES, 32), 1)
        both = net.concat(
            f"head.{level}.concat", net.node("Sigmoid", scores, name=f"head.{level}.sigmoid"), box, axis=1
        )
        rows.append(net.reshape(f"head.{level}.rows", both, 0, CLASSES + 32, SIDES[level] ** 2))
    return net.detector([net.transpose("output", net.concat("head.concat", *rows, axis=2), 0, 2, 1)], "n")


def yolox() -> onnx.ModelProto:
    """Decoupled heads: (xy + grid) * stride, exp(wh) * stride, objectness and classes."""
    net, rows = HeadNet(), []
    for level, x in enumerate(net.pyramid(net.silu)):
        stem = net.silu(net.layer(f"head.stems.{level}", x, 16))
        classes = net.silu(net.layer(f"head.cls_convs.{level}", stem, 16, 3))
        box = net.silu(net.layer(f"head.reg_convs.{level}", stem, 16, 3))
        logits = net.layer(f"head.cls_preds.{level}", classes, CLASSES)
        regression = net.layer(f"head.reg_preds.{level}", box, 4)
        objectness = net.layer(f"head.obj_preds.{level}", box, 1)
        for each in (logits, objectness):
            net.prior(each, slice(None), -1.0)
        squashed = [net.node("Sigmoid", each, name=f"{each}.sigmoid") for each in (objectness, logits)]
        both = net.concat(f"head.concat.{level}", regression, *squashed, axis=1)
        rows.append(net.reshape(f"head.rows.{level}", both, 0, 5 + CLASSES, SIDES[level] ** 2))
    everything = net.transpose("head.transpose", net.concat("head.concat", *rows, axis=2), 0, 2, 1)
    grid = net.constant("head.grid", anchor_points()[None] - np.float32(0.5))
    strides = net.constant("head.strides", strides_of_cells()[None])
    centre = net.node("Add", net.slice("head.xy", everything, 0, 2, 2), grid, name="head.xy_grid")
    centre = net.node("Mul", centre, strides, name="head.centre")
    size = net.node("Exp", net.slice("head.wh", everything, 2, 4, 2), name="head.exp")
    size = net.node("Mul", size, strides, name="head.size")
    boxes = net.concat("boxes", centre, size, axis=2)
    scores = net.slice("scores", everything, 4, 5 + CLASSES, 2)
    return net.detector([net.concat("output", boxes, scores, axis=2)], "n")
