"""The CIFAR ResNets of He et al. (2015, section 4.2) with the parameter-free shortcut (option A).

Input `[batch, 3, 32, 32]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["BasicBlock", "CifarResNet", "resnet20", "resnet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `[b, inputs, h, w] -> [b, outputs, h / stride, w / stride]`.

    If the shapes differ, the shortcut takes every second pixel and adds zero channels, half before and half after.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.channels_added = outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:
        """Apply option A, which has no parameters: `[b, inputs, h, w] -> [b, outputs, h / stride, w / stride]`."""
        if self.stride == 1 and self.channels_added == 0:
            return x
        before = self.channels_added // 2
        after = self.channels_added - before
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, before, after))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of `depth` blocks at 16, 32 and 64 channels: 6 depth + 2 layers."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, depth, stride=1)
        self.layer2 = self._stage(16, 32, depth, stride=2)
        self.layer3 = self._stage(32, 64, depth, stride=2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
        blocks = [BasicBlock(inputs, outputs, stride)]
        blocks += [BasicBlock(outputs, outputs) for _ in range(depth - 1)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def resnet20(num_classes: int = 10) -> CifarResNet:
    """ResNet-20 for 32x32 images: 0.27 million parameters."""
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    """ResNet-56 for 32x32 images: 0.86 million parameters."""
    return CifarResNet(9, num_classes)
