"""ConvNeXt (Liu et al., 2022) with torchvision's parameter names.

Input `[batch, 3, height, width]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["Block", "ConvNeXt", "convnext_atto", "convnext_tiny"]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of `[b, c, h, w]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """A permutation of the axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.axes)


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, expansion by four, GELU, projection, a factor for every channel, and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1.0))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer_scale * self.block(x)
        return y + x


class ConvNeXt(nn.Module):
    """A 4x4 stem, four stages with 2x2 convolutions between them, and a linear classifier."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        features: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], eps=1e-6)),
        ]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if index:
                before = widths[index - 1]
                features.append(nn.Sequential(ChannelNorm(before, eps=1e-6), nn.Conv2d(before, width, 2, 2)))
            features.append(nn.Sequential(*(Block(width) for _ in range(depth))))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            ChannelNorm(widths[-1], eps=1e-6), nn.Flatten(1), nn.Linear(widths[-1], num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


def convnext_tiny(num_classes: int = 1000) -> ConvNeXt:
    """ConvNeXt-T: 28.6 million parameters."""
    return ConvNeXt((96, 192, 384, 768), (3, 3, 9, 3), num_classes)


def convnext_atto(num_classes: int = 1000, width: int = 40, depth: int = 2) -> ConvNeXt:
    """ConvNeXt-A (Woo et al., 2023, without its GRN): 3.7 million parameters with the default width and depth."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ConvNeXt(widths, (depth, depth, 3 * depth, depth), num_classes)
