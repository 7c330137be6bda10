"""The built-in recipes, and functions that find a recipe by name, by file or in a model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import onnx

from converter.model_io.files import special_kind
from converter.model_io.structure import read_structure
from converter.recipes.recipe import Recipe
from converter.recipes.stored import read_stored, to_store
from converter.recipes.toml import dump_recipe, parse_recipe
from converter.recipes.toml_fields import nearest
from passes.activations.activation_ranges import ActivationRanges
from passes.activations.keep_ranges import KeepRanges
from passes.arguments import require_type
from passes.base import Device, Pass
from passes.errors import RecipeError, UsageError, argument
from passes.graph.embeddings import Embeddings
from passes.graph.fold_batchnorm import FoldBatchnorm
from passes.graph.integer_forms.integer_forms import IntegerForms
from passes.graph.normalise.normalise import Normalise
from passes.rotation.rotate import Rotate
from passes.weights.float16 import Float16
from passes.weights.gptq import Gptq
from passes.weights.keep import KeepCodes
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.prune import Prune
from passes.weights.qat import Qat
from passes.weights.rtn import Rtn

__all__ = [
    "AUTO",
    "AUTO_DESCRIPTION",
    "RECIPES",
    "RECIPE_KEY",
    "find_recipe",
    "learning_on",
    "stored_recipe",
    "text_to_store",
]


RECIPE_KEY = "convert_onnx.recipe"


AUTO = "auto"


AUTO_DESCRIPTION = "within a budget of drop, bytes or latency: int8, int4, then bits chosen for each layer"


_PREPARE: tuple[Pass, ...] = (Normalise(), FoldBatchnorm())


_INTEGERS: tuple[Pass, ...] = (*_PREPARE, IntegerForms())


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "int8",
                "8-bit weights and activations",
                (*_INTEGERS, Embeddings(), ActivationRanges(), Rtn(bits=8)),
                storage="int8",
            ),
            Recipe(
                "int8-gptq",
                "8-bit weights by sequential GPTQ, which makes up for the activations too; as fast as int8",
                (*_INTEGERS, Rotate(), Embeddings(), ActivationRanges(), Gptq(bits=8)),
                storage="int8",
            ),
            Recipe(
                "int4",
                "4-bit weights by sequential GPTQ, 8-bit activations; runs at int8 speed",
                (*_INTEGERS, Rotate(), Embeddings(), ActivationRanges(), Gptq(bits=4, block_size=8, two_level=True)),
            ),
            Recipe(
                "int2-learned",
                "2-bit weights by sequential GPTQ, then soft rounding learned block by block with torch",
                (
                    *_INTEGERS,
                    Rotate(),
                    Embeddings(),
                    ActivationRanges(),
                    Gptq(bits=2, block_size=8, two_level=True),
                    LearnedRounding(method="soft", steps=150, soft_rate=0.033),
                ),
            ),
            Recipe(
                "int4-qat",
                "int4, then trained with its quantization in place, with torch; see `train`",
                (
                    *_INTEGERS,
                    Rotate(),
                    Embeddings(),
                    ActivationRanges(),
                    Gptq(bits=4, block_size=8, two_level=True),
                    Qat(),
                ),
            ),
            Recipe(
                "int4-pruned",
                "int4 with half of the weights removed in all but small layers; for files that are compressed",
                (*_INTEGERS, Embeddings(), ActivationRanges(), Prune(bits=4, block_size=8, two_level=True)),
            ),
            Recipe(
                "int8-2of4",
                "8-bit weights, 2 of every 4 zero in all but small layers, for sparse tensor cores (TensorRT)",
                (*_INTEGERS, ActivationRanges(), Prune(bits=8, pattern="2:4", fewest_inputs=256)),
                storage="int8",
            ),
            Recipe(
                "a16w8",
                "8-bit weights, 16-bit activations; for NPUs that have kernels for them (qnn)",
                (*_INTEGERS, ActivationRanges(bits=16), Rtn(bits=8)),
                storage="int8",
            ),
            Recipe(
                "a16w4",
                "4-bit weights by sequential GPTQ, 16-bit activations; for NPUs that have kernels for them (qnn)",
                (*_INTEGERS, Rotate(), ActivationRanges(bits=16), Gptq(bits=4, block_size=8, two_level=True)),
            ),
            Recipe(
                "int4-weight-only",
                "4-bit weights by sequential GPTQ, float activations; runs at float speed",
                (*_PREPARE, Rotate(), Embeddings(), Gptq(bits=4, block_size=8, two_level=True, recurrent=True)),
            ),
            Recipe(
                "int4-matmulnbits",
                "4-bit weights in blocks of 32; Gemm and MatMul become MatMulNBits, convolutions run in float",
                (*_PREPARE, Embeddings(), Gptq(bits=4, block_size=32, recurrent=True)),
                storage="matmulnbits",
            ),
            Recipe(
                "dynamic",
                "8-bit weights, no data; Gemm, MatMul and LSTM quantize their inputs in every run, others are float",
                (*_PREPARE, Embeddings(), Rtn(bits=8, recurrent=True)),
                storage="dynamic",
            ),
            Recipe(
                "int8-weight-only",
                "8-bit weights, no data, float activations; runs at float speed",
                (*_PREPARE, Embeddings(), Rtn(bits=8, recurrent=True)),
                storage="int8",
            ),
            Recipe(
                "int4-weight-only-rtn",
                "4-bit weights, no data, float activations; runs at float speed, less accurate than int4-weight-only",
                (*_PREPARE, Embeddings(), Rtn(bits=4, block_size=8, two_level=True, recurrent=True)),
            ),
            Recipe(
                "fp16",
                "float16, for GPUs and NPUs; nothing is quantized; data are optional, and show what it cannot hold",
                (*_PREPARE, Float16()),
                storage="int8",
            ),
            Recipe(
                "keep",
                "codes and grids of a quantized model as they are, for another target or storage; no calibration",
                (Normalise(rewrite=False), KeepRanges(), KeepCodes()),
                storage="packed",
            ),
        )
    }
)


def find_recipe(spec: str | Path | Recipe) -> Recipe:
    """Find a recipe by name, in a TOML file, or in the metadata of an .onnx file.

    Raises:
        RecipeError: There is no such recipe or file, or the file's content is wrong. The message quotes the problem and
            names the nearest known name.
        ModelError: The .onnx file cannot be read.
        UsageError: The name is `auto`, which is no list of passes.
    """
    if isinstance(spec, Recipe):
        return spec
    require_type("recipe", spec, (str, Path), "a name, a .toml file, an .onnx file or a converter.Recipe")
    if str(spec) in RECIPES:
        return RECIPES[str(spec)]
    if str(spec) == AUTO:
        raise UsageError(f"recipe {AUTO!r} needs a budget; give `max_drop=`, `max_bytes=` or `max_latency=`")
    path = Path(spec)
    if path.suffix == ".onnx":
        return stored_recipe(read_structure(path), str(path))
    if path.suffix != ".toml":
        raise RecipeError(
            f"no recipe is named {str(spec)!r}; {nearest(str(spec), RECIPES)}, or give a .toml file, or an .onnx file "
            "to convert as it was"
        )
    if kind := special_kind(path):
        raise RecipeError(f"the recipe {path} is {kind}, not a file; give a .toml file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {path}: {reason}") from error
    return parse_recipe(text, str(path))


def stored_recipe(model: onnx.ModelProto, name: str) -> Recipe:
    """Return the recipe in the metadata of a model that `convert` wrote.

    Args:
        model: The model.
        name: Name of the model, for errors.

    Raises:
        RecipeError: There is no recipe, or this version does not know a name in it, or means something else by it.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == RECIPE_KEY), None)
    if text is None:
        raise RecipeError(f"{name} holds no recipe: `convert` did not write it; give a recipe's name or a .toml file")
    return read_stored(text, f"the recipe in {name}", RECIPES)


def text_to_store(recipe: Recipe, *, brief: bool) -> str:
    """Return the text of a recipe for the metadata of a model. `stored_recipe` reads it back as an equal recipe.

    Args:
        recipe: The recipe.
        brief: Whether a built-in recipe is named, which takes 40 bytes, and not spelled out, which takes 400 to 900.
    """
    return to_store(recipe, RECIPES) if brief else dump_recipe(recipe)


def learning_on(recipe: Recipe, device: Device | None) -> Recipe:
    """Return the recipe with its learning passes on a device. None: every pass keeps its own device.

    Raises:
        UsageError: A device is given, but no pass learns.
    """
    if device is None:
        return recipe
    if not recipe.learns:
        raise UsageError(
            f"recipe {recipe.name!r} has no pass that learns, so {argument(device=device)} has no effect; leave it out"
        )
    return dataclasses.replace(recipe, passes=tuple(step.with_device(device) for step in recipe.passes))
