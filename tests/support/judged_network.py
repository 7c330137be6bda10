"""A network with images to calibrate and images to judge, in the form that the benchmarks of solvers take."""

import onnx

from converter.data.dataset import Dataset, load_data
from converter.data.inputs import input_specs
from tests.support.networks import images, resnet, run

__all__ = ["JudgedNetwork"]


class JudgedNetwork:
    """A network and images of which the float network knows the classes."""

    def model(self) -> onnx.ModelProto:
        return resnet()

    def images(self, model: onnx.ModelProto, calibrate: int) -> tuple[Dataset, Dataset]:
        inputs = input_specs(model)
        unseen = images(64, 3, 12, 12, seed=9)
        labels = run(model, unseen)[0].argmax(1)
        return load_data(images(48, 3, 12, 12), inputs).limit(calibrate), load_data((unseen, labels), inputs)
