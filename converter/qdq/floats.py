"""The graph in memory as a float ONNX model. Calibration runs it, and the quantized writers start from it."""

from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from passes.ir.onnx_graph import export_graph

__all__ = ["float_model", "set_opsets"]

_OLDEST_IR = 10  # opset 21 and INT4


def float_model(graph: gs.Graph, *, exposed: bool = False, without: Collection[str] = ()) -> onnx.ModelProto:
    """A graph of float operators, as a ModelProto. For the options see `passes.ir.onnx_graph.export_graph`."""
    proto = export_graph(graph, exposed=exposed, without=without)
    set_opsets(proto, {entry.domain: entry.version for entry in proto.opset_import})
    return proto


def set_opsets(proto: onnx.ModelProto, opsets: dict[str, int]) -> None:
    """Import these operator sets, and set the lowest IR version that supports them."""
    entries = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    del proto.opset_import[:]
    proto.opset_import.extend(entries)
    official = [entry for entry in entries if entry.domain in {"", "ai.onnx.ml"}]
    proto.ir_version = max(_OLDEST_IR, helper.find_min_ir_version_for(official, ignore_unknown=True))
