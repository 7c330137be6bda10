"""Every error a user can meet, as one tree.

ConvertError                      everything below; the command line prints it as one line
├── QuantizationError             a pass cannot do what the recipe asks of this model
├── ModelError                    the model file or its graph cannot be used
├── ExportError                   a torch factory or its weights cannot be used
├── DataError                     calibration or evaluation data cannot be used
├── RecipeError                   a recipe, pass or field that does not exist or has a wrong value
├── TargetError                   the target cannot take what the recipe produces
├── OutputError                   the result cannot be written
└── VerificationError             the written file does not do what it should (exit code 3)

A message quotes the offending value and names the next step.
"""

__all__ = [
    "ConvertError",
    "DataError",
    "ExportError",
    "ModelError",
    "OutputError",
    "QuantizationError",
    "RecipeError",
    "TargetError",
    "VerificationError",
]


class ConvertError(Exception):
    """Base of every error that convert-onnx raises on purpose."""

    exit_code = 1


class QuantizationError(ConvertError):
    """A pass cannot do what the recipe asks of this model."""


class ModelError(ConvertError):
    """The model file or its graph cannot be used."""


class ExportError(ConvertError):
    """A torch factory or its weights cannot be used."""


class DataError(ConvertError):
    """Calibration or evaluation data cannot be used."""


class RecipeError(ConvertError):
    """A recipe, pass or field does not exist or has a wrong value."""


class TargetError(ConvertError):
    """The target cannot take what the recipe produces."""


class OutputError(ConvertError):
    """The result cannot be written."""


class VerificationError(ConvertError):
    """The written file does not do what it should."""

    exit_code = 3
