"""onnxsim: 4-bit weights in blocks of 32, float activations. It needs no data.

python onnxsim_int4.py FLOAT.onnx CALIBRATION.npz OUT.onnx W4A32
"""

import sys
import time

import onnx
import onnxsim


def main(model: str, _: str, out: str, form: str) -> None:
    """Quantize the model and print the seconds."""
    if form != "W4A32":
        raise SystemExit(f"onnxsim has no {form} for convolutions")
    started, used = time.perf_counter(), time.process_time()
    onnx.save(onnxsim.quantize_weight_only_int4(onnx.load(model)), out)
    print(time.perf_counter() - started, time.process_time() - used)


main(*sys.argv[1:])
