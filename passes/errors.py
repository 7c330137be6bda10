"""Every error a user can meet, as one tree.

ConvertError                      everything below; the command line prints it as one line
├── UsageError                    an option or argument that cannot be meant, or that would do nothing (exit code 2)
├── QuantizationError             a pass cannot do what the recipe asks of this model
│   └── UnknownLayerError         the recipe names a layer that the model does not have
├── ModelError                    the model file or its graph cannot be used
├── ExportError                   a torch factory or its weights cannot be used
├── DataError                     calibration or evaluation data cannot be used
│   └── ShapeError                images or arrays of another size than the model takes
├── RecipeError                   a recipe, pass or field that does not exist or has a wrong value (exit code 2)
├── TargetError                   no such target, or it cannot take what the recipe produces (exit code 2)
├── OutputError                   the result cannot be written
└── VerificationError             the written file does not do what it should (exit code 3)
    └── BudgetError               no file keeps the budget; nothing is written

A message quotes the offending value and names the next step. What a caller gave, or should give, is named by its Python
parameter in backticks: `limit=0`, `calibration=`. The command line shows its own option instead.
"""

__all__ = [
    "BudgetError",
    "ConvertError",
    "DataError",
    "ExportError",
    "ModelError",
    "OutputError",
    "QuantizationError",
    "RecipeError",
    "ShapeError",
    "TargetError",
    "UnknownLayerError",
    "UsageError",
    "VerificationError",
    "argument",
    "first_line",
]


class ConvertError(Exception):
    """Base of every error that convert-onnx raises on purpose."""

    exit_code = 1


class UsageError(ConvertError):
    """An option or argument cannot be meant, or would do nothing."""

    exit_code = 2


class QuantizationError(ConvertError):
    """A pass cannot do what the recipe asks of this model."""


class UnknownLayerError(QuantizationError):
    """The model has no layer of the name that `who` gave; ``refusal`` says so without saying who."""

    def __init__(self, who: str, layer: str, refusal: str) -> None:
        super().__init__(f"{who}: {refusal}")
        self.layer, self.refusal = layer, refusal


class ModelError(ConvertError):
    """The model file or its graph cannot be used."""


class ExportError(ConvertError):
    """A torch factory or its weights cannot be used."""


class DataError(ConvertError):
    """Calibration or evaluation data cannot be used."""


class ShapeError(DataError):
    """Images or arrays are of another size than the model takes."""


class RecipeError(ConvertError):
    """A recipe, pass or field does not exist or has a wrong value."""

    exit_code = 2


class TargetError(ConvertError):
    """There is no such target, or it cannot take what the recipe produces."""

    exit_code = 2


class OutputError(ConvertError):
    """The result cannot be written."""


class VerificationError(ConvertError):
    """The written file does not do what it should."""

    exit_code = 3


class BudgetError(VerificationError):
    """No file of a search keeps the budget. ``search`` is a `converter.pipeline.search_record.Search`, for reports."""

    def __init__(self, message: str, search: object) -> None:
        super().__init__(message)
        self.search = search


def argument(**given: object) -> str:
    """What a caller gave, as a message names it.

    >>> argument(bits={"conv1": 9})
    "`bits={'conv1': 9}`"
    """
    quoted = (f"{name}={value!r}".replace("`", "\\x60") for name, value in given.items())
    return " ".join(f"`{each}`" for each in quoted)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without the punctuation at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".;:") if lines else "no message"
