"""A one-stage detector like YOLOv8 (Jocher et al., 2023): SiLU, CSP blocks, a feature pyramid and a decoding head.

Input `[batch, 3, height, width]`, height and width multiples of 32. Output `[batch, 4 + classes, cells]`: boxes as
centre, width and height in pixels of the input, then scores 0 to 1. So one tensor has values of 0 to 640 and of 0 to 1.
Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["Detector", "detector_nano"]

STRIDES = (8, 16, 32)
BINS = 16  # bins of the distribution of the distance from a cell to a side, in cells


class ConvNorm(nn.Module):
    """Conv, BatchNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class C2f(nn.Module):
    """Half of the channels pass through ``depth`` bottlenecks. All intermediate results are concatenated and mixed."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = ConvNorm(inputs, outputs)
        self.cv2 = ConvNorm((2 + depth) * half, outputs)
        self.m = nn.ModuleList(nn.Sequential(ConvNorm(half, half, 3), ConvNorm(half, half, 3)) for _ in range(depth))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            y = bottleneck(parts[-1])
            parts.append(parts[-1] + y if self.shortcut else y)
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class Sppf(nn.Module):
    """The input concatenated with max pools over 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels // 2)
        self.cv2 = ConvNorm(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class Head(nn.Module):
    """Boxes and class scores from three levels of the pyramid. Distances to the sides are distributions over bins."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        box, score = max(16, widths[0] // 4, 4 * BINS), max(widths[0], min(classes, 100))
        self.box = nn.ModuleList(self._branch(width, box, 4 * BINS) for width in widths)
        self.score = nn.ModuleList(self._branch(width, score, classes) for width in widths)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1), persistent=False)
        self.classes = classes

    @staticmethod
    def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(ConvNorm(inputs, hidden, 3), ConvNorm(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        sides, scores, cells, strides = [], [], [], []
        for level, box, score, stride in zip(levels, self.box, self.score, STRIDES, strict=True):
            height, width = level.shape[2], level.shape[3]
            sides.append(box(level).flatten(2))
            scores.append(score(level).flatten(2))
            y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            cells.append(torch.stack((x.flatten(), y.flatten())))
            strides.append(torch.full((1, height * width), float(stride)))
        distances = torch.cat(sides, 2)  # [b, 4·bins, cells]
        batch, _, count = distances.shape
        distances = distances.view(batch, 4, BINS, count).transpose(1, 2).softmax(1)  # [b, bins, 4, cells]
        distances = nn.functional.conv2d(distances, self.get_buffer("bins")).view(batch, 4, count)
        before, after = distances.chunk(2, 1)
        centre = torch.cat(cells, 1)
        low, high = centre - before, centre + after
        boxes = torch.cat(((low + high) / 2, high - low), 1) * torch.cat(strides, 1)
        return torch.cat((boxes, torch.cat(scores, 2).sigmoid()), 1)


class Detector(nn.Module):
    """Backbone, pyramid and head.

    Args:
        width: Channels of the first convolution.
        depth: Bottlenecks per CSP block.
        classes: Number of classes.
    """

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        w1, w2, w3, w4, w5 = (width * factor for factor in (1, 2, 4, 8, 16))
        self.stem = nn.Sequential(ConvNorm(3, w1, 3, 2), ConvNorm(w1, w2, 3, 2), C2f(w2, w2, depth, shortcut=True))
        self.level3 = nn.Sequential(ConvNorm(w2, w3, 3, 2), C2f(w3, w3, 2 * depth, shortcut=True))
        self.level4 = nn.Sequential(ConvNorm(w3, w4, 3, 2), C2f(w4, w4, 2 * depth, shortcut=True))
        self.level5 = nn.Sequential(ConvNorm(w4, w5, 3, 2), C2f(w5, w5, depth, shortcut=True), Sppf(w5))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.join4 = C2f(w4 + w5, w4, depth, shortcut=False)
        self.join3 = C2f(w3 + w4, w3, depth, shortcut=False)
        self.down3 = ConvNorm(w3, w3, 3, 2)
        self.merge4 = C2f(w3 + w4, w4, depth, shortcut=False)
        self.down4 = ConvNorm(w4, w4, 3, 2)
        self.merge5 = C2f(w4 + w5, w5, depth, shortcut=False)
        self.head = Head((w3, w4, w5), classes)

    def forward(self, x: Tensor) -> Tensor:
        x3 = self.level3(self.stem(x))
        x4 = self.level4(x3)
        x5 = self.level5(x4)
        y4 = self.join4(torch.cat((self.up(x5), x4), 1))
        y3 = self.join3(torch.cat((self.up(y4), x3), 1))
        y4 = self.merge4(torch.cat((self.down3(y3), y4), 1))
        y5 = self.merge5(torch.cat((self.down4(y4), x5), 1))
        out: Tensor = self.head([y3, y4, y5])
        return out


def detector_nano(classes: int = 80, width: int = 16, depth: int = 1) -> Detector:
    """Detector of the size of YOLOv8n: 3.2 million parameters."""
    return Detector(width, depth, classes)
