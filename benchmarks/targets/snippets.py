"""Programs of `convert-onnx snippet` on photographs of any size, compared with what all tools compute.

The network is EfficientNet-Lite0 as int8. ``outside``: the program resizes, crops and scales, with the filter of its
own library. ``embedded``: it resizes and crops. ``any size``: the file does all of it. The photographs are those that
do not calibrate, as PNG, and as many JPEG files of `imagenet_sample` as are asked for.

Files are for `cpu-avx2`: its sums saturate on no CPU, so what differs is the program or the kernels, not the hardware.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich import box
from rich.table import Table

from benchmarks.photographs import EVALUATION, calibration_crops
from benchmarks.shared_data import EFFICIENTNET, IMAGENET_SIZE, shared_file
from benchmarks.targets.programs import LANGUAGES, MODULES, PACKAGES, run_program, why_no
from converter import Settings, convert
from converter.cli.runtimes import install
from converter.data.dataset import load_data
from converter.data.inputs import input_specs
from converter.data.preprocess import stored_preprocess
from converter.model_io.load import read_onnx
from converter.report.table import show
from converter.runtime.runner import Runner

__all__ = ["main"]

_PREPROCESS = replace(EFFICIENTNET.preprocess, resize=256, crop=IMAGENET_SIZE)
_FORMS = {
    "outside": Settings(),
    "embedded": Settings(embed_preprocess="nhwc"),
    "any size": Settings(embed_preprocess="nhwc", embed_resize=True),
}
_EXACT = 1e-3  # of the largest score: the C++ program prints six digits; WebAssembly has kernels of its own


@dataclass(frozen=True)
class _Row:
    """What the programs in one language gave on one form of the file."""

    form: str
    language: str
    images: int
    same_class: int
    difference: float

    @property
    def failed(self) -> bool:
        """Whether it should give what Python gives, and does not. Filters differ where the program resizes."""
        differs = self.same_class < self.images or (self.difference > _EXACT and self.language != "js")
        return self.form == "any size" and differs


def main(languages: Sequence[str] = (), images: int = 0) -> int:
    """Set up what can be had, run all programs, and print a table. The result is 1 if one gives another class.

    Args:
        languages: Keys of `LANGUAGES`. Empty: all.
        images: How many files of `imagenet_sample` to run on besides.
    """
    install(PACKAGES, MODULES)
    missing = {language: why_no(language) for language in languages or LANGUAGES}
    for language in filter(missing.get, missing):
        print(f"{language}: not run: {missing[language]}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as name:
        photographs = _photographs(Path(name), images)
        rows = list(_measured(Path(name), photographs, [each for each in missing if not missing[each]]))
    table = Table("file", "program", "same class", "largest difference", box=box.ASCII2)
    for row in rows:
        table.add_row(row.form, row.language, f"{row.same_class} of {row.images}", f"{row.difference:.1g}")
    show([table])
    return int(any(row.failed for row in rows))


def _photographs(folder: Path, more: int) -> list[Path]:
    """Files of images: those of `EVALUATION`, and of ``more`` classes of `imagenet_sample`."""
    images = []
    for index, photograph in enumerate(EVALUATION):
        images.append(folder / f"{index}.png")
        photograph.load().save(images[-1])
    found = sorted(shared_file("imagenet_sample").glob("*/0.jpg")) if more else []
    return images + [found[at * len(found) // more] for at in range(min(more, len(found)))]


def _measured(folder: Path, images: list[Path], languages: list[str]) -> Iterator[_Row]:
    model = EFFICIENTNET.model()
    for form, settings in _FORMS.items():
        path = folder / f"{form.replace(' ', '_')}.onnx"
        crops = calibration_crops(32)
        convert(model, crops, recipe="int8", target="cpu-avx2", preprocess=_PREPROCESS, settings=settings).save(path)
        expected = [_expected(path, image) for image in images]
        for language in languages:
            found = [_found(path, language, image) for image in images]
            pairs = list(zip(expected, found, strict=True))
            difference = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
            same = sum(int(a.argmax() == b.argmax()) for a, b in pairs)
            yield _Row(form, language, len(images), same, difference)


def _expected(path: Path, image: Path) -> NDArray[np.float64]:
    model = read_onnx(path)
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))[None]  # [1, h, w, 3]
    data = load_data(pixels, input_specs(model), preprocess=stored_preprocess(model))
    return np.asarray(Runner(path, "file").run(next(data.batches(1)))[0], np.float64).ravel()


def _found(path: Path, language: str, image: Path) -> NDArray[np.float64]:
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        return run_program(path, language, image, Path(folder)).values
