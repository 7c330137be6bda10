"""Replace a mean over all spatial axes with GlobalAveragePool, and count pads only where there are some.

PyTorch's exporters write AdaptiveAvgPool2d(1) and x.mean((2, 3)) as ReduceMean. onnxruntime runs GlobalAveragePool in
int8, and ReduceMean in float.
"""

import onnx_graphsurgeon as gs

from passes.graph.normalise.shapes import Shapes
from passes.ir.surgery import fresh_name, is_default_domain, replace_node, tensor_names

__all__ = ["count_no_pads", "pool_means"]


def count_no_pads(graph: gs.Graph) -> None:
    """Remove `count_include_pad` of an AveragePool without pads, where it says nothing.

    With `ceil_mode`, onnxruntime's integer AveragePool would count what lies beyond the input.
    """
    for node in graph.nodes:
        padded = any(node.attrs.get("pads", ())) or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        if node.op == "AveragePool" and is_default_domain(node) and not padded:
            node.attrs.pop("count_include_pad", None)


def pool_means(graph: gs.Graph, shapes: Shapes) -> list[str]:
    """Replace ReduceMean over axes 2.. of [N, C, *spatial] with GlobalAveragePool, and Flatten if keepdims = 0.

    Returns:
        A line for each.
    """
    taken = tensor_names(graph)
    names = {node.name for node in graph.nodes}
    notes = []
    for node in list(graph.nodes):
        if node.op != "ReduceMean" or not is_default_domain(node) or not _over_all_spatial_axes(node, shapes):
            continue
        source = node.inputs[0]
        if node.attrs.get("keepdims", 1):
            pool = gs.Node("GlobalAveragePool", node.name, inputs=[source])
            replace_node(graph, node, pool)
            notes.append(f"{node.name}: ReduceMean over the spatial axes replaced by GlobalAveragePool")
            continue
        rank = len(shapes[source.name])
        pooled = gs.Variable(fresh_name(f"{node.outputs[0].name}_pooled", taken), source.dtype)
        shapes[pooled.name] = shapes[source.name][:2] + (1,) * (rank - 2)
        pool = gs.Node("GlobalAveragePool", node.name, inputs=[source], outputs=[pooled])
        flat = gs.Node("Flatten", fresh_name(f"{node.name}_flatten", names), {"axis": 1}, inputs=[pooled])
        replace_node(graph, node, pool, flat)
        notes.append(f"{node.name}: ReduceMean over the spatial axes replaced by GlobalAveragePool and Flatten")
    return notes


def _over_all_spatial_axes(node: gs.Node, shapes: Shapes) -> bool:
    shape = shapes.get(node.inputs[0].name)
    if shape is None or len(shape) < 3:
        return False
    if len(node.inputs) > 1 and not node.inputs[1].is_empty():  # from opset 18 on
        if not isinstance(node.inputs[1], gs.Constant):
            return False
        axes = node.inputs[1].values.reshape(-1).tolist()
    else:
        axes = list(node.attrs.get("axes", []))
    return sorted(axis % len(shape) for axis in axes) == list(range(2, len(shape)))
