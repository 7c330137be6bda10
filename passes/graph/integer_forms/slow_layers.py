"""Find convolutions that run faster with float activations, by the times of a target's kernels.

A network is a chain of layers and of operators between them. Its time is the sum of all kernels, and of the changes
between integers and floats, under the placement that a choice of float layers gives. Neighbours are chosen together,
since one slow layer between integers may not be worth the two changes, while a chain of them is.

The times are known to some 30 %. So a choice must save a quarter of the time of what it moves, and something that can
be measured at all. If all convolutions together are expected to be slower than in float, any saving counts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import onnx_graphsurgeon as gs

from passes.activations.placement import Placement, place
from passes.graph.integer_forms.geometry import convolution, pixels, size
from passes.graph.normalise.shapes import Shapes
from passes.ir.linear import Linear, linear_layers
from passes.ir.rules import Rules
from passes.numerics.kernel_times import KernelTimes

__all__ = ["slow_layers"]

_SAVED = 0.25  # share of the time of the layers and operators that are moved to float
_LEAST = 30e3  # ns that the first layers of a chain must save, and
_STEP = 5e3  # ns that each further layer must save
_SWEEPS = 3


def slow_layers(graph: gs.Graph, rules: Rules, shapes: Shapes, layers: frozenset[str]) -> list[str]:
    """Return the names of these layers, in the graph's order.

    Args:
        graph: The graph.
        rules: Rules of the target. Without times of its kernels there are none.
        shapes: Shapes of the graph's tensors.
        layers: Layers that could run on integers.
    """
    if rules.times is None:
        return []
    known = linear_layers(graph)
    convolutions = {name for name in layers if known[name].op == "Conv"}
    slow = _Search(graph, rules, rules.times, shapes, layers, known).run(frozenset(convolutions))
    return [name for name in known if name in slow]


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A choice of float layers, its placement, and the time that it takes."""

    floats: frozenset[str]
    integer: frozenset[str]
    time: float


