"""Networks at 224 pixels with random weights, for measurements of size, speed and cost but not of accuracy."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shared_data import IMAGENET_SIZE, ROOT
from converter.model_io.export import export_module
from converter.model_io.factory import load_module

__all__ = ["random_images", "random_network", "random_resnet18", "write_random_resnet18"]


def random_network(factory: str, size: int = IMAGENET_SIZE, *, shift: float = 0.0) -> onnx.ModelProto:
    """Build a network with Kaiming-normal convolutions, and batch normalization of 16 random images' statistics.

    ``shift`` is the bias of batch normalization in standard deviations. Without it, ReLU cuts off half of each channel,
    and many random layers then amplify any error (Yang et al. 2019, arXiv:1902.08129): noise of -40 dB in the images
    becomes -17 dB at MobileNetV2's output. Trained networks do not amplify errors like that, and neither do these
    networks with a shift of 1 (-47 dB).
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = load_module(f"{ROOT / 'models' / factory}")
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                whole = layer.groups == 1  # an output of a depthwise layer has one input channel
                nn.init.kaiming_normal_(layer.weight, mode="fan_out" if whole else "fan_in", nonlinearity="relu")
            elif isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # statistics are the mean over all batches; there is one
                nn.init.constant_(layer.bias, shift)
        with torch.no_grad():
            module.train()(torch.from_numpy(random_images(16, size)))
    return export_module(module, (1, 3, size, size)).model


def random_resnet18(size: int = IMAGENET_SIZE) -> onnx.ModelProto:
    """Return `random_network` of ResNet-18."""
    return random_network("resnet.py:resnet18", size)


def random_images(count: int, size: int = IMAGENET_SIZE, seed: int = 0) -> NDArray[np.float32]:
    """Return noise with large shapes, as photographs have, [count, 3, size, size], of unit variance."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 8, 8), dtype=np.float32)
    scale = -(-size // 8)
    large = np.kron(coarse, np.ones((1, 1, scale, scale), np.float32))[..., :size, :size]
    fine = rng.standard_normal(large.shape, dtype=np.float32)
    return np.asarray(0.8 * large + 0.6 * fine, np.float32)


def write_random_resnet18(folder: Path) -> Path:
    """Write `random_resnet18` to a file."""
    path = folder / "float.onnx"
    onnx.save(random_resnet18(), path)
    return path
