"""DenseNet-BC (Huang et al., 2017) with torchvision's parameter names.

Input `[batch, 3, height, width]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["DenseLayer", "DenseNet", "densenet121"]


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1x1, BatchNorm, ReLU, 3x3: from all earlier features to ``growth`` channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, before: list[Tensor]) -> Tensor:
        x = self.conv1(torch.relu(self.norm1(torch.cat(before, 1))))
        out: Tensor = self.conv2(torch.relu(self.norm2(x)))
        return out


class DenseBlock(nn.ModuleDict):
    """Layers that each read the block's input and the outputs of all layers before."""

    def __init__(self, depth: int, inputs: int, growth: int) -> None:
        layers = {f"denselayer{index + 1}": DenseLayer(inputs + index * growth, growth) for index in range(depth)}
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    """A 1x1 convolution and a pool between dense blocks. The pool halves height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("norm", nn.BatchNorm2d(inputs)),
            ("relu", nn.ReLU()),
            ("conv", nn.Conv2d(inputs, outputs, 1, bias=False)),
            ("pool", nn.AvgPool2d(2, 2)),
        ]
        super().__init__(OrderedDict(layers))


class DenseNet(nn.Module):
    """A 7x7 stem, dense blocks with transitions between them, and a linear classifier."""

    def __init__(self, growth: int, depths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        features: list[tuple[str, nn.Module]] = [
            ("conv0", nn.Conv2d(3, channels, 7, 2, 3, bias=False)),
            ("norm0", nn.BatchNorm2d(channels)),
            ("relu0", nn.ReLU()),
            ("pool0", nn.MaxPool2d(3, 2, 1)),
        ]
        for index, depth in enumerate(depths, start=1):
            features.append((f"denseblock{index}", DenseBlock(depth, channels, growth)))
            channels += depth * growth
            if index < len(depths):
                features.append((f"transition{index}", Transition(channels, channels // 2)))
                channels //= 2
        features.append(("norm5", nn.BatchNorm2d(channels)))
        self.features = nn.Sequential(OrderedDict(features))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.features(x))
        logits: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def densenet121(num_classes: int = 1000, depths: tuple[int, ...] = (6, 12, 24, 16)) -> DenseNet:
    """DenseNet-121: 8.0 million parameters."""
    return DenseNet(32, tuple(depths), num_classes)
