"""A torch module as a function of arrays: what an exported model must compute."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from converter.model_io.example_inputs import ONLY_INPUT
from converter.model_io.factory import require_torch
from converter.model_io.user_code import Terminated
from passes.errors import ExportError, first_line

if TYPE_CHECKING:
    import torch

__all__ = ["TorchNetwork", "arguments_of", "evaluating", "require_float32_on_cpu"]


class TorchNetwork:
    """A torch module in eval mode that takes and returns arrays. The module does not change."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    @property
    def name(self) -> str:
        """Name of the module's class."""
        return type(self.module).__name__

    def __call__(self, feeds: Mapping[str, NDArray[Any]], moved: float = 0, seed: int = 0) -> list[NDArray[Any]]:
        """Return the outputs, in the order of the exporter.

        Args:
            feeds: Inputs by name.
            moved: Part of its value by which every weight is moved up or down.
            seed: Random seed of these directions.

        Raises:
            ExportError: The module does not run on such inputs, or returns something else than tensors.
        """
        torch = require_torch()
        positional, named = arguments_of({name: torch.tensor(values) for name, values in feeds.items()})
        try:
            with evaluating(self.module):
                if moved:
                    weights = _moved_weights(self.module, moved, seed)
                    result = torch.func.functional_call(self.module, weights, positional, named)
                else:
                    result = self.module(*positional, **named)
        except Terminated:
            raise
        except (Exception, SystemExit) as error:
            shapes = ", ".join(str(list(values.shape)) for values in feeds.values())
            raise ExportError(
                f"{self.name} does not run on an input {shapes}: {type(error).__name__}: {first_line(error)}; "
                f"check `input_shape=`, with a shape for each input of forward(), of any batch size"
            ) from error
        outputs = torch.utils._pytree.tree_leaves(result)
        if not outputs or not all(isinstance(value, torch.Tensor) for value in outputs):
            kinds = ", ".join(sorted({type(value).__name__ for value in outputs})) or "nothing"
            raise ExportError(f"{self.name} returns {kinds}; forward() must return tensors only")
        return [value.numpy() for value in outputs]


def require_float32_on_cpu(module: torch.nn.Module) -> None:
    """Require that every parameter and buffer is on the processor, and float32 if it is a float.

    Raises:
        ExportError: One is not. The message names it.
    """
    torch = require_torch()
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if value.device.type != "cpu":
            raise ExportError(f"{name} is on {value.device}; return module.cpu() from the factory")
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ExportError(f"{name} is {value.dtype}; return module.float() from the factory")


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch to eval mode without gradients, and restore the mode of every submodule afterwards."""
    torch = require_torch()
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


def arguments_of(inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of forward(): the only input by its place, named ones by their names."""
    return (tuple(inputs.values()), {}) if list(inputs) == [ONLY_INPUT] else ((), dict(inputs))


def _moved_weights(module: torch.nn.Module, part: float, seed: int) -> dict[str, torch.Tensor]:
    """Return all float weights and buffers, each moved by a part of itself, up or down."""
    torch = require_torch()
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value * (1 + part * (2 * torch.randint(0, 2, value.shape, generator=generator) - 1))
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
        if value.is_floating_point()
    }
