"""Broken models against every command: a sample of what `python -m benchmarks.fuzz` does."""

import subprocess
import sys

import pytest

from benchmarks.fuzz.__main__ import Case, Outcome
from benchmarks.fuzz.mutations import mutated
from tests.support.graphs import array, build, node

MODEL = build([node("Conv", ["x", "w"], ["y"], name="layer")], {"w": array(4, 3, 3, 3)}, ("n", 3, 8, 8))


def test_a_seed_always_gives_the_same_file() -> None:
    assert [mutated(MODEL, seed) for seed in range(50)] == [mutated(MODEL, seed) for seed in range(50)]


def test_most_files_differ_from_the_model() -> None:
    whole = MODEL.SerializeToString()
    assert sum(mutated(MODEL, seed) == whole for seed in range(200)) < 40


def test_some_files_have_sparse_constants_and_functions() -> None:
    files = [mutated(MODEL, seed) for seed in range(300)]
    for part in (b"sparse_value", b"Wrapped0", b"Wrapped1"):
        assert any(part in file for file in files)


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(0, "", 1.0, left=False), ""),
        (Outcome(1, "Error: x.onnx is empty", 1.0, left=False), ""),
        (Outcome(-11, "", 1.0, left=False), "exit code -11"),
        (Outcome(1, "Error: unexpected KeyError: 3; this is a bug", 1.0, left=False), "says 'this is a bug'"),
        (Outcome(1, "Traceback (most recent call last)", 1.0, left=False), "says 'Traceback'"),
        (Outcome(-9, "", 60.0, left=False), "hangs"),
        (Outcome(1, "Error: no", 1.0, left=True), "writes a file and fails"),
        (Outcome(1, "Error: no", 1.0, left=False, megabytes=8000), "takes 8,000 MB"),
    ],
)
def test_faults(outcome: Outcome, fault: str) -> None:
    assert outcome.fault == fault


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, since it forks: threads of this one would be missing in the children."""
    command = [sys.executable, "-m", "benchmarks.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_case_is_printed() -> None:
    done = fuzz("--only", "0")
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, Case(0).command)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 320, 80))
def test_broken_models_are_refused_in_a_line(start: int) -> None:
    done = fuzz("--count", "80", "--seed", str(start))
    assert done.returncode == 0, done.stdout
