"""AdaRound by AIMET-ONNX: a float file whose weights are rounded to a few bits, with a scale a channel.

python aimet_adaround.py FLOAT.onnx CALIBRATION.npz OUT.onnx BITS ITERATIONS
"""

import sys
import time

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight


def main(model: str, data: str, out: str, bits: str, iterations: str) -> None:
    """Round the weights and print the seconds and the processor seconds."""
    arrays = np.load(data)
    name = str(arrays["name"])
    batches = [{name: arrays["x"][start : start + 32]} for start in range(0, len(arrays["x"]), 32)]
    started, used = time.perf_counter(), time.process_time()
    proto = onnx.load(model)
    fold_all_batch_norms_to_weight(proto)
    sim = aimet_onnx.QuantizationSimModel(proto, param_type=aimet_onnx.qtype.int(int(bits)))
    aimet_onnx.apply_adaround(sim, batches, num_iterations=int(iterations))
    onnx.save(sim.remove_quantizers(sim.model.model), out)
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
