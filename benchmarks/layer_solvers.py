"""What finds the codes of a layer: rounding to nearest, GPFQ, Qronos and GPTQ, on the same images and kind of grid.

    python -m benchmarks.layer_solvers                            every solver at 4, 3 and 2 bits
    python -m benchmarks.layer_solvers --bits 2 --solvers gptq    rows whose names begin with this
    python -m benchmarks.layer_solvers --images 5000 --json FILE

ResNet-20 on CIFAR-10, one scale a channel, 8-bit activations; the passes before are those of `int4`. Each of three sets
of calibration images, which share none, gives a file. SQNR of the scores and top-1 are measured on images that are in
no set. The table has their means and standard deviations over the three.

"one sweep" is GPTQ without its beam and its refinement. "one λ" is GPTQ whose asymmetric target has the damping of the
sweep, as in Qronos. It differs from Qronos in the first code alone. `gptq` chooses the damping on held-out samples.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.shared_data import RESNET20, MissingData, Pretrained
from converter import ConvertError, Recipe, Settings, convert, find_recipe
from converter.evaluation.evaluate import Measurement, evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.report.table import show
from converter.runtime.session import Progress
from passes.base import LayerPass
from passes.numerics.asymmetric_target import asymmetric_target
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments
from passes.weights.gpfq import Gpfq
from passes.weights.gptq import Gptq
from passes.weights.qronos import Qronos
from passes.weights.rtn import Rtn

__all__ = ["SOLVERS", "OneDamping", "Row", "main", "measured", "table"]

NETWORK: Pretrained = RESNET20
SETS = 3


@dataclass(frozen=True)
class OneDamping(Gptq):
    """GPTQ with the same damping for the asymmetric target and the sweep."""

    name: ClassVar[str] = "gptq-one-damping"

    def target_of(self, weight: Floats, moments: Moments) -> tuple[Floats, str]:
        """Return the asymmetric target with the damping of the sweep."""
        return asymmetric_target(weight, moments, self.damping), ""


SOLVERS: Mapping[str, LayerPass] = MappingProxyType(
    {
        "rounding to nearest": Rtn(),
        "gpfq": Gpfq(),
        "gpfq, own order": Gpfq(act_order=False),
        "gptq, one sweep, no asymmetric target": Gptq(beam=1, refine=0, asymmetric_target=False),
        "gptq, one sweep": Gptq(beam=1, refine=0),
        "gptq, one sweep, one λ": OneDamping(beam=1, refine=0),
        "qronos": Qronos(),
        "qronos, damping 0.001": Qronos(damping=0.001),
        "gptq": Gptq(),
        "gptq, one λ": OneDamping(),
    }
)


@dataclass(frozen=True)
class Row:
    """Results of one solver at some bits. Lists have a value for each set of calibration images.

    Attributes:
        solver: Name of the solver, or "float".
        bits: Bits of the weights. 32 for float.
        sqnr_db: SQNR of the scores in dB. Empty for float.
        top1: Top-1 accuracy in percent.
        cpu_seconds: CPU seconds of all threads for a conversion, mean over the sets.
        images: Number of images that measured it.
    """

    solver: str
    bits: int
    sqnr_db: tuple[float, ...]
    top1: tuple[float, ...]
    cpu_seconds: float
    images: int


def _recipe(solver: LayerPass, bits: int) -> Recipe:
    return find_recipe("int4").with_pass(replace(solver, bits=bits), f"W{bits}A8")


def measured(solvers: Sequence[str], bits: Sequence[int], calibrate: int, images: int, progress: Progress) -> list[Row]:
    """Convert the network by every solver and measure the files. The float model comes first.

    Args:
        solvers: Names of `SOLVERS`.
        bits: Bits of the weights.
        calibrate: Calibration images of each set.
        images: Images that measure the files.
        progress: Called during the conversions.

    Raises:
        MissingData: The network or its images are not on this machine.
    """
    model = NETWORK.model()
    calibration, evaluation = NETWORK.images(model, SETS * calibrate)
    sets = [calibration.select(np.arange(start, len(calibration), SETS)) for start in range(SETS)]
    cases = [(name, count) for count in bits for name in solvers]
    seconds = []
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        for name, count in cases:
            started = time.process_time()
            for each in sets:
                recipe, settings = _recipe(SOLVERS[name], count), Settings(limit=len(each))
                paths.append(Path(folder) / f"{len(paths)}.onnx")
                convert(model, each, recipe=recipe, settings=settings, progress=progress).save(paths[-1])
            seconds.append((time.process_time() - started) / SETS)
        reference, *others = evaluate(paths, evaluation.limit(images), latency=False, progress=progress).models
    rows = [Row("float", 32, (), (_top1(reference),), 0.0, reference.images)]
    for index, ((name, count), took) in enumerate(zip(cases, seconds, strict=True)):
        own = others[index * SETS : (index + 1) * SETS]
        rows.append(Row(name, count, tuple(map(_sqnr, own)), tuple(map(_top1, own)), took, own[0].images))
    return rows


def _top1(model: Measurement) -> float:
    if model.top1 is None:
        raise ValueError(f"{model.model}: the data have no labels")
    return 100 * model.top1


def _sqnr(model: Measurement) -> float:
    if model.sqnr_db is None:
        raise ValueError(f"{model.model}: it was not compared with float")
    return model.sqnr_db


def table(rows: Sequence[Row], calibrate: int) -> Table:
    """Build a table with one row for each solver and number of bits."""
    built = Table(title="ResNet-20", box=box.SIMPLE_HEAD, header_style="bold", title_justify="left")
    for column in ("bits", "solver", "SQNR", "top-1", "CPU s"):
        built.add_column(column, justify="left" if column == "solver" else "right")
    reference, *others = rows
    for row in others:
        built.add_row(
            str(row.bits), row.solver, f"{_spread(row.sqnr_db)} dB", f"{_spread(row.top1)} %", f"{row.cpu_seconds:.1f}"
        )
    built.caption = (
        f"float {reference.top1[0]:.2f} %; {reference.images:,} images; mean ± standard deviation over {SETS} sets of "
        f"{calibrate} calibration images"
    )
    return built


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. The result is 1 if data are missing or a conversion fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.layer_solvers", description="Solvers of layers, compared.")
    parser.add_argument("--solvers", nargs="+", default=[""], metavar="NAME", help="rows that begin with this")
    parser.add_argument("--bits", nargs="+", type=int, choices=range(2, 9), default=[4, 3, 2], metavar="N")
    parser.add_argument("--calibrate", type=int, default=256, metavar="N", help="images of each set; default 256")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="images that measure; default 2000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(arguments)
    for name in options.solvers:
        if not any(each.startswith(name) for each in SOLVERS):
            parser.error(f"no solver begins with {name!r}; there are: {', '.join(SOLVERS)}")
    if options.calibrate < 1 or options.images < 1:
        parser.error("--calibrate and --images must be at least 1")
    wanted = [name for name in SOLVERS if name.startswith(tuple(options.solvers))]
    try:
        with progress_bars() as progress:
            rows = measured(wanted, options.bits, options.calibrate, options.images, progress)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    show([table(rows, options.calibrate)])
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
