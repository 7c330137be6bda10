"""What the images that calibrate do to a file: their number, and images unlike those that are measured.

    python -m benchmarks calibration                      everything
    python -m benchmarks.calibration_sets --solvers rtn gptq --kinds "^(8|512) images|noise" --draws 2

ResNet-20 on CIFAR-10, 4-bit weights on the grids of `int4`, 8-bit activations. The images of each kind calibrate files
by rounding to nearest, GPFQ, GPTQ and learned rounding. For rounding to nearest they give the ranges of activations
alone. SQNR of the scores and top-1 are measured on 2,000 test images. Up to 256 images are drawn three times, and the
mean and the standard deviation are shown.
"""

import argparse
import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bar import Bar
from benchmarks.shared_data import RESNET20, MissingData, Pretrained, shared_file
from converter import ConvertError, Recipe, Settings, convert, find_recipe
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.evaluation.evaluate import evaluate
from converter.model_io.save import save_onnx
from converter.report.progress import progress_bars
from converter.runtime.session import Progress
from passes.weights.gpfq import Gpfq
from passes.weights.rtn import Rtn

__all__ = ["SOLVERS", "Draw", "calibration", "drawn", "files_of", "main", "measured", "shown"]

Pixels = NDArray[np.uint8]
"""Images [n, height, width, 3]."""

NETWORK: Pretrained = RESNET20
_OTHER = "gtsrb_train.npz"
_MEASURE, _DRAWS, _MOST_DRAWN = 2000, 3, 256
_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
_INT4 = find_recipe("int4")
_LEARNING = find_recipe("int2-learned").passes[-1]

SOLVERS: Mapping[str, Recipe] = MappingProxyType(
    {
        "rtn": _INT4.with_pass(Rtn(bits=4, block_size=8, two_level=True)),
        "gpfq": _INT4.with_pass(Gpfq(bits=4, block_size=8, two_level=True)),
        "gptq": _INT4,
        "learned": dataclasses.replace(_INT4, passes=(*_INT4.passes, _LEARNING)),
    }
)
"""Recipes by the name of what finds the codes."""

_SLOW = "learned"
_FEW_COUNTS = (32, 256, 1024)


@dataclass(frozen=True)
class Draw:
    """A kind of images, drawn once or several times.

    Attributes:
        what: What they are, with their number.
        sets: The images of each draw.
    """

    what: str
    sets: tuple[Pixels, ...]


def calibration(progress: Progress) -> Iterator[Bar]:
    """Calibrate on every kind of images by every solver, and measure all files on the same images."""
    yield from measured(list(SOLVERS), "", _DRAWS, _MEASURE, progress)


def measured(solvers: Sequence[str], kinds: str, draws: int, count: int, progress: Progress) -> Iterator[Bar]:
    """Yield the SQNR of the scores for each kind of images and each solver.

    Args:
        solvers: Names of `SOLVERS`. Learned rounding is measured for three numbers of images only.
        kinds: Regular expression of the kinds of images that are measured.
        draws: Sets of each kind, if it has at most 256 images.
        count: Images that measure the files.
        progress: Called during the conversions.

    Raises:
        MissingData: The network or images are not on this machine.
    """
    model = NETWORK.model()
    _, evaluation = NETWORK.images(model, 1)
    pixels, labels = _images(NETWORK.calibration)
    other, _ = _images(_OTHER)
    for draw in drawn(pixels, labels, other, draws):
        for solver in solvers if re.search(kinds, draw.what) else ():
            if solver == _SLOW and draw.what not in {f"{few:,} images" for few in _FEW_COUNTS}:
                continue
            db, top1 = files_of(model, SOLVERS[solver], draw, evaluation.limit(count), progress)
            yield Bar(f"{draw.what}, {solver}", float(np.mean(db)), None, "dB", note=f"{shown(db)} dB, {shown(top1)} %")


