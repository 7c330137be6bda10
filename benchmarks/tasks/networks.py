"""Tiny networks of torch, trained on drawn data in under a minute."""

from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn

from benchmarks.tasks.scenes import KEYPOINTS, SIDE, Scenes
from converter.model_io.export import export_module

__all__ = ["depth", "pose", "segmentation", "super_resolution", "trained"]


class _Hourglass(nn.Module):
    """A U-Net of two scales: convolutions with batch normalization, bilinear upsampling and a skip connection."""

    def __init__(self, inputs: int, outputs: int, width: int = 8) -> None:
        super().__init__()
        self.wide = _block(inputs, width)
        self.middle = _block(width, 2 * width)
        self.deep = nn.Sequential(_block(2 * width, 4 * width), _block(4 * width, 2 * width))
        self.join = _block(4 * width, width)
        self.last = _block(2 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        middle = self.middle(nn.functional.max_pool2d(wide, 2))
        deep = self.deep(nn.functional.max_pool2d(middle, 2))
        deep = self.join(torch.cat([middle, nn.functional.interpolate(deep, scale_factor=2.0)], 1))
        deep = nn.functional.interpolate(deep, scale_factor=2.0)
        out: Tensor = self.head(self.last(torch.cat([wide, deep], 1)))
        return out


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class _Depth(nn.Module):
    """A distance above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _Hourglass(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.body(x))


class _Upscaler(nn.Module):
    """Residual blocks at the small size, sub-pixel convolution, added to bilinear interpolation."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(3)
        )
        self.tail = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        for block in self.blocks:
            features = features + block(features)
        large = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return large + nn.functional.pixel_shuffle(self.tail(features), 2)


class _Pose(nn.Module):
    """A map for each keypoint, and the expected place on it (soft-argmax)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _Hourglass(1, KEYPOINTS)
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        self.register_buffer("places", torch.stack([columns, rows], -1).reshape(-1, 2).float())

    def forward(self, x: Tensor) -> Tensor:
        chances = self.body(x).flatten(2).softmax(-1)
        out: Tensor = chances @ self.places
        return out


def trained(
    network: nn.Module, scenes: Scenes, label: str, loss: Callable[[Tensor, Tensor], Tensor], steps: int
) -> onnx.ModelProto:
    """Train a network on 1,024 samples, and export it."""
    torch.manual_seed(0)
    arrays = scenes(1024, 100)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays[label])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(steps):
        rows = torch.randint(0, len(x), (16,))
        optimizer.zero_grad()
        loss(network(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return export_module(network.eval(), (1, *x.shape[1:])).model


def segmentation(scenes: Scenes, steps: int) -> onnx.ModelProto:
    """Four classes of pixels."""
    return trained(_seeded(lambda: _Hourglass(3, 4)), scenes, "y", nn.functional.cross_entropy, steps)


def depth(scenes: Scenes, steps: int) -> onnx.ModelProto:
    """The distance of each pixel."""
    return trained(_seeded(_Depth), scenes, "y", nn.functional.l1_loss, steps)


def super_resolution(scenes: Scenes, steps: int) -> onnx.ModelProto:
    """Twice as many pixels in each direction."""
    return trained(_seeded(_Upscaler), scenes, "y", nn.functional.l1_loss, steps)


def pose(scenes: Scenes, steps: int) -> onnx.ModelProto:
    """The places of six keypoints."""

    def distance(found: Tensor, right: Tensor) -> Tensor:
        return nn.functional.smooth_l1_loss(found, right[..., :2])

    return trained(_seeded(_Pose), scenes, "keypoints", distance, steps)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()
