"""Detectors with queries: DETR, and RT-DETR with selected queries, sampled features and refined boxes."""

import numpy as np
import onnx

from models.detector_heads.build import CLASSES, SIDES, HeadNet, anchor_points, strides_of_cells

__all__ = ["detr", "rt_detr"]

_WIDTH, _QUERIES = 16, 12


def _linear(net: HeadNet, name: str, x: str, outputs: int, inputs: int = _WIDTH) -> str:
    """Add a MatMul and its bias."""
    y = net.node("MatMul", x, net.weight(f"{name}.weight", inputs, outputs), name=f"{name}.matmul")
    bias = net.constant(f"{name}.bias", (0.1 * net.rng.standard_normal(outputs)).astype(np.float32))
    return net.node("Add", y, bias, name=name)


def _norm(net: HeadNet, name: str, x: str) -> str:
    scale = net.constant(f"{name}.weight", np.ones(_WIDTH, np.float32))
    bias = net.constant(f"{name}.bias", np.zeros(_WIDTH, np.float32))
    return net.node("LayerNormalization", x, scale, bias, name=name, axis=-1)


def _attention(net: HeadNet, name: str, queries: str, keys: str, values: str) -> str:
    """Attention of one head, added to nothing."""
    q, k = _linear(net, f"{name}.q", queries, _WIDTH), _linear(net, f"{name}.k", keys, _WIDTH)
    v = _linear(net, f"{name}.v", values, _WIDTH)
    likeness = net.node("MatMul", q, net.transpose(f"{name}.k_turned", k, 0, 2, 1), name=f"{name}.likeness")
    scaled = net.node("Mul", likeness, net.scalar(f"{name}.scale", _WIDTH**-0.5), name=f"{name}.scaled")
    shares = net.node("Softmax", scaled, name=f"{name}.softmax", axis=-1)
    return _linear(net, f"{name}.out", net.node("MatMul", shares, v, name=f"{name}.mixed"), _WIDTH)


def _feed_forward(net: HeadNet, name: str, x: str) -> str:
    hidden = net.node("Relu", _linear(net, f"{name}.linear1", x, 2 * _WIDTH), name=f"{name}.relu")
    return _linear(net, f"{name}.linear2", hidden, _WIDTH, 2 * _WIDTH)


def _residual(net: HeadNet, name: str, x: str, change: str) -> str:
    return _norm(net, f"{name}.norm", net.node("Add", x, change, name=f"{name}.add"))


def _decoder(net: HeadNet, x: str, places: str, memory: str, keys: str) -> str:
    """One decoder layer: self-attention, attention to the memory, feed-forward."""
    placed = net.node("Add", x, places, name="decoder.self.placed")
    x = _residual(net, "decoder.self", x, _attention(net, "decoder.self.attention", placed, placed, x))
    placed = net.node("Add", x, places, name="decoder.cross.placed")
    x = _residual(net, "decoder.cross", x, _attention(net, "decoder.cross.attention", placed, keys, memory))
    return _residual(net, "decoder.ffn", x, _feed_forward(net, "decoder.ffn", x))


def _box_head(net: HeadNet, name: str, x: str) -> str:
    """Three linear layers."""
    for step in range(2):
        x = net.node("Relu", _linear(net, f"{name}.{step}", x, _WIDTH), name=f"{name}.{step}.relu")
    return _linear(net, f"{name}.2", x, 4)


def detr() -> onnx.ModelProto:
    """One encoder layer, learned queries, one decoder layer, logits with "no object", sigmoid of boxes."""
    net = HeadNet()
    x = net.pyramid(net.relu)[1]
    cells = SIDES[1] ** 2
    x = net.layer("input_proj", x, _WIDTH)
    x = net.transpose("tokens", net.reshape("flat", x, 0, _WIDTH, cells), 0, 2, 1)
    where = net.constant("positions", _positions(cells))
    placed = net.node("Add", x, where, name="encoder.placed")
    memory = _residual(net, "encoder.self", x, _attention(net, "encoder.attention", placed, placed, x))
    memory = _residual(net, "encoder.ffn", memory, _feed_forward(net, "encoder.ffn", memory))
    keys = net.node("Add", memory, where, name="memory.placed")
    places = net.constant("query_embed", net.rng.standard_normal((1, _QUERIES, _WIDTH)).astype(np.float32))
    zero = net.node("Mul", net.slice("first_token", memory, 0, 1, 1), net.scalar("none", 0), name="target.zero")
    target = net.node("Expand", zero, net.ints("target.shape", 1, _QUERIES, 1), name="target")
    x = _decoder(net, target, places, memory, keys)
    logits = net.output("logits", _linear(net, "class_embed", x, CLASSES + 1))
    return net.detector([logits, net.node("Sigmoid", _box_head(net, "bbox_embed", x), name="pred_boxes")], "n")


