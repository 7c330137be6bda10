"""Whole networks on every provider that can be had: nodes left, distance from float, agreement with the CPU.

The random networks show which nodes a provider takes at 224 pixels; their classes are a hair's breadth apart, so what
they agree on is luck. The trained ones show agreement.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
from rich import box
from rich.table import Table

from benchmarks.random_resnet import random_images, random_network, random_resnet18
from benchmarks.shared_data import EFFICIENTNET, ROAD_SIGNS, MissingData, Pretrained
from benchmarks.targets.environments import FOLDER
from converter import convert
from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.model_io.save import save_onnx
from converter.report.table import show
from converter.targets.catalog import find_target
from converter.verification.environments import find_environment
from converter.verification.verify import Verification, verify

__all__ = ["NETWORKS", "main"]

_CALIBRATE, _RANDOM_IMAGES = 256, 8
_RUNS = (("cpu", None), ("cpu", "cpu-oldest"), ("openvino", None), ("qnn", None), ("web", None), ("web", "node"))
_WRITTEN = {"openvino": "cpu", "web": "cpu"}  # no ConvTranspose in these networks: the same file

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
    """One table; 1 if a verification failed.

    Raises:
        MissingData: a runtime is not there, so that there would be rules where the table promises runs.
        TargetError: a folder that should hold a runtime holds something else.
    """
    _require_runtimes()
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("network", "recipe", "ran on", "images", "nodes", "left", "agreement", "dB to float", "CPU's", ""):
        table.add_column(column)
    failed = False
    for name in names:
        for recipe in ("int8", "int4"):
            for found in _verified(name, recipe, images):
                failed = failed or not found.passed
                table.add_row(name, recipe, *_row(found))
    show([table])
    return int(failed)


def _require_runtimes() -> None:
    """All at once, before any work."""
    missing: list[str] = []
    for target, name in _RUNS:
        runtime = None if name is None else FOLDER / name
        if runtime is not None and not runtime.exists():
            missing.append(runtime.name)
        elif isinstance(find_environment(find_target(target), runtime), str):
            missing.append(target)
    if missing:
        raise MissingData(f"no runtime for {', '.join(missing)}; python -m benchmarks.targets setup makes them all")


def _verified(name: str, recipe: str, images: int) -> list[Verification]:
    model, calibration, evaluation = NETWORKS[name](images)
    results = []
    judged = 0.0 if name in {"resnet18", "mobilenetv2"} else 0.99
    with tempfile.TemporaryDirectory(prefix="convert-onnx-") as folder:
        reference = Path(folder) / "float.onnx"
        save_onnx(model, reference)
        files: dict[str, Path] = {}
        for target, environment in _RUNS:
            if target not in files:
                files[target] = Path(folder) / f"{_WRITTEN.get(target, target)}.onnx"
            if not files[target].exists():
                convert(model, calibration, recipe=recipe, target=files[target].stem).save(files[target])
            runtime = None if environment is None else FOLDER / environment
            found = verify(
                files[target], target, evaluation, reference=reference, runtime=runtime, min_agreement=judged
            )
            results.append(found)
    return results


def _row(found: Verification) -> list[str]:
    if found.how != "run":
        return [found.runtime, *[""] * 6, "; ".join(found.failures[:2])]
    agreement = "" if found.agreement is None else f"{100 * found.agreement:.1f} %"
    nodes = "" if found.nodes is None else str(found.nodes)
    decibels = ["" if value is None else f"{value:.1f}" for value in (found.float_db, found.cpu_float_db)]
    where = f"{found.target}: {found.runtime}"
    left = "" if found.nodes is None else str(len(found.left))
    return [where, str(found.images), nodes, left, agreement, *decibels, "; ".join(found.failures[:2])]
