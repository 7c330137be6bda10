"""GoogLeNet, Inception v1 (Szegedy et al., 2014), with batch normalization and torchvision's parameter names.

It has no auxiliary classifiers, which only training uses. Input `[batch, 3, height, width]`, output `[batch,
num_classes]`. Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["GoogLeNet", "Inception", "googlenet"]

# channels (table 1): inputs, 1x1 branch, 3x3 branch (reduced, output), third branch (reduced, output), pooled branch
MODULES = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
POOLED = {"inception3b": 3, "inception4e": 2}  # kernel of the pool behind a module


class BasicConv2d(nn.Module):
    """Conv, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches, concatenated along the channels. The third is 3x3 as in torchvision; the paper has 5x5."""

    def __init__(self, inputs: int, plain: int, reduce: int, three: int, reduce2: int, third: int, pool: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(inputs, plain, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, reduce, 1), BasicConv2d(reduce, three, 3))
        self.branch3 = nn.Sequential(BasicConv2d(inputs, reduce2, 1), BasicConv2d(reduce2, third, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """A stem of three convolutions, the first ``modules`` of nine Inception modules, and a linear classifier."""

    def __init__(self, num_classes: int, modules: int) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 64, 7, 2)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3)
        self.names = tuple(MODULES)[:modules]
        for name in self.names:
            self.add_module(name, Inception(*MODULES[name]))
        _, plain, _, three, _, third, pool = MODULES[self.names[-1]]
        self.fc = nn.Linear(plain + three + third + pool, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = nn.functional.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name in self.names:
            x = self.get_submodule(name)(x)
            if name in POOLED:
                x = nn.functional.max_pool2d(x, POOLED[name], 2, ceil_mode=True)
        logits: Tensor = self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def googlenet(num_classes: int = 1000, modules: int = len(MODULES)) -> GoogLeNet:
    """GoogLeNet: 6.6 million parameters."""
    return GoogLeNet(num_classes, modules)
