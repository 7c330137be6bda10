"""Plots of the road-sign study: a layer's weights before and after AWQ, and the gains of AWQ's grid search.

    python -m benchmarks.road_sign_figures               writes docs/awq-weights.png and docs/awq-grid.png

matplotlib is needed: pip install convert-onnx[figures].
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from benchmarks.road_signs import AWQ_GRID, CALIBRATE
from benchmarks.shared_data import ROAD_SIGNS, ROOT, MissingData
from converter import ConvertError
from converter.calibration.statistics import calibrate
from converter.data.dataset import Dataset
from converter.report.progress import progress_bars
from converter.runtime.session import Progress
from converter.targets.catalog import find_target
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.normalise.normalise import Normalise
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.error import decibel
from passes.report import LossGrid
from passes.scale_migration.scale_groups import input_channels
from passes.statistics import Stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Study", "grid_figure", "main", "study", "weight_figure"]

_INK, _BEFORE, _AFTER = "#222222", "#2b6cb0", "#dd6b20"
_SIZE, _DPI = (9.0, 3.6), 110
_BINS: list[float] = np.linspace(-1, 1, 101).tolist()


@dataclass(frozen=True)
class Study:
    """Effect of AWQ on a model.

    Attributes:
        grids: Losses of the grid search of every layer.
        layer: The layer that gained most.
        before: Its weight before AWQ, ``[g, o, k]``.
        after: Its weight after AWQ, ``[g, o, k]``.
    """

    grids: Mapping[str, LossGrid]
    layer: Linear
    before: NDArray[np.float32]
    after: NDArray[np.float32]


def study(model: onnx.ModelProto, calibration: Dataset, progress: Progress) -> Study:
    """Run the study's AWQ in float and select the layer that gained most."""
    work = Model(gs.import_onnx(model), find_target("cpu").rules)
    for step in (Normalise(), FoldBatchnorm()):
        step.apply(work, Stats())
    before = {name: work.weight(layer) for name, layer in work.layers().items()}
    report = AWQ_GRID.apply(work, calibrate(work, AWQ_GRID.needs(work), calibration, progress))
    gained = {
        name: change.after_db - change.before_db
        for name, change in report.changed.items()
        if change.after_db is not None and change.before_db is not None
    }
    if not gained:
        raise ConvertError("AWQ found no scale that lowers an output error by 5 %; there is no layer to draw")
    name = max(gained, key=gained.__getitem__)
    layer = work.layers()[name]
    return Study(report.grids, layer, before[name], work.weight(layer))


def weight_figure(study: Study) -> "Figure":
    """Draw figure 1: the distribution of one layer's weights, and the largest weight of every input channel."""
    figure, (left, right) = _panels()
    for weight, colour, label in ((study.before, _BEFORE, "before AWQ"), (study.after, _AFTER, "after AWQ")):
        relative = weight / np.abs(weight).max(axis=2, keepdims=True)
        left.hist(relative.reshape(-1), bins=_BINS, histtype="step", color=colour, label=label)
    left.set(
        yscale="log", xlabel="weight / largest of its output channel", ylabel="weights", xticks=(-1, -0.5, 0, 0.5, 1)
    )
    left.legend(frameon=False)
    largest = [np.abs(weight).max(axis=1).reshape(-1) for weight in (study.before, study.after)]
    by_channel = [values.reshape(input_channels(study.layer), -1).max(axis=1) for values in largest]  # [c]
    order = np.argsort(by_channel[0])
    for values, colour, label in zip(by_channel, (_BEFORE, _AFTER), ("before AWQ", "after AWQ"), strict=True):
        right.plot(values[order], ".", markersize=4, color=colour, label=label)
    right.set(xlabel="input channel, by its weights before", ylabel="largest |weight|", ylim=(0, None))
    figure.suptitle(f"ResNet-18, road signs, {study.layer.name}: weights before and after AWQ", color=_INK)
    return figure


def grid_figure(study: Study) -> "Figure":
    """Draw figure 2: heat maps of the search over α and the salient factor, for that layer and for the mean of all."""
    figure, (left, right) = _panels()
    gains = {name: _gain(grid) for name, grid in study.grids.items()}
    name = study.layer.name
    _heat_map(figure, left, study.grids[name], gains[name], name)
    mean = np.mean(list(gains.values()), axis=0)
    _heat_map(figure, right, study.grids[name], mean, f"mean of {len(gains)} layers")
    figure.suptitle("AWQ's grid search at 4 bits: SQNR of the output gained, dB", color=_INK)
    return figure


def _gain(grid: LossGrid) -> NDArray[np.float64]:
    """Return the gain in dB of every grid point over the unchanged layer."""
    return np.array([[decibel(grid.plain, float(loss)) for loss in row] for row in grid.losses])


def _heat_map(figure: "Figure", axes: "Axes", grid: LossGrid, gain: NDArray[np.float64], title: str) -> None:
    """Draw a heat map. Rows are the factor, columns are α, white means no gain, and a ring marks the best point."""
    alphas, factors = (list(points) for points in grid.axes.values())
    bound = max(float(np.abs(gain).max()), 1e-6)
    image = axes.imshow(gain.T, origin="lower", aspect="auto", cmap="RdBu", vmin=-bound, vmax=bound)
    axes.set(xlabel="α", ylabel="factor of the salient 1 %")
    axes.set_xticks(range(0, len(alphas), 2), [f"{alphas[at]:g}" for at in range(0, len(alphas), 2)])
    axes.set_yticks(range(len(factors)), [f"{factor:g}" for factor in factors])
    column, row = np.unravel_index(int(gain.argmax()), gain.shape)
    axes.plot(column, row, "o", color=_INK, fillstyle="none")
    best = f"{gain[column, row]:+.2f} dB at α {alphas[column]:g}, factor {factors[row]:g}"
    axes.set_title(f"{title}\n{best}", fontsize=9)
    figure.colorbar(image, ax=axes)


def _panels() -> "tuple[Figure, tuple[Axes, Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw both figures. The result is 1 if matplotlib or data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.road_sign_figures", description="The plots of the study.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", metavar="DIR", help="folder to write into")
    options = parser.parse_args(arguments)
    if find_spec("matplotlib") is None:
        print("Error: matplotlib is not installed; install convert-onnx[figures]", file=sys.stderr)
        return 1
    try:
        model = ROAD_SIGNS.model()
        calibration, _evaluation = ROAD_SIGNS.images(model, CALIBRATE)
        with progress_bars() as progress:
            result = study(model, calibration, progress)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in (("awq-weights.png", weight_figure(result)), ("awq-grid.png", grid_figure(result))):
        figure.savefig(options.out / name)
        print(f"{options.out / name}: {result.layer.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
