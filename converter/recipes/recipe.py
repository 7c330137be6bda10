"""Recipes: which passes run, in which order, with which settings, and how the result is stored."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from converter.data.preprocess import Preprocess
from converter.qdq.matmul_nbits import BLOCKS
from converter.qdq.weights import Storage
from converter.recipes.registry import PASSES, require_usable
from passes.base import LayerPass, Pass, Stage
from passes.errors import RecipeError

__all__ = ["Recipe"]


@dataclass(frozen=True, repr=False)
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
            require_usable(step)
        _check_order(self.passes)
        if self.solver is not None:
            _check_stored(self.solver, self.storage)

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(step.name for step in self.passes)}; stored {self.storage}>"

    @property
    def needs_calibration(self) -> bool:
        """Whether any pass looks at images."""
        return any(step.needs_data for step in self.passes)

    @property
    def keeps(self) -> bool:
        """Whether weights keep the codes that they were read with."""
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
    def solver(self) -> LayerPass | None:
        """The layer pass that solves the layers; None where the weights get their codes in another way."""
        return next((step.solver for step in self.passes if step.solver is not None), None)

    def with_solver(self, **fields: Any) -> "Recipe":
        """The recipe with fields of its layer pass changed."""
        return self._with_passes(
            step if step.solver is None else dataclasses.replace(step, **fields) for step in self.passes
        )

    def with_pass(self, added: Pass, name: str | None = None) -> "Recipe":
        """The recipe with one more pass, behind those of its stage; ``name`` is that of the new recipe.

        A pass that quantizes the weights takes the place of the one that did.
        """
        replaced = {Stage.WEIGHTS} & {added.stage}
        before = [step for step in self.passes if step.stage <= added.stage and step.stage not in replaced]
        behind = [step for step in self.passes if step.stage > added.stage]
        recipe = self._with_passes([*before, added, *behind])
        return recipe if name is None else dataclasses.replace(recipe, name=name)

    def _with_passes(self, passes: Iterable[Pass]) -> "Recipe":
        return dataclasses.replace(self, passes=tuple(passes))

    def solver_before(self, step: Pass) -> LayerPass | None:
        """The layer pass, for a pass that moves codes and has the layers behind them solved again.

        None where that would find the same codes again, or where another pass stands between and its work would be
        lost.
        """
        place = max(index for index, each in enumerate(self.passes) if each is step)
        before = [each for each in self.passes[:place] if each.stage >= Stage.WEIGHTS]
        solver = before[0].solver if len(before) == 1 else None
        return solver if solver is not None and solver.wants_moments and solver.sequential else None

    @property
    def sqnr_of(self) -> str:
        """What the layers' errors in a report are of: "weights" or "outputs"."""
        return "weights" if self.solver is None else self.solver.sqnr_of


def _check_order(passes: Sequence[Pass]) -> None:
    """Refuse passes that stand before or after their stage's turn, and any number of layer passes but one."""
    for place, (first, second) in enumerate(itertools.pairwise(passes), start=2):
        if first.stage > second.stage:
            raise RecipeError(f"{second.name} (pass {place}) cannot come after {first.name}; {_order()}")
    trained = [step.name for step in passes if step.trains]
    if len(trained) > 1:
        raise RecipeError(f"{' or '.join(dict.fromkeys(trained))} can stand in a recipe once; give one more epochs")
    names = [step.name for step in passes if step.stage == Stage.WEIGHTS]
    if len(names) != 1:
        found = f"{' and '.join(names)} both quantize" if names else "no pass quantizes"
        raise RecipeError(f"{found} the weights; {_order()}")


def _check_stored(solver: LayerPass, storage: Storage) -> None:
    """Refuse grids of weights that the storage has no room for."""
    if solver.two_level and storage in {"matmulnbits", "dequantize"}:
        raise RecipeError(
            f"{solver.name}: two_level scales need their weights unpacked when the model loads, which storage "
            f"{storage!r} does not do; use storage cast, packed or int8"
        )
    if storage == "matmulnbits" and solver.block_size is not None and solver.block_size not in BLOCKS:
        allowed = ", ".join(map(str, BLOCKS))
        raise RecipeError(
            f"{solver.name}: MatMulNBits has no blocks of {solver.block_size}; block_size can be one of {allowed}"
        )


def _order() -> str:
    named = {stage: ", ".join(kind.name for kind in PASSES.values() if kind.stage == stage) for stage in Stage}
    named[Stage.WEIGHTS] = f"exactly one of {named[Stage.WEIGHTS]}"
    return f"the order is {', then '.join(names for names in named.values() if names)}"
