"""Bits of layers by gradients and by measured errors, at the same bytes.

    python -m benchmarks.importance                                   all networks
    python -m benchmarks.importance --networks resnet20 --json FILE
    python -m benchmarks.importance --networks vit --search           also files by the search of --max-bytes
    python -m benchmarks.road_sign_vit                                trains the Vision Transformer first

The importance of a layer by gradients is Σ |w ∂L/∂w| over its weights, the first-order change of a loss if the weights
go (Molchanov et al. 2019, arXiv 1906.10771), averaged over images. "Gradient-Based Post-Training Quantization:
Challenging the Status Quo" (arXiv 2308.07662) chooses bits by importance; the details here are this program's. No label
is used: the loss is the cross entropy with the network's own prediction. Two choices follow from it. "sorted" gives 4
bits to the layers of the largest importance per weight until the bytes are spent, and 2 bits to the others. "greedy"
takes the loss at b bits as importance / 2^b, and gives bits where it falls most per byte.

"measured" is what `--max-bytes` begins with: every layer is quantized alone, the error of the network's output on other
images is measured, and the least sum within the bytes is found exactly (`converter.budget.effects`). The search
corrects it by its attempts, which only `--search` does here.

All files are made by GPTQ with the recipe of mixed bits, from the same images, and differ in the bits alone. The
budgets are the bytes of 3 bits in every layer, and the mean of those of 2 and 3 bits. No file is above its budget.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from benchmarks.budgets import uniform
from benchmarks.shared_data import RESNET20, RESNET56, ROAD_SIGNS, MissingData
from benchmarks.transformers.road_signs import vit
from converter import Budget, ConvertError, Recipe, Settings, convert, convert_within
from converter.budget.effects import BITS, Effects, PreparedLayers, measure_effects, prepare_layers
from converter.budget.mixed import BASE
from converter.cache.folder import NOWHERE
from converter.data.dataset import Dataset
from converter.display.json_values import fields_as_json
from converter.evaluation.evaluate import evaluate
from converter.learn.graph.program import Program
from converter.model_io.save import save_onnx
from converter.recipes.overrides import with_bits
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from converter.targets.catalog import DEFAULT_TARGET, find_target
from passes.numerics.allocation import NoAllocation, allocate

__all__ = [
    "CHOICES",
    "NETWORKS",
    "Network",
    "Row",
    "by_rank",
    "gradient_importance",
    "greedy",
    "main",
    "measured",
    "table",
]

Doubles = NDArray[np.float64]
Choices = NDArray[np.intp]

_CALIBRATE, _HELD_OUT, _IMAGES = 256, 64, 5000
_MEMORY = Settings().memory_budget


@dataclass(frozen=True)
class Network:
    """A network and its images.

    Attributes:
        title: Name in the table.
        model: Makes the float model.
        images: Returns so many images to calibrate on, and the images that measure, for the model.
    """

    title: str
    model: Callable[[], onnx.ModelProto]
    images: Callable[[onnx.ModelProto, int], tuple[Dataset, Dataset]]


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "resnet20": Network("ResNet-20", RESNET20.model, RESNET20.images),
        "resnet56": Network("ResNet-56", RESNET56.model, RESNET56.images),
        "vit": Network("ViT, road signs", vit, ROAD_SIGNS.images),
        "resnet18": Network("ResNet-18, road signs", ROAD_SIGNS.model, ROAD_SIGNS.images),
    }
)
"""Networks by the name that `--networks` takes."""


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        network: Title of the network.
        budget: Bytes that the bits were chosen for. None: the same bits in every layer, or float.
        choice: What chose the bits.
        mean_bits: Mean bits of a weight, without scales. 32 for float.
        layer_bits: Bits by layer name. Empty for float.
        bytes: Size of the file.
        sqnr_db: SQNR of the scores in dB. None for float.
        top1: Top-1 accuracy in percent.
        images: Number of images that measured it.
        cpu_seconds: CPU seconds that the choice of bits took, without the conversion, except for a search. Those of
            "gradients" leave out `measure_effects`, although the bytes of every choice come from it. 0 for bits that
            were given.
    """

    network: str
    budget: int | None
    choice: str
    mean_bits: float
    layer_bits: Mapping[str, int]
    bytes: int
    sqnr_db: float | None
    top1: float
    images: int
    cpu_seconds: float


