"""Example inputs of a torch module, from shapes that the user gives."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from passes.arguments import whole
from passes.errors import ExportError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["ONLY_INPUT", "TYPES", "ExampleInput", "example_inputs", "in_order_of", "parse_input", "random_tensors"]

TYPES = ("float32", "int64", "int32", "bool")
ONLY_INPUT = "input"
"""Name of the input of a module whose inputs have no names."""


@dataclass(frozen=True)
class ExampleInput:
    """One input of a module.

    Attributes:
        sizes: Sizes with the batch, which comes first.
        dtype: One of `TYPES`.
    """

    sizes: tuple[int, ...]
    dtype: str = "float32"


def parse_input(given: object) -> ExampleInput:
    """Read an input from sizes such as (1, 3, 224, 224), or from text such as "1,3,224,224" or "1,128:int64".

    Raises:
        UsageError: It is neither, a size is below 1, or there is no such type.
    """
    dtype = "float32"
    sizes: Iterable[Any]
    if isinstance(given, str):
        text, colon, named = given.partition(":")
        dtype, sizes = named if colon else dtype, text.split(",")
        if not all(size.strip().isdecimal() for size in sizes):
            raise UsageError(f"`input_shape={given!r}` is not a list of sizes such as 1,3,224,224 or 1,128:int64")
        sizes = [int(size) for size in sizes]
    elif isinstance(given, Iterable):
        sizes = given
    else:
        raise UsageError(f"`input_shape={given!r}` is not a list of sizes such as (1, 3, 224, 224)")
    if dtype not in TYPES:
        raise UsageError(f"`input_shape={given!r}`: there is no type {dtype!r}; use {', '.join(TYPES)}")
    shape = tuple(whole("input_shape", size) for size in sizes)
    if not shape or min(shape) < 1:
        raise UsageError(f"`input_shape={shape}` has a size below 1; give sizes such as 1, 3, 224, 224")
    return ExampleInput(shape, dtype)


def example_inputs(shape: Any) -> dict[str, ExampleInput]:
    """Return the inputs by name. Sizes alone are those of the only input, which is called "input".

    Raises:
        UsageError: See `parse_input`.
    """
    if isinstance(shape, Mapping):
        return {str(name): parse_input(each) for name, each in shape.items()}
    return {ONLY_INPUT: parse_input(shape)}


def in_order_of(module: torch.nn.Module, inputs: Mapping[str, ExampleInput]) -> dict[str, ExampleInput]:
    """Return the inputs in the order of the parameters of forward().

    Raises:
        ExportError: forward() has no parameter of such a name, or needs one that is not there.
    """
    if list(inputs) == [ONLY_INPUT]:
        return dict(inputs)
    parameters = inspect.signature(module.forward).parameters
    plain = [name for name, each in parameters.items() if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    needed = [name for name in plain if parameters[name].default is inspect.Parameter.empty]
    unknown = [name for name in inputs if name not in plain]
    if unknown:
        raise ExportError(
            f"forward() of {type(module).__name__} has no input {', '.join(unknown)}; it has {', '.join(plain)}"
        )
    missing = [name for name in needed if name not in inputs]
    if missing:
        raise ExportError(
            f"forward() of {type(module).__name__} needs {', '.join(missing)} too; give `input_shape=` for each input"
        )
    return {name: inputs[name] for name in plain if name in inputs}


def random_tensors(
    inputs: Mapping[str, ExampleInput], batch: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return random inputs for a batch: normal numbers, or 0 and 1 for other types."""
    import torch

    def tensor(each: ExampleInput) -> torch.Tensor:
        sizes = (batch, *each.sizes[1:])
        if each.dtype == "float32":
            return torch.randn(sizes, generator=generator)
        return torch.randint(0, 2, sizes, generator=generator).to(getattr(torch, each.dtype))

    return {name: tensor(each) for name, each in inputs.items()}
