"""Checks that preprocessing does what the user expects: options without effect, pixels that were not scaled."""

from collections.abc import Sequence
from dataclasses import asdict

from converter.data.dataset import Dataset
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from passes.errors import UsageError

__all__ = ["check_channels", "questions", "refuse_unused"]


def refuse_unused(given: Preprocess, data: Sequence[Dataset]) -> None:
    """Refuse preprocessing options if none of the data are images.

    Raises:
        UsageError: The options would do nothing. The message names them and the data.
    """
    options = " and ".join(f"`{name}=`" for name, value in asdict(given).items() if value is not None)
    if options and data and all(dataset.preprocess is None for dataset in data):
        raise UsageError(
            f"{options} would have no effect: {data[0].source} holds tensors for the model, not uint8 images; leave it "
            "out"
        )


def check_channels(preprocess: Preprocess, inputs: Sequence[InputSpec]) -> None:
    """Refuse a mean or std that does not fit the channels of the model's image inputs.

    Raises:
        UsageError: As for `Preprocess.check_channels`.
    """
    for spec in inputs:
        channels = spec.image[0] if len(spec.shape) == 4 else None
        if channels is not None:
            preprocess.check_channels(spec, channels)


def questions(data: Sequence[Dataset]) -> list[str]:
    """Warnings about data that may not be what the user expects. Each warning is about one data set, the first."""
    asked = (_unscaled, _recoloured, _empty)
    warnings = [[text for dataset in data if (text := question(dataset))][:1] for question in asked]
    return [text for texts in warnings for text in texts]


def _recoloured(dataset: Dataset) -> str:
    """A warning for grey images of a model that takes colours, or the opposite. Else ""."""
    channels = dataset.channels
    if channels is None or channels[0] == channels[1] or 1 not in channels:
        return ""
    if channels[0] == 1:
        return f"{dataset.source}: the images are grey; each of the model's {channels[1]} channels gets the same pixels"
    return f"{dataset.source}: the images are coloured and the model takes one channel; it gets their brightness"


def _unscaled(dataset: Dataset) -> str:
    """A warning for images that are only divided by 255, because few models are trained on that. Else ""."""
    used = dataset.preprocess
    if used is None or used.mean is not None or used.std is not None or not dataset.takes_floats:
        return ""
    return (
        f"{dataset.source}: pixels are only divided by 255; give the `mean=` and `std=` that the model was trained "
        "with (`mean=0` if that is all)"
    )


def _empty(dataset: Dataset) -> str:
    """A warning for an input that has no elements in any sample, such as a state before the first step. Else ""."""
    names = ", ".join(dataset.empty_inputs)
    if not names:
        return ""
    return f"{dataset.source}: {names} is empty in every sample, so it calibrates nothing; give samples that fill it"