class _Search:
    """Times of one graph under choices of float layers."""

    def __init__(
        self,
        graph: gs.Graph,
        rules: Rules,
        times: KernelTimes,
        shapes: Shapes,
        layers: frozenset[str],
        known: Mapping[str, Linear],
    ) -> None:
        self.graph, self.rules, self.layers = graph, rules, layers
        self.shapes, self.times = shapes, times
        self.saved = _SAVED
        self.on_integers: dict[str, float] = {}
        self.in_float: dict[str, float] = {}
        self.owners: dict[str, frozenset[str]] = {}  # tensor -> layers that it comes from
        self.following: dict[str, set[str]] = {}
        self.saving: dict[str, float] = {}  # layer -> what it and the operators behind it would save in float
        for node in graph.nodes:
            self.measure(node, known.get(node.name))
        self.tensors = {  # writer, readers and number of elements
            name: (
                str(tensor.inputs[0].name) if tensor.inputs else "",
                tuple(str(reader.name) for reader in tensor.outputs),
                self.elements(name),
            )
            for name, tensor in graph.tensors().items()
        }

    def measure(self, node: gs.Node, layer: Linear | None) -> None:
        """Record the times of a node, and the layers before it."""
        name = str(node.name)
        before = frozenset[str]().union(*(self.owners.get(tensor.name, frozenset()) for tensor in node.inputs))
        if layer is not None and layer.op == "Conv" and name in self.layers:
            shape = convolution(layer, self.shapes)
            self.on_integers[name], self.in_float[name] = self.times.integer_time(shape), self.times.float_time(shape)
        elif layer is None:
            elements = sum(self.elements(tensor.name) for tensor in node.outputs[:1])
            for times, integer in ((self.on_integers, True), (self.in_float, False)):
                times[name] = self.times.operator_time(node.op, elements, integer=integer)
        saved = self.on_integers.get(name, 0.0) - self.in_float.get(name, 0.0)
        owners = before
        if layer is not None:
            owners = frozenset({name})
            for other in before:
                self.following.setdefault(other, set()).add(name)
                self.following.setdefault(name, set()).add(other)
        for owner in owners:
            self.saving[owner] = self.saving.get(owner, 0.0) + saved / len(owners)
        self.owners.update((str(tensor.name), owners) for tensor in node.outputs)

    def elements(self, tensor: str) -> int:
        shape = self.shapes.get(tensor)
        return 0 if shape is None else size(shape[1:2]) * pixels(shape[2:])

    def run(self, candidates: frozenset[str]) -> frozenset[str]:
        """Return the layers that should run in float."""
        slow = {name for name in self.saving if name in candidates and self.saving[name] > 0}
        if not slow:
            return frozenset()
        best = start = self.choose(frozenset())
        everything = self.choose(candidates)
        self.saved = _SAVED if start.time < everything.time else 0.0
        for chain in (*self.chains(self.bridged(slow, candidates)), *self.chains(slow)):
            if not chain <= best.floats:
                best = self.better(best, chain, start)
        if everything.time < best.time and self.worthwhile(start, everything):
            best = everything
        if best is start:
            return frozenset()
        for _ in range(_SWEEPS):
            before = best
            for name in sorted({other for each in best.floats for other in self.following.get(each, ())}):
                if name in candidates and name not in best.floats:
                    beyond = self.following[name] & candidates
                    for more in ({name}, {name, *beyond}):
                        best = min(best, self.choose(best.floats | more), key=_with_step(best))
            for name in sorted(best.floats):
                fewer = self.choose(best.floats - {name})
                best = fewer if fewer.time <= best.time + _STEP and fewer.floats else best
            if best is before:
                break
        return best.floats if self.worthwhile(start, best) else frozenset()

    def bridged(self, slow: set[str], candidates: frozenset[str]) -> set[str]:
        """Return the slow layers, and those between two of them that lose less in float than the two save."""
        bridges = set()
        for name in candidates - slow:
            around = self.following.get(name, set()) & slow
            if len(around) > 1 and self.saving.get(name, 0.0) + sum(self.saving[each] for each in around) > 0:
                bridges.add(name)
        return slow | bridges

    def better(self, best: _Choice, chain: frozenset[str], start: _Choice) -> _Choice:
        """Return the choice with a chain of layers in addition, or with a part of it, if that is worthwhile."""
        for part in (chain, *(frozenset({name}) for name in sorted(chain))):
            trial = self.choose(best.floats | part)
            if self.worthwhile(best, trial) and self.worthwhile(start, trial):
                best = trial
                if part == chain:
                    break
        return best

    def worthwhile(self, old: _Choice, new: _Choice) -> bool:
        """Return whether a choice saves enough of the time of what it moves to float."""
        moved = sum(self.on_integers.get(name, 0.0) for name in old.integer - new.integer)
        return old.time - new.time >= max(_LEAST, self.saved * moved)

    def choose(self, floats: frozenset[str]) -> _Choice:
        """Return the time of the graph with these layers in float."""
        placement = place(self.graph, self.rules, self.layers - floats)
        time = self.changes(placement)
        for node in self.graph.nodes:
            times = self.on_integers if node.name in placement.integer else self.in_float
            time += times.get(node.name, 0.0)
        return _Choice(floats, placement.integer, time)

    def changes(self, placement: Placement) -> float:
        """Return the time of all changes between integers and floats."""
        time = 0.0
        for name in placement.tensors:
            writer, readers, elements = self.tensors[name]
            if writer not in placement.integer:
                time += self.times.quantize * elements
            elif not placement.integer.issuperset(readers):
                time += self.times.dequantize * elements
        return time

    def chains(self, names: Iterable[str]) -> list[frozenset[str]]:
        """Return groups of neighbours among the layers, those that save most first."""
        left, groups = dict.fromkeys(sorted(names)), []
        while left:
            reached, chain = [next(iter(left))], set()
            while reached:
                name = reached.pop()
                if name in left:
                    del left[name]
                    chain.add(name)
                    reached += sorted(self.following.get(name, ()))
            groups.append(frozenset(chain))
        return sorted(groups, key=lambda chain: -sum(self.saving[name] for name in chain))


def _with_step(best: _Choice) -> Callable[[_Choice], float]:
    return lambda choice: choice.time + (0.0 if choice is best else _STEP)
