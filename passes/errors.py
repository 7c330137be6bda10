"""All errors that a user can see.

ConvertError                      base class; the command line prints one line
├── UsageError                    an option or argument makes no sense or would have no effect (exit code 2)
├── QuantizationError             a pass cannot do what the recipe requests for this model
│   └── UnknownLayerError         the recipe names a layer that the model does not have
├── ModelError                    the model file or its graph cannot be used
├── ExportError                   a torch factory or its weights cannot be used
├── DataError                     calibration or evaluation data cannot be used
│   └── ShapeError                images or arrays have another size than the model takes
├── RecipeError                   a recipe, pass or field does not exist or has a wrong value (exit code 2)
├── TargetError                   the target does not exist or cannot run what the recipe produces (exit code 2)
├── OutputError                   the result cannot be written
├── SweepError                    conversions of a sweep failed; the others are done (exit code 5)
└── VerificationError             the written file does not do what it should (exit code 3)
    └── BudgetError               no file meets the budget; nothing is written

A message quotes the offending value and names the next step. It names an argument by its Python parameter in backticks:
`limit=0`, `calibration=`. The command line replaces the parameter by its option.
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
    "SweepError",
    "TargetError",
    "UnknownLayerError",
    "UsageError",
    "VerificationError",
    "argument",
    "first_line",
]


class ConvertError(Exception):
    """Base class of all errors that convert-onnx raises on purpose."""

    exit_code = 1


class UsageError(ConvertError):
    """An option or argument makes no sense or would have no effect."""

    exit_code = 2


class QuantizationError(ConvertError):
    """A pass cannot do what the recipe requests for this model."""


class UnknownLayerError(QuantizationError):
    """The model has no layer of this name.

    Args:
        who: Pass or field that names the layer.
        layer: The name.
        refusal: The message without ``who``.
    """

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
    """Images or arrays have another size than the model takes."""


class RecipeError(ConvertError):
    """A recipe, pass or field does not exist or has a wrong value."""

    exit_code = 2


class TargetError(ConvertError):
    """The target does not exist or cannot run what the recipe produces."""

    exit_code = 2


class OutputError(ConvertError):
    """The result cannot be written."""


class SweepError(ConvertError):
    """Conversions of a sweep failed. The others are done."""

    exit_code = 5


class VerificationError(ConvertError):
    """The written file does not do what it should."""

    exit_code = 3


class BudgetError(VerificationError):
    """No file of the search meets the budget.

    Args:
        message: The message.
        search: Record of the search for reports, a `converter.pipeline.search_record.Search`.
    """

    def __init__(self, message: str, search: object) -> None:
        super().__init__(message)
        self.search = search


def argument(**given: object) -> str:
    """Return arguments of a caller in the form that messages use.

    >>> argument(bits={"conv1": 9})
    "`bits={'conv1': 9}`"
    """
    quoted = (f"{name}={value!r}".replace("`", "\\x60") for name, value in given.items())
    return " ".join(f"`{each}`" for each in quoted)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, without the punctuation at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".;:") if lines else "no message"
