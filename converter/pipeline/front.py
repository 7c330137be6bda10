"""What comes before the first layer of a conversion: floats that a program prepares, or images as they are."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.data.embedding import Embed, Embedded, embed, embedded_preprocess, exact_front, floats_of, store_embedded
from converter.data.inputs import InputSpec, input_specs
from converter.data.preprocess import Preprocess
from converter.recipes.recipe import Recipe

__all__ = ["Front", "open_front"]


@dataclass(frozen=True)
class Front:
    """The model that is converted, with or without its preprocessing inside.

    Attributes:
        source: The float model, as it is converted.
        recipe: The recipe. Its preprocessing is what is left outside.
        embedded: The preprocessing inside. None: there is none.
        reference: The float model with the same inputs and floats after the preprocessing, which accuracy is measured
            against. None: nothing was embedded now, so it is the model as it was given.
        timed: The given model with the same inputs. None as for ``reference``.
        float_form: ``source``, if something was embedded now.
        inputs: Inputs of the given model.
    """

    source: onnx.ModelProto
    recipe: Recipe
    embedded: Embedded | None = None
    reference: onnx.ModelProto | None = None
    timed: onnx.ModelProto | None = None
    float_form: onnx.ModelProto | None = None
    inputs: tuple[InputSpec, ...] = ()

    def floats(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the inputs of the given model for inputs of ``source``."""
        if self.reference is None or self.embedded is None:
            return dict(feeds)
        return floats_of(feeds, self.embedded, self.inputs)


def open_front(
    opened: onnx.ModelProto,
    source: onnx.ModelProto,
    recipe: Recipe,
    given: Preprocess,
    image: str | None,
    *,
    quantized: bool,
) -> Front:
    """Embed the preprocessing if the call asks for it, or find it in the model.

    Args:
        opened: The given model.
        source: Its float form, which is converted.
        recipe: The recipe, with the whole preprocessing.
        given: The part of it that comes from the arguments of this call.
        image: See `converter.pipeline.settings.Settings.embed_preprocess`.
        quantized: Whether the given model is quantized.

    Raises:
        UsageError: The preprocessing cannot be embedded. The message says why.
        ModelError: The input is read in a way that no node can come before.
    """
    already = embedded_preprocess(source)
    if image is None:
        if already is None:
            return Front(source, recipe)
        outside = already.outside.merge(given)
        now = dataclasses.replace(already, preprocess=already.preprocess.merge(given))
        return Front(source, dataclasses.replace(recipe, preprocess=outside), now)
    rewritten, embedded = embed(source, recipe.preprocess, Embed.of(image))
    store_embedded(rewritten, embedded)
    timed = exact_front(opened, embedded)
    reference = exact_front(source, embedded) if quantized else timed
    left = dataclasses.replace(recipe, preprocess=embedded.outside)
    return Front(rewritten, left, embedded, reference, timed, rewritten, input_specs(opened))
