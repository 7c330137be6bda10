"""convert-onnx: small, fast, accurate quantized ONNX models.

>>> import converter
>>> result = converter.convert("model.onnx", "images/", recipe="int4")  # doctest: +SKIP
>>> result.save("model_int4.onnx")  # doctest: +SKIP

Import public names from this module. Each name loads its module on first use, so that ``import converter`` is fast.
Inner modules may move. The library prints nothing. Steps and warnings go to the logger "converter".
"""

import importlib

import converter._environment  # noqa: F401  (before numpy and onnxruntime)

# Not from `typing`, which takes as long to load as Python takes to start. Until the command line can handle Ctrl-C,
# Python answers it with a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from converter.budget.ladder import convert_within
    from converter.budget.limits import Budget
    from converter.budget.sensitivity import sensitivity
    from converter.comparison.compare import Comparison, ImageError, LayerError, compare
    from converter.comparison.suggestion import Suggestion, suggest
    from converter.data.dataset import Dataset, load_data
    from converter.data.inputs import input_specs
    from converter.data.preprocess import Preprocess
    from converter.engine.workers import Workers
    from converter.error_sources.sensitivity import Sensitivity
    from converter.evaluation.evaluate import Evaluation, Measurement, evaluate
    from converter.inspection.inspect import InspectedLayer, Inspection, inspect
    from converter.inspection.netron import view
    from converter.metrics.metric import Metric
    from converter.model_io.export import ExportResult
    from converter.model_io.open import ExportOptions, open_model
    from converter.model_io.operator_libraries import custom_ops
    from converter.pipeline.convert import convert
    from converter.pipeline.export import export
    from converter.pipeline.result import LayerReport, Result
    from converter.pipeline.search_record import Search
    from converter.pipeline.settings import Settings
    from converter.pipeline.sweep_record import Sweep, SweepRow
    from converter.pipeline.train import train
    from converter.recipes.builtin import find_recipe
    from converter.recipes.recipe import Recipe
    from converter.report.facts import report_facts
    from converter.report.files import write_report
    from converter.report.sweep import write_sweep
    from converter.snippets.snippet import snippet
    from converter.sweeps.plan import SweepModel, SweepPlan, SweepRecipe
    from converter.sweeps.plan_file import read_plan
    from converter.sweeps.sweep import sweep
    from converter.targets.catalog import find_target
    from converter.targets.target import Target
    from converter.verification.ort_format import OrtFile, write_ort
    from converter.verification.verify import Verification, verify
    from passes.base import Correction, CorrectionPass, GraphPass, LayerPass, Pass, Problem, Solution, Stage
    from passes.data_facts import DataFacts
    from passes.errors import (
        BudgetError,
        ConvertError,
        DataError,
        ExportError,
        ModelError,
        OutputError,
        QuantizationError,
        RecipeError,
        ShapeError,
        SweepError,
        TargetError,
        UnknownLayerError,
        UsageError,
        VerificationError,
    )
    from passes.ir.model import Model
    from passes.numerics.error import sqnr_db
    from passes.numerics.grid import Grid
    from passes.numerics.weight_scale_search import absmax_grid
    from passes.report import Change, PassReport
    from passes.statistics import Needs, Stats

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Budget",
    "BudgetError",
    "Change",
    "Comparison",
    "ConvertError",
    "Correction",
    "CorrectionPass",
    "DataError",
    "DataFacts",
    "Dataset",
    "Evaluation",
    "ExportError",
    "ExportOptions",
    "ExportResult",
    "GraphPass",
    "Grid",
    "ImageError",
    "InspectedLayer",
    "Inspection",
    "LayerError",
    "LayerPass",
    "LayerReport",
    "Measurement",
    "Metric",
    "Model",
    "ModelError",
    "Needs",
    "OrtFile",
    "OutputError",
    "Pass",
    "PassReport",
    "Preprocess",
    "Problem",
    "QuantizationError",
    "Recipe",
    "RecipeError",
    "Result",
    "Search",
    "Sensitivity",
    "Settings",
    "ShapeError",
    "Solution",
    "Stage",
    "Stats",
    "Suggestion",
    "Sweep",
    "SweepError",
    "SweepModel",
    "SweepPlan",
    "SweepRecipe",
    "SweepRow",
    "Target",
    "TargetError",
    "UnknownLayerError",
    "UsageError",
    "Verification",
    "VerificationError",
    "Workers",
    "__version__",
    "absmax_grid",
    "compare",
    "convert",
    "convert_within",
    "custom_ops",
    "evaluate",
    "export",
    "find_recipe",
    "find_target",
    "input_specs",
    "inspect",
    "load_data",
    "open_model",
    "read_plan",
    "report_facts",
    "sensitivity",
    "snippet",
    "sqnr_db",
    "suggest",
    "sweep",
    "train",
    "verify",
    "view",
    "write_ort",
    "write_report",
    "write_sweep",
]

