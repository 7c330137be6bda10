"""RegNetX (Radosavovic et al., 2020), whose 3x3 convolutions are grouped, with torchvision's parameter names.

Input `[batch, 3, height, width]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["RegNetX", "ResBottleneck", "regnet_x_400mf"]


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))


class ResBottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions of the same width, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.proj = _conv_norm(inputs, outputs, 1, stride, relu=False)
        layers: list[tuple[str, nn.Module]] = [
            ("a", _conv_norm(inputs, outputs, 1)),
            ("b", _conv_norm(outputs, outputs, 3, stride, outputs // group_width)),
            ("c", _conv_norm(outputs, outputs, 1, relu=False)),
        ]
        self.f = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        return torch.relu(shortcut + self.f(x))


class RegNetX(nn.Module):
    """A 3x3 stem, four stages and a linear classifier."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], group_width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 32, 3, 2)
        stages: list[tuple[str, nn.Module]] = []
        inputs = 32
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks: list[tuple[str, nn.Module]] = []
            for step in range(depth):
                block = ResBottleneck(inputs, width, 1 if step else 2, group_width)
                blocks.append((f"block{index}-{step}", block))
                inputs = width
            stages.append((f"block{index}", nn.Sequential(OrderedDict(blocks))))
        self.trunk_output = nn.Sequential(OrderedDict(stages))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.avgpool(self.trunk_output(self.stem(x))).flatten(1))
        return logits


def regnet_x_400mf(num_classes: int = 1000, depths: tuple[int, ...] = (1, 2, 7, 12)) -> RegNetX:
    """RegNetX-400MF: 5.5 million parameters."""
    return RegNetX((32, 64, 160, 400), tuple(depths), 16, num_classes)
