"""Times of onnxruntime's CPU kernels for convolutions, on floats and on integers: a model in a few measured numbers.

Integers. QLinearConv gathers the inputs of every output pixel and multiplies. With one group it copies a row of taps at
once, with more it copies tap by tap for each group. A group of one input and one output (depthwise) has a kernel of its
own, which is quick where there are many channels, and quickest where they fill blocks of 16.

Floats. A 2-D convolution whose groups fill blocks of 16 channels, or are depthwise, needs no gathering. It computes a
multiple of 16 outputs. All others gather every input tap, and multiply.

Which of the two is quicker depends on the shape: three inputs a group are 5 times slower on integers, 64 are 4 times
quicker. The numbers are nanoseconds on one thread, of x86 with AVX-512 VNNI.
"""

from dataclasses import dataclass

__all__ = ["BLOCK", "Convolution", "KernelTimes"]

BLOCK = 16
"""Channels of a block in onnxruntime's layout for float convolutions, and in its depthwise kernel on integers."""


@dataclass(frozen=True)
class Convolution:
    """Shape of a convolution of one sample.

    Attributes:
        groups: Number of groups.
        inputs: Input channels of a group.
        outputs: Output channels of a group.
        taps: Taps of the kernel.
        rows: Rows of taps: all spatial dimensions but the last.
        pixels: Pixels of the output.
        dims: Number of spatial dimensions.
    """

    groups: int
    inputs: int
    outputs: int
    taps: int
    rows: int
    pixels: int
    dims: int

    @property
    def depthwise(self) -> bool:
        """Whether every group has one input and one output."""
        return self.inputs == self.outputs == 1

    @property
    def products(self) -> int:
        """Number of products for each output pixel."""
        return self.groups * self.inputs * self.outputs * self.taps

    @property
    def filled_products(self) -> int:
        """Number of products if the outputs of a group fill blocks."""
        return self.products // self.outputs * (-(-self.outputs // BLOCK) * BLOCK)


@dataclass(frozen=True)
class KernelTimes:
    """Nanoseconds of the parts of a kernel.

    Attributes:
        integer_group: One pixel of one group in QLinearConv, and one tap of it if there are several groups.
        integer_row: One row of taps of a pixel if there is one group, and one input of it.
        integer_product: One product of QLinearConv, and one output.
        integer_depthwise: One tap of one pixel, and one channel of it, in the depthwise kernel.
        integer_unfilled: The same where several channels are no multiple of 16.
        float_product: One product in float.
        float_gather: One gathered input.
        float_depthwise: One output of a depthwise convolution, and one tap of it.
        operators: One element of other operators, by operator: on integers, and in float.
        other: One element of an operator that is not listed, on integers and in float.
        quantize: One element of QuantizeLinear with the change of layout.
        dequantize: One element of DequantizeLinear with the change of layout.
    """

    integer_group: tuple[float, float] = (3.0, 2.9)
    integer_row: tuple[float, float] = (5.0, 0.03)
    integer_product: tuple[float, float] = (0.002, 0.1)
    integer_depthwise: tuple[float, float] = (1.0, 0.032)
    integer_unfilled: tuple[float, float] = (2.0, 0.11)
    float_product: float = 0.012
    float_gather: float = 0.27
    float_depthwise: tuple[float, float] = (0.12, 0.013)
    operators: tuple[tuple[str, tuple[float, float]], ...] = (
        ("Relu", (0.0, 0.0)),
        ("Clip", (0.0, 0.0)),
        ("HardSwish", (0.33, 0.17)),
        ("HardSigmoid", (0.11, 0.12)),
        ("Sigmoid", (0.22, 0.2)),
        ("Mul", (0.2, 0.13)),
        ("Add", (0.15, 0.1)),
    )
    other: tuple[float, float] = (0.1, 0.1)
    quantize: float = 0.3
    dequantize: float = 0.35

    def integer_time(self, shape: Convolution) -> float:
        """Return the time of a convolution on integers."""
        if shape.depthwise:
            filled = shape.groups == 1 or shape.groups % BLOCK == 0
            tap, channel = self.integer_depthwise if filled else self.integer_unfilled
            return shape.pixels * shape.taps * (tap + shape.groups * channel)
        (group, tap), (row, each), (product, output) = self.integer_group, self.integer_row, self.integer_product
        gathered = group * shape.groups
        if shape.taps > 1 and shape.groups > 1:
            gathered += tap * shape.taps * shape.groups
        elif shape.taps > 1:
            gathered += row * shape.rows + each * shape.inputs * shape.taps
        return shape.pixels * (gathered + product * shape.filled_products + output * shape.groups * shape.outputs)

    def float_time(self, shape: Convolution) -> float:
        """Return the time of a convolution in float, with the Relu or Clip behind it."""
        blocks = shape.dims == 2 and (shape.groups == 1 or not (shape.inputs % BLOCK or shape.outputs % BLOCK))
        if shape.dims == 2 and shape.depthwise:
            output, tap = self.float_depthwise
            return shape.pixels * max(shape.groups, BLOCK) * (output + tap * shape.taps)
        if blocks:
            return shape.pixels * self.float_product * shape.filled_products
        gathered = shape.groups * shape.inputs * shape.taps
        return shape.pixels * (self.float_gather * gathered + self.float_product * shape.products)

    def operator_time(self, op: str, elements: int, *, integer: bool) -> float:
        """Return the time of any other operator."""
        on_integers, in_float = dict(self.operators).get(op, self.other)
        return elements * (on_integers if integer else in_float)
