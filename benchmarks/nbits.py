"""MatMulNBits at 2, 4 and 8 bits, in blocks of 32 to 128, beside float and onnxruntime's own MatMulNBitsQuantizer.

    python -m benchmarks nbits

Three MatMuls of each shape, rounded to the nearest, on one thread. All files of a shape run in turns.
"""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks.bar import Bar
from benchmarks.large_layers import chain
from benchmarks.side_by_side import processor_speedups
from converter.calibration.sequential import solve_layers
from converter.qdq.writer import emit
from converter.runtime.runner import Runner
from converter.runtime.session import Progress, no_progress
from converter.targets.catalog import find_target
from passes.ir.model import Model
from passes.ir.onnx_graph import import_graph
from passes.numerics.error import sqnr_db
from passes.weights.rtn import Rtn

__all__ = ["SHAPES", "nbits"]

SHAPES = (("classifier", 1, 1280, 1000), ("ViT-Tiny", 197, 192, 768), ("MiniLM", 128, 384, 1536))
"""Name, rows, inputs and outputs of a layer."""

_BITS, _BLOCKS = (2, 4, 8), (32, 64, 128)
_COPIES = 2  # of a layer, with one that turns back between them


def _rounded(model: onnx.ModelProto, bits: int, block_size: int, *, symmetric: bool) -> onnx.ModelProto:
    work = Model(import_graph(model), find_target("cpu").rules)
    solver = Rtn(bits=bits, block_size=block_size, symmetric=symmetric, scale="absmax")
    solve_layers(work, solver, None, no_progress)
    return emit(work, "matmulnbits")


def nbits(progress: Progress) -> Iterator[Bar]:
    """Compare the speed over float, and the SQNR, of every form, with those of the peer's default form."""
    for place, (name, rows, inputs, outputs) in enumerate(SHAPES):
        progress("MatMulNBits", place, len(SHAPES))
        model = chain((inputs, outputs) * _COPIES)
        values = np.random.default_rng(1).standard_normal((rows, inputs), dtype=np.float32)
        with tempfile.TemporaryDirectory(prefix="convert-onnx-bench-") as folder:
            files = {"float": Path(folder) / "float.onnx"}
            onnx.save(model, files["float"])
            for bits, block_size, symmetric in itertools.product(_BITS, _BLOCKS, (True, False)):
                form = f"{bits} bits, blocks of {block_size}, {'symmetric' if symmetric else 'asymmetric'}"
                files[form] = Path(folder) / f"{len(files)}.onnx"
                onnx.save(_rounded(model, bits, block_size, symmetric=symmetric), files[form])
            for level in (None, 4):
                form = f"MatMulNBitsQuantizer, 4 bits, blocks of 128, accuracy_level {level}"
                files[form] = Path(folder) / f"{len(files)}.onnx"
                given = onnx.load(files["float"])  # it changes the model that it is given
                peer = MatMulNBitsQuantizer(given, bits=4, block_size=128, accuracy_level=level)
                peer.process()
                onnx.save(peer.model.model, files[form])
            faster = processor_speedups(files, {"input": values})
            exact = Runner(files["float"], "float").execute({"input": values})[0]
            for form, path in files.items():
                error = sqnr_db(exact, Runner(path, form).execute({"input": values})[0])
                size = path.stat().st_size / files["float"].stat().st_size
                note = f"{error:.1f} dB, {size:.3f} of the size" if form != "float" else ""
                yield Bar(f"{name}, {rows} rows: {form}", faster[form], None, "x", note=note)
    progress("MatMulNBits", len(SHAPES), len(SHAPES))
