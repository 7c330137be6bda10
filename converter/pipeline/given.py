"""The model that the caller gave: what the size and the speed of a file are compared with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from converter.model_io.open import is_factory, original
from converter.model_io.sizes import serialized_bytes
from converter.model_io.structure import model_bytes

__all__ = ["Given", "given_model"]


@dataclass(frozen=True)
class Given:
    """The model that the caller gave.

    Attributes:
        model: It, in a form that onnxruntime runs.
        title: Name of its file, without folders. "the model as given" if it is in memory.
        quantized: Whether it is quantized already. Then accuracy is compared with the floats that its codes stand for.
    """

    model: Path | onnx.ModelProto = field(repr=False)
    title: str = "the model as given"
    quantized: bool = False

    @property
    def bytes(self) -> int:
        """Size of its file, together with its external data."""
        return model_bytes(self.model) if isinstance(self.model, Path) else serialized_bytes(self.model)

    @property
    def floats(self) -> str:
        """What accuracy is compared with, in words."""
        return f"the floats that {self.title} stands for" if self.quantized else "the float model"


def given_model(model: Any, opened: onnx.ModelProto, *, quantized: bool) -> Given:
    """Return what the caller gave.

    Args:
        model: The model in a form of `converter.model_io.open.open_model`.
        opened: Result of `open_model`.
        quantized: Whether it is quantized.
    """
    kept = original(model, opened)
    if not isinstance(model, (str, Path)):
        return Given(kept, quantized=quantized)
    file, colon, factory = str(model).partition(".py:") if is_factory(str(model)) else (str(model), "", "")
    return Given(kept, f"{Path(file).name}{colon}{factory}", quantized)
