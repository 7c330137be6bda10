"""Peak memory of a conversion: the budget, whatever the size of the samples, and three times the model."""

import subprocess
import sys
from pathlib import Path

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


LARGE_MODEL = """
import resource, sys
import numpy as np
import converter
from tests.support.graphs import array, build, node

def write(side, path):
    tensors = ["x", *(f"t{i}" for i in range(11)), "y"]
    nodes = [node("Gemm", [tensors[i], f"w{i}"], [tensors[i + 1]], name=f"layer{i}") for i in range(12)]
    model = build(nodes, {f"w{i}": array(side, side, seed=i) / side**0.5 for i in range(12)}, ["n", side])
    open(path, "wb").write(model.SerializeToString())

small, large = (f"{sys.argv[1]}/{name}.onnx" for name in ("small", "large"))
if len(sys.argv) == 3:
    write(16, small), write(1792, large)
else:
    converter.convert(small, array(8, 16), recipe="int8")  # imports, code
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    converter.convert(large, array(8, 1792), recipe="int8")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (12 * 1792**2 * 4 >> 10))
"""


@pytest.mark.slow
def test_large_weights_are_not_copied(tmp_path: Path) -> None:
    """In memory are the model, an open session, and the float model that it was opened from."""
    command = [sys.executable, "-c", LARGE_MODEL, str(tmp_path)]
    subprocess.run([*command, "write"], check=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 8  # about 5 with temporaries of one layer; 12 if every step had copies
