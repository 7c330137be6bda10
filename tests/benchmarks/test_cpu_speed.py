"""The bars of speed, without measuring."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import cpu_speed as benchmark
from converter import Settings
from converter.runtime.session import no_progress


def test_only_files_with_measured_speed_have_a_bar_against_quantize_static(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"int8": 1.8, "int4": 1.8, "int8, --measure-speed": 2.1, "quantize_static U8S8 QDQ": 2.0}

    def converted(*_: object, settings: Settings, **__: object) -> SimpleNamespace:
        speed = SimpleNamespace(layers=("stem",)) if settings.measure_speed else None
        return SimpleNamespace(save=lambda _: None, speed=speed)

    for name, value in (
        ("random_network", lambda _: None),
        ("random_images", lambda count: [None] * count),
        ("save_onnx", lambda *_: None),
        ("convert", converted),
        ("static_files", lambda *_: {"quantize_static U8S8 QDQ": Path("static.onnx")}),
        ("speedups", lambda *_: ratios),
    ):
        monkeypatch.setattr(benchmark, name, value)
    bars = {bar.what: bar for bar in benchmark.cpu_speed(no_progress)}
    held = {what.removeprefix("MobileNetV2, "): bar.holds for what, bar in bars.items() if what.startswith("Mobile")}
    assert held == {
        "int8: faster than float": True,
        "int4: faster than float": True,
        "int8, --measure-speed: faster than float": True,
        "int8: over the best of quantize_static": None,
        "int4: over the best of quantize_static": None,
        "int8, --measure-speed: over the best of quantize_static": True,
    }
    assert bars["MobileNetV2, int8: over the best of quantize_static"].measured == pytest.approx(0.9)
    assert bars["ResNet-18, int8: faster than float"].holds is False