# Modules of the public names.
_HOMES = {
    "Budget": "converter.budget.limits",
    "BudgetError": "passes.errors",
    "Change": "passes.report",
    "Comparison": "converter.comparison.compare",
    "ConvertError": "passes.errors",
    "Correction": "passes.base",
    "CorrectionPass": "passes.base",
    "DataError": "passes.errors",
    "DataFacts": "passes.data_facts",
    "Dataset": "converter.data.dataset",
    "Evaluation": "converter.evaluation.evaluate",
    "ExportError": "passes.errors",
    "ExportOptions": "converter.model_io.open",
    "ExportResult": "converter.model_io.export",
    "GraphPass": "passes.base",
    "Grid": "passes.numerics.grid",
    "ImageError": "converter.comparison.compare",
    "InspectedLayer": "converter.inspection.inspect",
    "Inspection": "converter.inspection.inspect",
    "LayerError": "converter.comparison.compare",
    "LayerPass": "passes.base",
    "LayerReport": "converter.pipeline.result",
    "Measurement": "converter.evaluation.evaluate",
    "Metric": "converter.metrics.metric",
    "Model": "passes.ir.model",
    "ModelError": "passes.errors",
    "Needs": "passes.statistics",
    "OutputError": "passes.errors",
    "OrtFile": "converter.verification.ort_format",
    "Pass": "passes.base",
    "PassReport": "passes.report",
    "Preprocess": "converter.data.preprocess",
    "Problem": "passes.base",
    "QuantizationError": "passes.errors",
    "Recipe": "converter.recipes.recipe",
    "RecipeError": "passes.errors",
    "Result": "converter.pipeline.result",
    "Search": "converter.pipeline.search_record",
    "Sensitivity": "converter.error_sources.sensitivity",
    "Settings": "converter.pipeline.settings",
    "ShapeError": "passes.errors",
    "Solution": "passes.base",
    "Stage": "passes.base",
    "Stats": "passes.statistics",
    "Suggestion": "converter.comparison.suggestion",
    "Sweep": "converter.pipeline.sweep_record",
    "SweepError": "passes.errors",
    "SweepModel": "converter.sweeps.plan",
    "SweepPlan": "converter.sweeps.plan",
    "SweepRecipe": "converter.sweeps.plan",
    "SweepRow": "converter.pipeline.sweep_record",
    "Target": "converter.targets.target",
    "TargetError": "passes.errors",
    "UnknownLayerError": "passes.errors",
    "UsageError": "passes.errors",
    "Verification": "converter.verification.verify",
    "VerificationError": "passes.errors",
    "Workers": "converter.engine.workers",
    "absmax_grid": "passes.numerics.weight_scale_search",
    "compare": "converter.comparison.compare",
    "convert": "converter.pipeline.convert",
    "convert_within": "converter.budget.ladder",
    "custom_ops": "converter.model_io.operator_libraries",
    "evaluate": "converter.evaluation.evaluate",
    "export": "converter.pipeline.export",
    "find_recipe": "converter.recipes.builtin",
    "find_target": "converter.targets.catalog",
    "input_specs": "converter.data.inputs",
    "inspect": "converter.inspection.inspect",
    "load_data": "converter.data.dataset",
    "open_model": "converter.model_io.open",
    "read_plan": "converter.sweeps.plan_file",
    "report_facts": "converter.report.facts",
    "sensitivity": "converter.budget.sensitivity",
    "snippet": "converter.snippets.snippet",
    "sqnr_db": "passes.numerics.error",
    "suggest": "converter.comparison.suggestion",
    "sweep": "converter.sweeps.sweep",
    "train": "converter.pipeline.train",
    "verify": "converter.verification.verify",
    "view": "converter.inspection.netron",
    "write_ort": "converter.verification.ort_format",
    "write_report": "converter.report.files",
    "write_sweep": "converter.report.sweep",
}


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("convert-onnx")
    elif name in _HOMES:
        _print_nothing()
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _print_nothing() -> None:
    """Keep warnings from stderr unless the caller has set up logging."""
    import logging

    log = logging.getLogger(__name__)
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
