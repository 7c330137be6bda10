"""The graph in blocks that are learned together: a residual block or an inverted bottleneck at a time.

Segments (one layer and what follows it) join up to the next tensor that alone is alive, since the rest of the network
sees a block only through it (BRECQ, Li et al. 2021, arXiv 2102.05426, §3.2). Chains have such a tensor after every
layer: there the partition is chosen that cuts the narrowest tensors, which in an inverted bottleneck are its ends.
"""

from collections.abc import Mapping, Sequence

from converter.calibration.segments import Segment

__all__ = ["blocks", "join", "sole_boundaries"]


def join(segments: Sequence[Segment]) -> Segment:
    """Consecutive segments as one; `layer` is the first one's."""
    made = {name for segment in segments for name in segment.outputs}
    dead = {name for segment in segments for name in segment.released}
    inputs = dict.fromkeys(name for segment in segments for name in segment.inputs if name not in made)
    outputs = dict.fromkeys(name for segment in segments for name in segment.outputs if name not in dead)
    return Segment(
        nodes=tuple(name for segment in segments for name in segment.nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        layer=next((segment.layer for segment in segments if segment.layer), None),
        released=tuple(name for name in dict.fromkeys(n for s in segments for n in s.released) if name not in made),
    )


def sole_boundaries(segments: Sequence[Segment]) -> dict[int, str]:
    """After which segments a single tensor is alive, and which one."""
    alive: set[str] = set(segments[0].inputs) if segments else set()
    found = {}
    for index, segment in enumerate(segments):
        alive = (alive | set(segment.inputs) | set(segment.outputs)) - set(segment.released)
        if len(alive) == 1:
            found[index] = next(iter(alive))
    return found


def blocks(segments: Sequence[Segment], sizes: Mapping[str, int], most_layers: int) -> list[list[Segment]]:
    """The partition into blocks, each the segments that it consists of.

    Args:
        segments: of `converter.calibration.segments.cut`.
        sizes: elements per image of the tensors that `sole_boundaries` names.
        most_layers: in a block; a part of the graph with more and no single tensor inside is cut after every segment.
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
    """Runs of units of at most so many layers, with the least sum of the widths they are cut at."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of units[:stop], and where its last run begins
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
