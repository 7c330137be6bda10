"""Networks at 224 with random weights that behave like trained ones: for size, speed and cost, not for accuracy."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shared_data import IMAGENET_SIZE, ROOT
from converter.model_io.export import export
from converter.model_io.factory import load_module

__all__ = ["random_images", "random_network", "random_resnet18", "write_random_resnet18"]


def random_network(factory: str, size: int = IMAGENET_SIZE, *, shift: float = 0.0) -> onnx.ModelProto:
    """Kaiming-normal convolutions, and batch normalization with the statistics of 16 random images.

    ``shift`` is what batch normalization adds, in standard deviations. Without it half of each channel is cut off, and
    random layers in a row then amplify whatever is wrong (Yang et al. 2019, arXiv:1902.08129): at MobileNetV2's output
    noise of -40 dB in the images is at -17 dB. Trained networks do not, nor do these with a shift of 1 (-47 dB).
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
                layer.momentum = None  # the mean over all batches seen, which is one
                nn.init.constant_(layer.bias, shift)
        with torch.no_grad():
            module.train()(torch.from_numpy(random_images(16, size)))
    return export(module, (1, 3, size, size)).model


def random_resnet18(size: int = IMAGENET_SIZE) -> onnx.ModelProto:
    """`random_network` of ResNet-18."""
    return random_network("resnet.py:resnet18", size)


def random_images(count: int, size: int = IMAGENET_SIZE, seed: int = 0) -> NDArray[np.float32]:
    """Noise with large shapes in it as photographs have, [count, 3, size, size], of unit variance."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 8, 8), dtype=np.float32)
    scale = -(-size // 8)
    large = np.kron(coarse, np.ones((1, 1, scale, scale), np.float32))[..., :size, :size]
    fine = rng.standard_normal(large.shape, dtype=np.float32)
    return np.asarray(0.8 * large + 0.6 * fine, np.float32)


def write_random_resnet18(folder: Path) -> Path:
    """`random_resnet18` as a file."""
    path = folder / "float.onnx"
    onnx.save(random_resnet18(), path)
    return path
