"""Layers that a user names: by exact name, by pattern, by operator, or by their place in the graph.

| selector | selects |
|---|---|
| `conv1` | the layer of this name |
| `block?.*.conv` | layers whose names match, with `*` for any characters and `?` for one (`fnmatch`) |
| `re:blocks\\.[0-3]\\..*` | layers whose whole names match a regular expression |
| `op:Gemm` | layers of an operator |
| `after:NODE` | layers that depend on the output of a node |
| `from:NODE..to:NODE` | layers on a path between two nodes, these two included |

A name that a layer has is always that layer, whatever it looks like.
"""

import contextlib
import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

import onnx_graphsurgeon as gs

from passes.errors import UnknownLayerError
from passes.ir.layer_names import require_known
from passes.ir.onnx_graph import layers_in_branches

__all__ = ["by_layer", "matches", "matching", "placed", "select"]

_SPAN = re.compile(r"from:(?P<first>.+)\.\.to:(?P<last>.+)", re.DOTALL)
_PREFIXES = ("re:", "op:", "after:", "from:")
_PLACES = ("op:", "after:", "from:")  # selectors that name nodes and operators of the graph

Found = Mapping[str, Collection[str]]
"""Names of the layers that selectors have matched in an earlier form of the graph, by selector."""


def _is_pattern(selector: str) -> bool:
    """Whether a selector is more than a name, unless a layer has this very name."""
    return selector.startswith(_PREFIXES) or any(sign in selector for sign in "*?")


def select(
    selectors: Iterable[str], graph: gs.Graph, layers: Iterable[str], who: str, found: Found = MappingProxyType({})
) -> dict[str, tuple[str, ...]]:
    """Return the layers that each selector matches, in the graph's order.

    Args:
        selectors: Selectors.
        graph: The graph, sorted.
        layers: Names of the layers that can be selected.
        who: The user of the selectors, for messages.
        found: What `placed` has found. These selectors are not searched in the graph again.

    Raises:
        UnknownLayerError: A selector matches no layer, not even one in a branch of an If, which has a selection of its
            own. The message has the nearest names.
    """
    known = list(layers)
    return {selector: _selected(selector, graph, known, who, found) for selector in selectors}


def placed(selectors: Iterable[str], graph: gs.Graph, layers: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return what selectors by operator and by place match: their nodes may not be in later forms of the graph.

    Other selectors are left out, and so are those that match nothing.
    """
    known, found = list(layers), {}
    for selector in selectors:
        if selector.startswith(_PLACES) and selector not in known:
            with contextlib.suppress(UnknownLayerError):
                found[selector] = frozenset(_selected(selector, graph, known, "", {}))
    return found


def by_layer(
    values: Mapping[str, int],
    graph: gs.Graph,
    layers: Iterable[str],
    who: str,
    found: Found = MappingProxyType({}),
) -> dict[str, int]:
    """Return the value of every layer that a selector of ``values`` matches. A name counts more than a pattern.

    For the arguments and errors see `select`.
    """
    known = list(layers)
    selected = select(values, graph, known, who, found)
    ordered = sorted(selected, key=known.__contains__)  # names last
    return {name: values[selector] for selector in ordered for name in selected[selector]}


def matches(selected: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a line for every selector that is no plain name: what it matched."""
    return tuple(
        f"{selector} matches {len(names)}: {', '.join(names[:_LISTED])}" + (", ..." if len(names) > _LISTED else "")
        for selector, names in selected.items()
        if names != (selector,)
    )


def matching(selectors: Iterable[str], graph: gs.Graph, layers: Iterable[str]) -> list[str]:
    """Return the selectors that match a layer."""
    known, found = list(layers), []
    inside = layers_in_branches(graph)
    for selector in selectors:
        with contextlib.suppress(UnknownLayerError):
            if _selected(selector, graph, known, "", {}) or selector in inside or _is_pattern(selector):
                found.append(selector)
    return found


_LISTED = 8  # most layers in a line


def _selected(selector: str, graph: gs.Graph, known: Sequence[str], who: str, found: Found) -> tuple[str, ...]:
    inside = layers_in_branches(graph)
    if selector in known or not _is_pattern(selector):
        if selector in inside and selector not in known:
            return ()
        require_known([selector], [*known, *inside], who)
        return (selector,)
    chosen = found[selector].__contains__ if selector in found else _chosen(selector, graph, who)
    names = tuple(name for name in known if chosen(name))
    if not names and not any(chosen(name) for name in inside):
        raise UnknownLayerError(who, selector, f"{selector!r} matches no layer; {_hint(selector, graph, known)}")
    return names


def _chosen(selector: str, graph: gs.Graph, who: str) -> Callable[[str], bool]:
    """Return the test of a layer's name."""
    if selector.startswith("re:"):
        try:
            expression = re.compile(selector[3:])
        except re.error as error:
            refusal = f"{selector!r} is not a regular expression: {error}"
            raise UnknownLayerError(who, selector, refusal) from error
        return lambda name: expression.fullmatch(name) is not None
    if selector.startswith("op:"):
        return {node.name for node in graph.nodes if node.op == selector[3:]}.__contains__
    if selector.startswith("after:"):
        return (_reached(graph, selector[6:], selector, who) - {selector[6:]}).__contains__
    span = _SPAN.fullmatch(selector)
    if span is not None:
        first, last = span["first"], span["last"]
        onward = _reached(graph, first, selector, who)
        back = _reached(graph, last, selector, who, backward=True)
        return (onward & back).__contains__
    if selector.startswith("from:"):
        raise UnknownLayerError(who, selector, f"{selector!r} has no end; write from:NODE..to:NODE")
    return lambda name: fnmatch.fnmatchcase(name, selector)


def _reached(graph: gs.Graph, start: str, selector: str, who: str, *, backward: bool = False) -> set[str]:
    """Return the names of the nodes that depend on a node, or that it depends on, and its own."""
    nodes = {node.name: node for node in graph.nodes}
    if start not in nodes:
        near = get_close_matches(start, nodes, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`inspect` lists the layers"
        raise UnknownLayerError(who, selector, f"{selector!r}: no node is named {start!r}; {hint}")
    found, left = {start}, [nodes[start]]
    while left:
        node = left.pop()
        tensors = node.inputs if backward else node.outputs
        following = [other for tensor in tensors for other in (tensor.inputs if backward else tensor.outputs)]
        for other in following:
            if other.name not in found:
                found.add(other.name)
                left.append(other)
    return found


def _hint(selector: str, graph: gs.Graph, known: Sequence[str]) -> str:
    if selector.startswith("op:"):
        ops = dict.fromkeys(node.op for node in graph.nodes if node.name in set(known))
        return f"the layers are {', '.join(ops)}"
    near = get_close_matches(selector.removeprefix("re:").strip("*?.^$"), known, 3, cutoff=0.3)
    return f"the nearest names are {', '.join(near or known[:3])}"
