"""Partition of the graph into blocks that are learned together, such as a residual block or an inverted bottleneck.

A segment is one layer and the operators behind it. Segments join up to the next point at which only one tensor is
alive: the rest of the network sees a block only through that tensor (BRECQ, Li et al. 2021, arXiv 2102.05426, §3.2). A
chain of layers has such a point after every layer. There the partition is chosen that cuts the narrowest tensors. In an
inverted bottleneck, these are its ends.
"""

from collections.abc import Mapping, Sequence

from converter.calibration.segments import Segment

__all__ = ["blocks", "join", "sole_boundaries"]


def join(segments: Sequence[Segment]) -> Segment:
    """Join consecutive segments into one. Its `layer` is the first layer among them."""
    written = {name for segment in segments for name in segment.outputs}
    dead = {name for segment in segments for name in segment.released}
    inputs = dict.fromkeys(name for segment in segments for name in segment.inputs if name not in written)
    outputs = dict.fromkeys(name for segment in segments for name in segment.outputs if name not in dead)
    return Segment(
        nodes=tuple(name for segment in segments for name in segment.nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        layer=next((segment.layer for segment in segments if segment.layer), None),
        released=tuple(name for name in dict.fromkeys(n for s in segments for n in s.released) if name not in written),
    )


def sole_boundaries(segments: Sequence[Segment]) -> dict[int, str]:
    """The segments after which only one tensor is alive, with the name of that tensor."""
    alive: set[str] = set(segments[0].inputs) if segments else set()
    boundaries = {}
    for index, segment in enumerate(segments):
        alive = (alive | set(segment.inputs) | set(segment.outputs)) - set(segment.released)
        if len(alive) == 1:
            boundaries[index] = next(iter(alive))
    return boundaries


def blocks(segments: Sequence[Segment], sizes: Mapping[str, int], most_layers: int) -> list[list[Segment]]:
    """Partition the segments into blocks.

    Args:
        segments: Segments from `converter.calibration.segments.cut`.
        sizes: Elements per image of the tensors that `sole_boundaries` names.
        most_layers: Most layers in a block. A part of the graph with more layers, and without a point at which only one
            tensor is alive, is cut after every segment.

    Returns:
        The segments of each block.
    """
    boundaries = sole_boundaries(segments)
    units: list[list[Segment]] = [[]]
    widths: list[float] = []
    for index, segment in enumerate(segments):
        units[-1].append(segment)
        if index in boundaries and index < len(segments) - 1:
            widths.append(float(sizes[boundaries[index]]))
            units.append([])
    widths.append(0.0)
    layers = [sum(segment.layer is not None for segment in unit) for unit in units]
    result: list[list[Segment]] = []
    for first, stop in _narrowest(layers, widths, most_layers):
        together = [segment for unit in units[first:stop] for segment in unit]
        split = sum(layers[first:stop]) > most_layers
        result.extend([[segment] for segment in together] if split else [together])
    return result


def _narrowest(layers: Sequence[int], widths: Sequence[float], most_layers: int) -> list[tuple[int, int]]:
    """Group units into runs of at most ``most_layers`` layers, with the least sum of the widths at the cuts."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of units[:stop], and where the last of their runs begins
    for stop in range(1, len(layers) + 1):
        options = []
        for first in range(stop - 1, -1, -1):
            if first < stop - 1 and sum(layers[first:stop]) > most_layers:
                break
            options.append((best[first][0] + widths[stop - 1], first))
        best.append(min(options))
    runs, stop = [], len(layers)
    while stop:
        runs.append((best[stop][1], stop))
        stop = best[stop][1]
    return runs[::-1]
