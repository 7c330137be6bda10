"""Recipes: the passes, their order and settings, and the storage of the result."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from converter.data.preprocess import Preprocess
from converter.qdq.matmul_nbits import BLOCKS
from converter.qdq.weights import STORAGES, Storage
from converter.recipes.registry import PASSES, require_usable
from passes.base import LayerPass, Pass, Stage
from passes.errors import RecipeError

__all__ = ["Recipe"]


@dataclass(frozen=True, repr=False)
class Recipe:
    """A named way to quantize.

    Attributes:
        name: Name of the recipe.
        description: Description in one line.
        passes: Passes in the order in which they run. The order follows their stages. Exactly one pass gives the
            weights their grids and codes.
        storage: Form of the weights in the file.
        limit: Number of calibration images.
        seed: Random seed.
        preprocess: Preprocessing of images. Arguments of a call override it.
    """

    name: str
    description: str
    passes: tuple[Pass, ...]
    storage: Storage = "cast"
    limit: int = 512
    seed: int = 0
    preprocess: Preprocess = Preprocess()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        _check_settings(self.name, self.limit, self.seed, self.storage, self.preprocess)
        object.__setattr__(self, "passes", tuple(self.passes))
        for step in self.passes:
            require_usable(step)
        _check_order(self.passes)
        if self.solver is not None:
            _check_stored(self.solver, self.storage)

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(step.name for step in self.passes)}; stored {self.storage}>"

    @property
    def needs_calibration(self) -> bool:
        """Whether any pass needs images."""
        return any(step.needs_data for step in self.passes)

    @property
    def keeps(self) -> bool:
        """Whether weights keep the codes of the source file."""
        return any(step.keeps_codes for step in self.passes)

    @property
    def learns(self) -> bool:
        """Whether any pass learns by gradient."""
        return any(step.device is not None for step in self.passes)

    @property
    def trains(self) -> bool:
        """Whether any pass learns from the training images."""
        return any(step.trains for step in self.passes)

    @property
    def narrows_floats(self) -> bool:
        """Whether the recipe quantizes nothing and makes a file of float16."""
        return any(step.narrows_floats for step in self.passes)

    @property
    def takes_recurrent(self) -> bool:
        """Whether LSTM, GRU and RNN can change: they get codes, all or those that are named, or become float16."""
        named = self.solver is not None and (self.solver.takes_recurrent or bool(self.solver.layer_bits))
        return named or self.keeps or self.narrows_floats

    @property
    def solver(self) -> LayerPass | None:
        """The layer pass that solves the layers. None if the weights get their codes in another way."""
        return next((step.solver for step in self.passes if step.solver is not None), None)

    def with_solver(self, **fields: Any) -> "Recipe":
        """Return the recipe with these fields of its layer pass."""
        return self._with_passes(
            step if step.solver is None else dataclasses.replace(step, **fields) for step in self.passes
        )

    def with_pass(self, added: Pass, name: str | None = None) -> "Recipe":
        """Return the recipe with one more pass, after the other passes of its stage.

        A pass that quantizes the weights replaces the one in the recipe.

        Args:
            added: The pass.
            name: Name of the new recipe. None: the same name.
        """
        require_usable(added)
        kept = self.passes
        if added.stage == Stage.WEIGHTS:
            kept = tuple(step for step in kept if step.stage != Stage.WEIGHTS)
        before = [step for step in kept if step.stage <= added.stage]
        after = [step for step in kept if step.stage > added.stage]
        recipe = self._with_passes([*before, added, *after])
        return recipe if name is None else dataclasses.replace(recipe, name=name)

    def _with_passes(self, passes: Iterable[Pass]) -> "Recipe":
        return dataclasses.replace(self, passes=tuple(passes))

    def solver_before(self, step: Pass) -> LayerPass | None:
        """Return the layer pass that can solve layers again after ``step`` has changed codes of earlier layers.

        None if it would find the same codes. None also if another pass is between the two, as its work would be lost.
        """
        position = max(index for index, each in enumerate(self.passes) if each is step)
        before = [each for each in self.passes[:position] if each.stage >= Stage.WEIGHTS]
        solver = before[0].solver if len(before) == 1 else None
        return solver if solver is not None and solver.wants_moments and solver.sequential else None

    @property
    def sqnr_of(self) -> str:
        """Quantity whose SQNR a report gives for layers: "weights" or "outputs"."""
        return "weights" if self.solver is None else self.solver.sqnr_of


def _check_settings(name: object, limit: object, seed: object, storage: object, preprocess: object) -> None:
    """Refuse values of the wrong type, and numbers out of range."""
    if not isinstance(name, str) or not name:
        raise RecipeError(f"the name of a recipe must be a text, not {name!r}")
    if not isinstance(limit, int) or limit < 1:
        raise RecipeError(f"limit must be at least 1, not {limit!r}")
    if not isinstance(seed, int) or seed < 0:
        raise RecipeError(f"seed must not be negative, not {seed!r}")
    if storage not in STORAGES:
        raise RecipeError(f"storage {storage!r} is not one of {', '.join(STORAGES)}")
    if not isinstance(preprocess, Preprocess):
        raise RecipeError(f"preprocess is of type {type(preprocess).__name__}; give converter.Preprocess(...)")


def _check_order(passes: Sequence[Pass]) -> None:
    """Refuse passes out of the order of stages, and any number of passes but one that quantizes the weights."""
    for position, (first, second) in enumerate(itertools.pairwise(passes), start=2):
        if first.stage > second.stage:
            raise RecipeError(f"{second.name} (pass {position}) cannot come after {first.name}; {_order()}")
    trained = [step.name for step in passes if step.trains]
    if len(trained) > 1:
        raise RecipeError(f"{' or '.join(dict.fromkeys(trained))} can be in a recipe only once; give it more epochs")
    names = [step.name for step in passes if step.stage == Stage.WEIGHTS]
    if len(names) != 1:
        problem = f"{' and '.join(names)} both quantize" if names else "no pass quantizes"
        raise RecipeError(f"{problem} the weights; {_order()}")


def _check_stored(solver: LayerPass, storage: Storage) -> None:
    """Refuse grids of weights that the storage cannot hold."""
    if solver.two_level and storage in {"matmulnbits", "dequantize", "dynamic"}:
        raise RecipeError(
            f"{solver.name}: two_level scales need their weights unpacked when the model loads, which storage "
            f"{storage!r} does not do; use storage cast, packed or int8"
        )
    if storage == "dynamic" and solver.block_size is not None:
        raise RecipeError(f"{solver.name}: storage dynamic has one scale per output channel; leave out block_size")
    if storage == "matmulnbits" and solver.block_size is not None and solver.block_size not in BLOCKS:
        allowed = ", ".join(map(str, BLOCKS))
        raise RecipeError(
            f"{solver.name}: MatMulNBits has no blocks of {solver.block_size}; block_size can be one of {allowed}"
        )


def _order() -> str:
    named = {stage: ", ".join(kind.name for kind in PASSES.values() if kind.stage == stage) for stage in Stage}
    named[Stage.WEIGHTS] = f"exactly one of {named[Stage.WEIGHTS]}"
    return f"the order is {', then '.join(names for names in named.values() if names)}"
