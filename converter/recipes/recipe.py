"""Recipes: which passes run, in which order, with which settings, and how the result is stored."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from converter.data.preprocess import Preprocess
from converter.qdq.matmul_nbits import BLOCKS
from converter.qdq.weights import Storage
from converter.recipes.registry import PASSES, Learning, Pass
from passes.activations.activation_ranges import ActivationRanges
from passes.base import CorrectionPass, LayerPass, Stage
from passes.errors import RecipeError
from passes.scale_migration.awq import Awq
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.keep import KeepCodes
from passes.weights.learned_rounding import LearnedRounding
from passes.weights.qat import Qat

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
            block_size = step.block_size if isinstance(step, LayerPass) else None
            if isinstance(step, LayerPass) and step.two_level and self.storage in {"matmulnbits", "dequantize"}:
                raise RecipeError(
                    f"{step.name}: two_level scales need their weights unpacked when the model loads, which storage "
                    f"{self.storage!r} does not do; use storage cast, packed or int8"
                )
            if self.storage == "matmulnbits" and block_size is not None and block_size not in BLOCKS:
                allowed = ", ".join(map(str, BLOCKS))
                raise RecipeError(
                    f"{step.name}: MatMulNBits has no blocks of {block_size}; block_size can be one of {allowed}"
                )
        _check_order(self.passes)

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(step.name for step in self.passes)}; stored {self.storage}>"

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
