"""What large networks and many of them would take: cost from measured constants, and a simulated schedule.

    python -m benchmarks.scale              the table, from the constants below
    python -m benchmarks.scale constants    measure the constants on this machine: CPU seconds of one thread

`docs/design/scale.md` has the formulas. Networks are lists of layers: nothing of them is run.
"""

import heapq
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from rich.table import Table

from benchmarks.large_layers import chain
from converter.calibration.statistics import positions_per_image
from converter.report.table import plain_table, row, show
from converter.runtime.session import open_session
from converter.targets.catalog import find_target
from passes.base import Problem
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.numerics.moments import MomentsAccumulator
from passes.weights.gptq import Gptq

__all__ = [
    "CONSTANTS",
    "NETWORKS",
    "Constants",
    "Cost",
    "Layer",
    "Schedule",
    "conversion",
    "main",
    "measure_constants",
    "rows_of",
    "search",
    "simulate",
]

_PASSES = 3  # of every sample through the network: once for the ranges, once in each stream
_PROBED, _TRIED = 64, 2  # samples and runs that measure the effect of a layer
_SOLVED = 3  # numbers of bits that a layer is solved at, for its effect
_ATTEMPTS = 7  # files of a search: int8, int8-gptq, int4, int3 and three with mixed bits
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Constants:
    """CPU seconds of one thread.

    Attributes:
        product: For 1e9 multiply-adds of the float network.
        moment: For 1e9 multiply-adds of a second moment, rows x k². The symmetric update does half of them.
        solve: For 1e9 of o x k², of a layer's sweep, targets, scale search and refinement.
        factor: For 1e9 of k³, of its factorizations.
    """

    product: float
    moment: float
    solve: float
    factor: float


CONSTANTS = Constants(product=0.0178, moment=0.0106, solve=1.164, factor=0.0516)


@dataclass(frozen=True)
class Layer:
    """Layers of one shape.

    Attributes:
        inputs: Inputs k of an output, per group.
        outputs: Outputs o, per group.
        positions: Output positions of a sample.
        count: Number of such layers.
        groups: Groups g of each.
    """

    inputs: int
    outputs: int
    positions: int
    count: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        """Weights of all of them."""
        return self.count * self.groups * self.inputs * self.outputs

    @property
    def products(self) -> int:
        """Multiply-adds of a sample in all of them."""
        return self.weights * self.positions


def _convnext(depths: Sequence[int], widths: Sequence[int]) -> tuple[Layer, ...]:
    """ConvNeXt at 224 pixels (Liu et al. 2022, table 9)."""
    found = [Layer(48, widths[0], 56 * 56)]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        places = (56 >> stage) ** 2
        if stage:
            found.append(Layer(4 * widths[stage - 1], width, places))
        found += [Layer(49, 1, places, depth, width), Layer(width, 4 * width, places, depth)]
        found.append(Layer(4 * width, width, places, depth))
    return (*found, Layer(widths[-1], 1000, 1))


def _vit(depth: int, width: int, tokens: int, patch: int) -> tuple[Layer, ...]:
    """ViT at 224 pixels (Dosovitskiy et al. 2021, table 1)."""
    block = (Layer(width, 3 * width, tokens, depth), Layer(width, width, tokens, depth))
    hidden = (Layer(width, 4 * width, tokens, depth), Layer(4 * width, width, tokens, depth))
    return (Layer(3 * patch * patch, width, tokens - 1), *block, *hidden, Layer(width, 1000, 1))


def _resnet50() -> tuple[Layer, ...]:
    """ResNet-50 at 224 pixels (He et al. 2016, table 1)."""
    found, before = [Layer(147, 64, 112 * 112)], 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width, places = 64 << stage, (56 >> stage) ** 2
        found += [Layer(before, width, places), Layer(4 * width, width, places, depth - 1)]
        found += [Layer(9 * width, width, places, depth), Layer(width, 4 * width, places, depth)]
        found.append(Layer(before, 4 * width, places))
        before = 4 * width
    return (*found, Layer(2048, 1000, 1))


