"""NNCF's post-training quantization: W8A8, the preset that it recommends for ONNX.

python nncf_ptq.py FLOAT.onnx CALIBRATION.npz OUT.onnx W8A8
"""

import sys
import time

import nncf
import numpy as np
import onnx


def main(model: str, data: str, out: str, form: str) -> None:
    """Quantize the model and print the seconds."""
    if form != "W8A8":
        raise SystemExit(f"NNCF has no {form} for convolutions in ONNX")
    arrays = np.load(data)
    name = str(arrays["name"])
    started, used = time.perf_counter(), time.process_time()
    batches = nncf.Dataset([{name: image[None]} for image in arrays["x"]])
    onnx.save(nncf.quantize(onnx.load(model), batches, subset_size=len(arrays["x"])), out)
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
