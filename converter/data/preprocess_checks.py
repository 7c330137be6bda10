"""Whether preprocessing does what its user thinks: options that would do nothing, pixels that nobody scaled."""

from collections.abc import Sequence
from dataclasses import asdict

from converter.data.dataset import Dataset
from converter.data.inputs import InputSpec
from converter.data.preprocess import Preprocess
from passes.errors import UsageError

__all__ = ["check_channels", "questions", "refuse_unused"]


def refuse_unused(given: Preprocess, data: Sequence[Dataset]) -> None:
    """Refuse preprocessing that is given for data of which none are images.

    Raises:
        UsageError: names the options and the data.
    """
    options = " and ".join(f"`{name}=`" for name, value in asdict(given).items() if value is not None)
    if options and data and all(dataset.preprocess is None for dataset in data):
        raise UsageError(
            f"{options} would do nothing: {data[0].source} holds tensors for the model, not uint8 images; leave it out"
        )


def check_channels(preprocess: Preprocess, inputs: Sequence[InputSpec]) -> None:
    """Refuse a mean or std that no image input of a model has the channels for.

    Raises:
        UsageError: as `Preprocess.check_channels`.
    """
    for spec in inputs:
        channels = spec.image[0] if len(spec.shape) == 4 else None
        if channels is not None:
            preprocess.check_channels(spec, channels)


def questions(data: Sequence[Dataset]) -> list[str]:
    """A line for each thing about images that their user may not have meant; of several data sets the first."""
    found = [[text for dataset in data if (text := question(dataset))][:1] for question in (_unscaled, _recoloured)]
    return [text for texts in found for text in texts]


def _recoloured(dataset: Dataset) -> str:
    """A warning for grey images where the model takes colours, and the other way round; else nothing."""
    channels = dataset.channels
    if channels is None or channels[0] == channels[1] or 1 not in channels:
        return ""
    if channels[0] == 1:
        return f"{dataset.source}: the images are grey; each of the model's {channels[1]} channels gets the same pixels"
    return f"{dataset.source}: the images are coloured and the model takes one channel; it gets their brightness"


def _unscaled(dataset: Dataset) -> str:
    """A warning for images that become floats by / 255 alone, which few models are trained on; else nothing."""
    used = dataset.preprocess
    if used is None or used.mean is not None or used.std is not None or not dataset.takes_floats:
        return ""
    return (
        f"{dataset.source}: pixels are only divided by 255; give the `mean=` and `std=` that the model was trained "
        "with (`mean=0` if that is all)"
    )
