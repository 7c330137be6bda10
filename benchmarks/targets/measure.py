"""Whole networks on every available provider: nodes left to the CPU, distance from float, agreement with the CPU.

Networks with random weights show which nodes a provider takes at 224 pixels. Their class scores are almost equal, so
their agreement is random. Trained networks show agreement.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
from rich import box
from rich.table import Table

from benchmarks.random_resnet import random_images, random_network, random_resnet18
from benchmarks.shared_data import EFFICIENTNET, ROAD_SIGNS, ROOT, MissingData, Pretrained
from converter import convert
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.model_io.save import save_onnx
from converter.report.table import show
from converter.targets.catalog import find_target
from converter.verification.environments import find_environment
from converter.verification.verify import Verification, verify

__all__ = ["FOLDER", "NETWORKS", "main"]

FOLDER = ROOT / "build" / "targets"
"""Folder of the runtimes."""

_CALIBRATE, _RANDOM_IMAGES = 256, 8
_RUNS = (("cpu", None), ("cpu", "cpu-oldest"), ("openvino", None), ("qnn", None), ("web", None), ("web", "node"))
_WRITTEN = {"openvino": "cpu", "web": "cpu"}  # the same file, because these networks have no ConvTranspose

Network = Callable[[int], tuple[onnx.ModelProto, Dataset, Dataset]]


def _random(make: Callable[[], onnx.ModelProto]) -> Network:
    def build(images: int) -> tuple[onnx.ModelProto, Dataset, Dataset]:
        model = make()
        specs = input_specs(model)
        unseen = random_images(min(images, _RANDOM_IMAGES), seed=1)
        return model, load_data(random_images(64), specs), load_data(unseen, specs)

    return build


def _trained(pretrained: Pretrained) -> Network:
    def build(images: int) -> tuple[onnx.ModelProto, Dataset, Dataset]:
        model = pretrained.model()
        calibration, evaluation = pretrained.images(model, _CALIBRATE)
        return model, calibration, evaluation.limit(images)

    return build


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "resnet18": _random(random_resnet18),
        "mobilenetv2": _random(lambda: random_network("mobilenet.py:mobilenet_v2")),
        "resnet18-road-signs": _trained(ROAD_SIGNS),
        "efficientnet-lite0": _trained(EFFICIENTNET),
    }
)


def main(names: Sequence[str], images: int) -> int:
    """Measure the networks and show one table. The result is 1 if a verification failed.

    Raises:
        MissingData: A runtime is missing. Then only rules could be checked, but the table promises runs.
        TargetError: A folder that should contain a runtime contains something else.
    """
    _require_runtimes()
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("network", "recipe", "ran on", "images", "nodes", "left", "agreement", "dB to float", "CPU's", ""):
        table.add_column(column)
    failed = False
    for name in names:
        for recipe in ("int8", "int4"):
            for verification in _verified(name, recipe, images):
                failed = failed or not verification.passed
                table.add_row(name, recipe, *_row(verification))
    show([table])
    return int(failed)


def _require_runtimes() -> None:
    """Check, before any work, that all runtimes are installed."""
    missing: list[str] = []
    for target, name in _RUNS:
        runtime = None if name is None else FOLDER / name
        if runtime is not None and not runtime.exists():
            missing.append(runtime.name)
        elif isinstance(find_environment(find_target(target), runtime), str):
            missing.append(target)
    if missing:
        raise MissingData(f"no runtime for {', '.join(missing)}; convert-onnx targets setup makes them all")


def _verified(name: str, recipe: str, images: int) -> list[Verification]:
    model, calibration, evaluation = NETWORKS[name](images)
    results = []
    least_agreement = 0.0 if name in {"resnet18", "mobilenetv2"} else 0.99
    with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
        reference = Path(folder) / "float.onnx"
        save_onnx(model, reference)
        files: dict[str, Path] = {}
        for target, environment in _RUNS:
            if target not in files:
                files[target] = Path(folder) / f"{_WRITTEN.get(target, target)}.onnx"
            if not files[target].exists():
                convert(model, calibration, recipe=recipe, target=files[target].stem).save(files[target])
            runtime = None if environment is None else FOLDER / environment
            verification = verify(
                files[target], target, evaluation, reference=reference, runtime=runtime, min_agreement=least_agreement
            )
            results.append(verification)
    return results


def _row(verification: Verification) -> list[str]:
    if verification.how != "run":
        return [verification.runtime, *[""] * 6, "; ".join(verification.failures[:2])]
    agreement = "" if verification.agreement is None else f"{100 * verification.agreement:.1f} %"
    nodes = "" if verification.nodes is None else str(verification.nodes)
    decibels = ["" if value is None else f"{value:.1f}" for value in (verification.float_db, verification.cpu_float_db)]
    where = f"{verification.target}: {verification.runtime}"
    left = "" if verification.nodes is None else str(len(verification.left))
    return [where, str(verification.images), nodes, left, agreement, *decibels, "; ".join(verification.failures[:2])]
