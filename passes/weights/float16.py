"""Leave the weights in float, for a file of float16. Nothing is quantized."""

from dataclasses import dataclass
from typing import ClassVar

from passes.base import GraphPass, Stage
from passes.ir.model import Model
from passes.report import PassReport
from passes.statistics import Stats

__all__ = ["FLOAT16", "Float16"]

FLOAT16 = "float16 by the recipe"


@dataclass(frozen=True)
class Float16(GraphPass):
    """Quantize nothing, so that the whole file is in float16. Layers that a pass before this excludes stay in float32.

    Types are changed last, when the file is written (`converter.pipeline.float16`): until then the graph runs in
    float32, and its values show what float16 can hold.
    """

    name: ClassVar[str] = "float16"
    stage: ClassVar[Stage] = Stage.WEIGHTS
    narrows_floats: ClassVar[bool] = True

    def apply(self, model: Model, stats: Stats) -> PassReport:
        """Mark the layers."""
        for name in model.layers_to_quantize():
            model.float_reasons[name] = FLOAT16
        return PassReport(self.name, {}, {name: model.float_reasons[name] for name in model.layers()})
