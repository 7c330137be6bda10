"""Export architectures of torchvision and timm, with random weights, for `python -m benchmarks.shipped`.

    python -m venv build/torch-models
    build/torch-models/bin/pip install torch==2.14.1 torchvision==0.29.1 timm onnx
    build/torch-models/bin/python benchmarks/torch_models.py build/models
    python -m benchmarks.shipped build/models/*.onnx

It runs in an environment of its own, since torchvision needs another torch, and imports nothing of this project. Batch
normalization is calibrated on smooth noise, so that activations have the sizes of a trained network's.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

__all__ = ["MODELS", "main"]

_TORCHVISION = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "mnasnet1_0", "squeezenet1_1"),
    *("resnet18", "resnext50_32x4d", "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x1_0", "densenet121"),
    *("convnext_tiny", "swin_t"),
)
_SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
_TIMM = (
    *("ghostnet_100", "res2net50_26w_4s", "fastvit_t8", "repvgg_a0", "mixnet_s", "dpn68", "deit_tiny_patch16_224"),
    *("mobilevit_xs", "edgenext_xx_small", "levit_128", "hardcorenas_a", "efficientnet_lite0", "mobileone_s0"),
)
MODELS = (*_TORCHVISION, *_TIMM, *_SEGMENTATION)


class _First(nn.Module):
    """The main output of a segmentation network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores of pixels."""
        scores: torch.Tensor = self.network(x)["out"]
        return scores


def _images(count: int) -> torch.Tensor:
    """Return smooth noise with a little fine noise, [count, 3, 224, 224]."""
    source = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 16, 16, generator=source)
    smooth = nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return smooth + 0.2 * torch.randn(count, 3, 224, 224, generator=source)


def _network(name: str) -> nn.Module:
    if name in _SEGMENTATION:
        return _First(getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None))
    if name in _TORCHVISION:
        network: nn.Module = getattr(torchvision.models, name)(weights=None)
        return network
    timm_network: nn.Module = timm.create_model(name, pretrained=False)
    return timm_network


def _export(name: str, path: Path) -> None:
    torch.manual_seed(0)
    network = _network(name).train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
        if isinstance(module, nn.Dropout):
            module.p = 0
    with torch.no_grad():
        for loudness in (1.0, 1.1):
            network(loudness * _images(8))
    torch.onnx.export(
        network.eval(),
        (_images(1),),
        str(path),
        opset_version=17,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the models that are not in the folder yet."""
    parser = argparse.ArgumentParser(description="Export architectures of torchvision and timm with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"of {', '.join(MODELS)}; default: all")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        path = options.folder / f"{name}.onnx"
        if not path.exists():
            _export(name, path)
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
