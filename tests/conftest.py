"""Settings of every test."""

import os

# Quality must not depend on the processor that runs the tests: x86 without VNNI saturates 8-bit products. Commands that
# tests start in processes of their own inherit this.
os.environ["CONVERT_ONNX_EXACT_KERNELS"] = "1"