def _resnet18() -> tuple[Layer, ...]:
    """ResNet-18 at 224 pixels (He et al. 2016, table 1)."""
    found, before = [Layer(147, 64, 112 * 112)], 64
    for stage in range(4):
        width, places = 64 << stage, (56 >> stage) ** 2
        found += [Layer(9 * before, width, places), Layer(9 * width, width, places, 3)]
        found += [Layer(before, width, places)] if stage else []
        before = width
    return (*found, Layer(512, 1000, 1))


NETWORKS = {
    "ResNet-18": _resnet18(),
    "ResNet-50": _resnet50(),
    "ConvNeXt-L": _convnext((3, 3, 27, 3), (192, 384, 768, 1536)),
    "ViT-H/14": _vit(32, 1280, 257, 14),
}


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a conversion by its parts, and bytes.

    Attributes:
        network: Runs of the network.
        moments: Second moments.
        solve: Solving the layers.
        memory: Bytes of the weights, and of the moments of the widest layer with what its solver needs.
    """

    network: float
    moments: float
    solve: float
    memory: int

    @property
    def seconds(self) -> float:
        """All parts."""
        return self.network + self.moments + self.solve


def rows_of(layer: Layer, samples: int) -> int:
    """Return how many rows of its inputs a layer's moments are summed over."""
    return samples * min(positions_per_image(layer.inputs, samples), layer.positions)


def _solve(layer: Layer, constants: Constants) -> float:
    shared = layer.count * layer.groups * layer.inputs**2 / 1e9
    return shared * (constants.factor * layer.inputs + constants.solve * layer.outputs)


def conversion(layers: Sequence[Layer], samples: int, constants: Constants = CONSTANTS) -> Cost:
    """Return the cost of a conversion by GPTQ.

    Args:
        layers: The network.
        samples: Samples that calibrate.
        constants: Measured constants.
    """
    products = sum(layer.products for layer in layers)
    summed = sum(
        layer.count * layer.groups * rows_of(layer, samples) * layer.inputs * (layer.inputs + 2 * layer.outputs)
        if 2 * layer.outputs < layer.inputs
        else 3 * layer.count * layer.groups * rows_of(layer, samples) * layer.inputs**2
        for layer in layers
    )
    widest = max(layer.groups * layer.inputs**2 for layer in layers)
    return Cost(
        network=_PASSES * samples * products / 1e9 * constants.product,
        moments=summed / 1e9 * constants.moment,
        solve=sum(_solve(layer, constants) for layer in layers),
        memory=_FLOAT_BYTES * (3 * sum(layer.weights for layer in layers) + 8 * widest),
    )


def search(layers: Sequence[Layer], samples: int, constants: Constants = CONSTANTS) -> tuple[list[float], float]:
    """Return the CPU seconds of the independent tasks of a search, and of those that follow one another.

    Every layer is solved alone at some numbers of bits, and the network runs with it. The first four files need nothing
    of each other. Files with mixed bits follow one another.
    """
    products = sum(layer.products for layer in layers) / 1e9 * constants.product
    effects = [
        _SOLVED * _solve(layer, constants) / layer.count + _TRIED * _PROBED * products
        for layer in layers
        for _ in range(layer.count)
    ]
    one = conversion(layers, samples, constants).seconds
    return [*effects, *[one] * 4], one * (_ATTEMPTS - 4)


@dataclass(frozen=True)
class Schedule:
    """A simulated run of tasks.

    Attributes:
        seconds: Until the last task is done.
        busy: Share of the workers' time that tasks took.
        retried: Tasks that were started again, since their worker died.
    """

    seconds: float
    busy: float
    retried: int


def simulate(
    tasks: Sequence[float],
    workers: int,
    *,
    overhead: float = 0.001,
    moved: float = 0.0,
    lifetime: float = math.inf,
    seed: int = 0,
) -> Schedule:
    """Simulate tasks on workers. The longest task starts first, on the first worker that is free.

    Args:
        tasks: Seconds of each task.
        workers: Number of workers.
        overhead: Seconds of the scheduler for each task. They follow one another.
        moved: Seconds that the storage takes for the inputs and outputs of a task. It serves one after another.
        lifetime: Mean seconds until a worker dies. Its task starts again on a new worker.
        seed: Random seed of the deaths.
    """
    draw = np.random.default_rng(seed)
    free = [0.0] * workers
    scheduler = storage = busy = 0.0
    retried = 0
    for task in sorted(tasks, reverse=True):
        left = True
        while left:
            start = max(heapq.heappop(free), scheduler)
            scheduler += overhead
            storage = max(storage, start) + moved
            start = storage if moved else start
            death = draw.exponential(lifetime) if math.isfinite(lifetime) else math.inf
            left = death < task
            busy += min(death, task)
            retried += left
            heapq.heappush(free, start + min(death, task))
    seconds = max(free)
    return Schedule(seconds, busy / (seconds * workers), retried)


