"""Speed of int8 and int4 files on the CPU, relative to float and to the fastest file of quantize_static.

The bar of `--measure-speed` is the speed of the fastest file of quantize_static. Without that option, a file has every
possible layer on integers. It is a little slower if some layers run faster in float, as the first layers of
MobileNetV2 do.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.bar import Bar
from benchmarks.random_resnet import random_images, random_network
from benchmarks.side_by_side import speedups
from benchmarks.static_quantization import static_files
from converter import Settings, convert
from converter.model_io.save import save_onnx
from converter.runtime.session import Progress

__all__ = ["cpu_speed"]

_MODELS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "ResNet-18": ("resnet.py:resnet18", 3.0),
        "MobileNetV2": ("mobilenet.py:mobilenet_v2", 1.7),
        "EfficientNet-Lite0": ("efficientnet_lite.py:efficientnet_lite0", 1.7),
    }
)
_IMAGES = 8  # images that calibrate; speed does not depend on the codes
_EQUAL = 0.98  # two files of the same operators differ by up to 2 % from run to run


def cpu_speed(progress: Progress) -> Iterator[Bar]:
    """Time ResNet-18, MobileNetV2 and EfficientNet-Lite0 at 224 pixels, random weights, one thread, files in turns."""
    for name, (factory, limit) in _MODELS.items():
        model, images = random_network(factory), random_images(_IMAGES)
        with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
            files = {"float": Path(folder) / "float.onnx"}
            save_onnx(model, files["float"])
            left = ""
            for recipe, measured in (("int8", False), ("int4", False), ("int8", True)):
                result = convert(
                    model, images, recipe=recipe, settings=Settings(measure_speed=measured), progress=progress
                )
                form = f"{recipe}, --measure-speed" if measured else recipe
                files[form] = Path(folder) / f"{recipe}-{measured}.onnx"
                result.save(files[form])
                if result.speed is not None:
                    left = ", ".join(result.speed.layers) or "no layer"
            ours = list(files)[1:]
            files |= static_files(files["float"], images, Path(folder))
            ratios = speedups(files, images[:1])
        for form in ours:
            note = f"float activations in {left}" if form.endswith("speed") else "batch 1, 1 thread, interleaved"
            yield Bar(f"{name}, {form}: faster than float", ratios[form], limit, "x", True, note)
        others = {form: ratio for form, ratio in ratios.items() if form.startswith("quantize")}
        best = max(others, key=others.__getitem__)
        note = f"{best}: {others[best]:.2f}x"
        for form in ours:
            what = f"{name}, {form}: over the best of quantize_static"
            least = _EQUAL if form.endswith("speed") else None
            yield Bar(what, ratios[form] / others[best], least, "x", True, note)