def gradient_importance(prepared: PreparedLayers, data: Dataset) -> Doubles:
    """Return Σ |w ∂L/∂w| of each layer ``[l]``, averaged over images.

    L is the cross entropy of the first output ``[1, classes]`` with its own largest score.

    Args:
        prepared: The layers, in a network whose operators all have a torch form.
        data: The images. Each runs alone.
    """
    program, model = Program(prepared.model.graph), prepared.model
    names = [str(model.node(layer).inputs[1].name) for layer in prepared.layers]
    weights = {name: program.constants[name].clone().requires_grad_() for name in names}
    total = np.zeros(len(names))
    for batch in data.batches(1):
        inputs = {name: torch.from_numpy(np.array(value)) for name, value in batch.feeds.items()}
        scores = program(inputs, weights)[program.outputs[0]]
        loss = torch.nn.functional.cross_entropy(scores, scores.argmax(1))
        slopes = torch.autograd.grad(loss, list(weights.values()))
        products = (slope * value.detach() for slope, value in zip(slopes, weights.values(), strict=True))
        of = {name: float(each.abs().sum()) for name, each in zip(weights, products, strict=True)}
        total += [of[name] for name in names]
    return total / len(data)


def greedy(value: Doubles, cost: Doubles, limit: float) -> Choices:
    """Give more bits to one layer after the other, where the value falls most per byte.

    Args:
        value: What is to become small, by layer and choice ``[l, c]``.
        cost: Bytes of each choice, ``[l, c]``. inf forbids a choice.
        limit: Most bytes of all layers.

    Returns:
        The index of each layer's choice, ``[l]``.

    Raises:
        NoAllocation: The fewest bytes are above the limit.
    """
    choices, rows = _fewest(cost, limit), np.arange(len(cost))
    while True:
        spent = cost[rows, choices]
        gain, extra = value[rows, choices][:, None] - value, cost - spent[:, None]
        fits = (extra > 0) & (extra <= limit - spent.sum()) & (gain > 0)
        if not fits.any():
            return choices
        rate = np.where(fits, gain / np.where(fits, extra, 1.0), -np.inf)
        item, choice = np.unravel_index(int(rate.argmax()), rate.shape)
        choices[item] = choice


def by_rank(rank: Doubles, cost: Doubles, limit: float, most: int = 4) -> Choices:
    """Give ``most`` bits to the layers of the highest rank as long as the bytes last, and the fewest to the others.

    Args:
        rank: The layers' rank, ``[l]``.
        cost, limit: As in `greedy`. The choices are those of `BITS`.
        most: Bits of the first layers.

    Raises:
        NoAllocation: The fewest bytes are above the limit.
    """
    choices, more, rows = _fewest(cost, limit), BITS.index(most), np.arange(len(cost))
    for layer in np.argsort(-rank, kind="stable"):
        spent = cost[rows, choices]
        if spent.sum() + cost[layer, more] - spent[layer] <= limit:
            choices[layer] = more
    return choices


def _fewest(cost: Doubles, limit: float) -> Choices:
    choices: Choices = cost.argmin(1)
    if cost.min(1).sum() > limit:
        raise NoAllocation(f"the smallest total is {cost.min(1).sum():g}, the limit {limit:g}")
    return choices


def _sorted(effects: Effects, importance: Doubles, limit: float) -> Choices:
    return by_rank(importance / effects.weights, effects.useful, limit)


def _greedy(effects: Effects, importance: Doubles, limit: float) -> Choices:
    return greedy(importance[:, None] / 2.0 ** np.array(BITS), effects.useful, limit)


def _measured(effects: Effects, importance: Doubles, limit: float) -> Choices:  # noqa: ARG001  (one form for all)
    noise = effects.importance[:, None] * effects.own
    return allocate(np.maximum.accumulate(noise[:, ::-1], axis=1)[:, ::-1], effects.useful, limit)


CHOICES: Mapping[str, Callable[[Effects, Doubles, float], Choices]] = MappingProxyType(
    {"gradients, sorted": _sorted, "gradients, greedy": _greedy, "measured": _measured}
)
"""Ways to choose bits: indices in `BITS` from measured effects, importance by gradients, and most bytes of weights."""


@dataclass(frozen=True)
class _File:
    """A file that is to be measured, and what chose its bits."""

    path: Path
    choice: str
    budget: int | None
    layer_bits: Mapping[str, int]
    cpu_seconds: float = 0.0


