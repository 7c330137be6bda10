"""The recipes that are compared on transformers."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from converter import Recipe, find_recipe
from passes.rotation.rotate import Rotate
from passes.scale_migration.awq import Awq
from passes.scale_migration.smoothquant import SmoothQuant
from passes.weights.gptq import Gptq
from passes.weights.rtn import Rtn

__all__ = ["METHODS"]

_INT8, _INT4 = find_recipe("int8"), find_recipe("int4")
_UNROTATED = replace(_INT4, passes=tuple(each for each in _INT4.passes if not isinstance(each, Rotate)))
_ROTATED = _UNROTATED.with_pass(Rotate(through_normalization=True))
_CHANNEL = Rtn(bits=4)
_BLOCKS = Rtn(bits=4, block_size=8, two_level=True)
_BLOCKS_OF_3_BITS = Rtn(bits=3, block_size=8, two_level=True)

METHODS: Mapping[str, Recipe] = MappingProxyType(
    {
        "W8A8, int8": _INT8,
        "W8A8, SmoothQuant and int8": _INT8.with_pass(SmoothQuant()),
        "W8A8, int8-gptq": find_recipe("int8-gptq"),
        "W8, dynamic": find_recipe("dynamic"),
        "W4A8, round to nearest, a scale a channel": _INT4.with_pass(_CHANNEL),
        "W4A8, round to nearest, a scale a channel, stream rotated": _ROTATED.with_pass(_CHANNEL),
        "W4A8, round to nearest": _INT4.with_pass(_BLOCKS),
        "W4A8, round to nearest, stream rotated": _ROTATED.with_pass(_BLOCKS),
        "W4A8, SmoothQuant and round to nearest": _INT4.with_pass(SmoothQuant()).with_pass(_BLOCKS),
        "W4A8, AWQ and round to nearest": _INT4.with_pass(Awq()).with_pass(_BLOCKS),
        "W4A8, GPTQ, a scale a channel": _INT4.with_pass(Gptq(bits=4)),
        "W4A8, int4": _INT4,
        "W4A8, int4 without rotation": _UNROTATED,
        "W4A8, int4, stream rotated": _ROTATED,
        "W4A8, AWQ and int4": _INT4.with_pass(Awq()),
        "W4A8, SmoothQuant and int4": _INT4.with_pass(SmoothQuant()),
        "W3A8, round to nearest": _INT4.with_pass(_BLOCKS_OF_3_BITS),
        "W3A8, GPTQ": _INT4.with_solver(bits=3),
        "W3A8, GPTQ without rotation": _UNROTATED.with_solver(bits=3),
        "W3A8, GPTQ, stream rotated": _ROTATED.with_solver(bits=3),
        "W3A8, AWQ and GPTQ": _INT4.with_pass(Awq()).with_solver(bits=3),
        "W3A8, SmoothQuant and GPTQ": _INT4.with_pass(SmoothQuant()).with_solver(bits=3),
        "W4A32, int4-weight-only-rtn": find_recipe("int4-weight-only-rtn"),
        "W4A32, int4-weight-only": find_recipe("int4-weight-only"),
        "W4, int4-matmulnbits": find_recipe("int4-matmulnbits"),
    }
)
"""Recipes by the name of their row: bits of weights and activations, then the recipe or its passes."""
