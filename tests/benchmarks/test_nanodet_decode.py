"""The guide's decode() for NanoDet gives the detections of the benchmark, from outputs of any names."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nanodet import decode

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "tasks" / "detector.md"


def outputs() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for cells in (400, 1600, 100):
        found[f"a{cells}"] = draw.beta(0.2, 40, (cells, 80)).astype(np.float32)
        found[f"b{cells}"] = draw.normal(0, 3, (cells, 32)).astype(np.float32)
    return found


def test_the_guides_decode_is_that_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    for name in ("decode.py", "nanodet.py"):
        (tmp_path / name).write_text(code[name], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code["nanodet.py"], "nanodet.py", "exec"), names)
    of_guide = names["decode"]
    assert callable(of_guide)
    (found,), (expected,) = of_guide(outputs()), decode(outputs())
    assert len(expected[1]) == 100
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)
