"""Comparison of the trained torch network, with its simulated quantization, and the file that was written from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import torch

from converter import Recipe
from converter.data.dataset import Dataset
from converter.data.preprocess import Preprocess
from converter.learn.held_out import hold_out
from converter.learn.training.images import in_order
from converter.learn.training.trained_network import TrainedNetwork
from converter.model_io.open import open_model
from converter.pipeline.images import open_data
from converter.pipeline.run_pass import PassContext, run_pass
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from converter.runtime.runner import Runner
from converter.runtime.session import Progress
from converter.targets.catalog import find_target
from passes.ir.model import Model
from passes.weights.qat import Qat

__all__ = ["Parity", "parity", "trained_network", "unoptimized"]

_BATCH = 64

Network = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Parity:
    """Differences of two networks' scores, on images that neither was trained on.

    Attributes:
        agreement: Share of the images that both networks give the same class.
        farthest: Largest difference of a score, relative to the range of the file's scores.
        rms: Root mean square of the differences, relative to the same range.
        images: Number of images.
    """

    agreement: float
    farthest: float
    rms: float
    images: int


def trained_network(
    model: onnx.ModelProto, training: Dataset, recipe: Recipe, checkpoint: Path, progress: Progress
) -> TrainedNetwork:
    """Return the network of the best epoch.

    The passes before the training run again, because a checkpoint does not hold their results. The trained parameters
    come from the checkpoint.

    Args:
        model: The float model.
        training: Data that `converter.train` was given.
        recipe: Recipe of its result.
        checkpoint: Checkpoint of the training.
        progress: Called during the passes.
    """
    source = open_model(model)
    images = open_data(None, None, training, source, recipe, Preprocess())
    work = Model(gs.import_onnx(source), find_target("cpu").rules)
    context = PassContext(images, DEFAULT_MEMORY_BUDGET, recipe, progress)
    qat = next(step for step in recipe.passes if isinstance(step, Qat))
    for step in recipe.passes[: recipe.passes.index(qat)]:
        run_pass(step, work, context)
    learned = hold_out(len(training), qat.held_out, recipe.seed).train[:_BATCH]
    sample = next(
        in_order(training, learned, _BATCH, torch.device("cpu"))
    ).inputs  # as in training; it sets the units of the biases
    network = TrainedNetwork(work, sample, learn_activations=qat.learn_activations)
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["best"])
    return network


def unoptimized(file: onnx.ModelProto) -> Network:
    """Return the file without optimizations: it computes floats between its quantizers, without integer kernels."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        outputs = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(values) for name, values in zip(names, outputs, strict=True)}

    return run


@torch.no_grad()
def parity(network: Network, file: onnx.ModelProto, images: Dataset) -> Parity:
    """Compare the torch network and the file in onnxruntime on the same images."""
    runner = Runner(file, "the file")
    name = str(file.graph.output[0].name)
    tensors = in_order(images, np.arange(len(images)), _BATCH, torch.device("cpu"))
    pairs = [
        (network(inputs.inputs)[name].numpy(), runner.run(batch)[0])
        for inputs, batch in zip(tensors, images.batches(_BATCH), strict=True)
    ]
    trained, written = (np.concatenate(scores).astype(np.float64) for scores in zip(*pairs, strict=True))
    apart = np.abs(trained - written) / np.ptp(written)
    same = trained.argmax(axis=1) == written.argmax(axis=1)
    return Parity(float(same.mean()), float(apart.max()), float(np.sqrt(np.square(apart).mean())), len(same))
