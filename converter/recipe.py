"""Recipes: which passes run, in which order, with which settings, and how the result is stored."""

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import tomli_w

from converter.emit.matmul_nbits import BLOCKS
from converter.emit.weights import STORAGES, Storage
from converter.load import read_onnx
from converter.preprocess import Preprocess
from converter.recipe_fields import build, nearest
from passes.activation_ranges import ActivationRanges
from passes.awq import Awq
from passes.base import CorrectionPass, GraphPass, LayerPass, Stage
from passes.batchnorm_reestimation import ReestimateBatchnorm
from passes.bias_correction import BiasCorrection
from passes.equalize import Equalize
from passes.errors import RecipeError, UsageError
from passes.exclude import Exclude
from passes.float_activations import FloatActivations
from passes.fold_batchnorm import FoldBatchnorm
from passes.gptq import Gptq
from passes.integer_forms import IntegerForms
from passes.keep import KeepCodes, KeepRanges
from passes.learned_rounding import Device, LearnedRounding
from passes.normalise import Normalise
from passes.obq import Obq
from passes.qat import Qat
from passes.rotate import Rotate
from passes.rtn import Rtn
from passes.smoothquant import SmoothQuant

__all__ = [
    "AUTO",
    "AUTO_DESCRIPTION",
    "PASSES",
    "RECIPES",
    "RECIPE_KEY",
    "Recipe",
    "dump_recipe",
    "find_recipe",
    "learning_on",
    "parse_recipe",
    "recipe_content",
    "recipe_values",
    "stored_recipe",
]

RECIPE_KEY = "convert_onnx.recipe"

Learning = LearnedRounding | Qat
Pass = GraphPass | LayerPass | CorrectionPass | Learning

PASSES: Mapping[str, type[Pass]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Normalise,
            FoldBatchnorm,
            IntegerForms,
            Exclude,
            FloatActivations,
            Equalize,
            SmoothQuant,
            Awq,
            Rotate,
            ActivationRanges,
            KeepRanges,
            Rtn,
            Gptq,
            Obq,
            KeepCodes,
            BiasCorrection,
            ReestimateBatchnorm,
            LearnedRounding,
            Qat,
        )
    }
)


@dataclass(frozen=True)
class Recipe:
    """A named way to quantize.

    Attributes:
        name: how it is asked for.
        description: one line.
        passes: run in this order, which follows their stages; exactly one gives the weights their grids and codes.
        storage: form of the weights in the file.
        limit: calibration images used.
        seed: of everything drawn at random.
        preprocess: from images to tensors; the command line goes before it.
    """

    name: str
    description: str
    passes: tuple[Pass, ...]
    storage: Storage = "cast"
    limit: int = 512
    seed: int = 0
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise RecipeError(f"limit must be at least 1, not {self.limit}")
        if self.seed < 0:
            raise RecipeError(f"seed must not be negative, not {self.seed}")
        for step in self.passes:
            block = step.block if isinstance(step, LayerPass) else None
            if isinstance(step, LayerPass) and step.two_level and self.storage in {"matmulnbits", "dequantize"}:
                raise RecipeError(
                    f"{step.name}: two_level scales need their weights unpacked when the model loads, which storage "
                    f"{self.storage!r} does not do; use storage cast, packed or int8"
                )
            if self.storage == "matmulnbits" and block is not None and block not in BLOCKS:
                allowed = ", ".join(map(str, BLOCKS))
                raise RecipeError(f"{step.name}: MatMulNBits has no blocks of {block}; block can be one of {allowed}")
        _check_order(self.passes)

    @property
    def needs_calibration(self) -> bool:
        """Whether any pass looks at data."""
        return any(
            isinstance(step, (ActivationRanges, SmoothQuant, Awq, CorrectionPass, LearnedRounding, Qat))
            or (isinstance(step, LayerPass) and step.wants_moments)
            for step in self.passes
        )

    @property
    def keeps(self) -> bool:
        """Whether weights keep the codes that they were read with."""
        return any(isinstance(step, KeepCodes) for step in self.passes)

    def solver_before(self, step: Pass) -> LayerPass | None:
        """The layer pass, for a pass that moves codes and has the layers behind them solved again.

        None where that would find the same codes again, or where another pass stands between and its work would be
        lost.
        """
        place = max(index for index, each in enumerate(self.passes) if each is step)
        between = [each for each in self.passes[:place] if isinstance(each, LayerPass | CorrectionPass | Learning)]
        if len(between) != 1 or not isinstance(between[0], LayerPass):
            return None
        return between[0] if between[0].wants_moments and between[0].sequential else None

    @property
    def sqnr_of(self) -> str:
        """What the layers' errors in a report are of: "weights" or "outputs"."""
        return next((step.sqnr_of for step in self.passes if isinstance(step, LayerPass)), "weights")


