"""ShuffleNetV2 (Ma et al., 2018) with torchvision's parameter names.

Input `[batch, 3, height, width]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["InvertedResidual", "ShuffleNetV2", "channel_shuffle", "shufflenet_v2"]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups: `[b, g·c, h, w]` to the same shape."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class InvertedResidual(nn.Module):
    """Convolve half of the channels, pass the others, and shuffle both. With stride 2, all channels are convolved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.branch1 = nn.Sequential(*(_depthwise(inputs, stride) + _pointwise(inputs, half) if stride > 1 else []))
        self.branch2 = nn.Sequential(
            *_pointwise(inputs if stride > 1 else half, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            first, second = x.chunk(2, 1)
            return channel_shuffle(torch.cat((first, self.branch2(second)), 1), 2)
        return channel_shuffle(torch.cat((self.branch1(x), self.branch2(x)), 1), 2)


class ShuffleNetV2(nn.Module):
    """A 3x3 stem, a pool, three stages, a 1x1 head and a linear classifier."""

    def __init__(self, repeats: tuple[int, ...], widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        first, *stages, last = widths
        conv = nn.Conv2d(3, first, 3, 2, 1, bias=False)
        self.conv1 = nn.Sequential(conv, nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = first
        for index, (depth, outputs) in enumerate(zip(repeats, stages, strict=True), start=2):
            blocks = [InvertedResidual(inputs, outputs, 2)]
            blocks += [InvertedResidual(outputs, outputs, 1) for _ in range(depth - 1)]
            self.add_module(f"stage{index}", nn.Sequential(*blocks))
            inputs = outputs
        self.stages = [f"stage{index}" for index in range(2, len(repeats) + 2)]
        self.conv5 = nn.Sequential(*_pointwise(inputs, last))
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.conv5(x).mean([2, 3]))
        return logits


def shufflenet_v2(num_classes: int = 1000, repeats: tuple[int, ...] = (4, 8, 4)) -> ShuffleNetV2:
    """ShuffleNetV2 at width 1.0: 2.3 million parameters."""
    return ShuffleNetV2(tuple(repeats), (24, 116, 232, 464, 1024), num_classes)
