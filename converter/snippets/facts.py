"""What a program must know of a file to run it: its inputs, the preprocessing of its image, its output, its target."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from converter.data.any_size import has_any_size
from converter.data.embedding import embedded_preprocess
from converter.data.inputs import InputSpec, input_specs
from converter.data.preprocess import METADATA_KEY, Preprocess, stored_preprocess
from converter.model_io.load import read_onnx
from converter.qdq.class_index import has_class_index
from passes.errors import UsageError

__all__ = ["Facts", "ImageFacts", "facts_of"]

_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "mobile": "NnapiExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino-npu": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "acl": "ACLExecutionProvider",
}
_OPTIONS = {"openvino-npu": {"device_type": "NPU"}, "coreml": {"ModelFormat": "MLProgram"}}
_PAD = 114


@dataclass(frozen=True)
class ImageFacts:
    """How an image becomes the input of a file.

    Attributes:
        input: The input.
        height, width: Size in pixels. 0: any size.
        preprocess: What is done outside of the file.
        bgr: Whether the input takes BGR.
        placing: Whether the whole image is stretched to the size, the centre of the resized image is taken, it is
            fitted and padded, or the file takes it as it is.
        pad: Pixel around a fitted image.
    """

    input: InputSpec
    height: int
    width: int
    preprocess: Preprocess
    bgr: bool
    placing: Literal["stretch", "centre", "letterbox", "none"]
    pad: int

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.input.image[0] or 3

    @property
    def pixels(self) -> bool:
        """Whether the file takes uint8 pixels as they are."""
        return self.input.dtype.kind in "iu"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one image."""
        if self.input.channels_last:
            return 1, self.height, self.width, self.channels
        return 1, self.channels, self.height, self.width

    @property
    def scaling(self) -> dict[str, tuple[float, ...]]:
        """``mean`` and ``std`` of each channel, on the scale of divided pixels: those that the program uses."""
        given = {} if self.pixels else {"mean": self.preprocess.mean, "std": self.preprocess.std}
        return {
            name: tuple(map(float, numbers * self.channels if len(numbers) == 1 else numbers))
            for name, numbers in given.items()
            if numbers is not None
        }

    @property
    def divisor(self) -> int:
        """Number that pixels are divided by first."""
        return 1 if self.preprocess.scale == 255 else 255


@dataclass(frozen=True)
class Facts:
    """What a program must know of a file.

    Attributes:
        file: Name of the file.
        image: Its image input. None: it takes tensors.
        inputs: All inputs.
        output: Name of the first output.
        output_type: Type of its elements, by numpy's name.
        result: What the first output is: the number of a class, scores of classes, or a tensor.
        target: Target that it was written for.
    """

    file: str
    image: ImageFacts | None
    inputs: tuple[InputSpec, ...]
    output: str
    output_type: str
    result: Literal["class", "scores", "tensor"]
    target: str

    @property
    def provider(self) -> str:
        """Onnxruntime's name of the provider that runs the target. Empty for the CPU."""
        return _PROVIDERS.get(self.target, "")

    @property
    def options(self) -> Mapping[str, str]:
        """Options without which the provider would not run the file on the target."""
        return _OPTIONS.get(self.target, {})

    @property
    def others(self) -> tuple[InputSpec, ...]:
        """Inputs besides the image."""
        return tuple(spec for spec in self.inputs if self.image is None or spec.name != self.image.input.name)


def facts_of(path: Path) -> Facts:
    """Read the facts of a file from its inputs, outputs and metadata.

    Raises:
        ModelError: The file cannot be read.
        UsageError: It takes an image of any size, and stores none.
    """
    model = read_onnx(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inputs, output = input_specs(model), model.graph.output[0]
    rank = len(output.type.tensor_type.shape.dim)
    scores: Literal["scores", "tensor"] = "scores" if rank == 2 else "tensor"
    return Facts(
        path.name,
        _image(model, inputs, path.name),
        inputs,
        output.name,
        onnx.helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type).name,
        "class" if has_class_index(metadata) and rank == 1 else scores,
        metadata.get("convert_onnx.target", "cpu").strip('"'),
    )


def _image(model: onnx.ModelProto, inputs: tuple[InputSpec, ...], name: str) -> ImageFacts | None:
    """The image input: the only one of four axes with 1 or 3 channels. None: there is no such input."""
    images = [spec for spec in inputs if len(spec.shape) == 4 and spec.image[0] in (1, 3)]
    known = any(entry.key == METADATA_KEY for entry in model.metadata_props)
    if len(images) != 1 or not (known or images[0].dtype.kind == "f"):
        return None
    spec, used, inside = images[0], stored_preprocess(model), embedded_preprocess(model)
    if spec.shape[0] not in (None, 1):
        raise UsageError(
            f"{name}: takes {spec.shape[0]} images at once {spec}; export it with an open batch or one of 1"
        )
    bgr = spec.image[0] == 3 and (used.channels == "bgr" if inside is None else inside.image.channels == "bgr")
    if has_any_size(model):
        return ImageFacts(spec, 0, 0, used, bgr, "none", _PAD)
    sizes = _stored_size(used)
    height, width = (own or given for own, given in zip(spec.image[1:], sizes, strict=True))
    if height is None or width is None:
        raise UsageError(
            f"{name}: takes images of any size {spec}, and stores none; convert it with `resize=` or `letterbox=`"
        )
    placing: Literal["stretch", "centre", "letterbox"] = "stretch"
    if used.letterbox is not None:
        placing = "letterbox"
    elif isinstance(used.resize, int) or used.crop is not None:
        placing = "centre"
    return ImageFacts(spec, height, width, used, bgr, placing, _PAD if used.pad is None else used.pad)


def _stored_size(used: Preprocess) -> tuple[int | None, int | None]:
    """(height, width) that preprocessing gives."""
    if used.letterbox is not None or used.crop is not None:
        side = used.letterbox if used.letterbox is not None else used.crop
        return side, side
    return used.resize if isinstance(used.resize, tuple) else (used.resize, used.resize)
