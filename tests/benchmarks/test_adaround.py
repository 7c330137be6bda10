"""AIMET's AdaRound beside ours: what AIMET's process says, and the recipes that are compared."""

from pathlib import Path

import pytest

from benchmarks.peers import adaround
from converter import ConvertError
from passes.weights.learned_rounding import LearnedRounding


def interpreter(folder: Path, lines: str) -> Path:
    """Write a script that runs in place of AIMET's Python. "$4" is the file to write."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def run(python: Path, out: Path) -> float:
    return adaround.aimet(python, Path("float.onnx"), Path("calibration.npz"), out, 2, 100)


def test_the_seconds_are_those_of_the_processor(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert run(interpreter(tmp_path, 'echo "$5 $6" > "$4"; echo information; echo 1.5 2.75'), out) == 2.75
    assert out.read_text(encoding="utf-8") == "2 100\n"


@pytest.mark.parametrize(
    ("lines", "words"), [("echo Traceback >&2; echo no >&2; exit 1", "2 bits: no"), ("exit 0", "no file was written")]
)
def test_a_failure_is_one_line(lines: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=words):
        run(interpreter(tmp_path, lines), tmp_path / "out.onnx")


def test_methods_differ_in_what_rounds_alone() -> None:
    recipes = adaround.methods(3, 50)
    assert {recipe.solver.bits for recipe in recipes.values() if recipe.solver is not None} == {3}
    learned = {
        name: [step for step in recipe.passes if isinstance(step, LearnedRounding)] for name, recipe in recipes.items()
    }
    assert {name: [(step.granularity, step.steps) for step in steps] for name, steps in learned.items()} == {
        "round to nearest": [],
        "AdaRound, layer by layer": [("layer", 50)],
        "AdaRound, block by block": [("block", 50)],
        "GPTQ": [],
    }