def measure_constants(width: int = 1024, rows: int = 4096, repeats: int = 3) -> Constants:
    """Measure the constants on this machine, in CPU seconds of one thread.

    Args:
        width: Inputs of the layers that are solved.
        rows: Rows of their inputs.
        repeats: The least of so many measurements counts.
    """
    draw = np.random.default_rng(0)
    model = chain([width, width])
    session = open_session(model, threads=1)
    inputs = draw.standard_normal((rows, width), dtype=np.float32)
    product = _least(lambda: session.run(None, {"input": inputs}), repeats) / (rows * width**2 / 1e9)

    def summed() -> MomentsAccumulator:
        total = MomentsAccumulator(1, width, cross=False)
        total.update(inputs[None])
        return total

    moment = _least(summed, repeats) / (rows * width**2 / 1e9)
    few, many = (_solving(width, outputs, inputs, repeats) for outputs in (width // 4, width))
    solve = (many - few) / (0.75 * width**3 / 1e9)
    return Constants(product, moment, solve, max(many - solve * width**3 / 1e9, 0.0) / (width**3 / 1e9))


def _solving(width: int, outputs: int, inputs: np.ndarray, repeats: int) -> float:
    """Return the CPU seconds of solving one layer at 4 bits."""
    graph = Model(import_graph(chain([width, outputs])), find_target("cpu").rules)
    layer = graph.layers()["layer0"]
    total = MomentsAccumulator(1, width, cross=False)
    total.update(inputs[None])
    solver = Gptq(bits=4, block_size=8, two_level=True)
    problem = Problem(layer, graph.weight(layer), graph.bias(layer), 4, 8, None, total.moments())
    return _least(lambda: solver.solve(problem), repeats)


def _least(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def tables(samples: int = 512) -> list[Table]:
    """Return the tables of the page: each network alone, and the schedules."""
    costs = plain_table(
        f"A conversion, {samples} samples", ["network", "weights", "network runs", "moments", "solving", "memory"],
        numbers=range(1, 6),
    )  # fmt: skip
    for name, layers in NETWORKS.items():
        cost = conversion(layers, samples)
        weights = sum(layer.weights for layer in layers)
        parts = (f"{part:,.0f} s" for part in (cost.network, cost.moments, cost.solve))
        row(costs, name, f"{weights / 1e6:.0f} M", *parts, f"{cost.memory / 1e9:.1f} GB")
    plans = plain_table("Schedules", ["work", "workers", "CPU", "elapsed", "busy", "retried"], numbers=range(1, 6))
    for name, layers in NETWORKS.items():
        tasks, serial = search(layers, samples)
        for workers in (1, 16, 64):
            done = simulate(tasks, workers)
            elapsed = done.seconds + serial
            share = (sum(tasks) + serial) / (elapsed * workers)
            row(
                plans,
                f"search, {name}",
                f"{workers}",
                _hours(sum(tasks) + serial),
                _hours(elapsed),
                f"{share:.0%}",
                "0",
            )
    one = conversion(NETWORKS["ResNet-50"], samples).seconds
    for workers, moved in ((64, 0.0), (1024, 0.0), (1024, 0.2), (4096, 0.2)):
        done = simulate([one] * 10_000, workers, moved=moved, lifetime=24 * 3600)
        what = f"10,000 of ResNet-50, storage {moved:g} s a task"
        row(plans, what, f"{workers:,}", _hours(one * 1e4), _hours(done.seconds), f"{done.busy:.0%}", f"{done.retried}")
    return [costs, plans]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h"


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or measure the constants."""
    if list(arguments) == ["constants"]:
        found = measure_constants()
        for each in fields(found):
            print(f"{each.name} {getattr(found, each.name):.4f}")
        return 0
    show(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
