"""Learned rounding beside GPTQ: networks, bits and grids, or the choices that learning leaves.

    python -m benchmarks.learned_rounding ladder                          every network that is on this machine
    python -m benchmarks.learned_rounding ladder --networks ResNet-20 --bits 2 --methods GPTQ
    python -m benchmarks.learned_rounding practices                       ResNet-20 at 2 bits, one choice changed a row
    python -m benchmarks.learned_rounding ladder --rows build/ladder.jsonl
    python -m benchmarks.learned_rounding ladder --stored-bits                  layers use all bits that the file stores

Activations have 8 bits; the passes before are those of `int4`. Each set of calibration images, drawn at random, gives a
file of every method, so methods are compared on equal images. SQNR of the scores and top-1 are measured on images that
no set has. The gain is that over the method's own start, set by set.

"soft" is rounding as published: AdaRound's (layer by layer) and BRECQ's (block by block) soft rounding. From codes
rounded to nearest it begins at the float weights. From GPTQ's codes it begins near them, and takes the steps of
`int2-learned`; "soft, 500 steps" takes more of them at a lower rate. "moves" are whole steps. "trained" is the training
of `train`, without labels, on the same images and nothing else.

Results of a set are kept in the file of ``--rows`` as soon as they are measured, and a run that was stopped goes on.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from rich import box
from rich.table import Table

from benchmarks.networks_with_images import NETWORKS
from benchmarks.shared_data import ROOT, MissingData
from converter import ConvertError, Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from passes.base import LayerPass, Pass
from passes.weights.gptq import Gptq
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn

__all__ = ["GRIDS", "METHODS", "PRACTICES", "Case", "Method", "Row", "main", "measured", "table"]


_SCALES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "a scale a channel": {},
        "two levels": {"block_size": 8, "two_level": True},
        "two levels, blocks of 4": {"block_size": 4, "two_level": True},
    }
)


def _with_stored_bits(grid: str) -> str:
    return f"{grid}, stored bits"


GRIDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {**_SCALES, **{_with_stored_bits(grid): {**fields, "stored_bits": True} for grid, fields in _SCALES.items()}}
)
"""Fields of the layer pass by name. With stored bits, 3 bits take 3 bits in the file, or those layers would have 4."""


@dataclass(frozen=True)
class Method:
    """What finds the codes.

    Attributes:
        solver: Layer pass. Its bits and its grid are replaced.
        refined: Pass that learns from the codes of the solver. None: nothing learns.
    """

    solver: LayerPass
    refined: Pass | None = None

    def recipe(self, name: str, bits: int, grid: Mapping[str, Any]) -> Recipe:
        """Return the recipe `int4` with this method at some bits."""
        recipe = find_recipe("int4").with_pass(replace(self.solver, bits=bits, **grid), name)
        if grid.get("stored_bits"):
            recipe = replace(recipe, storage="packed")
        return recipe if self.refined is None else replace(recipe, passes=(*recipe.passes, self.refined))


_MOVES = LearnedRounding()
_PUBLISHED = LearnedRounding(method="soft", steps=1000, soft_start=1.0)
_NEAR_CODES = find_recipe("int2-learned").passes[-1]
_LONG = LearnedRounding(method="soft", steps=500, soft_rate=0.01)
_TRAINED = Qat(objective="float", epochs=20)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "RTN": Method(Rtn()),
        "RTN, soft, layer by layer": Method(Rtn(), replace(_PUBLISHED, granularity="layer")),
        "RTN, soft, block by block": Method(Rtn(), _PUBLISHED),
        "GPTQ": Method(Gptq()),
        "GPTQ, moves": Method(Gptq(), _MOVES),
        "GPTQ, soft": Method(Gptq(), _NEAR_CODES),
        "GPTQ, soft, 500 steps": Method(Gptq(), _LONG),
        "GPTQ, trained": Method(Gptq(), _TRAINED),
    }
)
"""Methods by name. A method that refines comes after its start, whose name is before the first comma."""

_CHANGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "start at the float weight": {"soft_start": 1.0},
        "start nearer at the codes": {"soft_start": 0.1},
        "loss of the network": {"loss": "network"},
        "loss of the cosine": {"loss": "cosine"},
        "layer by layer": {"granularity": "layer"},
        "whole network": {"granularity": "network"},
        "rounding alone": {"scale_rate": 0.0, "bias_rate": 0.0},
        "no scales": {"scale_rate": 0.0},
        "no biases": {"bias_rate": 0.0},
        "sgd": {"optimizer": "sgd", "soft_rate": 100.0, "scale_rate": 0.01, "bias_rate": 0.01},
        "rate falls to zero": {"schedule": "cosine"},
        "1500 steps": {"steps": 1500},
        "a third of the rate": {"soft_rate": 0.003},
        "dropping half (QDrop)": {"drop": 0.5},
    }
)

PRACTICES: Mapping[str, Method] = MappingProxyType(
    {
        "GPTQ": Method(Gptq()),
        "GPTQ, soft": Method(Gptq(), _LONG),
        **{f"GPTQ, soft, {name}": Method(Gptq(), replace(_LONG, **of)) for name, of in _CHANGES.items()},
        "GPTQ, moves": Method(Gptq(), _MOVES),
        "GPTQ, moves, scales and biases alone": Method(Gptq(), replace(_MOVES, move_share=0.0)),
        "GPTQ, moves, loss of the network": Method(Gptq(), replace(_MOVES, loss="network")),
        "GPTQ, moves, 400 steps": Method(Gptq(), replace(_MOVES, steps=400)),
        "GPTQ, trained": Method(Gptq(), _TRAINED),
        "GPTQ, trained, fixed steps of activations": Method(Gptq(), replace(_TRAINED, learn_activations=False)),
        "GPTQ, trained, images flipped and moved": Method(Gptq(), replace(_TRAINED, flip=True, shift=2)),
        "GPTQ, trained, adam": Method(Gptq(), replace(_TRAINED, optimizer="adam")),
    }
)
"""Learning with one choice changed. All are measured on ResNet-20 at 2 bits, a scale a channel."""

SETS = 3


@dataclass(frozen=True)
class Case:
    """What a row measures.

    Attributes:
        network: Name in `NETWORKS`.
        bits: Bits of the weights.
        grid: Name in `GRIDS`.
        method: Name in `METHODS` or `PRACTICES`.
        index: Number of the set of calibration images.
        calibrate: Images of the set.
    """

    network: str
    bits: int
    grid: str
    method: str
    index: int
    calibrate: int


@dataclass(frozen=True)
class Row:
    """Result of a method on one set of calibration images.

    Attributes:
        case: What was measured.
        sqnr_db: SQNR of the scores in dB.
        score: Top-1 accuracy in percent. For a network with a metric: its value against the float model, in percent.
        float_score: Score of the float model in percent.
        cpu_seconds: CPU seconds of the conversion.
        images: Images that measured it.
        recipe: Digest of the recipe's passes. Rows of other recipes are measured again.
    """

    case: Case
    sqnr_db: float
    score: float
    float_score: float
    cpu_seconds: float
    images: int
    recipe: str


def measured(
    cases: Sequence[tuple[str, int, str, str]],
    methods: Mapping[str, Method],
    sets: int,
    calibrate: int | None,
    path: Path,
    progress: Progress,
) -> list[Row]:
    """Convert and measure what the file of rows does not have yet.

    Args:
        cases: Network, bits, grid and method of each row.
        methods: Methods by name.
        sets: Sets of calibration images.
        calibrate: Images of each set. None: as `NETWORKS` says.
        path: File of rows. It is extended.
        progress: Called during the conversions.

    Raises:
        MissingData: A network or its images are not on this machine.
    """
    kept = {(row.case, row.recipe): row for row in _read(path)}
    wanted = [
        Case(network, bits, grid, method, index, calibrate or NETWORKS[network].calibrate)
        for network, bits, grid, method in cases
        for index in range(sets)
    ]
    recipes = {case: methods[case.method].recipe(case.method, case.bits, GRIDS[case.grid]) for case in wanted}
    known = {case: kept.get((case, _digest(recipe))) for case, recipe in recipes.items()}
    rows = {case: row for case, row in known.items() if row is not None}
    for name in dict.fromkeys(case.network for case in wanted):
        missing = [case for case in wanted if case.network == name and case not in rows]
        if not missing:
            continue
        network = NETWORKS[name]
        model = network.model()
        available, evaluation = network.images(model)
        for case in missing:
            if case.calibrate > len(available) - bool(case.index):  # a second set of all images would be the first
                raise MissingData(f"{name} has {len(available):,} images to draw from; give --calibrate below that")
            chosen = np.random.default_rng(case.index).permutation(len(available))[: case.calibrate]
            images = available.select(np.sort(chosen))
            rows[case] = _measure(case, model, images, recipes[case], evaluation.limit(network.measure), progress)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[case])) + "\n")
    return [rows[case] for case in wanted]


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(repr(recipe.passes).encode()).hexdigest()[:12]


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # a kill has cut the last line
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    kept = [json.loads(line) for line in lines if line.endswith("\n")]
    return [Row(**(each | {"case": Case(**each["case"])})) for each in kept]


def _measure(
    case: Case, model: onnx.ModelProto, images: Dataset, recipe: Recipe, others: Dataset, progress: Progress
) -> Row:
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"]
        save_onnx(model, paths[0])
        started = time.process_time()
        settings = Settings(limit=len(images), timing=False)
        convert(model, images, recipe=recipe, settings=settings, progress=progress).save(paths[1])
        took = time.process_time() - started
        metric = NETWORKS[case.network].metric
        found = evaluate(paths, others, latency=False, metric=metric, progress=progress).models
    own, score = (100.0, found[1].metric) if metric is not None else (_percent(each.top1) for each in found)
    if own is None or score is None or found[1].sqnr_db is None:
        raise MissingData(f"the images of {case.network} have no labels")
    return Row(case, found[1].sqnr_db, score, own, took, found[1].images, _digest(recipe))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def table(rows: Sequence[Row]) -> Table:
    """Build a table with a row for each method, with means over the sets and the gain over the method's start."""
    built = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column in ("network", "bits", "grid", "method", "SQNR", "gain", "against float", "CPU s"):
        built.add_column(column, justify="left" if column in {"network", "grid", "method"} else "right")
    for group in _groups(rows):
        case = group[0].case
        start = case.method.split(",")[0]
        same = (case.network, case.bits, case.grid, start)
        before = {row.case.index: row.sqnr_db for row in rows if _method_of(row) == same}
        gains = [row.sqnr_db - before[row.case.index] for row in group if row.case.index in before]
        built.add_row(
            case.network,
            str(case.bits),
            case.grid,
            case.method,
            f"{_spread([row.sqnr_db for row in group])} dB",
            "" if case.method == start or not gains else f"{_spread(gains, signed=True)} dB",
            f"{_spread([row.score - row.float_score for row in group], signed=True)} points",
            f"{np.mean([row.cpu_seconds for row in group]):.0f}",
        )
    return built