def _check_order(passes: Sequence[Pass]) -> None:
    """Refuse passes that stand before or after their stage's turn, and any number of layer passes but one."""
    for place, (first, second) in enumerate(itertools.pairwise(passes), start=2):
        if first.stage > second.stage:
            raise RecipeError(f"{second.name} (pass {place}) cannot come after {first.name}; {_order()}")
    if sum(isinstance(step, Qat) for step in passes) > 1:
        raise RecipeError(f"{Qat.name} can stand in a recipe once; give one more epochs")
    names = [step.name for step in passes if step.stage == Stage.WEIGHTS]
    if len(names) != 1:
        found = f"{' and '.join(names)} both quantize" if names else "no pass quantizes"
        raise RecipeError(f"{found} the weights; {_order()}")


def _order() -> str:
    named = {stage: ", ".join(kind.name for kind in PASSES.values() if kind.stage == stage) for stage in Stage}
    named[Stage.WEIGHTS] = f"exactly one of {named[Stage.WEIGHTS]}"
    return f"the order is {', then '.join(names for names in named.values() if names)}"


AUTO = "auto"
AUTO_DESCRIPTION = "within a budget: int8, int4, then bits chosen for each layer; see --max-drop and its relatives"

_PREPARE: tuple[Pass, ...] = (Normalise(), FoldBatchnorm())
_INTEGERS: tuple[Pass, ...] = (*_PREPARE, IntegerForms())

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                "int8",
                "8-bit weights and activations",
                (*_INTEGERS, ActivationRanges(), Rtn(bits=8)),
                storage="int8",
            ),
            Recipe(
                "int8-gptq",
                "8-bit weights by sequential GPTQ, which makes up for the activations too; as fast as int8",
                (*_INTEGERS, Rotate(), ActivationRanges(), Gptq(bits=8)),
                storage="int8",
            ),
            Recipe(
                "int4",
                "4-bit weights by sequential GPTQ, 8-bit activations; runs at int8 speed",
                (*_INTEGERS, Rotate(), ActivationRanges(), Gptq(bits=4, block=8, two_level=True)),
            ),
            Recipe(
                "int4-learned",
                "int4, then codes, scales and biases learned block by block with torch",
                (*_INTEGERS, Rotate(), ActivationRanges(), Gptq(bits=4, block=8, two_level=True), LearnedRounding()),
            ),
            Recipe(
                "int4-qat",
                "int4, then trained with its quantization in place, with torch; see `train`",
                (*_INTEGERS, Rotate(), ActivationRanges(), Gptq(bits=4, block=8, two_level=True), Qat()),
            ),
            Recipe(
                "int4-weight-only",
                "4-bit weights by sequential GPTQ, float activations; runs at float speed",
                (*_PREPARE, Rotate(), Gptq(bits=4, block=8, two_level=True)),
            ),
            Recipe(
                "int4-matmulnbits",
                "4-bit weights in blocks of 32; Gemm and MatMul become MatMulNBits, convolutions run in float",
                (*_PREPARE, Gptq(bits=4, block=32)),
                storage="matmulnbits",
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
    """A recipe by name, from a TOML file, or the one that an .onnx file was converted with.

    Raises:
        RecipeError: no such recipe or file, or the file's content is wrong; quotes what and names the nearest.
        ModelError: the .onnx file cannot be read.
        UsageError: it is `auto`, which is no list of passes.
    """
    if isinstance(spec, Recipe):
        return spec
    if str(spec) in RECIPES:
        return RECIPES[str(spec)]
    if str(spec) == AUTO:
        raise UsageError(f"recipe {AUTO!r} needs a budget; give --max-drop, --max-bytes or --max-latency")
    path = Path(spec)
    if path.suffix == ".onnx":
        return stored_recipe(read_onnx(path), str(path))
    if path.suffix != ".toml":
        raise RecipeError(
            f"no recipe is named {str(spec)!r}; {nearest(str(spec), RECIPES)}, or give a .toml file, or an .onnx file "
            "to convert as it was"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {path}: {reason}") from error
    return parse_recipe(text, str(path))


def stored_recipe(model: onnx.ModelProto, name: str) -> Recipe:
    """The recipe in the metadata of a model that `convert` wrote; ``name`` is the model's.

    Raises:
        RecipeError: there is none, or this version does not know what it names.
    """
    found = next((entry.value for entry in model.metadata_props if entry.key == RECIPE_KEY), None)
    if found is None:
        raise RecipeError(f"{name} holds no recipe: `convert` did not write it; give a recipe's name or a .toml file")
    return parse_recipe(found, f"the recipe in {name}")


def learning_on(recipe: Recipe, device: Device | None) -> Recipe:
    """The recipe with its learning passes on a device; None: where they say themselves.

    Raises:
        UsageError: a device is given, and no pass learns.
    """
    if device is None:
        return recipe
    if not any(isinstance(step, LearnedRounding | Qat) for step in recipe.passes):
        raise UsageError(f"recipe {recipe.name!r} learns nothing, so --device {device} has no use; leave it out")
    passes = (
        dataclasses.replace(step, device=device) if isinstance(step, LearnedRounding | Qat) else step
        for step in recipe.passes
    )
    return dataclasses.replace(recipe, passes=tuple(passes))


def parse_recipe(text: str, source: str) -> Recipe:
    """A recipe from TOML text; ``source`` is named in errors.

    Raises:
        RecipeError: not TOML, or an unknown or wrong pass or field.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not TOML: {error}") from error
    steps = content.pop("passes", None)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or not steps:
        raise RecipeError(f"{source} has no [[passes]]; see `convert-onnx recipes --show int4`")
    preprocess = content.pop("preprocess", {})
    content.setdefault("name", Path(source).stem)
    content.setdefault("description", "")
    if content.get("storage", "cast") not in STORAGES:
        raise RecipeError(f"{source}: storage {content['storage']!r} is not one of {', '.join(STORAGES)}")
    content["passes"] = tuple(_pass(step, f"{source}, pass {index + 1}") for index, step in enumerate(steps))
    content["preprocess"] = build(Preprocess, preprocess, f"{source}, preprocess")
    recipe: Recipe = build(Recipe, content, source)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every field spelled out; `parse_recipe` reads it back to an equal recipe."""
    return tomli_w.dumps(recipe_content(recipe))


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """What a recipe's TOML holds: every field that is set."""
    content: dict[str, Any] = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in {"passes", "preprocess"}
    }
    preprocess = _plain(recipe.preprocess)
    if preprocess:
        content["preprocess"] = preprocess
    content["passes"] = [{"pass": step.name, **_plain(step)} for step in recipe.passes]
    return content


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every field of the recipe, of its passes and of its preprocessing, set or not, ready for JSON."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe) if field.name != "passes"}
    values["preprocess"] = dataclasses.asdict(recipe.preprocess)
    values["passes"] = [{"pass": step.name, **dataclasses.asdict(step)} for step in recipe.passes]
    return values


def _plain(instance: Any) -> dict[str, Any]:
    values = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {key: value for key, value in plain.items() if value is not None and value != {}}


def _pass(step: dict[str, Any], where: str) -> Pass:
    fields = dict(step)
    name = fields.pop("pass", None)
    if not isinstance(name, str) or name not in PASSES:
        raise RecipeError(f"{where}: no pass is named {name!r}; {nearest(str(name), PASSES)}")
    built: Pass = build(PASSES[name], fields, f"{where} ({name})")
    return built