def _positions(cells: int) -> np.ndarray:
    """Return sines and cosines of the cell's number, [1, cells, width]."""
    angles = np.arange(cells)[:, None] / 50 ** (np.arange(_WIDTH // 2) / (_WIDTH // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)[None].astype(np.float32)


def rt_detr() -> onnx.ModelProto:
    """TopK cells become queries. Features are sampled at their boxes. Boxes are refined before a sigmoid, twice."""
    net, tokens = HeadNet(), []
    scales = net.pyramid(net.relu)
    for level, x in enumerate(scales):
        x = net.layer(f"input_proj.{level}", x, _WIDTH)
        tokens.append(net.reshape(f"flat.{level}", x, 0, _WIDTH, SIDES[level] ** 2))
    memory = net.transpose("memory", net.concat("tokens", *tokens, axis=2), 0, 2, 1)
    memory = _norm(net, "enc_output.norm", _linear(net, "enc_output", memory, _WIDTH))
    logits = _linear(net, "enc_score_head", memory, CLASSES)
    sides = strides_of_cells() / 64
    anchors = np.concatenate([anchor_points() * sides, np.repeat(sides, 2, 1)], 1).clip(0.01, 0.99)
    anchors = np.log(anchors / (1 - anchors))[None].astype(np.float32)
    boxes = net.node("Add", _box_head(net, "enc_bbox_head", memory), net.constant("anchors", anchors), name="enc_boxes")
    most = net.node("ReduceMax", logits, net.ints("best.axis", -1), name="best", keepdims=0)
    net.node("TopK", most, net.ints("queries.count", _QUERIES), name="queries.top", outputs=2, axis=1)
    at = net.node("Unsqueeze", "queries.top_1", "best.axis", name="queries.at")
    reference, target = (
        net.node(
            "GatherElements",
            values,
            net.node("Tile", at, net.ints(f"{name}.repeat", 1, 1, width), name=f"{name}.at"),
            name=name,
            axis=1,
        )
        for name, values, width in (("reference", boxes, 4), ("target", memory, _WIDTH))
    )
    reference = net.node("Sigmoid", reference, name="reference.boxes")
    centre = net.slice("reference.centre", reference, 0, 2, 2)
    span = net.node("Mul", centre, net.scalar("sample.two", 2), name="sample.span")
    span = net.node("Sub", span, net.scalar("sample.one", 1), name="sample.grid_points")
    grid = net.node("Unsqueeze", span, net.ints("sample.axis", 2), name="sample.grid")
    sampled = net.node("GridSample", scales[0], grid, name="sample", mode="linear", padding_mode="zeros")
    sampled = net.node("Squeeze", sampled, net.ints("sample.column", 3), name="sample.rows")
    sampled = net.transpose("sample.tokens", sampled, 0, 2, 1)
    x = _residual(net, "decoder.sample", target, _linear(net, "decoder.sample.out", sampled, _WIDTH))
    places = _linear(net, "query_pos_head", reference, _WIDTH, 4)
    x = _decoder(net, x, places, memory, memory)
    moved = net.node("Add", _box_head(net, "dec_bbox_head", x), _inverse_sigmoid(net, reference), name="dec_boxes")
    scores = net.node("Sigmoid", _linear(net, "dec_score_head", x, CLASSES), name="scores")
    return net.detector([scores, net.node("Sigmoid", moved, name="boxes")], "n")


def _inverse_sigmoid(net: HeadNet, x: str) -> str:
    """log(x / (1 - x)), clipped as RT-DETR does."""
    one, small = net.scalar("inverse.one", 1), net.scalar("inverse.small", 1e-5)
    other = net.node("Sub", one, x, name="inverse.rest")
    low, high = (
        net.node("Clip", part, small, one, name=name) for name, part in (("inverse.x", x), ("inverse.y", other))
    )
    return net.node("Log", net.node("Div", low, high, name="inverse.odds"), name="inverse.log")
