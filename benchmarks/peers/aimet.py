"""AIMET-ONNX: W8A8 round to nearest, or W4A8 with AdaRound (200 iterations per layer).

python aimet.py FLOAT.onnx CALIBRATION.npz OUT.onnx W8A8|W4A8
"""

import sys
import time

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

ITERATIONS = 200


def main(model: str, data: str, out: str, form: str) -> None:
    """Quantize the model and print the seconds."""
    arrays = np.load(data)
    name = str(arrays["name"])
    batches = [{name: arrays["x"][start : start + 32]} for start in range(0, len(arrays["x"]), 32)]
    started, used = time.perf_counter(), time.process_time()
    proto = onnx.load(model)
    fold_all_batch_norms_to_weight(proto)
    weights = aimet_onnx.int4 if form == "W4A8" else aimet_onnx.int8
    sim = aimet_onnx.QuantizationSimModel(proto, param_type=weights, activation_type=aimet_onnx.int8)
    if form == "W4A8":
        aimet_onnx.apply_adaround(sim, batches, num_iterations=ITERATIONS)
    sim.compute_encodings(batches)
    onnx.save(sim.to_onnx_qdq(prequantize_constants=True), out)
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
