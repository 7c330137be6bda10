"""Layers that read one weight as the same matrix. They have one grid and one set of codes, stored once."""

from collections.abc import Collection, Hashable, Iterable, Mapping

import onnx_graphsurgeon as gs

from passes.ir.linear import Linear
from passes.ir.logarithms import layers_before_logarithms

__all__ = ["agreed", "shared_with", "tied_layers"]


def tied_layers(layers: Iterable[Linear]) -> dict[str, tuple[str, ...]]:
    """Return for every layer that shares its weight the names of all layers that do, itself included, in order.

    Args:
        layers: Layers of one graph, in order. Layers that are left in float do not belong here.
    """
    readers: dict[Hashable, list[str]] = {}
    for layer in layers:
        readers.setdefault((layer.weight, layer.view), []).append(layer.name)
    return {name: tuple(names) for names in readers.values() if len(names) > 1 for name in names}


def agreed(
    bits: Mapping[str, int],
    named: Mapping[str, int],
    layers: Mapping[str, Linear],
    graph: gs.Graph,
    tables: Collection[str] = (),
) -> dict[str, int]:
    """Return the bits of every layer: the same for layers that share a weight, and 8 where fewer are not enough.

    These are layers before a logarithm, and those whose weight is an embedding table as well: everything behind it
    would have the error of its codes.

    Args:
        bits: Bits of every layer.
        named: Bits of the layers that a recipe names. They replace the others, also in layers that share their weight.
        layers: The layers.
        graph: Their graph.
        tables: Names of the layers whose weight is an embedding table as well.
    """
    result = {**bits, **dict.fromkeys([*layers_before_logarithms(graph, layers), *tables], 8), **named}
    for names in set(tied_layers(layers.values()).values()):
        deciding = [name for name in names if name in named] or names
        result |= dict.fromkeys(names, max(result[name] for name in deciding))
    return result


def shared_with(name: str, ties: Mapping[str, tuple[str, ...]]) -> str:
    """Return what a report says of a layer that shares its weight, or nothing."""
    others = [other for other in ties.get(name, ()) if other != name]
    if not others:
        return ""
    return f"weight shared with {others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
