"""What `import converter` gives: each name once, loaded late, shown by dir() and typed. No module hides a function."""

import ast
import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import converter

FUNCTIONS = [
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
ERRORS = [
    "BudgetError",
    "ConvertError",
    "DataError",
    "ExportError",
    "ModelError",
    "OutputError",
    "QuantizationError",
    "RecipeError",
    "ShapeError",
    "SweepError",
    "TargetError",
    "UnknownLayerError",
    "UsageError",
    "VerificationError",
]
VALUES = [
    "Budget",
    "Change",
    "Comparison",
    "Correction",
    "CorrectionPass",
    "DataFacts",
    "Dataset",
    "Evaluation",
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
    "Needs",
    "OrtFile",
    "Pass",
    "PassReport",
    "Preprocess",
    "Problem",
    "Recipe",
    "Result",
    "Search",
    "Sensitivity",
    "Settings",
    "Solution",
    "Stage",
    "Stats",
    "Suggestion",
    "Sweep",
    "SweepModel",
    "SweepPlan",
    "SweepRecipe",
    "SweepRow",
    "Target",
    "Verification",
    "Workers",
]


def test_the_names_are_these() -> None:
    assert converter.__all__ == sorted(["__version__", *FUNCTIONS, *ERRORS, *VALUES])


@pytest.mark.parametrize("name", converter.__all__)
def test_every_name_leads_somewhere_and_is_shown(name: str) -> None:
    assert getattr(converter, name) is not None
    assert name in dir(converter)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_functions(name: str) -> None:
    assert inspect.isfunction(getattr(converter, name))
    assert getattr(converter, name).__name__ == name


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="module 'converter' has no attribute 'quantise'"):
        converter.quantise  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert converter.__version__[0].isdigit()


def test_type_checkers_see_the_same_names() -> None:
    folder = Path(converter.__file__).parent
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(each.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for each in node.names}
    assert seen == set(converter._HOMES.items())
    assert {name for name, _ in seen} == set(converter.__all__) - {"__version__"}
    assert (folder / "py.typed").exists()
    assert (folder.parent / "passes" / "py.typed").exists()


def test_every_error_is_there() -> None:
    from passes import errors

    found = [name for name in errors.__all__ if inspect.isclass(getattr(errors, name))]
    assert found == ERRORS


def test_the_import_loads_no_library() -> None:
    code = "import sys, converter; print({'onnx', 'onnxruntime', 'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_nobody_is_told_who_does_not_listen(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = logging.getLogger("converter").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    assert capsys.readouterr() == ("", "")
