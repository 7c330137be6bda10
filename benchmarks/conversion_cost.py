"""Cost of a conversion: seconds and peak memory, measured in a separate process.

    python -m benchmarks.conversion_cost MODEL.onnx DATA RECIPE N

DATA are a folder of images, or arrays as the model takes them.

The benchmarks start this command. It prints JSON.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from benchmarks.bar import Bar
from benchmarks.photographs import calibration_crops
from benchmarks.random_resnet import write_random_resnet18
from benchmarks.shared_data import ROOT, MissingData
from converter import Settings, convert
from converter.data.preprocess import Preprocess
from converter.report.progress import progress_bars
from converter.runtime.session import Progress

__all__ = ["Cost", "calibration_memory", "conversion_cost", "conversion_time", "write_photographs"]

_COLOURS = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Cost:
    """Seconds of the conversion and of its passes, and the largest resident size of the process in bytes."""

    seconds: float
    passes: dict[str, float]
    peak_bytes: int


def conversion_time(progress: Progress) -> Iterator[Bar]:
    """Measure seconds and peak memory of ResNet-18 at 224 pixels, with 256 photographs and `int4`."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        model, images = write_random_resnet18(Path(folder)), write_photographs(Path(folder) / "images", 256, progress)
        cost = conversion_cost(model, images, "int4", 256)
    note = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cost.passes.items() if seconds >= 0.1)
    yield Bar("ResNet-18, 256 images, int4: time", cost.seconds, 120, "s", note=note)
    yield Bar("ResNet-18, 256 images, int4: peak memory", cost.peak_bytes / 1e9, 4, "GB")


def calibration_memory(progress: Progress) -> Iterator[Bar]:
    """Compare the peak memory of ResNet-18 at 224 pixels and `int8` with 1,024 and with 64 images."""
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        model = write_random_resnet18(Path(folder))
        images = write_photographs(Path(folder) / "images", 1024, progress)
        few, many = (conversion_cost(model, images, "int8", count) for count in (64, 1024))
    note = f"{few.peak_bytes / 1e6:,.0f} MB at 64, {many.peak_bytes / 1e6:,.0f} MB at 1,024"
    yield Bar("Calibration: memory, 1,024 images to 64", many.peak_bytes / few.peak_bytes, 1.1, "x", note=note)


def conversion_cost(model: Path, images: Path, recipe: str, count: int) -> Cost:
    """Convert in a new process and return the cost."""
    command = [sys.executable, "-m", __name__, str(model), str(images), recipe, str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return Cost(**json.loads(done.stdout))


def write_photographs(folder: Path, count: int, progress: Progress) -> Path:
    """Write crops of photographs as PNG files. A folder is read batch by batch, while an .npz would stay in memory."""
    folder.mkdir(parents=True)
    try:
        crops = calibration_crops(count)
    except ModuleNotFoundError as error:
        raise MissingData(str(error)) from error
    for index, crop in enumerate(crops):
        Image.fromarray(crop).save(folder / f"{index:05}.png", compress_level=1)
        progress("writing images", index + 1, count)
    return folder


def peak_bytes() -> int:
    """Return the largest resident size of this process so far.

    On Linux, ru_maxrss starts at the size of the parent process if that was larger. VmHWM starts at zero.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def main(model: str, images: str, recipe: str, count: str) -> None:
    """Convert a model and print the cost as JSON."""
    settings = Settings(limit=int(count))
    preprocess = _COLOURS if Path(images).is_dir() else Preprocess()
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder, progress_bars() as progress:
        result = convert(model, images, recipe=recipe, settings=settings, preprocess=preprocess, progress=progress)
        result.save(Path(folder) / "converted.onnx")
    passes: dict[str, float] = {}
    for report in result.passes:
        passes[report.name] = passes.get(report.name, 0.0) + report.seconds
    print(json.dumps(asdict(Cost(result.seconds, passes, peak_bytes()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
