"""U-Net (Ronneberger et al., 2015) with padded convolutions and batch normalization.

Input `[batch, 3, height, width]`, height and width multiples of 16. Output `[batch, classes, height, width]`. Without
`--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["UNet", "unet"]


class DoubleConv(nn.Sequential):
    """3x3 convolution, BatchNorm and ReLU, twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Max pools on the way down, transposed convolutions on the way up, and skip connections between equal levels."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            DoubleConv(inputs, outputs) for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * outputs, outputs, 2, 2) for outputs in widths[-2::-1])
        self.join = nn.ModuleList(DoubleConv(2 * outputs, outputs) for outputs in widths[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        for up, join, skip in zip(self.up, self.join, skipped[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        out: Tensor = self.head(x)
        return out


def unet(classes: int = 2, width: int = 32, depth: int = 4) -> UNet:
    """U-Net at half the paper's width: 7.8 million parameters."""
    return UNet(width, depth, classes)