def measured(network: Network, calibrate: int, images: int, search: bool, progress: Progress) -> list[Row]:
    """Choose bits for both budgets, make all files, and measure them. The float model comes first.

    Args:
        network: The network.
        calibrate: Images that calibrate. 64 others measure the effects of layers.
        images: Images that measure the files.
        search: Whether `--max-bytes` makes a file for each budget too.
        progress: Called during the work.

    Raises:
        MissingData: The network or its images are not on this machine.
        NoAllocation: A budget is below the fewest bytes of the weights.
    """
    model = network.model()
    data, evaluation = network.images(model, calibrate + _HELD_OUT)
    fit, held_out = data.split(calibrate)
    target = find_target(DEFAULT_TARGET)
    started = time.process_time()
    effects = measure_effects(model, BASE, target, fit, held_out, NOWHERE, _MEMORY, progress)
    middle = time.process_time()
    importance = gradient_importance(prepare_layers(model, BASE, target, fit, _MEMORY, progress), fit)
    took = {"measured": middle - started, "gradients": time.process_time() - middle}
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as place:
        folder = Path(place)

        def made(recipe: Recipe, name: str) -> Path:
            path = folder / f"{name}.onnx"
            convert(model, fit, recipe=recipe, settings=Settings(limit=len(fit)), progress=progress).save(path)
            return path

        save_onnx(model, folder / "float.onnx")
        files = [_File(folder / "float.onnx", "float", None, {})]
        for bits in (2, 3):
            path = made(uniform(bits), f"{bits}")
            files.append(_File(path, f"{bits} bits everywhere", None, dict.fromkeys(effects.names, bits)))
        two, three = (file.path.stat().st_size for file in files[1:])
        others = three - float(effects.bytes[:, BITS.index(3)].sum())
        for budget in (three, (two + three) // 2):
            for choice in CHOICES:
                path, layer_bits = _within(budget, others, CHOICES[choice], effects, importance, made)
                files.append(_File(path, choice, budget, layer_bits, took[choice.split(",")[0]]))
            if search:
                files.append(_searched(model, data, calibrate, budget, folder / f"{budget}.onnx", progress))
        return _rows(network.title, files, effects, evaluation.limit(images), progress)


def _searched(
    model: onnx.ModelProto, data: Dataset, calibrate: int, budget: int, path: Path, progress: Progress
) -> _File:
    started, settings = time.process_time(), Settings(limit=calibrate)
    result = convert_within(model, data, Budget(max_bytes=budget), settings=settings, progress=progress)
    result.save(path)
    layer_bits = {layer.name: layer.bits for layer in result.layers if not layer.reason}
    return _File(path, "--max-bytes", budget, layer_bits, time.process_time() - started)


def _within(
    budget: int,
    others: float,
    choose: Callable[[Effects, Doubles, float], Choices],
    effects: Effects,
    importance: Doubles,
    made: Callable[[Recipe, str], Path],
) -> tuple[Path, dict[str, int]]:
    """Make a file of at most ``budget`` bytes. A file above it is made again with its excess less for the weights."""
    left = budget - others
    while True:
        choices = choose(effects, importance, left)
        layer_bits = {name: BITS[each] for name, each in zip(effects.names, choices, strict=True)}
        path = made(with_bits(BASE, layer_bits), f"{budget} {choose.__name__}")
        excess = path.stat().st_size - budget
        if excess <= 0:
            return path, layer_bits
        left = min(left - excess, float(effects.bytes[np.arange(len(choices)), choices].sum()) - excess)


def _rows(title: str, files: Sequence[_File], effects: Effects, images: Dataset, progress: Progress) -> list[Row]:
    rows = []
    found = evaluate([file.path for file in files], images, latency=False, progress=progress).models
    for index, (file, own) in enumerate(zip(files, found, strict=True)):
        bits = [file.layer_bits.get(name, 32) for name in effects.names]
        mean = float(np.average(bits, weights=effects.weights))
        if own.top1 is None:
            raise MissingData(f"the images of {title} have no labels; give labelled images")
        top1, sqnr = 100 * own.top1, own.sqnr_db if index else None
        size = file.path.stat().st_size
        rows.append(
            Row(title, file.budget, file.choice, mean, file.layer_bits, size, sqnr, top1, own.images, file.cpu_seconds)
        )
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Build the table of a network."""
    built = Table(title=rows[0].network, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left")
    for column in ("budget", "bits chosen by", "bytes", "bits", "SQNR", "top-1", "CPU s of the choice"):
        built.add_column(column, justify="left" if column == "bits chosen by" else "right")
    for row in rows:
        built.add_row(
            "" if row.budget is None else f"{row.budget:,}",
            row.choice,
            f"{row.bytes:,}",
            f"{row.mean_bits:.2f}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.2f} dB",
            f"{row.top1:.2f} %",
            f"{row.cpu_seconds:.0f}" if row.cpu_seconds else "",
        )
    built.caption = f"{rows[0].images:,} images"
    return built


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each network. The result is 1 if data are missing or a conversion fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.importance", description="Bits by gradients and by measurement.")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="default: all")
    parser.add_argument("--calibrate", type=int, default=_CALIBRATE, metavar="N", help=f"default {_CALIBRATE} images")
    parser.add_argument("--images", type=int, default=_IMAGES, metavar="N", help=f"that measure; default {_IMAGES}")
    parser.add_argument("--search", action="store_true", help="a file by --max-bytes for each budget too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    if options.calibrate < 1 or options.images < 1:
        parser.error("--calibrate and --images must be at least 1")
    rows: list[Row] = []
    try:
        for name in options.networks:
            with progress_bars() as progress:
                own = measured(NETWORKS[name], options.calibrate, options.images, options.search, progress)
            show([table(own)])
            rows += own
            if options.json is not None:
                options.json.write_text(
                    json.dumps([fields_as_json(row) for row in rows], indent=2, allow_nan=False) + "\n",
                    encoding="utf-8",
                )
    except (ConvertError, MissingData, NoAllocation) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