def _method_of(row: Row) -> tuple[str, int, str, str]:
    return row.case.network, row.case.bits, row.case.grid, row.case.method


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[tuple[str, int, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault(_method_of(row), []).append(row)
    return list(found.values())


def _spread(values: Sequence[float], *, signed: bool = False) -> str:
    mean = f"{np.mean(values):+.2f}" if signed else f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. The result is 1 if data are missing or a conversion fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.learned_rounding", description="Learned rounding beside GPTQ.")
    parser.add_argument("what", choices=("ladder", "practices"))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), metavar="NAME", help=f"{', '.join(NETWORKS)}")
    parser.add_argument("--bits", nargs="+", type=int, choices=range(2, 9), metavar="N", help="default: 4 3 2")
    parser.add_argument(
        "--grids",
        nargs="+",
        choices=list(_SCALES),
        metavar="NAME",
        help=f"{', '.join(_SCALES)}; default: the first two",
    )
    parser.add_argument(
        "--stored-bits",
        action="store_true",
        help="layers use all bits of the type that stores them, in packed files; the rows' grids say so",
    )
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="exact names; default: all")
    parser.add_argument("--sets", type=int, default=SETS, metavar="N", help=f"sets of images; default {SETS}")
    parser.add_argument("--calibrate", type=int, metavar="N", help="images of each set")
    parser.add_argument("--rows", type=Path, default=ROOT / "build" / "learned-rounding.jsonl", metavar="FILE")
    options = parser.parse_args(arguments)
    methods = METHODS if options.what == "ladder" else PRACTICES
    for name in options.methods or ():
        if name not in methods:
            parser.error(f"no method is named {name!r}; there are: {'; '.join(methods)}")
    if options.sets < 1 or (options.calibrate is not None and options.calibrate < 1):
        parser.error("--sets and --calibrate must be at least 1")
    ladder = options.what == "ladder"
    grids = options.grids or list(_SCALES)[: 2 if ladder else 1]
    cases = [
        (network, bits, grid, method)
        for network in options.networks or (list(NETWORKS) if ladder else ["ResNet-20"])
        for bits in options.bits or ([4, 3, 2] if ladder else [2])
        for grid in (map(_with_stored_bits, grids) if options.stored_bits else grids)
        for method in options.methods or list(methods)
    ]
    try:
        with progress_bars() as progress:
            rows = measured(cases, methods, options.sets, options.calibrate, options.rows, progress)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    show([table(rows)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