def drawn(
    pixels: Pixels, labels: NDArray[np.int64], other: Pixels, draws: int = _DRAWS, seed: int = 0
) -> Iterator[Draw]:
    """Yield kinds of images: numbers of them, a single class, more of few, another data set, and noise.

    Args:
        pixels: Images like those that are measured.
        labels: Their classes [n].
        other: Images of another data set, of any size.
        draws: Sets of each kind. More than 256 images are drawn once.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    size = (pixels.shape[2], pixels.shape[1])

    def some(of: Pixels, count: int) -> Pixels:
        return of[rng.permutation(len(of))[:count]]

    for count in _COUNTS:
        if count <= len(pixels):
            times = draws if count <= _MOST_DRAWN else 1
            yield Draw(f"{count:,} images", tuple(some(pixels, count) for _ in range(times)))
    classes, sizes = np.unique(labels, return_counts=True)
    fewest = int(min(64, sizes.min()))
    picked = rng.permutation(classes)[:draws]
    yield Draw(f"{fewest} images of one class", tuple(some(pixels[labels == one], fewest) for one in picked))
    few = min(64, len(pixels))
    turned = tuple(_augmented(some(pixels, few), 4, rng) for _ in range(draws))
    yield Draw(f"{few} images, flipped and moved to {4 * few}", turned)
    count = min(_MOST_DRAWN, len(other))
    yield Draw(f"{count} road signs", tuple(_resized(some(other, count), size) for _ in range(draws)))
    count = min(_MOST_DRAWN, len(pixels))
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    noise = [rng.normal(mean, std, (count, *pixels.shape[1:])).clip(0, 255).astype(np.uint8) for _ in range(draws)]
    yield Draw(f"{count} images of noise", tuple(noise))


def files_of(
    model: onnx.ModelProto, recipe: Recipe, draw: Draw, evaluation: Dataset, progress: Progress
) -> tuple[list[float], list[float]]:
    """Return the SQNR of the scores in dB and the top-1 accuracy in percent of the file of each draw."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        paths = [Path(folder) / "float.onnx"]
        save_onnx(model, paths[0])
        for pixels in draw.sets:
            data = load_data(pixels, input_specs(model), preprocess=NETWORK.preprocess)
            settings = Settings(limit=len(pixels), timing=False)
            paths.append(Path(folder) / f"{len(paths)}.onnx")
            convert(model, data, recipe=recipe, settings=settings, progress=progress).save(paths[-1])
        measured = evaluate(paths, evaluation, latency=False, progress=progress).models[1:]
    return [each.sqnr_db or 0.0 for each in measured], [100 * (each.top1 or 0.0) for each in measured]


def shown(values: list[float]) -> str:
    """Return the mean, and the standard deviation if there are several values."""
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def _images(name: str) -> tuple[Pixels, NDArray[np.int64]]:
    with np.load(shared_file(name)) as file:
        return file["x"], file["y"]


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return the images at another width and height."""
    return np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in pixels])


def _augmented(pixels: Pixels, times: int, rng: np.random.Generator) -> Pixels:
    """Return each image ``times`` times, flipped at random and moved by up to 4 pixels."""
    copies = []
    for image in np.repeat(pixels, times, axis=0):
        turned = image[:, ::-1] if rng.random() < 0.5 else image
        padded = np.pad(turned, ((4, 4), (4, 4), (0, 0)), mode="edge")
        top, left = rng.integers(0, 9, 2)
        copies.append(padded[top : top + image.shape[0], left : left + image.shape[1]])
    return np.stack(copies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each kind of images and each solver. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.calibration_sets", description="Images that calibrate, compared.")
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS), help="default: all")
    parser.add_argument("--kinds", default="", metavar="REGEX", help="kinds of images; default: all")
    parser.add_argument("--draws", type=int, default=_DRAWS, metavar="N", help=f"sets of a kind; default {_DRAWS}")
    parser.add_argument("--images", type=int, default=_MEASURE, metavar="N", help=f"that measure; default {_MEASURE}")
    options = parser.parse_args(arguments)
    if min(options.draws, options.images) < 1:
        parser.error("--draws and --images must be at least 1")
    try:
        re.compile(options.kinds)
    except re.error as error:
        parser.error(f"--kinds {options.kinds!r} is no regular expression: {error}")
    try:
        with progress_bars() as progress:
            for bar in measured(options.solvers, options.kinds, options.draws, options.images, progress):
                print(f"{bar.what}: {bar.note}", flush=True)
    except (ConvertError, MissingData) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
