"""All structures by name."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from models.structures.build import SIDE, Structure, between, floats, image, ints, n, tokens, vector
from models.structures.control_flow import branches, loop, scan
from models.structures.layers import (
    decomposed_hard_swish,
    generated,
    linear_tokens,
    lstm,
    passed_on,
    pyramid,
    relu_then,
    repeated_split,
    scaled,
    scatter,
    unrolled,
    zeros,
)
from models.structures.old_files import (
    fixed_batch,
    function,
    nested_functions,
    old,
    resized,
    sparse,
    unsorted,
    wrong_rank,
    wrong_shapes,
)
from models.structures.types import (
    boxes,
    embedding,
    empty_tensor,
    half,
    half_image,
    image_bytes,
    one_hot,
    recurrent,
    recurrent_feeds,
    sequence,
    sequence_output,
)

__all__ = ["STRUCTURES"]

STRUCTURES: Mapping[str, Structure] = MappingProxyType(
    {
        **{
            f"{op} {opset} {mode} {scale:g}": Structure(resized(op, opset, mode, scale), image)
            for op, opset in (("Upsample", 7), ("Upsample", 8), ("Upsample", 9), ("Resize", 10))
            for mode in ("nearest", "linear")
            for scale in ((2.0, 1.7) if op == "Upsample" else (2.0, 1.7, 0.6))
        },
        "Pad with axes": Structure(
            between(n("Pad", ["h", "p", "", "axes"], ["m"]), opset=18, p=ints(1, 1, 1, 1), axes=ints(2, 3)), image
        ),
        "Pad with negative axes": Structure(
            between(n("Pad", ["h", "p", "", "axes"], ["m"], mode="reflect"), opset=19, p=ints(1, 2), axes=ints(-1)),
            image,
        ),
        "Resize with axes": Structure(
            between(n("Resize", ["h", "", "s"], ["m"], mode="nearest", axes=[2, 3]), opset=18, s=floats(2, 2)), image
        ),
        "Resize to sizes with axes": Structure(
            between(n("Resize", ["h", "", "", "s"], ["m"], mode="linear", axes=[2, 3]), opset=19, s=ints(20, 17)), image
        ),
        **{
            f"Resize {policy}": Structure(
                between(
                    n("Resize", ["h", "", "", "s"], ["m"], axes=[2, 3], mode="linear", keep_aspect_ratio_policy=policy),
                    opset=18,
                    s=ints(17, 23),
                ),
                image,
            )
            for policy in ("not_larger", "not_smaller")
        },
        "CenterCropPad with axes": Structure(
            between(n("CenterCropPad", ["h", "s"], ["m"], axes=[3, -2]), opset=18, s=ints(15, 9)), image
        ),
        "Resize antialiased": Structure(
            between(n("Resize", ["h", "", "s"], ["m"], mode="linear", antialias=1), opset=18, s=floats(1, 1, 0.6, 0.6)),
            image,
        ),
        "If": Structure(branches("choice"), image),
        "If without a name": Structure(branches(""), image),
        "nested If": Structure(branches("choice", nested=True), image),
        "If with a layer of a shared weight": Structure(branches("choice", shared=True), image),
        "Loop": Structure(loop, image),
        "Scan": Structure(scan, tokens),
        "recurrent state": Structure(recurrent, recurrent_feeds, exact=("stateN",)),
        "token ids": Structure(embedding, lambda rng: {"ids": rng.integers(0, 64, (1, SIDE))}),
        "bytes of an image": Structure(
            image_bytes, lambda rng: {"image": rng.integers(0, 256, (1, SIDE, SIDE, 3)).astype(np.uint8)}
        ),
        "one hot": Structure(one_hot, lambda rng: {"ids": rng.integers(0, 32, (1, 6))}),
        "float16": Structure(half(inside=False), half_image),
        "float16 inside": Structure(half(inside=True), image),
        **{
            f"decomposed HardSwish {list(shape)}": Structure(decomposed_hard_swish(*shape), image)
            for shape in ((), (1,), (1, 1, 1, 1))
        },
        **{
            f"{op} by {number:g}{', an output too' if output else ''}": Structure(
                scaled(op, number, output=output), image
            )
            for op, number in (("Mul", 0.5), ("Div", 3.0), ("Mul", -0.5))
            for output in (False, True)
        },
        "IR version 3": Structure(old(3), image),
        "IR version 4": Structure(old(4), image),
        "wrong declared shapes": Structure(wrong_shapes, image),
        "wrong declared rank": Structure(wrong_rank, image),
        "fixed batch": Structure(fixed_batch, image),
        "unsorted nodes": Structure(unsorted, image),
        "function": Structure(function, image),
        "functions in functions": Structure(nested_functions, image),
        "sparse weights": Structure(sparse, image),
        **{
            f"zeros in a {what}": Structure(zeros(what), image)
            for what in ("kernel position", "input channel", "output channel", "layer")
        },
        "generated zeros": Structure(generated, vector),
        "unrolled recurrence": Structure(unrolled, vector),
        "shared head": Structure(pyramid, image),
        "input passed on": Structure(passed_on, image, exact=("same", "flat", "turned")),
        "sequence": Structure(sequence, image),
        "sequence as output": Structure(sequence_output, image),
        "tensor without elements": Structure(empty_tensor, image),
        "varying number of rows": Structure(boxes, image),
        "scatter into a slice": Structure(scatter, image),
        "repeated Split": Structure(repeated_split, image),
        "linear layers on tokens": Structure(linear_tokens, tokens),
        "LSTM": Structure(lstm, tokens),
        "mean and variance": Structure(between(n("MeanVarianceNormalization", ["h"], ["m"]), opset=13), image),
        **{
            f"{layer}, Relu, {op}": Structure(relu_then(op, layer), vector)
            for layer in ("Gemm", "MatMul")
            for op in ("Mul", "Softmax", "Erf")
        },
    }
)
