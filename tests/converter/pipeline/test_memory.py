"""Peak memory of a conversion: the budget, whatever the size of the samples."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
import converter
from tests.support.graphs import array, build, node

layers = [node("Conv", [f"t{i}", f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1] * 4) for i in range(2)]
clamps = [node("Relu", [f"c{i}"], [f"t{i + 1}"]) for i in range(2)]
tail = [node("GlobalAveragePool", ["t2"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "m"], ["y"])]
head = [node("Identity", ["x"], ["t0"])]
weights = {"w0": array(32, 1, 3, 3) / 3, "w1": array(32, 32, 3, 3) / 17, "m": array(32, 4)}
nodes = [*head, layers[0], clamps[0], layers[1], clamps[1], *tail]
model = build(nodes, weights, ["n", 1, 512, 512])
images = np.random.default_rng(0).standard_normal((16, 1, 512, 512), dtype=np.float32)
converter.convert(build(nodes, weights, ["n", 1, 16, 16]), images[:, :, :16, :16], recipe=sys.argv[1])  # imports, code
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = converter.Settings(memory_budget=512 << 20)
converter.convert(model, images, recipe=sys.argv[1], settings=settings, evaluation=images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_large_samples_stay_within_the_budget(recipe: str) -> None:
    """A tensor of one sample has 34 MB.."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, recipe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 600  # MiB; the budget of 512, and what onnxruntime adds
