"""MobileNetV3-Large and -Small (Howard et al., 2019) with torchvision's parameter names.

Input `[batch, 3, height, width]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["MobileNetV3", "Row", "SqueezeExcitation", "mobilenet_v3_large", "mobilenet_v3_small"]


class Row(NamedTuple):
    """One inverted residual: a row of tables 1 and 2.

    Attributes:
        kernel: Size of the depthwise kernel.
        hidden: Channels of the depthwise convolution.
        outputs: Output channels.
        excite: Whether it has squeeze-and-excitation.
        hard: Whether the activation function is HardSwish rather than ReLU.
        stride: Stride of the depthwise convolution.
    """

    kernel: int
    hidden: int
    outputs: int
    excite: bool
    hard: bool
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


def _eighth(channels: int) -> int:
    """Round channels to the nearest multiple of 8, but to at least 8 and at most a tenth down."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.Sequential):
    """Conv, BatchNorm and an activation function: HardSwish, ReLU or none."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, act: type[nn.Module] | None, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
            *([] if act is None else [act()]),
        )


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a factor 0..1, computed from the means of all channels (section 5.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _eighth(channels // 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return factors * x


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        act: type[nn.Module] = nn.Hardswish if row.hard else nn.ReLU
        layers: list[nn.Module] = []
        if row.hidden != inputs:
            layers.append(ConvNorm(inputs, row.hidden, 1, act))
        layers.append(ConvNorm(row.hidden, row.hidden, row.kernel, act, row.stride, groups=row.hidden))
        if row.excite:
            layers.append(SqueezeExcitation(row.hidden))
        layers.append(ConvNorm(row.hidden, row.outputs, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """A stem of 16 channels, inverted residuals, a 1x1 head and two linear layers."""

    def __init__(self, rows: tuple[Row, ...], head: int, num_classes: int) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvNorm(3, 16, 3, nn.Hardswish, 2)]
        inputs = 16
        for row in rows:
            features.append(InvertedResidual(inputs, row))
            inputs = row.outputs
        features.append(ConvNorm(inputs, 6 * inputs, 1, nn.Hardswish))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, head), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(head, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def mobilenet_v3_large(num_classes: int = 1000, blocks: int = len(LARGE)) -> MobileNetV3:
    """MobileNetV3-Large, or its first ``blocks`` blocks: 5.5 million parameters with all blocks."""
    return MobileNetV3(LARGE[:blocks], 1280, num_classes)


def mobilenet_v3_small(num_classes: int = 1000, blocks: int = len(SMALL)) -> MobileNetV3:
    """MobileNetV3-Small, or its first ``blocks`` blocks: 2.5 million parameters with all blocks."""
    return MobileNetV3(SMALL[:blocks], 1024, num_classes)
